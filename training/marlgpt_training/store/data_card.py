"""The data card of a trajectory store: what is in it, at a glance, as Markdown beside the shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from marlgpt_training.store.frame_episode import FrameEpisode
from marlgpt_training.store.shards import StoreError, read_shard, shards

NAME = "CARD.md"


@dataclass
class Group:
    """Counts over the episodes of one scenario and source."""

    episodes: int = 0
    agent_steps: int = 0
    labelled: int = 0
    agents: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    successes: list[float] = field(default_factory=list)
    moves: Counter = field(default_factory=Counter)

    def add(self, episode) -> None:
        """Count one episode."""
        labels = episode.labels[episode.labels >= 0]
        self.episodes += 1
        self.agent_steps += episode.actions.size
        self.labelled += len(labels)
        self.agents.append(episode.actions.shape[1])
        self.steps.append(len(episode.actions))
        if isinstance(episode, FrameEpisode):
            self.successes.append(episode.spec.get("metrics", {}).get("success", np.nan))
        elif not episode.spec.get("lifelong", True):
            self.successes.append(float(episode.ended))
        self.moves.update(labels.tolist())

    def row(self) -> list[str]:
        """Cells of the card's table."""
        success = f"{np.nanmean(self.successes):.2f}" if self.successes else "-"
        most = self.moves.most_common(6)
        balance = ", ".join(f"{move}: {count / max(1, self.labelled):.0%}" for move, count in most)
        return [
            f"{self.episodes:,}", f"{self.labelled:,}", _span(self.agents), _span(self.steps), success, balance,
        ]  # fmt: skip


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def card(folder: Path) -> str:
    """The card of the store in ``folder`` as Markdown; unreadable shards are listed, not fatal."""
    groups: dict[tuple[str, ...], Group] = {}
    bad, size, steps = [], 0, 0
    for path in shards(folder):
        try:
            episodes = read_shard(path)
        except StoreError as error:
            bad.append(str(error).replace(str(folder), "."))
            continue
        size += path.stat().st_size
        for episode in episodes:
            key = (episode.environment, episode.scenario, episode.layout, episode.source)
            groups.setdefault(key, Group()).add(episode)
            steps += episode.actions.size
    head = [
        "game",
        "scenario",
        "layout",
        "source",
        "episodes",
        "labels",
        "agents",
        "steps",
        "success",
        "most frequent moves",
    ]
    lines = [
        f"# {folder.name}",
        "",
        f"{sum(g.episodes for g in groups.values()):,} episodes, {steps:,} agent steps, {size / 1e6:.1f} MB "
        f"({size / max(1, steps):.1f} bytes per agent step). Written by `marlgpt collect`.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join([*key, *group.row()])} |" for key, group in sorted(groups.items())),
    ]
    if bad:
        lines += ["", "Not readable:", "", *(f"- {reason}" for reason in bad)]
    return "\n".join(lines) + "\n"


def write_card(folder: Path) -> Path:
    """Write the card beside the shards; its path."""
    path = folder / NAME
    temporary = path.with_suffix(".tmp")
    temporary.write_text(card(folder))
    temporary.replace(path)
    return path
