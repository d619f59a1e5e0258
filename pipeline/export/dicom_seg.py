"""DICOM segmentation object of a mask, made by highdicom."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.dicom.geometry import LPS_TO_RAS
from data.io.write import atomic_write
from data.labels import LabelConvention
from pipeline import __version__
from pipeline.export.segments import ALGORITHM, BRAIN, CATEGORY, Code, segments_of
from pipeline.export.source import SourceSeries, derived_uid, on_source

SERIES_NUMBERS = {"dicom-seg": 9001, "rtstruct": 9002, "sr": 9003}


def write_dicom_seg(
    path: Path, label_map: NDArray[np.uint8], grid: Grid, convention: LabelConvention, source: SourceSeries, model: str
) -> Any:
    """Write a binary segmentation with the tissues of a mask as segments.

    Parameters
    ----------
    label_map : (d1, d2, d3) uint8
        On ``grid``, whose axes may be in any order.
    source : SourceSeries
        Series that is referred to; frames lie in its planes where the mask has its voxels.
    model : str
        Name of the model, for the algorithm's identification.

    Returns
    -------
    highdicom.seg.Segmentation
        As written. Labels that are nowhere are no segments; a mask without any has them all, and empty frames.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they may quote a name
        logging.getLogger("highdicom").setLevel(logging.ERROR)
        made = _segmentation(label_map, grid, convention, source, model)
    with atomic_write(path) as file:
        made.save_as(file)
    return made


def _segmentation(
    label_map: NDArray[np.uint8], grid: Grid, convention: LabelConvention, source: SourceSeries, model: str
) -> Any:
    import highdicom as hd

    frames, turned = on_source(label_map, grid, source)
    present = [segment for segment in segments_of(convention) if (frames == segment.label).any()]
    chosen = present or list(segments_of(convention))
    numbers = np.zeros(256, np.uint8)
    for number, segment in enumerate(chosen, 1):
        numbers[segment.label] = number
    frames = numbers[frames]
    first = source.datasets[0]
    series = first.SeriesInstanceUID
    identity = (series, frames.tobytes(), turned.affine.tobytes(), model, __version__)
    pixels: Any = frames
    if turned is source.stack.grid:
        if len(source.datasets) == 1:  # the frames of an enhanced file, in its own order
            pixels = np.empty_like(frames)
            pixels[[frame for _, frame in source.stack.order]] = frames
    else:
        lps = LPS_TO_RAS @ turned.affine
        affine = lps[:, [2, 1, 0, 3]]  # axes are slices, rows, columns
        pixels = hd.Volume(frames, affine, "PATIENT", frame_of_reference_uid=first.FrameOfReferenceUID)
    return hd.seg.Segmentation(
        source_images=list(source.datasets),
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[_description(hd, number, s, model, series) for number, s in enumerate(chosen, 1)],
        series_instance_uid=derived_uid("seg series", *identity),
        series_number=SERIES_NUMBERS["dicom-seg"],
        sop_instance_uid=derived_uid("seg", *identity),
        instance_number=1,
        manufacturer=ALGORITHM,
        manufacturer_model_name=ALGORITHM,
        software_versions=__version__,
        device_serial_number="0",
        content_label="TUMOUR",
        content_description="Brain tumour, research use only",
        series_description="Brain tumour segmentation (research use only)",
        omit_empty_frames=bool(present),
    )


def _description(hd: Any, number: int, segment: Any, model: str, series: str) -> Any:
    family = coded(Code("123109", "DCM", "Artificial Intelligence"))
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=coded(CATEGORY),
        segmented_property_type=coded(segment.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(model[:64], family, __version__),
        tracking_uid=derived_uid("segment", series, segment.short),
        tracking_id=segment.short[:64],
        anatomic_regions=[coded(BRAIN)],
        display_color=hd.color.CIELabColor.from_rgb(*segment.colour),
    )


def coded(code: Code) -> Any:
    """Return a code as highdicom takes it."""
    from pydicom.sr.coding import Code as Coded

    return Coded(code.value, code.scheme, code.meaning)
