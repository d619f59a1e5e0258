"""Filters of intensities: bias field, noise, air around a head, z-scores."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from data.grid import Grid


class _ImageFilterd(MapTransform):
    """SimpleITK filter on each (1, d1, d2, d3) image, inside its non-zero voxels."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            array = d[key].as_tensor()[0].numpy().astype(np.float32)
            spacing = Grid(array.shape, np.asarray(d[key].affine)).spacing_mm  # type: ignore[arg-type]
            axes = [axis for axis in range(3) if array.shape[axis] > 1]  # N4 refuses an axis of one voxel
            image = sitk.GetImageFromArray(array.squeeze().T)
            image.SetSpacing([spacing[axis] for axis in axes])
            filtered = sitk.GetArrayFromImage(self.filter(image)).T.reshape(array.shape)
            result = np.where(array != 0, filtered, 0).astype(np.float32)
            d[key] = MetaTensor(torch.as_tensor(result)[None], meta=dict(d[key].meta))
        return d

    def filter(self, image: sitk.Image) -> sitk.Image:
        raise NotImplementedError  # abstract: each filter gives its own


class BiasCorrectd(_ImageFilterd):
    """N4 bias field correction (Tustison et al., IEEE TMI 2010).

    The field is estimated at a quarter of the resolution.
    """

    def filter(self, image: sitk.Image) -> sitk.Image:
        mask = sitk.NotEqual(image, 0)
        factors = [min(4, max(1, n // 8)) for n in image.GetSize()]
        corrector = sitk.N4BiasFieldCorrectionImageFilter()
        corrector.SetMaximumNumberOfIterations([30, 30, 20])
        corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
        field = sitk.Cast(sitk.Exp(corrector.GetLogBiasFieldAsImage(image)), sitk.sitkFloat32)
        return image / field


class Denoised(_ImageFilterd):
    """Curvature-driven anisotropic diffusion (Whitaker & Xue, ICIP 2001), five steps: smooths noise, keeps edges."""

    def filter(self, image: sitk.Image) -> sitk.Image:
        step = 0.5 * min(image.GetSpacing()) / 2 ** (image.GetDimension() + 1)
        return sitk.CurvatureAnisotropicDiffusion(image, timeStep=step, conductanceParameter=1.0, numberOfIterations=5)


class BlankAird(MapTransform):
    """Set everything outside the head to 0: (channels, d1, d2, slices) images of heads that were not skull-stripped.

    The head is the largest connected piece of the voxels where any channel exceeds a tenth of its 99th percentile, its
    cavities filled slice by slice, so that dark ventricles stay.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key].as_tensor().numpy()
            levels = [0.1 * np.percentile(channel[channel != 0], 99) if channel.any() else 0.0 for channel in image]
            bright = np.any([channel > level for channel, level in zip(image, levels, strict=True)], axis=0)
            pieces, count = ndi.label(bright)
            if count == 0:
                continue
            head = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
            for k in range(head.shape[-1]):
                head[..., k] = ndi.binary_fill_holes(head[..., k])
            d[key] = MetaTensor(torch.as_tensor(np.where(head, image, 0)), meta=dict(d[key].meta))
        return d


class NormalizeNonzerod(MapTransform):
    """``NormalizeIntensityd(nonzero=True, channel_wise=True)`` in place: (channels, d1, d2, d3) contiguous float32.

    Each channel less its mean, by its standard deviation (the population's; 1 where it is 0), both of the voxels other
    than 0, and 0 stays 0. Sums are kept in float64 over parts that fit the cache: they differ from MONAI's in the
    seventh digit, and not with the number of threads.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            for channel in d[key].as_tensor().numpy():
                _normalise(channel.reshape(-1))
        return d


_PART = 2**14  # voxels


def _normalise(values: NDArray[np.float32]) -> None:
    parts = [values[start : start + _PART] for start in range(0, values.size, _PART)]
    n_shown = int(np.count_nonzero(values))
    mean = np.float32(sum(float(part.sum()) for part in parts) / max(n_shown, 1))
    squares = 0.0
    for part in parts:
        shown = part != 0
        part -= mean
        part *= shown
        squares += float(part @ part)
    deviation = np.float32(math.sqrt(squares / max(n_shown, 1))) or np.float32(1)
    for part in parts:
        part /= deviation
        part += 0  # no -0, which is no background to a bit test
