"""Confidence intervals of evaluations: episodes on one map are not independent, maps are.

All intervals cover 95 %. The estimate is a mean over agent counts of means over episodes; its uncertainty comes
from which maps were drawn, so the map with all of its episodes (seeds, agent counts, policies) is the unit.
With a single map the unit is the episode, and the interval speaks of that map only.

- Means: linearised cluster-robust variance with Student's t (Cameron & Miller 2015, A Practitioner's Guide to
  Cluster-Robust Inference). With one agent count and equally many episodes per map this is the t interval of
  the maps' means.
- Ratios to a reference: paired bootstrap over maps, both policies' episodes kept together, percentiles widened
  for few maps (Hesterberg 2015, What Teachers Should Know About the Bootstrap, "expanded percentile").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
REPLICATES = 4000
FEWEST = 5
"""Maps below which a bootstrap says nothing; the bounds are None then."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Episodes of one policy.

    Attributes:
        values: float[n] metric of each episode.
        maps: Name of the map of each episode.
        counts: Agents in each episode.
    """

    values: np.ndarray
    maps: Sequence[str]
    counts: Sequence[int]

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.maps) == len(self.counts) > 0:
            raise ValueError(
                f"{len(self.values)} values, {len(self.maps)} maps and {len(self.counts)} agent counts"
            )


@dataclasses.dataclass(frozen=True)
class Units:
    """Units of resampling.

    Attributes:
        of: int[n] unit of each episode.
        stratum: int[g] stratum of each unit: units with episodes at the same agent counts.
        block: int[n] agent count of each episode, as an index.
    """

    of: np.ndarray
    stratum: np.ndarray
    block: np.ndarray


def units(sample: Sample) -> Units:
    """The units of ``sample``; strata with a single unit are joined, since one unit has no spread."""
    names, of = np.unique(np.asarray(sample.maps), return_inverse=True)
    block = np.unique(np.asarray(sample.counts), return_inverse=True)[1]
    if len(names) == 1:
        of = np.arange(len(of))
    seen = np.zeros((of.max() + 1, block.max() + 1), dtype=bool)
    seen[of, block] = True
    _, stratum, sizes = np.unique(seen, axis=0, return_inverse=True, return_counts=True)
    stratum = stratum.ravel()
    lonely = sizes[stratum] == 1
    stratum[lonely] = len(sizes)
    if lonely.sum() == 1 and len(stratum) > 1:
        stratum[lonely] = np.flatnonzero(sizes > 1)[0]
    return Units(of, np.unique(stratum, return_inverse=True)[1].ravel(), block)


def mean_interval(sample: Sample) -> tuple[float, float | None]:
    """Mean over agent counts of the means over episodes, and half the width of its interval (None: one unit)."""
    parts = units(sample)
    values = np.asarray(sample.values, dtype=float)
    sizes = np.bincount(parts.block)
    means = np.bincount(parts.block, values) / sizes
    estimate = float(means.mean())
    strata = np.bincount(parts.stratum)
    freedom = len(parts.stratum) - len(strata)
    if freedom < 1:
        return estimate, None
    share = (values - means[parts.block]) / (sizes[parts.block] * len(sizes))
    influence = np.bincount(parts.of, share, minlength=len(parts.stratum))
    # sqrt(G / (G - 1)) makes up for the mean being estimated from the same units.
    variance = (influence**2 * (strata / np.maximum(strata - 1, 1))[parts.stratum]).sum()
    return estimate, float(stats.t.ppf(0.5 + LEVEL / 2, freedom) * np.sqrt(variance))


def ratio_interval(sample: Sample, reference: np.ndarray) -> tuple[float, float | None, float | None] | None:
    """Ratio of ``sample``'s mean to that of ``reference``, with the bounds of its interval.

    Args:
        sample: Episodes of a policy.
        reference: float[n], the other policy's values on the same instances in the same order.

    Returns:
        (ratio, low, high), bounds None for fewer than ``FEWEST`` units; None where the reference's mean is 0.
    """
    parts = units(sample)
    total = len(parts.stratum)
    table = np.zeros((3, total, parts.block.max() + 1))
    ones = np.ones(len(parts.of))
    for slot, values in enumerate((sample.values, reference, ones)):
        np.add.at(table[slot], (parts.of, parts.block), values)

    def ratio(weights: np.ndarray) -> np.ndarray:
        """Ratios float[b] under weights float[b, units]; NaN where undefined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            mine, theirs = ((weights @ table[k] / (weights @ table[2])).mean(axis=1) for k in (0, 1))
            return np.where(theirs > 0, mine / theirs, np.nan)

    estimate = float(ratio(np.ones((1, total)))[0])
    if np.isnan(estimate):
        return None
    if total < FEWEST:
        return estimate, None, None
    rng = np.random.default_rng(0)
    weights = np.zeros((REPLICATES, total))
    strata = np.bincount(parts.stratum)
    for stratum, size in enumerate(strata):
        weights[:, parts.stratum == stratum] = rng.multinomial(size, np.full(size, 1 / size), size=REPLICATES)
    freedom = total - len(strata)
    widen = np.sqrt((strata / np.maximum(strata - 1, 1)).mean()) * stats.t.ppf(0.5 + LEVEL / 2, freedom)
    outside = stats.norm.cdf(-widen)
    drawn = ratio(weights)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [outside, 1 - outside])
    return estimate, float(low), float(high)
