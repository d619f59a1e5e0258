"""Voxels that no scanner gives, and heads that the models do not expect."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

from tests.faults.geometry import turned
from tests.faults.patient import IMAGES, Array, Patient
from tests.faults.registry import add, fault

NAMED = "-t1c.nii"


def _values() -> None:
    def one(value: float):
        def change(array: Array) -> Array:
            array[10, 12, 8] = value
            return array

        return change

    changes = {
        "nan": ("one voxel is NaN", one(np.nan), "1 of its voxels"),
        "nan_outside_the_brain": (
            "a corner voxel is NaN",
            lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.nan, a),
            "1 of its voxels",
        ),
        "nan_everywhere": ("every voxel is NaN", lambda a: a * np.nan, "7680 of its voxels"),
        "infinite": ("one voxel is infinite", one(np.inf), "1 of its voxels"),
        "minus_infinite": ("one voxel is minus infinity", one(-np.inf), "1 of its voxels"),
        "beyond_float32": ("one voxel is 1e300", one(1e300), "1 of its voxels"),
        "all_zero": ("every voxel is 0", lambda a: a * 0, "zero"),
        "constant": ("every voxel is 7", lambda a: a * 0 + 7, "one value 7"),
    }
    for name, (about, change, value) in changes.items():

        def make(patient: Patient, change=change, name: str = name) -> None:
            dtype = np.float64 if name == "beyond_float32" else np.float32
            patient.write("t1c", change(patient.arrays["t1c"].astype(np.float64)).astype(dtype))

        add(name, __name__, about, make, "error", (NAMED, value))


_values()


@fault("error", "-t2f.nii.gz", "zero")
def another_modality_all_zero(patient: Patient) -> None:
    """FLAIR is all zero."""
    patient.write("flair", patient.arrays["flair"] * 0)


@fault("warn", NAMED, "as in a mask", same=False)
def mask_under_the_name_of_an_image(patient: Patient) -> None:
    """T1c is the brain's mask."""
    patient.write("t1c", (patient.arrays["t1c"] > 0).astype(np.uint8))


@fault("warn", NAMED, "as in a mask", same=False)
def mask_with_a_stray_value(patient: Patient) -> None:
    """T1c is the brain's mask but for one voxel."""
    mask = (patient.arrays["t1c"] > 0).astype(np.uint16) * 65535
    mask[10, 12, 8] = 3
    patient.write("t1c", mask)


@fault("warn", NAMED, "negative", same=False)
def upside_down(patient: Patient) -> None:
    """T1c's slope is -1."""
    patient.set_fields("t1c", scl_slope=-1)


@fault("warn", "-t1n.nii.gz", "-t1c.nii.gz", same=False)
def same_image_under_two_names(patient: Patient) -> None:
    """T1 is a copy of T1c, byte for byte."""
    patient.path("t1").write_bytes(patient.path("t1c").read_bytes())


@fault("warn", "-t2w.nii.gz", "-t2f.nii.gz", same=False)
def same_voxels_in_another_type(patient: Patient) -> None:
    """T2 holds FLAIR's voxels as float32, so that no hash of the files finds it."""
    patient.write("t2", patient.arrays["flair"].astype(np.float32))


@fault("warn", "-t2w.nii.gz", "-t2f.nii.gz", same=False)
def same_voxels_in_another_orientation(patient: Patient) -> None:
    """T2 holds FLAIR's voxels, stored in another order."""
    patient.write("t2", *turned(patient.arrays["flair"], patient.affine, "RAS"))


@fault("warn", "-t1c.nii.gz", same=False)
def same_image_under_four_names(patient: Patient) -> None:
    """All four modalities are one image."""
    for what in ("t1", "t2", "flair"):
        patient.path(what).write_bytes(patient.path("t1c").read_bytes())


def _head(patient: Patient, what: str, air: bool) -> Array:
    """The brain with skull and scalp of 20 to 30 mm around it, in air that is noise or exactly 0."""
    array, noise = patient.arrays[what], np.random.default_rng(len(what))
    brain = array > 0
    skull, scalp = ndi.binary_dilation(brain, iterations=1), ndi.binary_dilation(brain, iterations=3)
    head = np.where(scalp & ~skull, 700, array) + np.where(skull & ~brain, 40, 0)
    if air:
        head = head + noise.integers(1, 20, array.shape)
    return head.astype(np.int16)


@fault("error", "skull", "--brain-mask")
def head_with_its_skull(patient: Patient) -> None:
    """A head as it comes from the scanner: scalp, skull, and noise in the air."""
    for what in IMAGES:
        patient.write(what, _head(patient, what, air=True))


@fault("error", "skull", "--brain-mask")
def head_in_a_vacuum(patient: Patient) -> None:
    """A head with its skull in air that was set to exactly 0."""
    for what in IMAGES:
        patient.write(what, _head(patient, what, air=False))


@fault("error", "skull", "--brain-mask")
def one_modality_with_its_skull(patient: Patient) -> None:
    """T1c alone was not skull-stripped."""
    patient.write("t1c", _head(patient, "t1c", air=True))


@fault("warn", "-t1n.nii.gz", "0 % of its voxels are 0", same=False)
def background_that_is_not_zero(patient: Patient) -> None:
    """Images that were normalised already: the background is -0.8."""
    for what in IMAGES:
        array = patient.arrays[what].astype(np.float32)
        patient.write(what, (array - array.mean()) / array.std())


@fault("warn", "brain", "mm", same=False)
def half_a_brain(patient: Patient) -> None:
    """Only a slab of 40 mm is not zero."""
    patient.write_each(lambda what, array: array * (np.abs(np.arange(16) - 8) < 2))


@fault("warn", "brain", same=False)
def one_bright_voxel_alone(patient: Patient) -> None:
    """All voxels are 0 but one, in every modality."""
    spot = np.zeros((20, 24, 16), np.int16)
    spot[10, 12, 8] = 500
    for number, what in enumerate(IMAGES):
        patient.write(what, (spot * (number + 1)).astype(np.int16))


@fault("warn", "-t1c.nii.gz", same=False)
def label_map_called_an_image(patient: Patient) -> None:
    """The reference lies under T1c's name."""
    patient.path("t1c").write_bytes(patient.path("seg").read_bytes())


@fault("warn", "-t1c.nii.gz", same=False)
def one_modality_half_gone(patient: Patient) -> None:
    """The upper half of T1c is 0, where the other modalities show brain."""
    patient.write("t1c", patient.arrays["t1c"] * (np.arange(16) < 8))


@fault("ok", same=False)
def one_voxel_far_too_bright(patient: Patient) -> None:
    """A voxel of 32767, as a vessel or a spike may give: no reason to refuse a patient."""
    array = patient.arrays["t1c"].copy()
    array[10, 12, 8] = 32767
    patient.write("t1c", array)


def _ranges() -> None:
    for exponent in (-140, -60, -20, 30, 60, 100):
        fits = abs(exponent) < 50

        def make(patient: Patient, exponent: int = exponent) -> None:
            for what in IMAGES:
                patient.write(what, np.ldexp(patient.arrays[what].astype(np.float64), exponent).astype(np.float32))

        about = (
            f"floats times 2^{exponent}, {'whose ratios are the same' if fits else 'whose squares no float32 holds'}"
        )
        add(
            f"intensities_times_2_to_the_{exponent}".replace("-", "minus_"),
            __name__,
            about,
            make,
            "ok" if fits else "error",
            () if fits else ("-t1n.nii.gz", "outside"),
        )


_ranges()
