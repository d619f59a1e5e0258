"""Where voxels are said to lie: modalities that do not fit together, headers that contradict themselves, odd grids."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np

from tests.faults.patient import IMAGES, Array, Patient
from tests.faults.registry import Status, add, fault

NAMED = "-t1c.nii"
ALL = (*IMAGES, "seg")


def _set(
    name: str, about: str, status: Status, *says: str, same: bool | None = None, of: Any = ("t1c",), **fields: Any
) -> None:
    def make(patient: Patient) -> None:
        patient.set_fields(*of, **fields)

    add(name, __name__, about, make, status, says, same=same)


# One header that contradicts itself

_PIXDIM = [1.0, 10, 10, 10, 0, 0, 0, 0]


def _with(axis: int, value: float) -> list[float]:
    return [*_PIXDIM[:axis], value, *_PIXDIM[axis + 1 :]]


_set("pixdim_zero", "a voxel size of 0", "warn", NAMED, "pixdim", "[0.0, 10.0, 10.0]", same=True, pixdim=_with(1, 0))
_set("pixdim_negative", "a voxel size of -10 mm", "warn", NAMED, "pixdim", "-10.0", same=True, pixdim=_with(2, -10))
_set("pixdim_nan", "a voxel size that is no number", "warn", NAMED, "pixdim", "nan", same=True, pixdim=_with(3, np.nan))
_set("pixdim_infinite", "an infinite voxel size", "warn", NAMED, "pixdim", "inf", same=True, pixdim=_with(1, np.inf))
_set(
    "pixdim_of_another_size",
    "a voxel size that is not the affine's",
    "warn",
    NAMED,
    "pixdim",
    "4.0",
    same=True,
    pixdim=_with(1, 4),
)
_set(
    "qform_moved",
    "an origin of the qform that is not the sform's",
    "warn",
    NAMED,
    "sform and qform disagree",
    "sform was used",
    same=True,
    qoffset_x=55,
)
_set(
    "qform_flipped",
    "a qform that is the mirror image of the sform",
    "warn",
    NAMED,
    "sform and qform disagree",
    same=True,
    pixdim=[-1.0, *_PIXDIM[1:]],
)
_set(
    "qform_no_rotation",
    "a quaternion that is no rotation",
    "warn",
    NAMED,
    "no rotation",
    "sform was used",
    same=True,
    quatern_b=5,
)
_set("qform_nan", "a quaternion that is no number", "warn", NAMED, "no rotation", same=True, quatern_d=np.nan)
_set(
    "qform_code_unknown",
    "a qform code that NIfTI does not know",
    "warn",
    NAMED,
    "qform code 77",
    same=True,
    qform_code=77,
)
_set(
    "sform_code_unknown",
    "an sform code that NIfTI does not know",
    "warn",
    NAMED,
    "sform code -3",
    same=True,
    sform_code=-3,
)
_set("qform_alone", "no sform", "ok", of=ALL, sform_code=0)
_set("sform_alone", "no qform", "ok", of=ALL, qform_code=0)
_set(
    "sform_of_rubbish_unused",
    "an sform of rubbish whose code says that it is not used",
    "ok",
    sform_code=0,
    srow_x=[np.nan, 1e30, 0, 7],
)
_set(
    "qform_of_rubbish_unused",
    "a qform of rubbish whose code says that it is not used",
    "ok",
    qform_code=0,
    quatern_b=np.nan,
    qoffset_x=1e30,
)
_set(
    "neither_form",
    "neither sform nor qform",
    "warn",
    NAMED,
    "left and right are unknown",
    of=ALL,
    sform_code=0,
    qform_code=0,
)
_set(
    "neither_form_and_pixdim_zero",
    "neither sform nor qform, and no voxel size",
    "error",
    NAMED,
    "pixdim",
    sform_code=0,
    qform_code=0,
    pixdim=_with(1, 0),
)
_set(
    "qform_alone_no_rotation",
    "no sform, and a quaternion that is no rotation",
    "error",
    NAMED,
    "no rotation",
    "no sform",
    sform_code=0,
    quatern_b=5,
)
_set("affine_nan", "an affine that holds NaN", "error", NAMED, "not finite", "nan", srow_y=[0, np.nan, 0, 0])
_set(
    "affine_infinite",
    "an affine that holds an infinity",
    "error",
    NAMED,
    "not finite",
    "inf",
    srow_y=[0, 10, 0, np.inf],
)
_set("affine_zero", "an affine of zeros", "error", NAMED, "singular", srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4)
_set(
    "affine_singular",
    "two axes that run the same way",
    "error",
    NAMED,
    "singular",
    srow_x=[-10, -10, 0, 0],
    srow_y=[0, 0, 0, 0],
)
_set("affine_sheared", "axes that meet at 84 degrees", "error", NAMED, "sheared", "84", srow_x=[-10, 1, 0, 0])
_set("affine_far_away", "an origin a billion kilometres away", "error", NAMED, "out of range", srow_x=[-10, 0, 0, 1e15])
_set("voxels_of_a_metre", "voxels of a metre", "error", NAMED, "1000", "mm", srow_x=[-1000, 0, 0, 0])
_set("voxels_of_a_micron", "voxels of a micron", "error", NAMED, "0.001", "mm", srow_x=[-0.001, 0, 0, 0])


# All modalities alike, on an odd grid


def _units() -> None:
    for unit, name, factor in ((1, "metres", 1e3), (3, "microns", 1e-3)):

        def make(patient: Patient, unit: int = unit, factor: float = factor) -> None:
            affine = np.vstack([patient.affine[:3] / factor, [0, 0, 0, 1]])
            patient.write_each(lambda what, array: array, affine, xyzt_units=unit)

        add(f"units_{name}", __name__, f"voxel sizes and positions in {name}", make, "warn", (NAMED, name), same=True)


_units()


def _orientations() -> None:
    for axes in permutations(("RL", "AP", "SI")):
        for choice in product((0, 1), repeat=3):
            codes = "".join(pair[n] for pair, n in zip(axes, choice, strict=True))

            def make(patient: Patient, codes: str = codes) -> None:
                for what in ALL:
                    array, affine = turned(patient.arrays[what], patient.affine, codes)
                    patient.write(what, array, affine)

            add(f"orientation_{codes}", __name__, f"every file stored as {codes}", make, "ok")


def turned(array: Array, affine: Array, codes: str) -> tuple[Array, Array]:
    """Voxels and affine of the same image in another storage order, by nibabel."""
    image = nib.Nifti1Image(array, affine)
    way = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    other = image.as_reoriented(way)
    return np.asarray(other.dataobj), other.affine


_orientations()


def _rotated(affine: Array, *angles: float) -> Array:
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles), [3.0, -5.0, 7.0]) @ affine


@fault("ok", same=False)
def oblique(patient: Patient) -> None:
    """Every file lies oblique, by some 20 degrees about each axis."""
    patient.write_each(lambda what, array: array, _rotated(patient.affine, 0.3, -0.2, 0.4))


@fault("ok", same=False)
def oblique_by_half_a_right_angle(patient: Patient) -> None:
    """Every file lies at 45 degrees, where the nearest axis is a tie."""
    patient.write_each(lambda what, array: array, _rotated(patient.affine, np.pi / 4, 0, 0))


@fault("ok", same=False)
def anisotropic(patient: Patient) -> None:
    """Slices of 20 mm."""
    patient.write_each(lambda what, array: array[:, :, ::2], patient.affine @ np.diag([1, 1, 2, 1]))


@fault("warn", "-t1", "a single slice", "2D model", same=False)
def one_thick_slice(patient: Patient) -> None:
    """A single slice of 10 mm as a volume: no brain, and nothing that a 3D network can judge."""
    patient.write_each(lambda what, array: array[:, :, 8:9])


@fault("warn", "mm", same=False)
def tiny_volume(patient: Patient) -> None:
    """Three voxels along each axis."""
    patient.write_each(lambda what, array: array[9:12, 9:12, 8:11])


@fault("warn", "mm", same=False)
def needle_of_voxels(patient: Patient) -> None:
    """A row of 24 voxels, one voxel wide and high."""
    patient.write_each(lambda what, array: array[10:11, :, 8:9])


@fault("error", "one value")
def single_voxel(patient: Patient) -> None:
    """One voxel: it can only be constant."""
    patient.write_each(lambda what, array: array[10:11, 11:12, 8:9])


@fault("warn", "brain", "mm", same=False)
def brain_of_a_mouse(patient: Patient) -> None:
    """A brain of 20 mm: voxels of 1 mm that should have 10."""
    patient.write_each(lambda what, array: array, patient.affine @ np.diag([0.1, 0.1, 0.1, 1]))


@fault("warn", "brain", "mm", same=False)
def brain_of_a_whale(patient: Patient) -> None:
    """A brain of 60 cm: voxels of 40 mm that should have 10."""
    patient.write_each(lambda what, array: array, patient.affine @ np.diag([4, 4, 4, 1]))


# Modalities that do not fit together


@fault("warn", "-t1n.nii.gz", "20x24x12", "resampled", same=False)
def one_of_another_shape(patient: Patient) -> None:
    """T1 lacks the four lowest slices."""
    patient.write("t1", patient.arrays["t1"][:, :, 4:], patient.affine @ nib.affines.from_matvec(np.eye(3), [0, 0, 4]))


@fault("warn", "-t1n.nii.gz", "20 mm", "resampled", same=False)
def one_of_another_spacing(patient: Patient) -> None:
    """T1 has slices of 20 mm."""
    patient.write("t1", patient.arrays["t1"][:, :, ::2], patient.affine @ np.diag([1, 1, 2, 1]))


@fault("warn", "T1 moved by 7", "onto T1c", same=False)
def one_of_another_origin(patient: Patient) -> None:
    """T1 is said to lie 7 mm higher."""
    patient.write("t1", patient.arrays["t1"], nib.affines.from_matvec(np.eye(3), [0, 0, 7]) @ patient.affine)


@fault("warn", "T1 moved by", "6 degrees onto T1c", same=False)
def one_oblique(patient: Patient) -> None:
    """T1 lies oblique to the others."""
    patient.write("t1", patient.arrays["t1"], _rotated(patient.affine, 0.1, 0, 0))


@fault("error", "-t1n.nii.gz", "0 %", "register")
def one_beside_the_others(patient: Patient) -> None:
    """T1 is said to lie half a metre away: no voxel overlaps."""
    patient.write("t1", patient.arrays["t1"], nib.affines.from_matvec(np.eye(3), [500, 0, 0]) @ patient.affine)


@fault("error", "t1n.nii.gz", "register")
def reference_modality_beside_the_others(patient: Patient) -> None:
    """T1c, whose grid is the mask's, is said to lie half a metre away from all others."""
    patient.write("t1c", patient.arrays["t1c"], nib.affines.from_matvec(np.eye(3), [0, 500, 0]) @ patient.affine)


@fault("error", "-t1n.nii.gz", "shear")
def one_sheared(patient: Patient) -> None:
    """T1 alone is sheared."""
    patient.set_fields("t1", srow_x=[-10, 1, 0, 0])


@fault("warn", "-t1n.nii.gz", "resampled", same=True)
def one_flipped(patient: Patient) -> None:
    """T1 is stored from the other side, and its affine says so: brought into line."""
    patient.write("t1", *turned(patient.arrays["t1"], patient.affine, "RPS"))


@fault("warn", "-t2w.nii.gz", "resampled", same=True)
def one_with_axes_exchanged(patient: Patient) -> None:
    """T2 is stored in another order of axes, and its affine says so: brought into line."""
    patient.write("t2", *turned(patient.arrays["t2"], patient.affine, "SRA"))


@fault("warn", "resampled", same=False)
def each_in_an_orientation_of_its_own(patient: Patient) -> None:
    """Every modality is stored in another orientation: brought into line with T1c, on whose grid the mask lies."""
    for what, codes in (("t1", "RAS"), ("t1c", "AIL"), ("t2", "SPR"), ("flair", "LSA")):
        patient.write(what, *turned(patient.arrays[what], patient.affine, codes))


@fault("ok")
def affines_that_differ_by_rounding(patient: Patient) -> None:
    """Affines that differ by a ten thousandth of a millimetre, as float32 and three programs leave them."""
    for number, what in enumerate(IMAGES):
        affine = patient.affine
        affine[:3, 3] += 1e-4 * number
        patient.write(what, patient.arrays[what], affine)


@fault("error", "-t1n.nii.gz", "neither sform nor qform", "its left is not known")
def one_without_a_form(patient: Patient) -> None:
    """T1 alone has neither sform nor qform."""
    patient.set_fields("t1", sform_code=0, qform_code=0)


@fault("warn", "-t1n.nii.gz", "metres", same=True)
def one_in_metres(patient: Patient) -> None:
    """T1 alone is in metres."""
    patient.write("t1", patient.arrays["t1"], np.vstack([patient.affine[:3] / 1e3, [0, 0, 0, 1]]), xyzt_units=1)
