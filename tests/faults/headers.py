"""NIfTI headers that lie, and such as only look odd."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np

from tests.faults.patient import IMAGES, STEP, Patient, nifti
from tests.faults.registry import Status, add, fault

NAMED = "-t1c.nii"
D1, D2, D3 = 20, 24, 16


def _fields(name: str, about: str, status: Status, *says: str, same: bool | None = None, **fields: Any) -> None:
    def make(patient: Patient) -> None:
        patient.set_fields("t1c", **fields)

    add(name, __name__, about, make, status, (NAMED, *says) if says else (), same=same)


def _dims(*dims: int) -> list[int]:
    return [*dims, *[1] * (8 - len(dims))]


# What cannot be

_fields(
    "dims_huge",
    "32767 voxels along each axis",
    "error",
    "32767 x 32767",
    "over the limit",
    "--max-voxels",
    dim=_dims(3, 32767, 32767, 32767),
)
_fields("dims_beyond_64_bits", "seven axes of 32767", "error", "dimensions", dim=[7] + [32767] * 7)
_fields(
    "dims_large",
    "1000 x 1000 x 200, which the small file cannot hold",
    "error",
    "bytes can hold",
    dim=_dims(3, 1000, 1000, 200),
)
_fields("dims_zero", "an axis of no voxels", "error", "[3, 20, 0, 16", dim=_dims(3, D1, 0, D3))
_fields("dims_negative", "an axis of -24 voxels", "error", "-24", dim=_dims(3, D1, -D2, D3))
_fields("dims_none", "no axes", "error", "dimensions", dim=_dims(0))
_fields("dims_one", "one axis", "error", "dimensions", dim=_dims(1, D1 * D2 * D3))
_fields("dims_eight", "eight axes", "error", "dimensions", dim=_dims(8, D1, D2, D3))
_fields("dims_negative_count", "-3 axes", "error", "dimensions", dim=_dims(-3, D1, D2, D3))
_fields("dims_five", "two components a voxel", "error", "dimensions", dim=_dims(5, D1, D2, D3, 1, 2))
_fields("dims_one_too_many", "one slice more than there is", "error", "missing", dim=_dims(3, D1, D2, D3 + 1))
_fields("dims_one_too_few", "one slice less than there is", "error", "more than the", dim=_dims(3, D1, D2, D3 - 1))
_fields("magic_wrong", "a magic that is none", "error", "abcd", magic=b"abcd")
_fields("magic_of_a_pair", "the magic of a .hdr and .img pair", "error", "pair", magic=b"ni1")
_fields("magic_missing", "an Analyze header without a magic", "error", "not NIfTI, though", magic=b"")
_fields("header_size_wrong", "a header size of 349", "error", "not NIfTI", sizeof_hdr=349)
_fields("dtype_zero", "no voxel type", "error", "datatype 0", datatype=0)
_fields("dtype_unknown", "an unknown voxel type", "error", "datatype 3", datatype=3)
_fields("dtype_binary", "one bit a voxel", "error", "binary", datatype=1, bitpix=1)
_fields("dtype_rgb", "colours", "error", "RGB", datatype=128, bitpix=24)
_fields("dtype_rgba", "colours with opacity", "error", "RGBA", datatype=2304, bitpix=32)
_fields("dtype_float128", "quadruple precision", "error", "float128", datatype=1536, bitpix=128)
_fields("dtype_negative", "voxel type -4", "error", "datatype -4", datatype=-4)
_fields("dtype_wider_than_stored", "int32 where int16 is stored", "error", "missing", datatype=8, bitpix=32)
_fields("offset_in_the_header", "voxels are said to begin within the header", "error", "byte 40", vox_offset=40)
_fields("offset_zero", "voxels are said to begin at byte 0", "error", "byte 0", vox_offset=0)
_fields("offset_negative", "voxels are said to begin before the file", "error", "byte -352", vox_offset=-352)
_fields("offset_fraction", "voxels are said to begin at byte 352.5", "error", "352.5", vox_offset=352.5)
_fields("offset_past_the_end", "voxels are said to begin past the end", "error", "missing", vox_offset=1e6)
_fields("offset_far_past_the_end", "voxels are said to begin at byte 3e38", "error", "3e+38", vox_offset=3e38)
_fields("offset_nan", "voxels are said to begin nowhere", "error", "byte nan", vox_offset=np.nan)
_fields("offset_infinite", "voxels are said to begin at infinity", "error", "byte inf", vox_offset=np.inf)
_fields("offset_sixteen_late", "voxels are said to begin 16 bytes late", "error", "missing", vox_offset=368)
_fields("slope_nan", "a slope that is no number", "error", "slope nan", scl_slope=np.nan)
_fields("slope_infinite", "an infinite slope", "error", "slope inf", scl_slope=np.inf)
_fields("intercept_nan", "an intercept that is no number", "error", "intercept nan", scl_slope=1, scl_inter=np.nan)
_fields("intercept_infinite", "an infinite intercept", "error", "intercept -inf", scl_slope=1, scl_inter=-np.inf)
_fields("slope_that_overflows", "a slope that makes infinite voxels", "error", "infinite", scl_slope=3e38)
_fields(
    "intercept_that_drowns",
    "an intercept beside which the voxels vanish",
    "error",
    "one value",
    scl_slope=1,
    scl_inter=1e20,
)
_fields(
    "slope_of_1e_45",
    "a slope that makes numbers whose squares vanish",
    "error",
    "outside",
    scl_slope=1e-45,
    scl_inter=0,
)


def _types() -> None:
    for code, dtype in (("complex64", "c8"), ("complex128", "c16")):

        def make(patient: Patient, dtype: str = dtype) -> None:
            patient.write("t1c", patient.arrays["t1c"].astype(dtype))

        add(f"dtype_{code}", __name__, f"{code} voxels", make, "error", (NAMED, code))
    for dtype in ("u2", "i4", "u4", "i8", "u8", "f4", "f8"):

        def make_type(patient: Patient, dtype: str = dtype) -> None:
            patient.write_each(lambda what, array: array.astype(dtype))

        add(f"dtype_{np.dtype(dtype).name}", __name__, f"every file as {np.dtype(dtype).name}", make_type, "ok")


_types()

# What is odd and fine

_fields("slope_zero", "slope 0, which means that nothing is scaled", "ok", scl_slope=0, scl_inter=7)
_fields(
    "dims_after_the_last_are_zero",
    "zeros behind the three axes, as some programs write",
    "ok",
    dim=[3, D1, D2, D3, 0, 0, 0, 0],
)
_fields(
    "pixdim_of_no_axis_nan",
    "voxel sizes of axes that are not there are no numbers",
    "ok",
    pixdim=[1, 10, 10, 10] + [np.nan] * 4,
)
_fields("display_range_nan", "a display range that is no number", "ok", cal_min=np.nan, cal_max=np.nan)
_fields(
    "hostile_description",
    "a description that is HTML",
    "ok",
    descrip=b"<img src=x onerror=alert(1)>",
    aux_file=b"../../etc/passwd",
)
_fields("intent_of_a_label_map", "the intent of a label map", "ok", intent_code=1002, intent_name=b"=1+2")
_fields("units_missing", "no units", "ok", xyzt_units=0)
_fields("units_of_time_odd", "odd units of time", "ok", xyzt_units=2 | 56)
_fields("bitpix_wrong", "8 bits a voxel where the type has 16", "warn", "bitpix is 8", same=True, bitpix=8)
_fields("units_unknown", "units that NIfTI does not know", "warn", "units", same=True, xyzt_units=7)
_fields("units_metres_that_are_mm", "voxels of 10 metres", "warn", "metres", same=True, xyzt_units=1)
_fields("units_microns_that_are_mm", "one file in voxels of 10 microns, which are 10 mm", "error", "0 %", xyzt_units=3)


@fault("ok")
def big_endian(patient: Patient) -> None:
    """Every file is big-endian."""
    patient.write_each(lambda what, array: array.astype(array.dtype.newbyteorder(">")), endian=">")


@fault("ok")
def nifti_2(patient: Patient) -> None:
    """Every file is NIfTI-2."""
    patient.write_each(lambda what, array: array, kind=nib.Nifti2Image)


@fault("ok")
def nifti_2_big_endian(patient: Patient) -> None:
    """Every file is big-endian NIfTI-2."""
    patient.write_each(lambda what, array: array, kind=nib.Nifti2Image, endian=">")


@fault("ok")
def one_modality_big_endian(patient: Patient) -> None:
    """Only one modality is big-endian."""
    patient.write("t2", patient.arrays["t2"].astype(">i2"), endian=">")


@fault("ok")
def int8_with_slope(patient: Patient) -> None:
    """int8 voxels with a slope and an intercept that give the same values."""
    for what in IMAGES:
        levels = (patient.arrays[what] // STEP - 64).astype(np.int8)
        patient.write(what, levels)
        patient.set_fields(what, scl_slope=STEP, scl_inter=64 * STEP)


@fault("ok")
def uint8_with_negative_slope(patient: Patient) -> None:
    """uint8 voxels with a negative slope that give the same values."""
    for what in IMAGES:
        patient.write(what, (127 - patient.arrays[what] // STEP).astype(np.uint8))
        patient.set_fields(what, scl_slope=-STEP, scl_inter=127 * STEP)


@fault("ok")
def header_extensions(patient: Patient) -> None:
    """A header with extensions of 3 kB behind it."""
    image = nib.Nifti1Image(patient.arrays["t1c"], patient.affine)
    image.set_qform(patient.affine, 1)
    image.set_sform(patient.affine, 1)
    image.header["xyzt_units"] = 2
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"<script>" * 400))
    nib.save(image, patient.path("t1c"))


@fault("error", NAMED, "not NIfTI")
def header_cut(patient: Patient) -> None:
    """A whole gzip stream of half a header."""
    patient.repack("t1c", lambda content: content[:170])


@fault("error", NAMED, "missing")
def header_alone(patient: Patient) -> None:
    """A header without a voxel."""
    patient.repack("t1c", lambda content: content[:352])


@fault("error", NAMED, "not NIfTI")
def nifti_2_with_the_magic_of_nifti_1(patient: Patient) -> None:
    """A NIfTI-2 file that bears the magic of NIfTI-1."""
    content = nifti(patient.arrays["t1c"], patient.affine, nib.Nifti2Image)
    patient.repack("t1c", lambda _: content[:4] + b"n+1\0" + content[8:])


@fault("error", NAMED, "dimensions", "5120")
def byte_order_mixed(patient: Patient) -> None:
    """A header whose size is big-endian and whose other fields are not."""
    patient.repack("t1c", lambda content: content[3::-1] + content[4:])


@fault("error", NAMED, "dimensions", "-9223372036854775808")
def nifti_2_dims_beyond_64_bits(patient: Patient) -> None:
    """NIfTI-2 counts in 64 bits: an axis of -2^63 voxels."""
    content = bytearray(nifti(patient.arrays["t1c"], patient.affine, nib.Nifti2Image))
    content[24:32] = np.array(-(2**63), "<i8").tobytes()
    patient.repack("t1c", lambda _: bytes(content))


@fault("error", NAMED, "over the limit")
def nifti_2_dims_of_exabytes(patient: Patient) -> None:
    """NIfTI-2 counts in 64 bits: an axis of 2^62 voxels, so that the product overflows."""
    content = bytearray(nifti(patient.arrays["t1c"], patient.affine, nib.Nifti2Image))
    content[24:32] = np.array(2**62, "<i8").tobytes()
    patient.repack("t1c", lambda _: bytes(content))


def _qfacs() -> None:
    for key, qfac, says in (("2", 2.0, "is 2"), ("minus_2", -2.0, "ITK programs mirror"), ("nan", np.nan, "is nan")):
        for alone in (False, True):

            def make(patient: Patient, qfac: float = qfac, alone: bool = alone) -> None:
                forms = {"sform_code": 0} if alone else {}
                patient.set_fields("t1c", pixdim=[qfac, 10, 10, 10, 1, 1, 1, 1], **forms)

            about = f"a qfac (pixdim[0]) of {qfac:g}{', and no sform' if alone else ''}"
            name = f"qfac_{key}{'_without_sform' if alone else ''}"
            add(name, __name__, about, make, "warn", (NAMED, "qfac", says), same=True)


_qfacs()
_fields(
    "qform_alone_nan",
    "no sform, and a quaternion whose last number is none",
    "error",
    "quatern_d is nan",
    sform_code=0,
    quatern_d=np.nan,
)
_fields(
    "qform_shift_nan", "a shift of the qform that is no number", "warn", "qoffset_y is nan", same=True, qoffset_y=np.nan
)


@fault("warn", "-t1n.nii.gz", "1e+08 mm", "steps of 8 mm", same=False)
def coordinates_of_float32(patient: Patient) -> None:
    """Every file lies 100 km away, where the numbers of a header are 8 mm apart and voxels 10."""
    affine = patient.affine
    affine[:3, 3] += 1e8
    patient.write_each(lambda what, array: array, affine)
