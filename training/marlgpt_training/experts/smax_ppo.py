"""Train the learned SMAX expert: cloning of the script first, then PPO (Schulman et al. 2017, arXiv 1707.06347).

Everything runs in JAX: games, histories and network. The policy sees local observations only, the critic the whole
state. One network learns all scenarios; each round plays and learns one of them.

    python -m marlgpt_training.experts.smax_ppo --out expert.npz --minutes 60 --scenario 5v5 5v6
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from marlgpt_policy.encoders.smax import MOVES
from marlgpt_sim.runs.output_folder import check_output_file
from tqdm import tqdm

from marlgpt_training.environments.smax import rules
from marlgpt_training.experts import smax_focus, smax_net

SHARES = {"5v5": 0.5, "5v6": 0.3, "10v10": 0.2}
"""How often each scenario is played."""

SCRIPTED = 0.4
"""Share of the games that the script plays itself while it is imitated; in the others the network errs."""
CHECK = 512
"""Episodes per scenario of a check of the win rates."""


@dataclass(frozen=True)
class Settings:
    """Of the training.

    Attributes:
        games: Games side by side (half as many of 10v10).
        steps: Steps of each game in a round.
        passes: Times each round's samples are used.
        parts: Gradient steps per pass.
        rate: Learning rate of Adam.
        discount: Of rewards.
        trace: Lambda of generalised advantage estimation.
        clip: Of the probability ratio.
        entropy: Weight of the entropy bonus.
        damage: Weight of enemies' minus allies' lost health; winning counts 1.
        cloning: Rounds that imitate the script before PPO.
    """

    games: int = 192
    steps: int = 48
    passes: int = 3
    parts: int = 4
    rate: float = 5e-4
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.004
    damage: float = 0.4
    cloning: int = 40


class Learner:
    """Plays and learns one scenario; the weights are passed in and out."""

    def __init__(self, scenario: str, settings: Settings, seed: int) -> None:
        """Compile for ``scenario``; its first games follow from ``seed``."""
        self.rules, self.settings = rules(scenario), settings
        self.jax, self.np = self.rules.jax, self.rules.np
        self.games = settings.games // (2 if self.rules.allies > 6 else 1)
        self.script = smax_focus.script(self.rules)
        self.weights = {name: np.float32(v) for name, v in asdict(smax_focus.Weights()).items()}
        self.key = self.jax.random.PRNGKey(seed)
        self._fresh = self.jax.jit(self._begin)
        self._collect = self.jax.jit(self._play, static_argnames=("cloning",))
        self._improve = self.jax.jit(self._learn, static_argnames=("cloning",))
        self._evaluate = self.jax.jit(self._finish)
        self.carry = None

    def round(self, params, moments, step: float, rate: float, cloning: bool):
        """Play and learn once: (params, moments, step, dict of means)."""
        self.key, fresh, play, learn = self.jax.random.split(self.key, 4)
        pool = self._fresh(self.jax.random.bits(fresh, (2 * self.games,), dtype="uint32"))
        if self.carry is None:
            games = self.jax.tree.map(lambda leaf: leaf[: self.games], pool)
            self.carry = games, *self._blank(self.games)
        self.carry, samples, shown = self._collect(params, self.carry, pool, play, cloning=cloning)
        params, moments, step, terms = self._improve(
            params, moments, step, rate, samples, learn, cloning=cloning
        )
        return params, moments, step, {k: float(v) for k, v in {**shown, **terms}.items()}

    def win_rate(self, params, seeds: np.ndarray) -> float:
        """Share of the episodes with ``seeds`` that the most likely moves win."""
        return float(np.asarray(self._evaluate(params, np.asarray(seeds, dtype=np.uint32))).mean())

    def _begin(self, seeds):
        games = self.jax.vmap(self.rules.reset)(seeds)
        return self.jax.tree.map(lambda leaf: self.np.asarray(leaf, dtype=leaf.dtype), games)

    def _blank(self, count: int):
        encoder = self.rules.encoder
        shape = (count, self.rules.allies, encoder.frames, encoder.features)
        return self.np.zeros(shape, dtype=self.np.float32), self.np.zeros(shape, dtype=bool)

    def _see(self, games, frames, visible):
        """Histories with the newest frame, tokens, legal moves."""
        xp = self.np
        features, there, mask = self.jax.vmap(self.rules.observe)(games)
        frames = xp.concatenate([features[:, :, None], frames[:, :, :-1]], axis=2)
        visible = xp.concatenate([there[:, :, None], visible[:, :, :-1]], axis=2)
        seen = smax_net.tokens(xp, frames, visible, mask, self.rules.allies, self.rules.enemies)
        return frames, visible, seen, mask[..., : MOVES + self.rules.enemies]

    def _health(self, games):
        """Mean share of health left of (allies, enemies) [B]."""
        state, n = games["smax"].state, self.rules.allies
        health = state.unit_health / self.rules.env.unit_type_health[state.unit_types]
        return health[:, :n].mean(axis=1), health[:, n:].mean(axis=1)

    def _value(self, params, games):
        units, clock = self.jax.vmap(lambda game: smax_net.central(self.rules, game))(games)
        return smax_net.value(self.np, params, units, clock, self.rules.allies), units, clock

    def _play(self, params, carry, pool, key, cloning: bool):
        """A round of samples; when cloning, the script labels all games and moves some of them."""
        jax, xp, n = self.jax, self.np, self.rules.allies

        def one(carry, key):
            games, frames, visible = carry
            keys = jax.random.split(key, 3)
            frames, visible, seen, mask = self._see(games, frames, visible)
            logits = smax_net.logits(xp, params, seen, mask)
            chosen = jax.random.categorical(keys[0], logits)
            label = jax.vmap(self.script, in_axes=(0, None))(games, self.weights) if cloning else chosen
            scripted = xp.arange(len(chosen)) < (SCRIPTED * len(chosen) if cloning else 0)
            action = xp.where(scripted[:, None], label, chosen)
            chance = xp.take_along_axis(jax.nn.log_softmax(logits), action[..., None], axis=-1)[..., 0]
            value, units, clock = self._value(params, games)
            active = games["smax"].state.unit_alive[:, :n]
            after, reward, ended, cut = jax.vmap(self.rules.step)(games, action)
            over = ended | cut
            (ours, theirs), (ours2, theirs2) = self._health(games), self._health(after)
            won = reward > 1.0 - 1e-6
            reward = won + self.settings.damage * ((theirs - theirs2) - (ours - ours2))
            sample = {"seen": seen, "mask": mask, "action": action, "chance": chance, "label": label,
                      "active": active, "value": value, "units": units, "clock": clock,
                      "reward": reward, "over": over, "won": won, "scripted": scripted}  # fmt: skip
            fresh = jax.random.randint(keys[1], (len(over),), 0, pool["key"].shape[0])

            def renew(new, old):
                return xp.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old).astype(old.dtype)

            games = jax.tree.map(renew, jax.tree.map(lambda leaf: leaf[fresh], pool), after)
            frames, visible = renew(xp.zeros_like(frames), frames), renew(xp.zeros_like(visible), visible)
            return (games, frames, visible), sample

        carry, samples = jax.lax.scan(one, carry, jax.random.split(key, self.settings.steps))
        last = self._value(params, carry[0])[0]
        mine = ~samples["scripted"]
        shown = {"episodes": (samples["over"] & mine).sum(), "won": (samples["won"] & mine).sum()}
        return carry, self._advantages(samples, last), shown

    def _advantages(self, samples, last):
        """Add ``advantage`` and ``target`` (generalised advantage estimation) to ``samples``."""
        gamma, lam = self.settings.discount, self.settings.trace

        def back(carry, now):
            advantage, following = carry
            going = 1.0 - now["over"]
            surprise = now["reward"] + gamma * following * going - now["value"]
            advantage = surprise + gamma * lam * going * advantage
            return (advantage, now["value"]), advantage

        start = (self.np.zeros_like(last), last)
        needed = {name: samples[name] for name in ("over", "reward", "value")}
        advantage = self.jax.lax.scan(back, start, needed, reverse=True)[1]
        return {**samples, "advantage": advantage, "target": advantage + samples["value"]}

    def _loss(self, params, batch, cloning: bool):
        jax, xp, settings = self.jax, self.np, self.settings
        log_p = jax.nn.log_softmax(smax_net.logits(xp, params, batch["seen"], batch["mask"]))
        weight = batch["active"] / xp.maximum(batch["active"].sum(), 1.0)

        def of(action):
            return xp.take_along_axis(log_p, action[..., None], axis=-1)[..., 0]

        value = smax_net.value(xp, params, batch["units"], batch["clock"], self.rules.allies)
        critic = ((value - batch["target"]) ** 2).mean()
        entropy = -(xp.where(batch["mask"], xp.exp(log_p) * log_p, 0.0).sum(axis=-1) * weight).sum()
        agree = ((xp.argmax(log_p, axis=-1) == batch["label"]) * weight).sum()
        if cloning:
            policy = -(of(batch["label"]) * weight).sum()
        else:
            spread = batch["advantage"].std() + 1e-6
            advantage = ((batch["advantage"] - batch["advantage"].mean()) / spread)[..., None]
            ratio = xp.exp(of(batch["action"]) - batch["chance"])
            clipped = xp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
            policy = -(xp.minimum(ratio * advantage, clipped * advantage) * weight).sum()
            policy -= settings.entropy * entropy
        return policy + 0.5 * critic, {"critic": critic, "entropy": entropy, "agree": agree}

    def _learn(self, params, moments, step, rate, samples, key, cloning: bool):
        """All gradient steps of a round."""
        jax, xp, settings = self.jax, self.np, self.settings
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), samples)
        total = len(flat["value"]) // settings.parts * settings.parts
        keys = jax.random.split(key, settings.passes)
        order = xp.stack([jax.random.permutation(k, len(flat["value"]))[:total] for k in keys])

        def one(carry, index):
            params, (first, second), step = carry
            batch = jax.tree.map(lambda x: x[index], flat)
            gradient, terms = jax.grad(self._loss, has_aux=True)(params, batch, cloning)
            norm = xp.sqrt(sum((g**2).sum() for g in gradient.values()))
            gradient = {k: g * xp.minimum(1.0, 0.5 / (norm + 1e-8)) for k, g in gradient.items()}
            step = step + 1
            first = {k: 0.9 * first[k] + 0.1 * g for k, g in gradient.items()}
            second = {k: 0.999 * second[k] + 0.001 * g**2 for k, g in gradient.items()}
            size = rate * xp.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            params = {k: p - size * first[k] / (xp.sqrt(second[k]) + 1e-8) for k, p in params.items()}
            return (params, (first, second), step), terms

        batches = order.reshape(settings.passes * settings.parts, -1)
        (params, moments, step), terms = jax.lax.scan(one, (params, moments, step), batches)
        return params, moments, step, jax.tree.map(lambda x: x.mean(), terms)

    def _finish(self, params, seeds):
        """Whether each episode is won."""
        jax, xp, n = self.jax, self.np, self.rules.allies

        def step(carry):
            games, frames, visible, over, won = carry
            frames, visible, seen, mask = self._see(games, frames, visible)
            action = xp.argmax(smax_net.logits(xp, params, seen, mask), axis=-1)
            games, _, ended, cut = jax.vmap(self.rules.step)(games, action)
            wins = ended & jax.vmap(self.rules.alive)(games)[:, :n].any(axis=1)
            return games, frames, visible, over | ended | cut, xp.where(over, won, wins)

        none = xp.zeros(len(seeds), dtype=bool)
        start = self._begin(seeds), *self._blank(len(seeds)), none, none
        return jax.lax.while_loop(lambda carry: ~carry[3].all(), step, start)[4]


def _open(out: Path, seed: int):
    """(params, moments, step, round, best score, seconds spent) of a new run or of the one that ``out`` continues."""
    state = out.with_suffix(".state.npz")
    if not state.exists():
        params = smax_net.initial(seed)
        zeros = {name: np.zeros_like(array) for name, array in params.items()}
        return params, (zeros, zeros), np.float32(0), 0, -1.0, 0.0
    kept = smax_net.load(state)
    parts = [{k[2:]: v for k, v in kept.items() if k.startswith(p)} for p in ("w:", "a:", "b:")]
    round_, best, spent = kept["progress"].tolist()
    return parts[0], tuple(parts[1:]), kept["step"], int(round_), best, spent


def _keep(out: Path, params, moments, step, round_: int, best: float, spent: float) -> None:
    """Write what :func:`_open` reads."""
    arrays = {"step": np.asarray(step), "progress": np.array([round_, best, spent])}
    for prefix, part in zip(("w:", "a:", "b:"), (params, *moments), strict=True):
        arrays.update({prefix + name: np.asarray(array) for name, array in part.items()})
    smax_net.save(out.with_suffix(".state.npz"), arrays)


def train(
    out: Path, minutes: float, scenarios: list[str], seed: int, settings: Settings, every: float = 5.0
) -> None:
    """Train for ``minutes`` (all runs on ``out`` together), keeping the weights that win most often in ``out``.

    Beside ``out`` lie the state for resuming (``.state.npz``) and a log (``.log.jsonl``) with a line per round.

    Args:
        out: File for the policy's weights.
        minutes: Time, compilation included.
        scenarios: What to learn; the score is the mean win rate over them.
        seed: Of the first weights and all games.
        settings: See there.
        every: Minutes between checks of the win rates.
    """
    params, moments, step, round_, best, spent = _open(out, seed)
    rng = np.random.default_rng([seed, round_])
    learners = {name: Learner(name, settings, int(rng.integers(2**31))) for name in scenarios}
    shares = np.array([SHARES.get(name, 0.3) for name in scenarios])
    started, checked = time.time() - spent * 60, spent
    log = open(out.with_suffix(".log.jsonl"), "a", buffering=1)
    with log, tqdm(total=round(minutes, 1), initial=round(spent, 1), unit="min", dynamic_ncols=True) as bar:
        while spent < minutes:
            name = str(rng.choice(scenarios, p=shares / shares.sum()))
            cloning = round_ < settings.cloning
            rate = np.float32(settings.rate * (2.0 if cloning else max(0.1, 1.0 - spent / minutes)))
            params, moments, step, terms = learners[name].round(params, moments, step, rate, cloning)
            round_, spent = round_ + 1, (time.time() - started) / 60
            won = terms["won"] / max(1.0, terms["episodes"])
            log.write(
                json.dumps({"round": round_, "minutes": spent, "scenario": name, "rate": won, **terms}) + "\n"
            )
            bar.set_postfix({"round": round_, name: f"{won:.2f}", "best": f"{best:.3f}"}, refresh=False)
            bar.update(round(min(spent, minutes) - bar.n, 3))
            if spent - checked >= every or spent >= minutes:
                seeds = np.arange(CHECK) + 10_000_000
                rates = {name: learner.win_rate(params, seeds) for name, learner in learners.items()}
                score = float(np.mean(list(rates.values())))
                log.write(json.dumps({"round": round_, "minutes": spent, "check": rates}) + "\n")
                if score > best:
                    best = score
                    policy = {k: np.asarray(v) for k, v in params.items() if k.startswith("p.")}
                    smax_net.save(out, policy)
                _keep(out, params, moments, step, round_, best, spent)
                checked = spent


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the learned SMAX expert.")
    parser.add_argument(
        "--out", type=Path, required=True, help="file for the weights (.npz); an earlier run goes on"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="time in all")
    parser.add_argument("--scenario", nargs="+", default=["5v5", "5v6", "10v10"], help="what to learn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rounds-cloning", type=int, default=Settings.cloning, help="rounds that imitate the script"
    )
    parser.add_argument("--games", type=int, default=Settings.games, help="games side by side")
    args = parser.parse_args()
    if args.minutes <= 0 or args.games < 4:
        parser.error("--minutes must be above 0 and --games at least 4")
    settings = Settings(cloning=args.rounds_cloning, games=args.games)
    check_output_file(args.out, b"version.npy")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    train(args.out, args.minutes, args.scenario, args.seed, settings)


if __name__ == "__main__":
    main()
