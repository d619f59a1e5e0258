"""Preparation of a case within a segmentation, from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.case import Case, ImageSource
from data.errors import InputError
from data.io.read import ImageHeader, Volume, read_header, read_label_map, read_volumes
from pipeline.options import SegmentOptions
from pipeline.prepare.brain_masks import brain_mask_of
from pipeline.prepare.images import Prepared, choose_reference, prepare_images


def prepare_case(
    case: Case, options: SegmentOptions, modalities: Sequence[str], volumes: dict[str, Volume]
) -> Prepared | None:
    """Read a case's images into ``volumes``, and prepare them where they need it.

    Parameters
    ----------
    modalities : sequence of str
        That the models read.
    volumes : dict of modality to Volume
        Images that were read already; the others are added, and what was prepared takes their place.

    Returns
    -------
    Prepared or None
        None where the images are taken as they are.

    Raises
    ------
    data.errors.InputError
        A file cannot be used, or the images cannot be prepared, see `pipeline.prepare.images.prepare_images`.
    """
    wanted = {m: case.images[m] for m in modalities if m in case.images and m not in volumes}
    volumes.update(read_volumes(wanted, max_voxels=options.max_voxels))
    brain = _brain_mask(case, options)
    prepared = prepare_images(volumes, options.prepare, grid=options.grid, brain=brain)
    if prepared is not None:
        volumes.update(prepared.volumes)
    return prepared


def output_header(case: Case, options: SegmentOptions, modalities: Sequence[str]) -> ImageHeader | None:
    """Return the header that a case's mask shall have.

    None is the usual one, of the first image of `data.case.GRID_ORDER`.

    Raises
    ------
    data.errors.InputError
        There is no such image.
    """
    if options.grid == "auto":
        return None
    sources = {m: case.images[m] for m in modalities if m in case.images}
    headers = {m: read_header(source, max_voxels=options.max_voxels) for m, source in sources.items()}
    chosen = headers[choose_reference({m: header.grid for m, header in headers.items()}, options.grid)]
    return chosen


def _brain_mask(case: Case, options: SegmentOptions) -> Volume | None:
    if options.brain_mask is None:
        return None
    folder = Path(options.brain_mask)
    path = brain_mask_of(folder, case.case_id)
    if path is None:
        raise InputError(f"{folder}: no brain mask of {case.case_id}; add {case.case_id}.nii.gz")
    return read_label_map(ImageSource((path,)), max_voxels=options.max_voxels)
