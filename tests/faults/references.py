"""References that cannot be scored against: the mask is written all the same, the row says why it has no scores."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np

from tests.faults.geometry import turned
from tests.faults.patient import Array, Patient
from tests.faults.registry import CannotMake, add, fault

NAMED = "-seg.nii"


def _labels() -> None:
    def with_spot(value: float, dtype: str):
        def change(labels: Array) -> Array:
            labels = labels.astype(dtype)
            labels[10, 12, 8] = value
            return labels

        return change

    changes = {
        "unknown_label": ("the label 7", with_spot(7, "u1"), "7"),
        "label_of_a_mask": ("the label 255", lambda a: (a > 0).astype(np.uint8) * 255, "255"),
        "huge_label": ("the label 70000", with_spot(70000, "i4"), "70000"),
        "label_beyond_32_bits": ("the label 2^40", with_spot(2**40, "i8"), "1.09951163e+12"),
        "negative_label": ("the label -1", with_spot(-1, "i2"), "-1"),
        "fractional_label": ("the label 1.5, as smoothing leaves it", with_spot(1.5, "f4"), "1.5"),
        "nearly_whole_label": ("the label 1.001", with_spot(1.001, "f4"), "such as 1.001"),
        "label_nan": ("a label that is no number", with_spot(np.nan, "f4"), "NaN"),
        "label_infinite": ("an infinite label", with_spot(np.inf, "f4"), "infinite"),
        "probabilities": (
            "probabilities instead of labels",
            lambda a: (a / 3.7).astype(np.float32),
            "no whole numbers",
        ),
    }
    for name, (about, change, value) in changes.items():

        def make(patient: Patient, change=change) -> None:
            patient.write("seg", change(patient.arrays["seg"]))

        add(
            f"reference_with_{name}",
            __name__,
            about,
            make,
            "warn",
            ("not scored", NAMED, value),
            same=True,
            scored=False,
        )


_labels()


@fault("warn", "not scored", NAMED, "another grid", "20x24x12", same=True, scored=False)
def reference_of_another_shape(patient: Patient) -> None:
    """The reference lacks four slices."""
    patient.write("seg", patient.arrays["seg"][:, :, :12])


@fault("warn", "not scored", NAMED, "another grid", same=True, scored=False)
def reference_of_another_spacing(patient: Patient) -> None:
    """The reference has voxels of 11 mm."""
    patient.write("seg", patient.arrays["seg"], patient.affine @ np.diag([1.1, 1.1, 1.1, 1]))


@fault("warn", "not scored", NAMED, "another grid", same=True, scored=False)
def reference_at_another_place(patient: Patient) -> None:
    """The reference is said to lie 20 mm lower."""
    patient.write("seg", patient.arrays["seg"], nib.affines.from_matvec(np.eye(3), [0, 0, -20]) @ patient.affine)


@fault("ok", scored=True)
def reference_flipped(patient: Patient) -> None:
    """The reference is stored from the other side, and its affine says so."""
    patient.write("seg", *turned(patient.arrays["seg"], patient.affine, "RAI"))


@fault("ok", scored=True)
def reference_empty(patient: Patient) -> None:
    """A reference without tumour: scored, for that is an answer."""
    patient.write("seg", patient.arrays["seg"] * 0)


@fault("ok", scored=True)
def reference_as_float64(patient: Patient) -> None:
    """Labels as float64."""
    patient.write("seg", patient.arrays["seg"].astype(np.float64))


@fault("ok", scored=True)
def reference_with_slope(patient: Patient) -> None:
    """Labels that are whole numbers once the slope is applied."""
    patient.write("seg", patient.arrays["seg"] * 2)
    patient.set_fields("seg", scl_slope=0.5)


@fault("ok", scored=True)
def reference_whose_labels_were_rounded(patient: Patient) -> None:
    """Labels as float32 arithmetic leaves them: 0.999999 is 1."""
    patient.write("seg", patient.arrays["seg"].astype(np.float32) * np.float32(0.999999))


@fault("ok", scored=True)
def reference_with_a_slope_that_is_no_binary_fraction(patient: Patient) -> None:
    """Ten times the labels, with the slope 0.1."""
    patient.write("seg", patient.arrays["seg"].astype(np.int16) * 10)
    patient.set_fields("seg", scl_slope=0.1)


@fault("warn", NAMED, "no brain mask", same=True, scored=True)
def reference_that_is_a_brain_mask(patient: Patient) -> None:
    """The reference marks the whole brain."""
    patient.write("seg", (patient.arrays["flair"] > 0).astype(np.uint8))


@fault("warn", NAMED, "where the image is 0", same=True, scored=True)
def reference_in_the_air(patient: Patient) -> None:
    """The reference's tumour lies in a corner of the picture."""
    labels = np.zeros_like(patient.arrays["seg"])
    labels[:3, :3, :3] = 3
    patient.write("seg", labels)


@fault("warn", "not scored", NAMED, "more", same=True, scored=False)
def reference_of_noise(patient: Patient) -> None:
    """An image under the reference's name: hundreds of labels, of which the row names some."""
    patient.write("seg", np.random.default_rng(1).integers(0, 30000, patient.arrays["seg"].shape, np.int16))


@fault("ok", scored=True)
def reference_of_four_axes(patient: Patient) -> None:
    """A reference with a fourth axis of one."""
    patient.write("seg", patient.arrays["seg"][..., None])


@fault("warn", "not scored", NAMED, "2 volumes", same=True, scored=False)
def reference_of_two_volumes(patient: Patient) -> None:
    """A reference of two volumes."""
    patient.write("seg", np.stack([patient.arrays["seg"]] * 2, axis=-1))


@fault("warn", "not scored", NAMED, "0 bytes", same=True, scored=False)
def reference_of_no_bytes(patient: Patient) -> None:
    """A reference of 0 bytes."""
    patient.path("seg").write_bytes(b"")


@fault("warn", "not scored", NAMED, "too early", same=True, scored=False)
def reference_cut(patient: Patient) -> None:
    """A reference whose gzip stream is cut."""
    patient.change("seg", lambda packed: packed[:-9])


@fault("warn", "not scored", NAMED, "RGB", same=True, scored=False)
def reference_in_colour(patient: Patient) -> None:
    """A reference in colours."""
    patient.set_fields("seg", datatype=128, bitpix=24)


@fault("warn", "not scored", NAMED, "shear", same=True, scored=False)
def reference_sheared(patient: Patient) -> None:
    """A reference whose affine is sheared."""
    patient.set_fields("seg", srow_x=[-10, 1, 0, 0])


@fault("warn", NAMED, "folder", same=True, scored=False)
def folder_in_place_of_the_reference(patient: Patient) -> None:
    """A folder bears the reference's name."""
    patient.remove("seg")
    patient.path("seg").mkdir()


@fault("warn", NAMED, "pipe", same=True, scored=False)
def fifo_in_place_of_the_reference(patient: Patient) -> None:
    """A pipe bears the reference's name."""
    patient.remove("seg")
    if not hasattr(os, "mkfifo"):
        raise CannotMake("this platform has no named pipes")
    os.mkfifo(patient.path("seg"))


@fault("warn", NAMED, "nowhere", same=True, scored=False)
def reference_never_fetched(patient: Patient) -> None:
    """The reference is a dangling link."""
    patient.remove("seg")
    patient.path("seg").symlink_to("nowhere")


@fault("warn", "more than one reference", NAMED, same=True, scored=False)
def reference_twice(patient: Patient) -> None:
    """The reference is there packed and unpacked."""
    packed = patient.path("seg").read_bytes()
    patient.unpack("seg")
    patient.path("seg").write_bytes(packed)


@fault("warn", NAMED, "sform and qform disagree", same=True)
def reference_whose_forms_disagree(patient: Patient) -> None:
    """sform and qform of the reference disagree: which one is right decides the scores."""
    patient.set_fields("seg", qoffset_x=55)


@fault("warn", NAMED, "left and right are unknown", same=True)
def reference_without_a_form(patient: Patient) -> None:
    """The reference has neither sform nor qform."""
    patient.set_fields("seg", sform_code=0, qform_code=0)


@fault("warn", NAMED, "link out of the input", same=True, scored=True)
def reference_linked_out(patient: Patient) -> None:
    """The reference is a link out of INPUT."""
    patient.link_out("seg")
