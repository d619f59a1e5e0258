"""Rigid or affine registration of one image to another, by mutual information.

Images are arrays on a `data.grid.Grid`. No voxel is interpolated here: what is found is a move in millimetres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from data.grid import Grid
from transforms.registration.move import LPS, Move, affine_transform, matrix_of, rigid_transform

COARSE_MM = 4.0
"""Voxel of the grid on which starts are compared and large moves are found."""
FINE_MM = (4.0, 2.0)
"""Voxels of the levels of a registration, coarse to fine."""
BINS = 32
"""Of the joint histogram, along each axis."""
SAMPLED = {2.0: 0.25}
"""Part of the voxels that a level looks at; all of a coarse one."""
SEED = 1
RADIUS_MM = 60.0
"""Of the ball that moves as far by a turn as the optimiser's steps are long: a brain's."""
TURNS_BELOW = 0.5
"""Mutual information in nats at the coarse level below which the header's position is given up for 24 turns."""
MARGIN_MM = 12.0
"""Around the fixed image's voxels other than 0, in which the metric looks."""
CONTENT = 0.05
"""Of a picture's brightest: what is darker is outside."""
TISSUE_MM = 3.0
"""Around what is left out of the metric: the tissue that a tumour pushes, and a mask's doubtful border."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Image as the registration sees it: clipped, in SimpleITK, on coarse grids.

    Parameters
    ----------
    levels : dict of mm to SimpleITK image
        Averaged to voxels of about so many mm, values from 0 to 1.
    centre_mm : (3,) float64
        Of mass, LPS+.
    left_out : dict of mm to SimpleITK image
        1 where the metric does not look, on the same grids; empty where it looks everywhere.
    """

    levels: dict[float, Any]
    centre_mm: NDArray[np.float64]
    left_out: dict[float, Any] = field(default_factory=dict)


def picture(
    array: NDArray[Any], grid: Grid, levels: Sequence[float] = FINE_MM, *, leave_out: NDArray[np.bool_] | None = None
) -> Picture:
    """Reduce an image for `register` and `small_move`.

    The array is (d1, d2, d3) of any number type.

    Its brightest hundredth (vessels, fat) is cut off. An image of one value is all 0. What changes between visits
    and is to have no say, ``leave_out``, (d1, d2, d3) bool, is left out of the metric with `TISSUE_MM` around it.
    """
    shown = array[::2, ::2, ::2]
    shown = shown[shown != 0]
    low, high = np.percentile(shown, [0.5, 99]) if shown.size else (0.0, 0.0)
    low = min(float(low), 0.0)
    whole = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0), dtype=np.float32))
    _place(whole, grid)
    made = {mm: _shrunk(whole, grid, mm, low, float(high)) for mm in levels}
    left_out = {} if leave_out is None else {mm: _shrunk_mask(leave_out, grid, mm) for mm in levels}
    return Picture(made, _centre(made[max(levels)]), left_out)


def register(fixed: Picture, moving: Picture) -> Move:
    """Find the rigid move that lays ``moving`` on ``fixed``.

    The header's position comes first, then the centres of mass, then 24 turns where neither fits. The same pictures
    give the same move.
    """
    starts = [np.eye(4), _shift(moving.centre_mm - fixed.centre_mm)]
    found = max((_search(fixed, moving, start, COARSE_MM) for start in starts), key=lambda each: each[1])
    if found[1] < TURNS_BELOW:
        turned = [_about(turn, fixed.centre_mm, moving.centre_mm) for turn in _turns()]
        best = sorted(turned, key=lambda start: -_information(fixed, moving, start, COARSE_MM))[:4]
        found = max((found, *(_search(fixed, moving, start, COARSE_MM) for start in best)), key=lambda each: each[1])
    for mm in sorted(fixed.levels, reverse=True)[1:]:
        found = _search(fixed, moving, found[0], mm)
    return _move(fixed, *found, _overlap(fixed, moving, found[0]))


def register_head(fixed: Picture, moving: Picture) -> Move:
    """Find the affine move that lays ``moving`` on ``fixed``, another head.

    It starts with the centres of mass together, and the axes as the headers have them. The same pictures give the same
    move.
    """
    found = _search(fixed, moving, _shift(moving.centre_mm - fixed.centre_mm), COARSE_MM)
    for mm in sorted(fixed.levels, reverse=True):
        found = _stretch(fixed, moving, found[0], mm)
    return _move(fixed, *found, _overlap(fixed, moving, found[0]))


def small_move(fixed: Picture, moving: Picture) -> tuple[Move, float]:
    """Return the best small move on the coarse grid.

    The mutual information where the images are comes with it.
    """
    here = _information(fixed, moving, np.eye(4), COARSE_MM)
    return _move(fixed, *_search(fixed, moving, np.eye(4), COARSE_MM)), here


def overlap(fixed: Picture, moving: Picture, move: Move) -> float:
    """Return the Dice of both images' content after a move.

    It is taken on the coarse grid; 0 of nothing.
    """
    return _overlap(fixed, moving, LPS @ move.matrix @ LPS)


def _move(fixed: Picture, matrix: NDArray[np.float64], information: float, overlap: float = math.nan) -> Move:
    return Move(LPS @ matrix @ LPS, (LPS[:3, :3] @ fixed.centre_mm), information, overlap)


def _overlap(fixed: Picture, moving: Picture, matrix: NDArray[np.float64]) -> float:
    there, middle_mm = fixed.levels[COARSE_MM], fixed.centre_mm
    laid = sitk.Resample(moving.levels[COARSE_MM], there, affine_transform(matrix, middle_mm), sitk.sitkLinear, 0.0)
    one, other = (sitk.GetArrayViewFromImage(image) > CONTENT for image in (there, laid))
    return 2 * int(np.count_nonzero(one & other)) / max(int(np.count_nonzero(one)) + int(np.count_nonzero(other)), 1)


def _place(image: Any, grid: Grid) -> None:
    affine = LPS @ grid.affine
    spacing = np.array(grid.spacing_mm)
    # A sheared affine has no place in ITK: the nearest rotation stands for it.
    u, _, v = np.linalg.svd(affine[:3, :3] / spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((u @ v).ravel().tolist())


def _shrunk(whole: Any, grid: Grid, mm: float, low: float, high: float) -> Any:
    small = _averaged(whole, grid, mm)
    scaled = sitk.Clamp(small, sitk.sitkFloat32, low, max(high, low))
    return (scaled - low) / max(high - low, 1e-6)


def _averaged(whole: Any, grid: Grid, mm: float) -> Any:
    factors = [max(1, min(round(mm / own), n)) for own, n in zip(grid.spacing_mm, grid.shape, strict=True)]
    return sitk.BinShrink(whole, factors) if max(factors) > 1 else whole


def _shrunk_mask(mask: NDArray[np.bool_], grid: Grid, mm: float) -> Any:
    whole = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0), dtype=np.float32))
    _place(whole, grid)
    return _grown(_averaged(whole, grid, mm) > 0, TISSUE_MM)


def _grown(mask: Any, by_mm: float) -> Any:
    return sitk.BinaryDilate(mask, [max(1, round(by_mm / mm)) for mm in mask.GetSpacing()], sitk.sitkBall)


def _centre(image: Any) -> NDArray[np.float64]:
    weights = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0).astype(np.float64)
    total = weights.sum()
    if total <= 0:
        index = (np.array(weights.shape) - 1) / 2
    else:
        axes = [weights.sum(axis=tuple({0, 1, 2} - {k})) for k in range(3)]
        index = np.array([float(side @ np.arange(len(side))) / total for side in axes])
    return np.array(image.TransformContinuousIndexToPhysicalPoint(index.tolist()))


def _shift(by_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = by_mm
    return matrix


def _about(turn: NDArray[np.float64], fixed_mm: NDArray[np.float64], moving_mm: NDArray[np.float64]) -> Any:
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = moving_mm - turn @ fixed_mm
    return matrix


def _turns() -> list[NDArray[np.float64]]:
    """Return the 24 turns of a cube, as 3x3 matrices."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if np.linalg.det(turn) > 0:
                found.append(turn)
    return found


def _method(fixed: Picture, moving: Picture, mm: float, unit_mm: float = 1.0) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    # Threads would add in another order, and another sum is another move.
    method.SetNumberOfThreads(1)
    method.SetGlobalDefaultNumberOfThreads(1)
    mask = _around_content(fixed.levels[mm])
    if mm in fixed.left_out:
        within = fixed.left_out[mm] == 0
        mask = within if mask is None else sitk.And(mask, within)
    if mask is not None:
        method.SetMetricFixedMask(_in_units(mask, unit_mm))
    if mm in moving.left_out:
        method.SetMetricMovingMask(_in_units(moving.left_out[mm] == 0, unit_mm))
    return method


def _around_content(image: Any) -> Any:
    """Return a mask of the content and a margin; None where that is nearly all."""
    shown = sitk.GetArrayViewFromImage(image) > CONTENT
    if not 0 < shown.sum() < 0.6 * shown.size:
        return None
    mask = sitk.GetImageFromArray(shown.astype(np.uint8))
    mask.CopyInformation(image)
    return _grown(mask, MARGIN_MM)


def _information(fixed: Picture, moving: Picture, start: NDArray[np.float64], mm: float) -> float:
    method = _method(fixed, moving, mm)
    method.SetInitialTransform(rigid_transform(start, fixed.centre_mm))
    try:
        return -float(method.MetricEvaluate(fixed.levels[mm], moving.levels[mm]))
    except RuntimeError:  # the images do not overlap
        return 0.0


def _search(
    fixed: Picture, moving: Picture, start: NDArray[np.float64], mm: float
) -> tuple[NDArray[np.float64], float]:
    """Climb from a start at one level; the matrix is in LPS."""
    method = _method(fixed, moving, mm)
    euler = rigid_transform(start, fixed.centre_mm)
    method.SetInitialTransform(euler, inPlace=True)
    _step(method, mm, mm)
    # SimpleITK's own scales go by the corners of the image, which turn twice as far as a brain: turns then stop short.
    method.SetOptimizerScales([RADIUS_MM**2] * 3 + [1.0] * 3)
    try:
        method.Execute(fixed.levels[mm], moving.levels[mm])
    except RuntimeError:
        return start, 0.0
    return matrix_of(euler), -float(method.GetMetricValue())


def _stretch(
    fixed: Picture, moving: Picture, start: NDArray[np.float64], mm: float
) -> tuple[NDArray[np.float64], float]:
    """Climb by affine moves at one level; the matrix is in LPS."""
    # In units of the radius a step of the matrix moves a brain as far as one of the shift. Scales would not do: where
    # the shift is right already, the optimiser makes the step of the matrix alone as long as that of both.
    units = np.diag([1 / RADIUS_MM] * 3 + [1.0])
    images = [_in_units(picture.levels[mm], RADIUS_MM) for picture in (fixed, moving)]
    method = _method(fixed, moving, mm, RADIUS_MM)
    affine = affine_transform(units @ start @ np.linalg.inv(units), fixed.centre_mm / RADIUS_MM)
    method.SetInitialTransform(affine, inPlace=True)
    _step(method, mm, mm / RADIUS_MM)
    try:
        method.Execute(*images)
    except RuntimeError:
        return start, 0.0
    return np.linalg.inv(units) @ matrix_of(affine) @ units, -float(method.GetMetricValue())


def _in_units(image: Any, unit_mm: float) -> Any:
    scaled = sitk.Image(image)
    scaled.SetSpacing([step / unit_mm for step in image.GetSpacing()])
    scaled.SetOrigin([place / unit_mm for place in image.GetOrigin()])
    return scaled


def _step(method: Any, mm: float, length: float) -> None:
    """Set the optimiser of a level, and the voxels that it looks at."""
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=length,
        minStep=length / 100,
        numberOfIterations=100,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-6,
    )
    if mm in SAMPLED:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(SAMPLED[mm], SEED)
