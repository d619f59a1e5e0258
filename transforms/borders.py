"""Unsure borders of a network, moved onto the image's edges by a watershed.

Sure tumour (``probability >= inside``) and sure background (``probability <= outside``) are seeds; the band
between them is flooded from both over the image's gradient magnitude, and the floods meet on its ridges.

Notes
-----
Gradients that differ by less than a thousandth of the strongest one in the component's box count as equal; among
equals the flood is kept off the threshold. So where the image is flat the network's own border stays, but for
voxels on the very ridge, which go to the flood that comes first.
Flooding is over faces, so that it does not slip through a ridge that runs diagonally.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from transforms.postprocess import Mask, bounding_box, label_components
from transforms.watershed import check_lengths, check_probability, flood, grown, to_itk


def refine_by_watershed(
    probability: NDArray[np.floating],
    image: NDArray[np.generic],
    spacing_mm: Sequence[float],
    *,
    inside: float = 0.8,
    outside: float = 0.2,
    threshold: float = 0.5,
    sigma_mm: float = 1.0,
) -> Mask:
    """Move an unsure border of a lesion onto the strongest edges nearby.

    Parameters
    ----------
    probability : (d1, d2, d3) or (d1, d2) float, within 0 and 1
    image : array of the same shape
        One modality in which the lesion's border shows; any units.
    spacing_mm : one positive number an axis
    inside, outside, threshold : float
        ``0 <= outside < threshold < inside <= 1``. The threshold is the network's own border.
    sigma_mm : float, above 0
        Standard deviation of the Gaussian of which the gradient is taken.

    Returns
    -------
    bool array of the same shape
        All of the sure tumour, none of the sure background. A component of ``probability > outside`` without sure
        tumour is thresholded, and so is everything where nothing is sure background.

    Raises
    ------
    ValueError
        Shapes that differ, a probability that is not finite or not within 0 and 1, an image that is not finite, a
        spacing or an option out of range.
    """
    _check(probability, image, spacing_mm, sigma_mm, (outside, threshold, inside))
    result = probability >= threshold
    candidate = probability > outside
    if not candidate.any() or candidate.all():
        return result
    margin = [int(np.ceil(4 * sigma_mm / s)) + 1 for s in spacing_mm]
    frame = grown(bounding_box(candidate), margin)
    components = label_components(candidate[frame]).astype(np.int32)
    for number, tight in enumerate(ndimage.find_objects(components), start=1):
        box = grown(tight, margin)
        near, lesion = probability[frame][box], components[box] == number
        sure = lesion & (near >= inside)
        if not sure.any():
            continue
        markers = np.where(lesion, sure, 2).astype(np.uint8)
        edges = np.rint(1000 * _edges(image[frame][box], spacing_mm, sigma_mm))
        # Whole edge levels are the image's say; the rest, highest on the threshold, decides among equal levels.
        doubt = np.rint(1023 * np.interp(near, [outside, threshold, inside], [0, 1, 0]))
        flooded = flood((1024 * edges + doubt).astype(np.int32), markers, False)
        result[frame][box][lesion] = flooded[lesion] == 1
    return result


def _check(
    probability: NDArray[np.floating],
    image: NDArray[np.generic],
    spacing_mm: Sequence[float],
    sigma_mm: float,
    limits: tuple[float, float, float],
) -> None:
    outside, threshold, inside = limits
    if not 0 <= outside < threshold < inside <= 1:
        raise ValueError(
            f"outside {outside}, threshold {threshold}, inside {inside}: "
            "need 0 <= outside < threshold < inside <= 1, such as 0.2, 0.5, 0.8"
        )
    check_lengths(probability.shape, spacing_mm, sigma_mm=sigma_mm)
    check_probability(probability, probability.shape)
    if image.shape != probability.shape:
        raise ValueError(f"the image is {image.shape}, the probability {probability.shape}; bring both to one grid")
    if not np.isfinite(image).all():
        raise ValueError("the image has voxels that are NaN or infinite; replace them before refining")
    if not sigma_mm:
        raise ValueError("sigma_mm is 0; give the scale of the edges in mm, such as 1.0")


def _edges(image: NDArray[np.generic], spacing_mm: Sequence[float], sigma_mm: float) -> NDArray[np.float32]:
    """Return the image's gradient magnitude, the largest one set to 1.

    A flat image gives all 0.
    """
    values = image.astype(np.float64)
    values = (values - values.min()).astype(np.float32)
    # The recursive filter wants four voxels an axis; repeated edges add no gradient.
    pad = [2 if n < 4 else 0 for n in values.shape]
    padded = to_itk(np.pad(values, [(p, p) for p in pad], mode="edge"))
    padded.SetSpacing([float(s) for s in reversed(spacing_mm)])
    gradient = sitk.GetArrayFromImage(sitk.GradientMagnitudeRecursiveGaussian(padded, sigma_mm))
    gradient = gradient[tuple(slice(p, p + n) for p, n in zip(pad, values.shape, strict=True))]
    return gradient / max(float(gradient.max()), np.finfo(np.float32).tiny)
