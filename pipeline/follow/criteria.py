"""Criteria of response: each number once, with its source.

Sources
-------
.. [1] Wen et al., RANO 2010: table 2 of PMC7968800; summary in PMC10584081, table 1.
.. [2] van den Bent et al., RANO-LGG 2011: summary in PMC10584081, table 1.
.. [3] Wen et al., RANO 2.0 2023, doi 10.1200/JCO.23.01059, as reviewed in Jpn J Radiol 2025,
   doi 10.1007/s11604-025-01821-6. The paper itself was not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from data.errors import UsageError, did_you_mean

CATEGORIES = ("BASELINE", "CR", "PR", "MR", "SD", "PD", "NE")
"""Categories of a visit: NE is not evaluable."""
RESPONSES = ("CR", "PR", "MR")
"""Categories that want a second scan, the best first."""

EARLY_DAYS = 12 * 7
"""Days after the end of radiotherapy within which PD is preliminary, the last one included [3]_."""
CONFIRM_DAYS = 4 * 7
"""Least days from a category to the scan that confirms it [1]_ [2]_ [3]_."""
AFTER_RADIOTHERAPY_DAYS = (21, 35)
"""Days after the end of radiotherapy in which the baseline should lie [3]_."""
BEFORE_TREATMENT_DAYS = 14
"""Most days from the baseline to the start of a treatment [3]_."""
GROWN_MM = 5
"""Growth of both diameters that makes a lesion, not measurable before, progressive [3]_."""
GROWN_TO_MM = 10
"""Least diameters of a lesion that has so grown [3]_."""

UNITS = {"product": "mm2", "volume": "ml"}
"""Unit of each measure."""
REPEATABILITY_PERCENT: Mapping[str, tuple[int, int]] = {"product": (2, 13), "volume": (2, 6)}
"""Change of masks when the same patient is laid four times anew (5 degrees, 5 mm)."""


@dataclass(frozen=True)
class Criterion:
    """Bounds of one set of criteria. A bound that is exactly met is met."""

    name: str
    """Name on the command line; with underscores in columns."""
    title: str
    """Name in the literature."""
    measure: str
    """``product`` of perpendicular diameters, or ``volume``; both are summed over the targets."""
    region: str
    """Region that is judged where nothing else is asked for."""
    progression: Fraction
    """Growth from the nadir that makes PD."""
    partial: Fraction
    """Fall from the baseline that makes PR."""
    minor: Fraction
    """Fall from the baseline that makes MR, where there is one."""
    minor_regions: frozenset[str]
    """Regions that know MR."""
    most_targets: int
    """Most target lesions."""
    most_targets_mixed: int
    """Most target lesions of each region, where two regions are judged."""
    any_new_lesion: bool
    """True: any new lesion makes PD; False: a measurable one alone."""
    confirmed_by: Fraction | None
    """Further growth that confirms a preliminary PD; None: no scan does."""
    region_of_new: tuple[str, ...] = ()
    """Further regions in which a new lesion makes PD."""

    @property
    def column(self) -> str:
        """Name in columns of tables."""
        return self.name.replace("-", "_")

    @property
    def unit(self) -> str:
        """Unit of the sums: mm2 or ml."""
        return UNITS[self.measure]


def _percent(value: int) -> Fraction:
    return Fraction(value, 100)


_RANO2 = Criterion(
    name="rano2",
    title="RANO 2.0 (2023), by diameters",
    measure="product",
    region="ET",
    progression=_percent(25),
    partial=_percent(50),
    minor=_percent(25),
    minor_regions=frozenset({"NCE"}),
    most_targets=3,
    most_targets_mixed=2,
    any_new_lesion=False,
    confirmed_by=_percent(25),
)
_RANO2_VOLUME = replace(
    _RANO2,
    name="rano2-volume",
    title="RANO 2.0 (2023), by volume",
    measure="volume",
    progression=_percent(40),
    partial=_percent(65),
    minor=_percent(40),
    confirmed_by=_percent(40),
)
_RANO2010 = Criterion(
    name="rano2010",
    title="RANO 2010 (enhancement)",
    measure="product",
    region="ET",
    progression=_percent(25),
    partial=_percent(50),
    minor=_percent(25),
    minor_regions=frozenset(),
    most_targets=5,
    most_targets_mixed=5,
    any_new_lesion=True,
    confirmed_by=None,
)
_RANO_LGG = replace(
    _RANO2010,
    name="rano-lgg",
    title="RANO-LGG 2011 (T2/FLAIR)",
    region="WT",
    minor_regions=frozenset({"WT"}),
    region_of_new=("ET",),
)

CRITERIA: Mapping[str, Criterion] = {
    criterion.name: criterion for criterion in (_RANO2, _RANO2_VOLUME, _RANO2010, _RANO_LGG)
}
"""All criteria by name."""


def criterion_named(name: str) -> Criterion:
    """Return a set of criteria by its name.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name not in CRITERIA:
        raise UsageError(f"no criteria are called {name!r}{did_you_mean(name, CRITERIA)}; take {', '.join(CRITERIA)}")
    return CRITERIA[name]
