"""Interval of a mean over patients, and p of paired differences.

Numbers alone, no tables.

References
----------
.. [1] Efron, Tibshirani: An Introduction to the Bootstrap, chapter 13 (percentile intervals). Chapman & Hall, 1993.
.. [2] Wilcoxon: Individual comparisons by ranking methods. Biometrics Bulletin 1(6), 1945.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEAST_PATIENTS = 6
"""Tables give no interval and no p below so many patients: of fewer pairs no signed-rank p is below .05."""

_EXACT_TO = 50
_BATCH_VALUES = 4_000_000


def bootstrap_interval(
    values: Iterable[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the mean by the percentile bootstrap [1]_.

    The same values in the same order give the same interval.

    As many values as there are, drawn with replacement, ``resamples`` times; the interval holds the middle
    ``confidence`` of their means. With few patients it is too narrow: of 95 % intervals of normal values, 84 % held the
    true mean with 5 patients, 89 % with 10, 93 % with 25; of skewed values fewer.

    Parameters
    ----------
    values : floats
        One a patient; NaN are left out.
    confidence : float
        Share of resampled means inside the interval, in 0..1.
    resamples : int
        How many times the patients are drawn.
    seed : int
        Of the draws.

    Returns
    -------
    (low, high) : floats
        One value, or several equal ones: that value twice. No value: NaN twice.
    """
    row = np.fromiter(values, float)[None]
    low, high = bootstrap_intervals(row, confidence, resamples, seed)[0]
    return float(low), float(high)


def bootstrap_intervals(table: Values, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Values:
    """Return :func:`bootstrap_interval` of many metrics at once.

    Parameters
    ----------
    table : (metrics, patients) float
        NaN are left out of their row. Rows that know the same patients share one set of draws, which makes many cheap.
    confidence, resamples, seed
        As there.

    Returns
    -------
    (metrics, 2) float64
        Low and high of each row.
    """
    from scipy.stats import bootstrap  # half a second to import

    intervals = np.full((len(table), 2), np.nan)
    if not table.size:
        return intervals
    patterns, pattern_of = np.unique(~np.isnan(table), axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        rows = np.flatnonzero(pattern_of.ravel() == number)
        values = table[np.ix_(rows, pattern)]
        constant = (values == values[:, :1]).all(axis=1)
        intervals[rows[constant]] = values[constant, :1]
        rows, values = rows[~constant], values[~constant]
        if not len(rows):
            continue
        found = bootstrap(
            (values,), np.mean, axis=-1, vectorized=True, method="percentile",
            confidence_level=confidence, n_resamples=resamples, batch=max(1, _BATCH_VALUES // values.size),
            random_state=np.random.default_rng(seed),  # the name that scipy 1.14 and later both know
        ).confidence_interval  # fmt: skip
        intervals[rows] = np.stack([found.low, found.high], axis=-1)
    return intervals


def signed_rank_p(difference: Values) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test [2]_ of paired differences.

    Differences of zero are left out (Wilcoxon's own rule; scipy's ``zero_method="wilcox"``). To 50 others p is exact
    given their ranks, tied ones too: over all ways to give the ranks signs. Above, it is scipy's normal approximation,
    corrected for ties.

    Parameters
    ----------
    difference : (patients,) float
        One system minus the other, known for all. What should be a tie must be equal to the last bit.

    Returns
    -------
    float
        In 0..1; 1 where all differences are zero, NaN without a patient.
    """
    from scipy.stats import rankdata, wilcoxon

    if not len(difference):
        return math.nan
    difference = difference[difference != 0]
    n = len(difference)
    if not n:
        return 1.0
    size = np.abs(difference)
    if n > _EXACT_TO or len(np.unique(size)) == n:
        return float(wilcoxon(difference, zero_method="wilcox", alternative="two-sided").pvalue)
    # scipy tries all signs of tied ranks to 13 patients, in seconds, and approximates above. Counting the ways to each
    # rank sum is exact and takes no time; tied ranks are halves, so twice the ranks are whole.
    ranks = np.round(2 * rankdata(size)).astype(int)
    ways = np.zeros(ranks.sum() + 1)
    ways[0] = 1
    for rank in ranks:
        ways[rank:] += ways[:-rank].copy()
    smaller = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    return float(min(1.0, 2 * ways[: smaller + 1].sum() / 2.0**n))
