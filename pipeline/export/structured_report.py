"""Structured report of a mask (TID 1500): volumes and axial diameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.write import atomic_write
from data.labels import LabelConvention
from pipeline import __version__
from pipeline.export.dicom_seg import SERIES_NUMBERS, coded
from pipeline.export.segments import ALGORITHM, BRAIN, CATEGORY, Code, segments_of
from pipeline.export.source import SourceSeries, derived_uid
from pipeline.score.diameters import axial_diameters

_VOLUME = Code("118565006", "SCT", "Volume")
_BY_VOXELS = Code("YEKZ", "IBSI", "Volume from Voxel Summation")
_LONG, _SHORT = Code("103339001", "SCT", "Long axis"), Code("103340004", "SCT", "Short axis")
_ML, _MM = Code("cm3", "UCUM", "cubic centimeter"), Code("mm", "UCUM", "millimeter")
_NEOPLASM = Code("108369006", "SCT", "Neoplasm")
_DEVICE, _MR_HEAD = Code("121007", "DCM", "Device"), Code("69621-4", "LN", "MR Head")
_REGIONS = {"WT": "Whole tumour", "TC": "Tumour core", "ET": "Enhancing tumour", "RC": "Resection cavity"}


def write_structured_report(
    path: Path,
    label_map: NDArray[np.uint8],
    grid: Grid,
    convention: LabelConvention,
    source: SourceSeries,
    segmentation: Any,
    model: str,
) -> Any:
    """Write the measurements of a mask.

    Parameters
    ----------
    label_map : (d1, d2, d3) uint8
        On ``grid``.
    segmentation : highdicom.seg.Segmentation
        Of the same mask: tissues are measured as its segments.

    Returns
    -------
    highdicom.sr.Comprehensive3DSR
        As written: volumes in cm3 (ml), diameters in mm.
    """
    import highdicom as hd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they may quote a name
        groups = _tissues(hd, label_map, grid, convention, segmentation, model)
        groups += _regions(hd, convention.region_masks(label_map), grid, model)
        made = _report(hd, groups, source, segmentation)
    with atomic_write(path) as file:
        made.save_as(file)
    return made


def _tissues(
    hd: Any, label_map: NDArray[np.uint8], grid: Grid, convention: LabelConvention, segmentation: Any, model: str
) -> list[Any]:
    """Return a group for each segment that is there."""
    groups = []
    by_name = {segment.name[:64]: segment for segment in segments_of(convention)}
    for described in segmentation.SegmentSequence:
        segment = by_name[described.SegmentLabel]
        mask = label_map == segment.label
        if not mask.any():
            continue
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(described.TrackingUID, segment.name[:64]),
                referenced_segment=_segment(hd, segmentation, described.SegmentNumber),
                finding_type=coded(segment.kind),
                finding_category=coded(CATEGORY),
                finding_sites=[hd.sr.FindingSite(coded(BRAIN))],
                algorithm_id=hd.sr.AlgorithmIdentification(model[:64], __version__),
                measurements=_measured(hd, mask, grid),
            )
        )
    return groups


def _segment(hd: Any, segmentation: Any, number: int) -> Any:
    """Refer to a segment and the series that it was made from."""
    series = segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    return hd.sr.ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        number,
        source_series=hd.sr.SourceSeriesForSegmentation(series),
    )


def _regions(hd: Any, masks: Mapping[str, NDArray[np.bool_]], grid: Grid, model: str) -> list[Any]:
    """Return a group for each region.

    Several tissues make a region, so that no segment is it.
    """
    groups = []
    for region, mask in masks.items():
        name = _REGIONS.get(region, region)
        groups.append(
            hd.sr.MeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(derived_uid("region", mask.tobytes(), region), name),
                finding_type=coded(_NEOPLASM if region in ("WT", "TC", "ET") else Code(region[:16], "99BTSEG", name)),
                finding_sites=[hd.sr.FindingSite(coded(BRAIN))],
                algorithm_id=hd.sr.AlgorithmIdentification(model[:64], __version__),
                measurements=_measured(hd, mask, grid),
            )
        )
    return groups


def _measured(hd: Any, mask: NDArray[np.bool_], grid: Grid) -> list[Any]:
    volume = round(int(np.count_nonzero(mask)) * grid.voxel_volume_ml, 4)
    found = [hd.sr.Measurement(coded(_VOLUME), volume, coded(_ML), method=coded(_BY_VOXELS))]
    if mask.any():
        across = axial_diameters(mask, grid.affine)
        for name, length in ((_LONG, across.diameter_mm), (_SHORT, across.perpendicular_mm)):
            found.append(hd.sr.Measurement(coded(name), round(float(length), 2), coded(_MM)))
    return found


def _report(hd: Any, groups: list[Any], source: SourceSeries, segmentation: Any) -> Any:
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        derived_uid("device", ALGORITHM, __version__), ALGORITHM, ALGORITHM, f"{ALGORITHM} {__version__}"
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(coded(_DEVICE), device)
        ),
        procedure_reported=coded(_MR_HEAD),
        imaging_measurements=groups,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[segmentation, *source.datasets],
        content=content[0],
        series_instance_uid=derived_uid("sr series", segmentation.SOPInstanceUID),
        series_number=SERIES_NUMBERS["sr"],
        sop_instance_uid=derived_uid("sr", segmentation.SOPInstanceUID),
        instance_number=1,
        manufacturer=ALGORITHM,
        is_complete=True,
        series_description="Brain tumour measurements (research use only)",
    )
