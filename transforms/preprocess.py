"""Preprocessing, from a case's files to the tensor that a network sees.

It is a MONAI chain, with the checked reader behind its loader.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, MapTransform, NormalizeIntensityd
from numpy.typing import NDArray

from data.case import GRID_ORDER, ImageSource
from data.errors import InputError
from data.extent import nonzero_box
from data.grid import Grid
from data.io.read import MAX_VOXELS, ImageHeader, Volume, read_volumes
from data.plausibility import expects_brain_alone, patient_doubts
from transforms.filters import BiasCorrectd, BlankAird, Denoised, NormalizeNonzerod
from transforms.restore import copy_planes, grid_at_spacing, resample_to


class LoadVolumesd(MapTransform):
    """Checked reader in the place of MONAI's ``LoadImaged`` and ``EnsureChannelFirstd``.

    An :class:`data.case.ImageSource` is read (:func:`data.io.read.read_volumes`), a :class:`data.io.read.Volume` is
    taken as it is, and what is a MetaTensor already passes. The voxels are not copied: (1, d1, d2, d3) in the file's
    own memory order, integers where the file has them, for what lies outside the brain need not become float32.
    LoadImaged would copy all of them twice. The image's :class:`data.io.read.ImageHeader` travels in the meta data
    under ``"header"``.
    """

    def __init__(self, keys: KeysCollection, max_voxels: int = MAX_VOXELS) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.max_voxels = max_voxels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        sources = {str(key): d[key] for key in self.key_iterator(d) if isinstance(d[key], ImageSource)}
        read = read_volumes(sources, max_voxels=self.max_voxels)
        for key in self.key_iterator(d):
            if isinstance(volume := read.get(str(key), d[key]), Volume):
                # MetaTensor copies what its meta data holds; an object array it leaves alone.
                meta = {"header": np.array(volume.header, dtype=object)}
                d[key] = MetaTensor(torch.from_numpy(volume.array)[None], affine=_tensor(volume.grid), meta=meta)
        return d


def grid_of(image: MetaTensor) -> Grid:
    """Return the grid of a channel-first (channels, d1, d2, d3) MetaTensor."""
    return Grid(tuple(image.shape[1:]), np.asarray(image.affine, dtype=np.float64))  # type: ignore[arg-type]


def _voxels(image: MetaTensor) -> NDArray[Any]:
    """Return the (d1, d2, d3) voxels of an image of one channel.

    They are in numpy, which compares unsigned integers too, and are not copied.
    """
    array: NDArray[Any] = image.as_tensor()[0].numpy()
    return array


class DoubtPatientd(MapTransform):
    """Warnings about the images of a patient, compared with each other.

    Each image is on its own grid; the sentences are put into ``"warnings"``.

    See :func:`data.plausibility.patient_doubts`; the images pass unchanged.
    """

    def __init__(self, keys: KeysCollection, skull_stripped: bool) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.skull_stripped = skull_stripped

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        images = {str(key): (_voxels(d[key]), d[key].meta["header"].item()) for key in self.keys if key in d}
        sentences = patient_doubts(images, skull_stripped=self.skull_stripped)
        d["warnings"] = (*d.get("warnings", ()), *sentences)
        return d


class AlignToReferenced(MapTransform):
    """Alignment of every modality with the grid of the reference modality.

    A missing one becomes zeros where that is allowed.

    The reference is the first of :data:`data.case.GRID_ORDER` that is there. Adds ``"native"`` (the reference's
    :class:`data.io.read.ImageHeader`), ``"background"`` (FLAIR, else the reference, for pictures) and its sentences to
    ``"warnings"``. Grids that agree to 1e-3 mm are taken as the same, other ones are resampled and reported. Refused is
    an image of which less than half lies on the reference's grid, or that covers less than half of what the reference
    shows.
    """

    def __init__(self, keys: KeysCollection, zero_missing: bool = False) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.zero_missing = zero_missing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        present = [key for key in self.keys if key in d]
        if not present:
            raise InputError(f"none of the images {', '.join(map(str, self.keys))} is there; add at least one")
        headers: dict[Hashable, ImageHeader] = {key: d[key].meta["header"].item() for key in present}
        reference = next(key for key in (*GRID_ORDER, *present) if key in present)
        native = headers[reference]
        warnings = [text for key in present for text in headers[key].warnings]
        for key in present:
            if key == reference or headers[key].grid.matches(native.grid):
                continue
            d[key], sentence = _onto(d[key], headers[key], d[reference], native, f"{key} image", f"{reference} image")
            warnings.append(sentence)
        missing = [key for key in self.keys if key not in d]
        if missing and not self.zero_missing:
            raise InputError(
                f"{native.path.parent.name}: no {', '.join(map(str, missing))} image; "
                "add it, or choose --missing skip or zero"
            )
        for key in missing:
            d[key] = MetaTensor(torch.zeros((1, *native.grid.shape), dtype=torch.uint8), affine=_tensor(native.grid))
            warnings.append(f"{key} is missing and was replaced by zeros")
        for key in self.keys:  # one affine to the last digit, so that stacking them is right by construction
            d[key].affine = _tensor(native.grid)
        d["native"], d["warnings"] = native, tuple(dict.fromkeys((*warnings, *d.get("warnings", ()))))
        d["background"] = _voxels(d["flair" if "flair" in present else reference]).astype(np.float32, copy=False)
        return d


def _onto(
    image: MetaTensor, own: ImageHeader, reference: MetaTensor, native: ImageHeader, what: str, of_what: str
) -> tuple[MetaTensor, str]:
    moved = resample_to(torch.as_tensor(_voxels(image)[None].astype(np.float32, copy=False)), own.grid, native.grid)
    shown, wanted = moved[0].numpy() != 0, _voxels(reference) != 0
    before = np.count_nonzero(_voxels(image)) * own.grid.voxel_volume_ml
    kept = np.count_nonzero(shown) * native.grid.voxel_volume_ml / max(before, 1e-9)
    covered = int(np.count_nonzero(shown & wanted)) / max(int(np.count_nonzero(wanted)), 1)
    where = "".join(f" ({doubt})" for doubt in (*own.warnings, *native.warnings))  # often the reason why
    if kept < 0.5:
        raise InputError(
            f"{own.path.name}: only {100 * kept:.0f} % of this {what} lies on the grid of the {of_what} "
            f"{native.path.name}{where}; register the images to each other"
        )
    if covered < 0.5:
        raise InputError(
            f"{own.path.name}: this {what} covers only {100 * covered:.0f} % of what the {of_what} "
            f"{native.path.name} shows{where}; take an image of the whole head, or register the images to each other"
        )
    sentence = (
        f"{own.path.name}: its grid ({own.grid.described()}) is not that of {native.path.name} "
        f"({native.grid.described()}); resampled onto it"
    )
    return MetaTensor(moved, affine=_tensor(native.grid)), sentence


def _tensor(grid: Grid) -> torch.Tensor:
    return torch.as_tensor(grid.affine.copy())


def _mm(grid: Grid) -> str:
    return "x".join(f"{s:.4g}" for s in grid.spacing_mm) + " mm"


class CropToShownd(MapTransform):
    """Crop of images to the box of all that is not 0.

    The images are (1, d1, d2, d3) on one grid; nothing is copied.

    As ``CropForegroundd`` of their stack, which need not be made for it. Images that show nothing are left whole.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        boxes = [box for key in self.key_iterator(d) if (box := nonzero_box(_voxels(d[key]))) is not None]
        if not boxes:
            return d
        start = [min(box[axis].start for box in boxes) for axis in range(3)]
        stop = [max(box[axis].stop for box in boxes) for axis in range(3)]
        shown = (slice(None), *map(slice, start, stop))
        for key in self.key_iterator(d):
            affine = np.asarray(d[key].affine, dtype=np.float64).copy()
            affine[:3, 3] += affine[:3, :3] @ start
            d[key] = MetaTensor(d[key].as_tensor()[shown], affine=torch.as_tensor(affine))
        return d


class StackOrientedd(MapTransform):
    """Stack of images as float32 channels turned to ``orientation``, in one copy.

    The images are (1, d1, d2, d3) on one grid.

    As ``Orientationd`` and ``ConcatItemsd``. The single images are dropped, so that they do not double the memory.
    """

    def __init__(self, keys: KeysCollection, name: str, orientation: str) -> None:
        super().__init__(keys)
        self.name, self.orientation = name, orientation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        grid = grid_of(d[self.keys[0]])
        turned = grid.reoriented(self.orientation)
        stack = torch.empty((len(self.keys), *turned.shape), dtype=torch.float32)
        for channel, key in zip(stack.numpy(), self.keys, strict=True):
            copy_planes(grid.turn(_voxels(d.pop(key)), self.orientation), channel)
        d[self.name] = MetaTensor(stack, affine=_tensor(turned))
        return d


class ToSpacingd(MapTransform):
    """Resample onto the grid of the wanted spacing over the same box (:func:`transforms.restore.grid_at_spacing`)."""

    def __init__(self, keys: KeysCollection, spacing_mm: Sequence[float | None], max_voxels: int = MAX_VOXELS) -> None:
        super().__init__(keys)
        self.spacing_mm = tuple(spacing_mm)
        self.max_voxels = max_voxels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            source = grid_of(d[key])
            target = grid_at_spacing(source, self.spacing_mm)
            if math.prod(target.shape) > self.max_voxels:  # a header's voxel size must not decide our memory
                name = d["native"].path.name if "native" in d else str(key)
                raise InputError(
                    f"{name}: voxels of {_mm(source)} would become {math.prod(target.shape)} voxels of {_mm(target)}, "
                    f"more than {self.max_voxels}; correct the voxel size in the file's header"
                )
            d[key] = MetaTensor(resample_to(d[key].as_tensor(), source, target), affine=_tensor(target))
        return d


def _any_nonzero(image: torch.Tensor) -> torch.Tensor:
    return image != 0


def preprocess_chain(
    modalities: Sequence[str],
    orientation: str = "RAS",
    spacing_mm: Sequence[float | None] = (1.0, 1.0, 1.0),
    crop: Literal["nonzero", "none"] = "nonzero",
    normalise: Literal["nonzero", "all", "none"] = "nonzero",
    bias_correction: bool = False,
    denoise: bool = False,
    blank_air: bool = False,
    zero_missing: bool = False,
    max_voxels: int = MAX_VOXELS,
) -> Compose:
    """Return the chain from files to tensor.

    Parameters
    ----------
    modalities : sequence of str
        Channels in the model's order.
    orientation, spacing_mm, crop, normalise, bias_correction, denoise, blank_air
        As in :class:`pipeline.config.PreprocessConfig`.
    zero_missing : bool
        Replace a modality that the case lacks by zeros instead of refusing the case.

    Returns
    -------
    monai.transforms.Compose
        Takes ``{modality: ImageSource}``, or a :class:`data.io.read.Volume` where it was read already; gives a
        dictionary with ``"image"``, a (modalities, d1, d2, d3) float32 MetaTensor whose affine is the working grid's,
        ``"native"`` (ImageHeader of the case's own grid), ``"background"`` (d1, d2, d3) on that grid and ``"warnings"``
        (tuple of str).

    Raises
    ------
    data.errors.InputError
        From the chain, when a file or the set of them cannot be used.
    """
    keys = tuple(modalities)
    steps: list[Any] = [
        LoadVolumesd(keys, max_voxels),
        DoubtPatientd(keys, skull_stripped=expects_brain_alone(crop, blank_air)),
    ]
    if bias_correction:
        steps.append(BiasCorrectd(keys, allow_missing_keys=True))
    if denoise:
        steps.append(Denoised(keys, allow_missing_keys=True))
    steps.append(AlignToReferenced(keys, zero_missing))
    if crop == "nonzero" and not blank_air:
        steps.append(CropToShownd(keys))
    steps.append(StackOrientedd(keys, name="image", orientation=orientation))
    if blank_air:  # after the orientation, for it fills slice by slice
        steps.append(BlankAird("image"))
        if crop == "nonzero":
            steps.append(CropForegroundd("image", source_key="image", select_fn=_any_nonzero, allow_smaller=True))
    steps.append(ToSpacingd("image", spacing_mm, max_voxels))
    if normalise == "nonzero":
        steps.append(NormalizeNonzerod("image"))
    elif normalise == "all":
        steps.append(NormalizeIntensityd("image", channel_wise=True))
    return Compose(steps)


def run_chain(chain: Compose, data: Mapping[str, Any]) -> dict[str, Any]:
    """Run a chain and let our own errors through: MONAI wraps whatever a transform raises into a RuntimeError."""
    try:
        return chain(dict(data))
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError | MemoryError):
                raise cause from None
            cause = cause.__cause__
        raise
