"""The loss terms of the offline actor-critic, each with its formula, and their weighted sum.

Notation: s the observation of one agent, a the move it executed, a* the expert's move, r the rewards, pi the
policy, Q the critic's expected return, A(s) the moves that the mask allows. A bar marks the slowly moving average of
the weights, which serves as target network. Every term is a vector with one loss per sample, zero where the
term does not apply, so that a batch may be cut into parts in any way. Forbidden moves and padding tokens enter none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from marlgpt_training.model.model import MASKED, MarlGpt

TERMS = ("bc", "td", "conservative", "advantage")


@dataclass
class LossConfig:
    """Weights and constants of the loss terms; a weight of 0 turns a term off (and saves its work)."""

    bc: float = 1.0
    """Weight of behaviour cloning."""
    td: float = 0.0
    """Weight of the categorical temporal-difference critic."""
    conservative: float = 0.0
    """Weight of the conservative term, which holds down Q of moves that the data does not contain."""
    advantage: float = 0.0
    """Weight of the advantage-weighted policy term."""
    gamma: float = 0.95
    """Discount per step."""
    td_steps: int = 1
    """Steps n of the n-step return before the target network takes over."""
    beta: float = 0.2
    """Temperature of the advantage weights, in units of return."""
    clip: float = 20.0
    """Largest advantage weight."""
    target: str = "two-hot"
    """How a return is spread over the value bins: two-hot or hl-gauss."""

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ValueError: Naming the setting.
        """
        for name in TERMS:
            if not getattr(self, name) >= 0:
                raise ValueError(f"weight of the loss term '{name}' is {getattr(self, name)}; use 0 or more")
        if not any(getattr(self, name) for name in TERMS):
            raise ValueError(f"all loss weights are 0; give one of {', '.join(TERMS)} a weight above 0")
        if self.target not in ("two-hot", "hl-gauss"):
            raise ValueError(f"value target '{self.target}': choose two-hot or hl-gauss")
        if not 0 <= self.gamma < 1 or self.td_steps < 1 or self.beta <= 0:
            raise ValueError("needs 0 <= gamma < 1, td_steps >= 1 and beta > 0")

    @property
    def uses_critic(self) -> bool:
        """Whether any term needs the critic, and with it the executed moves."""
        return self.td > 0 or self.conservative > 0 or self.advantage > 0


def _known(move: torch.Tensor) -> torch.Tensor:
    """int64[n, 1] index of the moves, 0 for unknown ones (-1)."""
    return move.clamp(min=0)[:, None]


def executable(move: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """bool[n] whether ``move`` int64[n] is known (not -1) and allowed by ``mask`` bool[n, k]."""
    return (move >= 0) & mask.gather(1, _known(move))[:, 0]


def behaviour_cloning(logits: torch.Tensor, label: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """-log pi(a*|s), float[n]; 0 where there is no label (-1) or the mask forbids it.

    Args:
        logits: float[n, k], forbidden moves at -1e9.
        label: int64[n], -1 for none.
        mask: bool[n, k].
    """
    loss = F.cross_entropy(logits, label.clamp(min=0), reduction="none")
    return torch.where(executable(label, mask), loss, torch.zeros_like(loss))


def two_hot(values: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """float[n, bins] weights on the two bins around each value, averaging to it; values outside are clipped."""
    clipped = values.clamp(bins[0], bins[-1])
    position = ((clipped - bins[0]) / (bins[1] - bins[0])).clamp(0, len(bins) - 1)  # rounding may step over
    low = position.floor().clamp(max=len(bins) - 2).long()
    share = (position - low).unsqueeze(1)
    weights = torch.zeros(len(values), len(bins), dtype=share.dtype, device=share.device)
    return weights.scatter(1, low.unsqueeze(1), 1 - share).scatter(1, low.unsqueeze(1) + 1, share)


def hl_gauss(values: torch.Tensor, bins: torch.Tensor, width: float = 0.75) -> torch.Tensor:
    """float[n, bins] share of each bin under a Gaussian around the value (Farebrother et al. 2024, 2403.03950).

    ``width`` is its standard deviation in bin widths; values outside the bins are clipped.
    """
    step = bins[1] - bins[0]
    edges = torch.cat([bins - step / 2, bins[-1:] + step / 2])
    centred = (edges[None] - values.clamp(bins[0], bins[-1])[:, None]) / (width * step * 2**0.5)
    cumulative = torch.erf(centred)
    share = cumulative[:, 1:] - cumulative[:, :-1]
    return share / share.sum(dim=1, keepdim=True)


def policy_value(logits: torch.Tensor, q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """V(s) = sum over allowed moves of pi(a|s) Q(s, a), float[n]."""
    return (logits.masked_fill(~mask, MASKED).softmax(dim=1) * q.masked_fill(~mask, 0)).sum(dim=1)


def td_target(reward: torch.Tensor, bootstrap: torch.Tensor, next_value: torch.Tensor) -> torch.Tensor:
    """Y = sum_{k<n} gamma^k r_{t+k} + gamma^n V_bar(s_{t+n}), float[n].

    ``reward`` is that sum, ``bootstrap`` gamma^n, or 0 where the episode ended by itself.
    """
    return reward + bootstrap * next_value


def temporal_difference(
    bin_logits: torch.Tensor, action: torch.Tensor, target: torch.Tensor, bins: torch.Tensor, kind: str
) -> torch.Tensor:
    """-sum_b p_b(y) log p_b(s, a), float[n]: cross entropy with the return's distribution over the value bins.

    Args:
        bin_logits: float[n, k, bins] of the critic.
        action: int64[n] executed moves.
        target: float[n] returns y.
        bins: float[bins] return of each bin.
        kind: ``two-hot`` or ``hl-gauss``.
    """
    spread = (two_hot if kind == "two-hot" else hl_gauss)(target, bins)
    taken = bin_logits[torch.arange(len(action), device=action.device), action]
    return -(spread * F.log_softmax(taken, dim=-1)).sum(dim=-1)


def conservative(q: torch.Tensor, action: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log sum_{b in A(s)} exp Q(s, b) - Q(s, a), float[n] (CQL(H), Kumar et al. 2020, arXiv 2006.04779).

    0 where the mask forbids the executed move ``action``.
    """
    loss = torch.logsumexp(q.masked_fill(~mask, MASKED), dim=1) - q.gather(1, _known(action))[:, 0]
    return torch.where(executable(action, mask), loss, torch.zeros_like(loss))


def advantage_weighted(
    logits: torch.Tensor, q: torch.Tensor, action: torch.Tensor, mask: torch.Tensor, beta: float, clip: float
) -> torch.Tensor:
    """-min(clip, exp((Q(s, a) - V(s)) / beta)) log pi(a|s), float[n]; no gradient through the weight.

    Follows AWAC (Nair et al. 2020, arXiv 2006.09359) and CRR (Wang et al. 2020, arXiv 2006.15134).
    """
    with torch.no_grad():
        gain = q.gather(1, _known(action))[:, 0] - policy_value(logits, q, mask)
        weight = (gain / beta).exp().clamp(max=clip)
    return weight * behaviour_cloning(logits, action, mask)


class Objective(nn.Module):
    """The weighted sum of the terms over a batch. A module, so that DistributedDataParallel can wrap it."""

    def __init__(self, model: MarlGpt, config: LossConfig, target: MarlGpt | None = None) -> None:
        """Loss of ``model``; parameters that no active term uses stop requiring gradients.

        ``target`` is the target network, which the TD term needs.
        """
        super().__init__()
        self.model, self.config = model, config
        object.__setattr__(self, "target", target)  # not a part: its weights are not trained
        actor = config.bc > 0 or config.advantage > 0
        for part, used in (("actor", actor), ("critic", config.td > 0 or config.conservative > 0)):
            for name in (f"{part}_block", f"{part}_norm", f"{part}_head"):
                getattr(model, name).requires_grad_(used)

    def forward(
        self, batch: dict[str, torch.Tensor], layout: str | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum of the weighted terms over the samples; each term's sum, correct moves and labelled samples.

        Args:
            batch: values float[n, L], valid bool[n, L], mask bool[n, 20], label int64[n]; with critic terms
                also action int64[n], reward and bootstrap float[n], next_values, next_valid, next_mask.
            layout: Name of the batch's token layout; the model's first one if not given.
        """
        config, mask = self.config, batch["mask"]
        x, bias = self.model.trunk_forward(batch["values"], batch["valid"], layout)
        logits = self.model.actor(x, bias, mask)
        terms = {}
        if config.bc:
            terms["bc"] = behaviour_cloning(logits, batch["label"], mask)
        if config.uses_critic:
            action = batch["action"]
            bin_logits = self.model.critic(x, bias).float()
            q = (bin_logits.softmax(dim=-1) * self.model.bin_values).sum(dim=-1)
            if config.td:
                with torch.no_grad():
                    ahead = self.target(batch["next_values"], batch["next_valid"], batch["next_mask"], layout)
                    value = policy_value(ahead[0].float(), ahead[1].float(), batch["next_mask"])
                    y = td_target(batch["reward"], batch["bootstrap"], value)
                bins, taken = self.model.bin_values, action.clamp(min=0)
                loss = temporal_difference(bin_logits, taken, y, bins, config.target)
                terms["td"] = torch.where(executable(action, mask), loss, torch.zeros_like(loss))
            if config.conservative:
                terms["conservative"] = conservative(q, action, mask)
            if config.advantage:
                terms["advantage"] = advantage_weighted(logits, q, action, mask, config.beta, config.clip)
        sums = {name: loss.sum() for name, loss in terms.items()}
        with torch.no_grad():
            labelled = batch["label"] >= 0
            hits = ((logits.argmax(dim=1) == batch["label"]) & labelled).sum()
        total = sum(getattr(config, name) * value for name, value in sums.items())
        found = {name: value.detach() for name, value in sums.items()}
        return total, {**found, "hits": hits, "labelled": labelled.sum()}
