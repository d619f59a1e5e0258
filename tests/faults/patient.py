"""The undamaged patient that every fault starts from, on disk, and the tools to damage its files with."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.phantom.patient import make_phantom

SHAPE, SPACING_MM = (20, 24, 16), 10.0
STEP = 8
"""Images hold multiples of this, up to 127 of it, so that int8 with a slope holds the very same values."""
SUFFIXES = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
IMAGES = ("t1", "t1c", "t2", "flair")
Array = NDArray[Any]


@dataclass(frozen=True)
class Healthy:
    """Voxels of an undamaged patient: int16 images by modality, the uint8 label map under "seg", and their affine."""

    arrays: Mapping[str, Array]
    affine: NDArray[np.float64]


@cache
def healthy(seed: int = 2) -> Healthy:
    """A phantom of 20 x 24 x 16 voxels of 10 mm, its intensities rounded to 128 levels."""
    phantom = make_phantom(seed, shape=SHAPE, spacing_mm=(SPACING_MM,) * 3)
    arrays: dict[str, Array] = {"seg": phantom.label_map}
    for modality, image in phantom.images.items():
        levels = np.clip(np.round(image * (127 / image.max())), 1, 127) * (image > 0)
        arrays[modality] = (levels * STEP).astype(np.int16)
    return Healthy(arrays, phantom.grid.affine)


def nifti(array: Array, affine: Array, kind: type = nib.Nifti1Image, endian: str = "<", **fields: Any) -> bytes:
    """An uncompressed NIfTI file in the array's type, both codes 1, in mm; ``fields`` of its header are set last."""
    header = kind.header_class(endianness=endian)  # type: ignore[attr-defined]
    header.set_data_dtype(array.dtype)
    image = kind(array, affine, header)
    image.set_sform(affine, 1)  # type: ignore[attr-defined]
    image.set_qform(affine, 1)  # type: ignore[attr-defined]
    image.header["xyzt_units"] = 2  # type: ignore[attr-defined]
    for name, value in fields.items():
        image.header[name] = value  # type: ignore[attr-defined]
    return image.to_bytes()  # type: ignore[attr-defined]


def with_fields(content: bytes, **fields: Any) -> bytes:
    """Bytes of a little-endian NIfTI-1 file with some fields of its header set, whatever they then mean."""
    record = np.frombuffer(content[:348], nib.nifti1.header_dtype).copy()
    for name, value in fields.items():
        record[name][0] = value
    return record.tobytes() + content[348:]


@cache
def _stored(what: str, seed: int) -> bytes:
    patient = healthy(seed)
    return gzip.compress(nifti(patient.arrays[what], patient.affine), 1, mtime=0)


@dataclass(frozen=True)
class Patient:
    """A patient folder in BraTS 2023's naming that a fault may damage.

    Parameters
    ----------
    folder : Path
        ``INPUT/NAME``; it holds ``NAME-t1n.nii.gz`` and so on.
    outside : Path
        A folder of the fault's own beside INPUT, for what links lead to.
    """

    folder: Path
    outside: Path
    seed: int = 2

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def hidden(self) -> str:
        """The row's name where all that is known of the patient is a folder of DICOM files."""
        return f"DICOM-{hashlib.sha256(self.name.encode()).hexdigest()[:10]}"

    @property
    def arrays(self) -> Mapping[str, Array]:
        return healthy(self.seed).arrays

    @property
    def affine(self) -> NDArray[np.float64]:
        return healthy(self.seed).affine.copy()

    def path(self, what: str, suffix: str = ".nii.gz") -> Path:
        return self.folder / f"{self.name}-{SUFFIXES[what]}{suffix}"

    def write_all(self) -> None:
        """The undamaged patient: four images and the reference."""
        self.folder.mkdir(parents=True)
        for what in (*IMAGES, "seg"):
            self.path(what).write_bytes(_stored(what, self.seed))

    def again(self, name: str) -> Patient:
        """One more undamaged patient beside this one."""
        other = Patient(self.folder.parent / name, self.outside, self.seed)
        other.write_all()
        return other

    def remove(self, *whats: str) -> None:
        for what in whats:
            self.path(what).unlink()

    def write(self, what: str, array: Array, affine: Array | None = None, **fields: Any) -> None:
        """Write an image or the reference (what ``what`` stands for) in the array's type; see `nifti`."""
        content = nifti(array, self.affine if affine is None else affine, **fields)
        self.path(what).write_bytes(gzip.compress(content, 1))

    def write_each(self, change: Callable[[str, Array], Array], affine: Array | None = None, **fields: Any) -> None:
        """Write images and reference anew, each from what ``change`` makes of its name and voxels."""
        for what in (*IMAGES, "seg"):
            self.write(what, change(what, self.arrays[what]), affine, **fields)

    def change(self, what: str, change: Callable[[bytes], bytes]) -> None:
        """Change the bytes of a file as they lie on disk, packed."""
        self.path(what).write_bytes(change(self.path(what).read_bytes()))

    def repack(self, what: str, change: Callable[[bytes], bytes]) -> None:
        """Change the unpacked bytes of a file; the gzip stream around them is whole."""
        self.change(what, lambda packed: gzip.compress(change(gzip.decompress(packed)), 1))

    def set_fields(self, *whats: str, **fields: Any) -> None:
        """Set header fields of some files, to any value."""
        for what in whats:
            self.repack(what, lambda content: with_fields(content, **fields))

    def unpack(self, what: str) -> Path:
        """Store a file as ``.nii`` instead; its path."""
        plain = self.path(what, ".nii")
        plain.write_bytes(gzip.decompress(self.path(what).read_bytes()))
        self.path(what).unlink()
        return plain

    def link_out(self, what: str) -> Path:
        """Move a file out of INPUT and leave a link to it; where it is now."""
        self.outside.mkdir(exist_ok=True)
        target = self.outside / self.path(what).name
        os.rename(self.path(what), target)
        self.path(what).symlink_to(target)
        return target


def png_picture() -> bytes:
    """A small PNG picture."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, "PNG")
    return stream.getvalue()
