"""Confidence intervals of evaluations: episodes on one map are not independent, maps are.

All intervals cover 95 %. The estimate is a mean over agent counts of means over episodes; its uncertainty comes
from which maps were drawn, so the map with all of its episodes (seeds, agent counts, policies) is the unit.
With a single map the unit is the episode, and the interval speaks of that map only.

- Means: linearised cluster-robust variance with Student's t (Cameron & Miller 2015, A Practitioner's Guide to
  Cluster-Robust Inference). With one agent count and equally many episodes per map this is the t interval of
  the maps' means. Generated maps differ between agent counts, so every count is a stratum with a variance of its own;
  the degrees of freedom are Satterthwaite's (1946, doi:10.2307/3002019), since the counts' variances differ a lot.
- Ratios to a reference: the same interval for the linearised ratio (delta method): with R = mean(x) / mean(y), the
  episodes' values are (x - R y) / mean(y), both policies' episodes kept together. A bootstrap over the two or three
  maps of a stratum would be far too narrow.
- Proportions (CSR, ISR): Wilson's interval (1927, doi:10.1080/01621459.1927.10502953) with an effective sample size
  (Korn & Graubard 1998, Survey Methodology 24), see :func:`proportion_interval`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


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


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over agent counts.

    Attributes:
        value: Mean over agent counts of the means over episodes.
        variance: Of ``value``, cluster-robust.
        quantile: Student's t for ``LEVEL``; None where a single unit shows no spread.
        units: Number of units.
    """

    value: float
    variance: float
    quantile: float | None
    units: int

    @property
    def half(self) -> float | None:
        """Half the width of the t interval; None for a single unit."""
        return None if self.quantile is None else float(self.quantile * np.sqrt(self.variance))


def estimate(sample: Sample) -> Estimate:
    """Mean and linearised cluster-robust variance of ``sample``."""
    parts = units(sample)
    values = np.asarray(sample.values, dtype=float)
    sizes = np.bincount(parts.block)
    means = np.bincount(parts.block, values) / sizes
    strata = np.bincount(parts.stratum)
    share = (values - means[parts.block]) / (sizes[parts.block] * len(sizes))
    influence = np.bincount(parts.of, share, minlength=len(parts.stratum))
    # G / (G - 1) makes up for the mean being estimated from the same units.
    free = np.maximum(strata - 1, 1)
    variances = np.bincount(parts.stratum, influence**2) * strata / free
    variance = float(variances.sum())
    freedom = len(parts.stratum) - len(strata)
    quantile = None
    if freedom >= 1:
        if variance > 0:
            largest = variances / variances.max()  # scaled: squares of tiny variances would vanish
            freedom = largest.sum() ** 2 / (largest**2 / free).sum()
        quantile = float(stats.t.ppf(0.5 + LEVEL / 2, freedom))
    return Estimate(float(means.mean()), variance, quantile, len(parts.stratum))


def mean_interval(sample: Sample) -> tuple[float, float | None]:
    """Mean over agent counts of the means over episodes, and half the width of its interval (None: one unit)."""
    found = estimate(sample)
    return found.value, found.half


def proportion_interval(sample: Sample, outcomes: int) -> tuple[float, float, float]:
    """Mean of values in [0, 1] with the bounds of its interval, which lie in [0, 1] too.

    Wilson's interval with n outcomes and quantile q holds the proportions p with (p' - p)^2 <= q^2 p (1 - p) / n,
    where p' is the estimate. Outcomes on one map are alike, so n is an effective sample size p' (1 - p') / v with the
    cluster-robust variance v of p', at most ``outcomes`` (a design effect of at least 1), and q is Student's t with
    the degrees of freedom of v. Where the episodes show no spread, v says nothing: then every map counts as one
    outcome and q is the normal quantile, so that 16 of 16 gives 0.81 to 1, not 1 to 1.

    Args:
        sample: Episodes, values in [0, 1].
        outcomes: Yes-or-no outcomes behind all values: episodes for CSR, agents of all episodes for ISR.

    Returns:
        (estimate, low, high).
    """
    found = estimate(sample)
    p, spread = found.value, found.value * (1 - found.value)
    quantile = stats.norm.ppf(0.5 + LEVEL / 2)
    size = float(found.units)
    if found.quantile is not None and found.variance > 1e-12:
        quantile, size = found.quantile, min(spread / found.variance, float(outcomes))
    return p, *wilson(p, size, float(quantile))


def wilson(p: float, size: float, quantile: float | None = None) -> tuple[float, float]:
    """Bounds of Wilson's interval of the proportion ``p`` of ``size`` outcomes (not necessarily a whole number)."""
    quantile = stats.norm.ppf(0.5 + LEVEL / 2) if quantile is None else quantile
    weight = quantile**2 / size
    centre = (p + weight / 2) / (1 + weight)
    half = np.sqrt(weight * p * (1 - p) + weight**2 / 4) / (1 + weight)
    # Rounding must not put an estimate at the edge outside its own interval.
    return float(np.clip(centre - half, 0.0, p)), float(np.clip(centre + half, p, 1.0))


def ratio_interval(sample: Sample, reference: np.ndarray) -> tuple[float, float | None, float | None] | None:
    """Ratio of ``sample``'s mean to that of ``reference``, with the bounds of its interval.

    Args:
        sample: Episodes of a policy.
        reference: float[n], the other policy's values on the same instances in the same order.

    Returns:
        (ratio, low, high), bounds None for a single unit; None where the reference's mean is not above 0. Where no
        value is negative, the lower bound is not either.
    """
    theirs = estimate(dataclasses.replace(sample, values=np.asarray(reference, dtype=float))).value
    if not theirs > 0:
        return None
    values = np.asarray(sample.values, dtype=float)
    ratio = estimate(sample).value / theirs
    half = estimate(dataclasses.replace(sample, values=(values - ratio * reference) / theirs)).half
    if half is None:
        return ratio, None, None
    low = ratio - half
    return ratio, max(low, 0.0) if (values >= 0).all() else low, ratio + half
