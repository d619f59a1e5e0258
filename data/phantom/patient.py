"""Phantom patients: heads that look like MRI, with an exactly known tumour.

They are made from a seed and nothing else.

A template of a head is turned, scaled and deformed at random, tissue is read from it, and a tumour is grown in the
white matter, taken from a real mask, scattered as many small lesions, or left out (`data.phantom.anatomy`). Contrast is
a separate step, clinical or random (`data.phantom.contrast`). Everything smooth is drawn on a lattice in millimetres,
so one seed is the same patient at any spacing. Training draws patients without end by `draw_patient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.read import ImageHeader, write_image, write_label_map
from data.phantom.anatomy import HEAD_HALF_MM, TumourPlan, make_anatomy
from data.phantom.contrast import CONTRAST, draw_contrast, draw_random_contrast, render, render_random
from data.phantom.fields import Array
from data.phantom.shapes import crop_tumour

Contrast = Literal["mri", "random"]

_SUFFIXES = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f"}


@dataclass(frozen=True)
class Phantom:
    """One phantom patient.

    Parameters
    ----------
    images : dict of (d1, d2, d3) float32
        "t1", "t1c", "t2", "flair": whole numbers from 0 to 32767, exactly 0 outside the brain, above 0 inside it.
    label_map : (d1, d2, d3) uint8
        brats2023: 1 necrotic core (NETC), 2 oedema (SNFH), 3 enhancing rim (ET), 0 elsewhere.
    grid : Grid
        LPS with the origin where BraTS has it.
    """

    images: dict[str, Array]
    label_map: NDArray[np.uint8]
    grid: Grid

    def header(self, path: Path) -> ImageHeader:
        """Return the header of its files, which names ``path`` as their place."""
        return ImageHeader(
            path=path,
            grid=self.grid,
            dtype="int16",
            channels=1,
            sform_code=1,
            qform_code=1,
            qform=None,
            xyzt_units=2,
        )


def make_phantom(
    seed: int,
    *,
    shape: tuple[int, int, int] = (240, 240, 155),
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    contrast: Contrast = "mri",
    lesions: tuple[int, int] | None = None,
    tumour_labels: NDArray[np.integer] | None = None,
    tumour_spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Phantom:
    """Draw a phantom patient.

    Parameters
    ----------
    seed : int, not negative
        The same seed, shape, spacing and options give the same bits; the same seed at another spacing is the same
        patient.
    shape : (d1, d2, d3)
        Any numbers of voxels. A field of view that is smaller than a head sees a part of it, with a smaller tumour.
    spacing_mm : three floats
        Distance of voxel centres along each array axis.
    contrast : "mri" or "random"
        As a clinical scanner shows the tissues, or every tissue's intensity drawn at random in every modality as in
        SynthSeg, but so that the tumour can be seen (`data.phantom.contrast`). The anatomy is the same in both.
    lesions : (least, most), optional
        Instead of one large tumour, so many small lesions as a metastasising cancer makes (2 to 15 mm, enhancing,
        larger ones with a necrotic middle, half with oedema), the number drawn between these, both included, or as
        many as there is room for. (0, 0) is a healthy head.
    tumour_labels : (t1, t2, t3) whole numbers, optional
        Instead, the shape of a real tumour: 1 necrotic core, 2 oedema, 3 enhancing tumour, 0 elsewhere, on any grid in
        any orientation; it is turned, mirrored, scaled (0.8 to 1.25), bent and placed at random.
    tumour_spacing_mm : three floats
        Distance of the voxel centres of ``tumour_labels``.

    Returns
    -------
    Phantom
        By default whole tumour 20 to 120 ml, core 5 to 40 ml, where the field of view holds a whole head; never empty
        where the field of view holds brain. With ``lesions`` it may be empty; with ``tumour_labels`` too, where the
        tumour does not fit into a small field of view.

    Raises
    ------
    ValueError
        If the seed is negative, shape or spacing are not three positive numbers, the contrast is unknown, the numbers
        of lesions are not in order, both lesions and tumour_labels are given, or tumour_labels holds no tumour or
        other numbers.
    UsageError
        If nilearn, which carries the template, is not installed.
    """
    return _make(seed, shape, spacing_mm, 0.0, _plan(lesions, tumour_labels, tumour_spacing_mm), contrast)


def draw_patient(
    seed: int,
    spacing_mm: float | Sequence[float] = 2.0,
    *,
    contrast: Contrast = "random",
    lesions: tuple[int, int] | None = None,
    tumour_labels: NDArray[np.integer] | None = None,
    tumour_spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> Phantom:
    """Draw a phantom patient on the smallest grid that holds every head: (87, 107, 93) voxels of 2 mm.

    For training, which needs thousands and no files. Parameters, result and errors as for `make_phantom`; one number
    as spacing stands for all three axes.
    """
    steps = _check_spacing([spacing_mm] * 3 if isinstance(spacing_mm, int | float) else spacing_mm).tolist()
    d1, d2, d3 = (int(2 * half // step) + 1 for half, step in zip(HEAD_HALF_MM, steps, strict=True))
    plan = _plan(lesions, tumour_labels, tumour_spacing_mm)
    return _make(seed, (d1, d2, d3), steps, 0.0, plan, contrast)


def write_phantom(
    folder: Path,
    seed: int,
    *,
    shape: tuple[int, int, int] = (240, 240, 155),
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    patient_name: str | None = None,
) -> Path:
    """Write a phantom as a patient folder of BraTS 2023.

    It holds four int16 images and a uint8 label map, ``.nii.gz``.

    Parameters
    ----------
    folder : Path
        Where the patient's folder is made; it and its parents need not exist. Files of the same name are replaced.
    seed, shape, spacing_mm
        As for `make_phantom`.
    patient_name : str, optional
        Name of the patient's folder and beginning of its files; by default ``BraTS-GLI-9xxxx-000`` with the seed
        in place of xxxx (seeds below 10000; a longer seed makes a longer number).

    Returns
    -------
    Path
        The patient's folder. The same arguments give the same bytes.
    """
    phantom = make_phantom(seed, shape=shape, spacing_mm=spacing_mm)
    return write_patient(Path(folder) / (patient_name or phantom_name(seed)), phantom)


def write_patient(patient: Path, phantom: Phantom) -> Path:
    """Write a phantom into its folder and return that.

    Names of files begin with the folder's.
    """
    name = patient.name
    patient.mkdir(parents=True, exist_ok=True)
    like = phantom.header(patient)
    for modality, suffix in _SUFFIXES.items():
        write_image(patient / f"{name}-{suffix}.nii.gz", phantom.images[modality].astype(np.int16), like)
    write_label_map(patient / f"{name}-seg.nii.gz", phantom.label_map, like)
    return patient


def phantom_name(seed: int) -> str:
    """Return the name of the patient of a seed."""
    return f"BraTS-GLI-{90000 + seed:05d}-000"


def _check_spacing(spacing_mm: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise ValueError(f"spacing_mm is one positive number for each axis, not {spacing_mm}")
    return spacing


def _plan(
    lesions: tuple[int, int] | None, tumour_labels: NDArray[np.integer] | None, tumour_spacing_mm: Sequence[float]
) -> TumourPlan:
    if tumour_labels is None:
        return TumourPlan(lesions)
    labels = crop_tumour(tumour_labels, tumour_spacing_mm)
    s1, s2, s3 = (float(step) for step in tumour_spacing_mm)
    return TumourPlan(lesions, labels, (s1, s2, s3))


def _make(
    seed: int,
    shape: tuple[int, int, int],
    spacing_mm: Sequence[float],
    level_mm: float,
    plan: TumourPlan,
    contrast: Contrast,
) -> Phantom:
    spacing = _check_spacing(spacing_mm)
    if contrast not in ("mri", "random"):
        raise ValueError(f"contrast is 'mri' or 'random', not {contrast!r}")
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[1, 3] = (shape[1] - 1) * spacing[1]
    grid = Grid(shape, affine)
    anatomy = make_anatomy(seed, grid, level_mm=level_mm, plan=plan)
    if contrast == "mri":
        in_box = render(anatomy, draw_contrast(seed), seed)
    else:
        in_box = render_random(anatomy, draw_random_contrast(seed), seed)
    images = {name: np.zeros(grid.shape, dtype=np.float32) for name in CONTRAST}
    for name, image in in_box.items():
        images[name][anatomy.box] = image
    label_map = np.zeros(grid.shape, dtype=np.uint8)
    label_map[anatomy.box] = anatomy.label_map
    return Phantom(images, label_map, grid)
