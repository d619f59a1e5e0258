"""Catalogue of metrics: formula, heading, unit, better end and places of each, once.

Tables, summary, comparison, charts and page take their columns, headings and number formats from here. To add a metric,
write one function of a :class:`pipeline.score.compared.ComparedRegion` and one entry of `OVERLAP`, `SURFACE` or
`VOLUME`. A metric of `OVERLAP` is computed in validation during training too, so it asks for no surface.

References
----------
.. [1] Huttenlocher, Klanderman, Rucklidge: Comparing images using the Hausdorff distance. IEEE PAMI 15(9), 1993.
.. [2] Salehi, Erdogmus, Gholipour: Tversky loss function for image segmentation. MLMI 2017, arXiv:1706.05721.
.. [3] Nikolov et al.: Clinically applicable segmentation of head and neck anatomy. JMIR 23(7), 2021, arXiv:1809.04430.
.. [4] Heimann et al.: Comparison and evaluation of methods for liver segmentation. IEEE TMI 28(8), 2009.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

import numpy as np

from pipeline.score.compared import ComparedRegion
from pipeline.score.surfaces import Distances

Unit = Literal["", "mm", "mm\N{SUPERSCRIPT TWO}", "ml", "%", "voxels", "lesions"]
"""Unit of a value. "" is a share, 0 to 1; voxels and lesions are whole numbers."""
HIGHER, LOWER, NEITHER = 1, -1, 0


class Place(StrEnum):
    """Places that show some metrics, each in its own order.

    metrics.csv and summary.csv have all.
    """

    REPORT = "report.csv"
    SUMMARY = "the summary on the page"
    COMPARISON = "comparison.csv"
    CHARTS = "the charts on the page"
    PATIENT = "a patient's table on the page"
    LESIONS = "a patient's lesions on the page"
    WEB = "a region's scores in the web app"
    TERMINAL = "the means printed after a run"


@dataclass(frozen=True)
class Metric:
    """Everything that the pipeline knows of one metric."""

    key: str
    """Column of metrics.csv, with the unit."""
    heading: str
    """Name on the page, without the unit."""
    unit: Unit = ""
    better: int = NEITHER
    """`HIGHER`, `LOWER` or `NEITHER`. Systems are compared by a metric only where one end is better."""
    measure: Callable[[ComparedRegion], float] | None = None
    """Formula. None for the numbers that are no function of two masks of one region."""
    shown_in: Mapping[Place, int] = field(default_factory=lambda: MappingProxyType({}))
    """Place to position. A place shows its metrics by rising position, those of one position in their given order."""
    report_key: str = ""
    """Name in report.csv, before ``_<region>``. Default: the key."""
    signed: bool = False
    """The sign of a positive number is shown too."""
    meaning: str = ""
    """Meaning in a few words, for the reader of a heading."""

    @property
    def title(self) -> str:
        """Heading with its unit, such as ``HD95 (mm)``."""
        return self.heading if self.is_count or not self.unit else f"{self.heading} ({self.unit})"

    @property
    def is_count(self) -> bool:
        """True for whole numbers."""
        return self.unit in ("voxels", "lesions")


# ---- formulas ----


def _dice(region: ComparedRegion) -> float:
    return region.share(2 * region.tp, 2 * region.tp + region.fp + region.fn)


def _iou(region: ComparedRegion) -> float:
    return region.share(region.tp, region.tp + region.fp + region.fn)


def _sensitivity(region: ComparedRegion) -> float:
    return region.share(region.tp, region.tp + region.fn)


def _specificity(region: ComparedRegion) -> float:
    return region.share(region.tn, region.tn + region.fp)


def _precision(region: ComparedRegion) -> float:
    return region.share(region.tp, region.tp + region.fp)


def _accuracy(region: ComparedRegion) -> float:
    return region.share(region.tp + region.tn, region.tp + region.fp + region.fn + region.tn)


def _tversky(region: ComparedRegion) -> float:
    """Return tp / (tp + 0.3 fp + 0.7 fn) [2]_."""
    return region.share(region.tp, region.tp + 0.3 * region.fp + 0.7 * region.fn)


def _hd_mm(region: ComparedRegion) -> float:
    """Return the Hausdorff distance [1]_: the largest surface distance of both directions."""
    return region.from_surfaces(
        lambda directed: max(distances[-1] for distances in directed), best=0.0, worst=float(region.penalty_mm)
    )


def _hd95_mm(region: ComparedRegion) -> float:
    """Return the larger of the two directed 95th percentiles of surface distances."""
    return region.from_surfaces(
        lambda directed: max(_percentile(distances, 0.95) for distances in directed),
        best=0.0,
        worst=float(region.penalty_mm),
    )


def _assd_mm(region: ComparedRegion) -> float:
    """Return the mean of the surface distances of both boundaries together [4]_."""

    def mean(directed: tuple[Distances, Distances]) -> float:
        return float(sum(distances.sum() for distances in directed)) / sum(distances.size for distances in directed)

    return region.from_surfaces(mean, best=0.0, worst=float(region.penalty_mm))


def _nsd(region: ComparedRegion) -> float:
    """Return the share of both boundaries within the tolerance of the other boundary [3]_."""
    # A spacing read from a header as float32 may miss 1 mm by 1e-7: a voxel next door is still 1 mm away.
    reach = region.tolerance_mm * (1 + 1e-6)

    def within(directed: tuple[Distances, Distances]) -> float:
        near = [int(np.searchsorted(distances, reach, side="right")) for distances in directed]
        return sum(near) / sum(distances.size for distances in directed)

    return region.from_surfaces(within, best=1.0, worst=0.0)


def _percentile(ascending: Distances, share: float) -> float:
    """Return numpy's linear percentile of values that are sorted already, which spares the sorting."""
    position = share * (ascending.size - 1)
    below = math.floor(position)
    low, high = ascending[below], ascending[min(below + 1, ascending.size - 1)]
    return float(low + (high - low) * (position - below))


def _prediction_ml(region: ComparedRegion) -> float:
    return region.prediction_ml


def _reference_ml(region: ComparedRegion) -> float:
    return region.reference_ml


def _volume_error_ml(region: ComparedRegion) -> float:
    return region.prediction_ml - region.reference_ml


def _volume_error_percent(region: ComparedRegion) -> float:
    """Return 100 times the error over the reference's volume; NaN where only the reference is empty."""
    reference = region.tp + region.fn
    if reference:
        return 100.0 * (region.fp - region.fn) / reference
    return math.nan if region.fp else 0.0


# ---- entries, in the order of the columns of metrics.csv ----

_P = Place
OVERLAP = (
    Metric(
        "dice", "Dice", "", HIGHER, _dice,
        {_P.REPORT: 3, _P.SUMMARY: 1, _P.COMPARISON: 1, _P.CHARTS: 1, _P.PATIENT: 1, _P.WEB: 1, _P.TERMINAL: 1},
        meaning="Agreement with the reference, 0 to 1",
    ),
    Metric("iou", "IoU", "", HIGHER, _iou),
    Metric("sensitivity", "Sensitivity", "", HIGHER, _sensitivity, {_P.CHARTS: 5, _P.PATIENT: 5}),
    Metric("specificity", "Specificity", "", HIGHER, _specificity),
    Metric("precision", "Precision", "", HIGHER, _precision, {_P.CHARTS: 6, _P.PATIENT: 6}),
    Metric("accuracy", "Accuracy", "", HIGHER, _accuracy),
    Metric("tversky", "Tversky", "", HIGHER, _tversky),
)  # fmt: skip
"""Scores that count voxels."""
SURFACE = (
    Metric("hd_mm", "HD", "mm", LOWER, _hd_mm, {_P.REPORT: 5}),
    Metric(
        "hd95_mm", "HD95", "mm", LOWER, _hd95_mm,
        {_P.REPORT: 4, _P.SUMMARY: 2, _P.COMPARISON: 2, _P.CHARTS: 3, _P.PATIENT: 2, _P.WEB: 2, _P.TERMINAL: 2},
        meaning="95th percentile of the surface distance",
    ),
    Metric("assd_mm", "ASSD", "mm", LOWER, _assd_mm, {_P.CHARTS: 4, _P.PATIENT: 4}),
    Metric(
        "nsd", "NSD", "", HIGHER, _nsd, {_P.REPORT: 6, _P.SUMMARY: 3, _P.COMPARISON: 3, _P.CHARTS: 2, _P.PATIENT: 3}
    ),
)  # fmt: skip
"""Scores that rest on the distances between the two boundaries."""
VOLUME = (
    Metric(
        "volume_ml_prediction", "Predicted volume", "ml", NEITHER, _prediction_ml,
        {_P.REPORT: 1, _P.SUMMARY: 6, _P.PATIENT: 7}, report_key="volume_ml",
    ),
    Metric(
        "volume_ml_reference", "Reference volume", "ml", NEITHER, _reference_ml,
        {_P.REPORT: 2, _P.SUMMARY: 7, _P.PATIENT: 8}, report_key="reference_volume_ml",
    ),
    Metric(
        "volume_error_ml", "Volume difference", "ml", NEITHER, _volume_error_ml,
        {_P.SUMMARY: 8, _P.PATIENT: 9}, signed=True,
    ),
    Metric(
        "volume_error_percent", "Volume difference", "%", NEITHER, _volume_error_percent, {_P.PATIENT: 10}, signed=True
    ),
)  # fmt: skip
"""Volumes and their differences, prediction minus reference."""
LESIONWISE = (
    Metric("dice", "Dice", "", HIGHER, shown_in={_P.SUMMARY: 4, _P.PATIENT: 17}),
    Metric("hd95_mm", "HD95", "mm", LOWER, shown_in={_P.SUMMARY: 4, _P.PATIENT: 17}),
    Metric("whole_dice", "whole Dice", "", HIGHER),
    Metric("whole_hd95_mm", "whole HD95", "mm", LOWER),
    Metric("tp", "tp", "lesions", HIGHER),
    Metric("fp", "fp", "lesions", LOWER),
    Metric("fn", "fn", "lesions", LOWER),
)
"""Scores of a lesion-wise set (:mod:`pipeline.score.lesionwise`); in a table each key follows the set's name."""
DETECTION = (
    Metric("lesions_prediction", "Predicted lesions", "lesions"),
    Metric("lesions_reference", "Reference lesions", "lesions"),
    Metric("lesions_tp", "Lesions found", "lesions", HIGHER, shown_in={_P.PATIENT: 14}),
    Metric("lesions_fp", "False lesions", "lesions", LOWER, shown_in={_P.PATIENT: 16}),
    Metric("lesions_fn", "Lesions missed", "lesions", LOWER, shown_in={_P.PATIENT: 15}),
    Metric("lesions_f1", "Lesion F1", "", HIGHER),
    Metric("small_lesions_prediction", "Predicted small lesions", "lesions"),
    Metric("small_lesions_reference", "Reference small lesions", "lesions"),
    Metric("small_lesions_fp", "False small lesions", "lesions", LOWER),
    Metric("small_lesions_fn", "Small lesions missed", "lesions", LOWER),
)
"""Numbers of :func:`pipeline.score.lesions.detection_scores`."""
VOXELS = (
    Metric(
        "voxels_prediction", "Predicted voxels", "voxels", shown_in={_P.REPORT: 7, _P.PATIENT: 11}, report_key="voxels"
    ),
    Metric(
        "voxels_reference", "Reference voxels", "voxels", shown_in={_P.REPORT: 8, _P.PATIENT: 12},
        report_key="reference_voxels",
    ),
)  # fmt: skip
"""Sizes where no voxel size is known; they tell which masks are empty, and are summarised nowhere."""

# ---- entries of other tables ----

PREDICTION = (Metric("disagreement", "Disagreement", "", LOWER, shown_in={_P.REPORT: 9, _P.PATIENT: 13}),)
"""Numbers of a prediction alone, in report.csv and not in metrics.csv."""
LESION_SIZES = (
    Metric("volume_ml", "Volume", "ml", shown_in={_P.LESIONS: 1}),
    Metric("diameter_mm", "Diameter", "mm", shown_in={_P.LESIONS: 2}),
    Metric("perpendicular_mm", "Perpendicular", "mm", shown_in={_P.LESIONS: 3}),
    Metric("bidimensional_mm2", "Product", "mm\N{SUPERSCRIPT TWO}", shown_in={_P.LESIONS: 4}),
)
"""Sizes of one lesion, in lesions.csv."""

# ---- lists that follow from the entries ----


def measured() -> tuple[Metric, ...]:
    """Return the metrics with a formula, in the order of their columns."""
    return (*OVERLAP, *SURFACE, *VOLUME)


def lesionwise(set_name: str) -> tuple[Metric, ...]:
    """Return the metrics of one lesion-wise set, such as ``brats2023-gli``, under their columns' names."""
    prefix = set_name.replace("-", "_")
    return tuple(
        replace(metric, key=f"{prefix}_{metric.key}", heading=f"{set_name} {metric.heading}") for metric in LESIONWISE
    )


def shown_in(place: Place) -> tuple[Metric, ...]:
    """Return the metrics of a place in its order, without those of lesion-wise sets."""
    known = (*measured(), *DETECTION, *VOXELS, *PREDICTION, *LESION_SIZES)
    return tuple(sorted((m for m in known if place in m.shown_in), key=lambda metric: metric.shown_in[place]))


def find_metric(column: str) -> Metric | None:
    """Return the metric of a column of metrics.csv, lesions.csv or the pages; None for another column."""
    for metric in (*measured(), *DETECTION, *VOXELS, *PREDICTION, *LESION_SIZES):
        if metric.key == column:
            return metric
    found = re.fullmatch(rf"(brats\w+?)_({'|'.join(metric.key for metric in LESIONWISE)})", column)
    if found is None:
        return None
    return next(metric for metric in lesionwise(found[1].replace("_", "-")) if metric.key == column)


def report_name(metric: Metric) -> str:
    """Return the metric's name in report.csv, before ``_<region>``."""
    return metric.report_key or metric.key
