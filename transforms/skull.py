"""Brain in registered images of a head, by deepbet's networks and a vote.

deepbet [1]_ (extra `raw`) carries its weights in its wheel. Its two networks are run here as they are: one finds the
brain's box in the whole image, the other its outline in that box. Its own code, which works on files, is not used.

References
----------
.. [1] Fisch et al., deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural networks, Computers in
       Biology and Medicine 179:108845, 2024.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from data.errors import UsageError

PACKAGE = "deepbet"
WEIGHTS = {
    "bbox_model.pt": "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "model.pt": "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
}
"""SHA-256 of the two files in the wheel of deepbet 1.0.2. No other file is loaded: TorchScript is a program."""
SMALL, LARGE = (128, 128, 128), (256, 256, 256)
"""Voxels that the networks take: of the whole image, and of the brain's box."""
BOX_MARGIN = 0.1
"""Of the box's sides, on each side of it."""
LEAST_OF_PLANE = 0.02
"""Part of a plane that must be brain for the plane to lie in the box."""
VOTES = 0.5
"""Mean probability over the series from which a voxel is brain."""


def is_installed() -> bool:
    """Tell whether deepbet's networks are there."""
    files = _files()
    return bool(files) and all(path.is_file() for path in files)


def brain_of_head(images: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Find the brain in images of one head.

    Parameters
    ----------
    images : mapping of modality to (d1, d2, d3) array
        On one grid whose axes run to the right, the front and the head (RAS), registered to each other; at least one.

    Returns
    -------
    (d1, d2, d3) bool
        One piece without holes, or nothing where no brain is found: the mean of the series' probabilities, cut at one
        half.

    Raises
    ------
    data.errors.UsageError
        A file of deepbet is not the known one. Whether there is one, `is_installed` tells.
    """
    votes = np.mean([brain_probability(image) for image in images.values()], axis=0)
    return _one_piece(votes >= VOTES)


def brain_probability(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return deepbet's probability of brain for an image in RAS.

    Both are (d1, d2, d3); the probability is 0 where no brain is found.
    """
    find_box, find_brain = _networks()
    whole = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    small = F.interpolate(whole, SMALL, mode="nearest-exact")
    low, high = (float(value) for value in np.quantile(small.numpy(), [0.005, 0.995]))
    probability = np.zeros(image.shape, np.float32)
    with torch.inference_mode():
        rough = _one_piece(find_box(_normalised(small, low, high))[0, 1].numpy() > 0.5)
        box = _box(rough, image.shape)
        if box is None:
            return probability
        inside = torch.from_numpy(whole[0, 0].numpy()[box])[None, None]
        large = F.interpolate(inside, LARGE, mode="nearest-exact")
        found = find_brain(_normalised(large, low, high))[:, 1:2]
        probability[box] = F.interpolate(found, inside.shape[2:], mode="nearest-exact")[0, 0].numpy()
    return probability


def _normalised(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    scaled = ((image - low) / max(high - low, 1e-6)).clamp(0, 1)
    return 0.226 * (scaled - scaled.mean()) / scaled.std().clamp(min=1e-6) + 0.449


def _box(rough: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    sides = []
    for axis, n in enumerate(shape):
        planes = np.flatnonzero(rough.mean(axis=tuple({0, 1, 2} - {axis})) > LEAST_OF_PLANE)
        if not planes.size:
            return None
        scale = n / rough.shape[axis]
        first, last = planes[0] * scale, (planes[-1] + 1) * scale
        margin = BOX_MARGIN * (last - first)
        sides.append(slice(max(0, round(first - margin)), min(n, round(last + margin))))
    return tuple(sides)


def _one_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    if count > 1:
        mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


@lru_cache(maxsize=1)
def _networks() -> tuple[Any, Any]:
    box, brain = (_network(path, WEIGHTS[path.name]) for path in _files())
    return box, brain


def _network(path: Path, sha256: str) -> Any:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UsageError(f"{path}: is not the file of deepbet 1.0.2; install deepbet==1.0.2 anew")
    return torch.jit.load(io.BytesIO(content), map_location="cpu").eval()


def _files() -> list[Path]:
    """Return the weights' paths; none where the package is not installed."""
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(package.locate_file(f"data/models/{name}"))) for name in WEIGHTS]
