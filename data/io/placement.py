"""Placement of voxels by a NIfTI header.

Its sform, qform, voxel size and units are checked, repaired and told of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.grid import Grid
from data.io.header import FAR, PLACEMENT_FIELDS, SPACING_UNKNOWN, ImageHeader, check_affine, far_away, millimetres
from data.io.stream import StoredVoxels, printable, refuse

_QFORM_TOLERANCE_MM = 0.1
_QUATERNION_ROUNDING = 2e-7  # of b, c and d, stored as float32, once from the sform in float32 and once in the file
_HALF_TURN = 1e-7  # nifti1_io.c, nifti_quatern_to_mat44: 1 - b^2 - c^2 - d^2 below this is rounding, and means 0
_FORM_CODES = range(1, 6)
_QUATERNION, _OFFSET = ("quatern_b", "quatern_c", "quatern_d"), ("qoffset_x", "qoffset_y", "qoffset_z")
_UNITS = {0: ("unknown", 1.0), 1: ("metres", 1000.0), 2: ("mm", 1.0), 3: ("microns", 0.001)}

Warn = Callable[[str], None]


def place(path: Path, record: np.void, stored: StoredVoxels, ndim: int, doubts: tuple[str, ...]) -> ImageHeader:
    """Decide where the voxels lie.

    The sform is taken if there is one, else the qform, else the voxel size alone.
    """
    notes = list(doubts)

    def warn(text: str) -> None:
        notes.append(f"{printable(path)}: {text}")

    sform_code, qform_code = int(record["sform_code"]), int(record["qform_code"])
    units = int(record["xyzt_units"]) & 255
    for name, code in (("sform", sform_code), ("qform", qform_code)):
        if code not in _FORM_CODES and code != 0:
            warn(f"its {name} code {code} is none of NIfTI's, so its {name} was not used")
    sform = _sform(path, record, stored.shape[2] == 1, ndim, warn) if sform_code in _FORM_CODES else None
    pixdim = _voxel_size(path, record, sform, ndim, warn)
    qform = _believed_qform(path, record, pixdim, sform is not None, warn) if qform_code in _FORM_CODES else None
    if sform is not None:
        affine = sform
    elif qform is not None:
        affine = qform
    else:
        affine = np.diag([-pixdim[0], pixdim[1], pixdim[2], 1.0])
        affine[:3, 3] = -affine[:3, :3] @ (np.array(stored.shape) - 1) / 2
        warn("it has neither sform nor qform: left and right are unknown, its first axis was taken to run to the left")
    check_affine(path, affine)
    scale = millimetres(path, _UNITS.get(units & 7, (f"code {units & 7}", 1.0)), affine, warn)
    if units & 7 not in _UNITS:
        warn(f"its units are code {units & 7}; they were read as mm")
    affine = np.vstack([affine[:3] * scale, [0, 0, 0, 1]])
    spacing_known = bytes(record["descrip"]).rstrip(b"\0") != SPACING_UNKNOWN
    grid = Grid(stored.shape, affine, spacing_known)
    if doubt := far_away(grid):
        warn(doubt)
    if sform is not None and qform is not None:
        gap = _gap_mm(stored.shape, affine, qform, scale, _quaternion(record))
        if not gap <= _QFORM_TOLERANCE_MM:
            warn(f"sform and qform disagree by {gap:.4g} mm; the sform was used, ITK programs may use the qform")
    placement = _placement(record, pixdim, sform if qform_code in _FORM_CODES and qform is None else None)
    return ImageHeader(
        path=path,
        grid=grid,
        dtype=stored.dtype.name,
        channels=stored.channels,
        sform_code=sform_code,
        qform_code=qform_code,
        qform=qform,
        xyzt_units=units,
        warnings=tuple(notes),
        ndim=ndim,
        placement=placement,
    )


def _believed_qform(
    path: Path, record: np.void, pixdim: NDArray[np.float64], has_sform: bool, warn: Warn
) -> NDArray[np.float64] | None:
    """Return the (4, 4) qform in the file's units; None, with a warning, where the sform stands in for it."""
    _doubt_qfac(float(record["pixdim"][0]), warn)
    qform = _qform(record, pixdim)
    if qform is None:
        fault = f"its qform is no rotation{_qform_fault(record)}"
        if not has_sform:
            refuse(path, f"{fault} and there is no sform", "set the orientation and export the image again")
        warn(f"{fault}; the sform was used")
    return qform


def _sform(path: Path, record: np.void, is_slice: bool, ndim: int, warn: Warn) -> NDArray[np.float64]:
    """Return the (4, 4) sform in the file's units.

    The direction that a slice's third axis may lack is put in.
    """
    sform = np.array([*(record[f"srow_{c}"] for c in "xyz"), [0, 0, 0, 1]], np.float64)
    if is_slice and not sform[:3, 2].any():
        sform[:3, 2] = _third_axis(record, sform)
        if ndim == 3:  # of two axes it is the custom
            warn("its sform gives the third axis no direction; that perpendicular to the other two was used")
    check_affine(path, sform)
    return sform


def _voxel_size(
    path: Path, record: np.void, sform: NDArray[np.float64] | None, ndim: int, warn: Warn
) -> NDArray[np.float64]:
    """Return pixdim[1:4] in the file's units.

    It is repaired from the sform where it cannot be a length.
    """
    pixdim = record["pixdim"][1:4].astype(np.float64)
    stored = [float(f"{p:.6g}") for p in pixdim]
    if ndim == 2 and pixdim[2] == 0:
        pixdim[2] = 1.0  # an axis that the file does not have
    lengths = np.sqrt((sform[:3, :3] ** 2).sum(axis=0)) if sform is not None else None
    if not ((pixdim > 0) & (pixdim < FAR)).all():
        if lengths is not None:
            warn(f"its voxel size (pixdim) is {stored}; the affine's {lengths.round(6).tolist()} was used")
            return lengths
        if not (np.abs(pixdim) < FAR).all() or (pixdim == 0).any():
            refuse(
                path,
                f"its voxel size (pixdim) is {stored} and there is no sform to take it from",
                "set the voxel size and export the image again",
            )
        warn(f"its voxel size (pixdim) is {stored}; the sign was dropped")
        return np.abs(pixdim)
    if lengths is not None and np.abs(pixdim / lengths - 1).max() > 0.01 and ndim == 3:
        warn(f"its voxel size (pixdim) is {stored}, its affine's {lengths.round(6).tolist()}; the affine was used")
    return pixdim


def _third_axis(record: np.void, sform: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the direction of a slice's third axis.

    It is at right angles to the slice's own two, as long as pixdim says, else 1.
    """
    axis = np.cross(sform[:3, 0], sform[:3, 1])
    thickness = float(record["pixdim"][3])
    length = np.sqrt(axis @ axis)
    if not 0 < length < np.inf:
        return np.zeros(3)  # the two do not span a plane: the affine is refused
    return axis / length * (thickness if 0 < thickness < FAR else 1.0)


def _quaternion(record: np.void) -> NDArray[np.float64] | None:
    """Return (a, b, c, d) of unit length.

    It is None where the quaternion is no rotation.
    """
    vector = np.array([record[name] for name in _QUATERNION], np.float64)
    if not np.isfinite(vector).all() or vector @ vector > 1 + 1e-6:
        return None
    rest = 1.0 - float(vector @ vector)
    if rest < _HALF_TURN:
        return np.array([0.0, *(vector / np.sqrt(vector @ vector))])
    return np.array([math.sqrt(rest), *vector])


def _doubt_qfac(qfac: float, warn: Warn) -> None:
    """Doubt a qfac other than 1 and -1.

    Programs differ over it: NIfTI's own library and ITK take its sign, nibabel takes 1; 0 means 1.
    """
    if qfac not in (1, 0, -1):
        others = "ITK programs mirror that axis" if qfac < 0 else "it should be 1"
        warn(
            f"its qfac (pixdim[0]) is {qfac:g}, where 1 or -1 says which way the qform's third axis runs; 1 was used, "
            f"{others}"
        )


def _qform_fault(record: np.void) -> str:
    """Return the end of a sentence on a qform that is no rotation.

    It names the field and its value.
    """
    values = {name: float(record[name]) for name in (*_QUATERNION, *_OFFSET)}
    odd = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if odd is None and _quaternion(record) is not None:
        odd = max(_OFFSET, key=lambda name: abs(values[name]))
    if odd is None:
        return f" ({', '.join(f'{name} {values[name]:g}' for name in _QUATERNION)})"
    return f" ({odd} is {values[odd]:g})" if odd in _QUATERNION else f" and shift ({odd} is {values[odd]:g})"


def _qform(record: np.void, pixdim: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the (4, 4) qform in the file's units.

    It is None where the quaternion is no rotation.
    """
    quaternion = _quaternion(record)
    origin = np.array([record[name] for name in _OFFSET], np.float64)
    if quaternion is None or not np.abs(origin).max() <= FAR:
        return None
    affine = np.eye(4)
    affine[:3, :3] = nib.quaternions.quat2mat(quaternion) * pixdim * [1, 1, -1 if record["pixdim"][0] == -1 else 1]
    affine[:3, 3] = origin
    return affine


def _gap_mm(
    shape: tuple[int, int, int], affine: NDArray[np.float64], qform: NDArray[np.float64], scale: float,
    quaternion: NDArray[np.float64] | None,
) -> float:  # fmt: skip
    """Return how far the qform moves a corner voxel, mm.

    The qform is in the file's units, the affine that it is compared with in mm.
    """
    qform = qform[:3] * scale
    axes = affine[:3, :3] / np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    handed = [1, 1, math.copysign(1, np.linalg.det(axes))]
    own = nib.quaternions.mat2quat(axes * handed)
    # Near half a turn a is the root of a small difference, and float32 leaves it in doubt by 1e-3: a third of a
    # millimetre at the corner of a head. Where b, c and d are those of the affine, the rotations are the same.
    if quaternion is not None and np.linalg.det(qform[:, :3]) * handed[2] > 0:
        apart = min(np.abs(own - sign * quaternion)[1:].max() for sign in (1, -1))
        if apart <= _QUATERNION_ROUNDING:
            lengths = np.sqrt((qform[:, :3] ** 2).sum(axis=0))
            qform = np.hstack([axes * lengths, qform[:, 3:]])
    # No Grid for the qform: it may be singular and is not used.
    corners = np.array(list(product(*((0, n - 1) for n in shape), (1,))))
    return float(np.abs(corners @ (qform - affine[:3]).T).max())


def _placement(
    record: np.void, pixdim: NDArray[np.float64], new_qform: NDArray[np.float64] | None
) -> dict[str, NDArray[np.generic]]:
    """Return the fields that place the voxels.

    They are as stored but for repairs, so that a mask lies where its image does.
    """
    fields: dict[str, NDArray[np.generic]] = {}
    for name in PLACEMENT_FIELDS:
        value = np.asarray(record[name])
        # What NIfTI-1 cannot hold, or no reader can use, lies in fields that are not in use.
        low, high = (-FAR, FAR) if value.dtype.kind == "f" else (0, 2**15 - 1)
        value = value.astype(value.dtype.newbyteorder("="))
        usable = low <= value.min() and value.max() <= high  # false for NaN
        fields[name] = value if usable else np.clip(np.nan_to_num(value), low, high)
    fields["pixdim"][1:4] = pixdim
    if new_qform is not None:
        repaired = nib.Nifti1Header()
        repaired.set_qform(new_qform)
        fields |= {name: repaired[name] for name in PLACEMENT_FIELDS if name.startswith(("quatern", "qoffset"))}
        fields["pixdim"][0] = repaired["pixdim"][0]
    return fields
