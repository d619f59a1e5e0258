"""Mask of one case in all formats that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.case import GRID_ORDER, ImageSource
from data.errors import UsageError
from data.grid import Grid
from data.io.read import read_header
from data.labels import load_convention
from pipeline.export.formats import DICOM_OBJECTS


@dataclass(frozen=True, eq=False)
class Exported:
    """Mask to be written, and its names.

    Parameters
    ----------
    label_map : (d1, d2, d3) uint8
        On ``grid``, in ``convention``.
    masks : region -> (d1, d2, d3) bool
    case, model : str
    """

    label_map: NDArray[np.uint8]
    grid: Grid
    convention: str
    masks: Mapping[str, NDArray[np.bool_]]
    case: str
    model: str


def write_exports(
    places: Mapping[str, Path],
    made: Exported,
    images: Mapping[str, ImageSource],
    picture: Path,
    warnings: Sequence[str],
    max_voxels: int,
) -> None:
    """Write a mask in further formats.

    Parameters
    ----------
    places : format -> Path
        See `data.output_names.EXPORTS`.
    images : mapping of modality to ImageSource
        Of the patient; DICOM objects refer to the series on whose grid the mask lies.
    picture : Path
        Preview of the case, for the PDF page.
    warnings : sequence of str

    Raises
    ------
    data.errors.InputError
        A DICOM object is asked for, and the image is no DICOM series.
    data.errors.UsageError
        highdicom is not installed.
    """
    convention = load_convention(made.convention)
    if "seg-nrrd" in places:
        from pipeline.export.seg_nrrd import write_seg_nrrd

        write_seg_nrrd(places["seg-nrrd"], made.label_map, made.grid, convention)
    if "pdf" in places:
        from pipeline.export.pdf import write_pdf

        write_pdf(places["pdf"], made.case, picture, made.masks, made.grid, model=made.model, warnings=warnings)
    if any(name in places for name in DICOM_OBJECTS):
        _write_dicom(places, made, _source(images, made.grid, max_voxels), max_voxels)


def _source(images: Mapping[str, ImageSource], grid: Grid, max_voxels: int) -> ImageSource:
    """Return the image that gives the grid of a mask.

    Without one it is the first in the order of grids.
    """
    there = [images[modality] for modality in GRID_ORDER if modality in images]
    return next((one for one in there if read_header(one, max_voxels=max_voxels).grid.matches(grid)), there[0])


def _write_dicom(places: Mapping[str, Path], made: Exported, source: ImageSource, max_voxels: int) -> None:
    try:
        import highdicom  # noqa: F401  before anything is read
    except ModuleNotFoundError:
        raise UsageError("--outputs: DICOM is written by highdicom; install the extra `dicom`") from None
    from pipeline.export.dicom_seg import write_dicom_seg
    from pipeline.export.rtstruct import write_rtstruct
    from pipeline.export.source import read_source
    from pipeline.export.structured_report import write_structured_report

    series, convention = read_source(source, max_voxels), load_convention(made.convention)
    mask = (made.label_map, made.grid, convention, series)
    if "dicom-seg" in places:
        segmentation = write_dicom_seg(places["dicom-seg"], *mask, made.model)
        if "sr" in places:
            write_structured_report(places["sr"], *mask, segmentation, made.model)
    if "rtstruct" in places:
        write_rtstruct(places["rtstruct"], *mask, made.model)
