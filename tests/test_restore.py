"""Resampling: exact where nothing has to be interpolated, and what scipy and SimpleITK compute elsewhere."""

from __future__ import annotations

import itertools
import math

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from data.grid import Grid
from transforms.restore import axis_weights, copy_planes, grid_at_spacing, resample_to, restore

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(["RL", "AP", "SI"]) for letters in itertools.product(*axes)
]
FINER = st.floats(0.2, 0.98) | st.just(1.0)  # nearer to 1 it may be the same to within a thousandth of a millimetre
ANGLES = st.tuples(*[st.floats(-0.5, 0.5)] * 3)


def noise(shape: tuple[int, ...], channels: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).random((channels, *shape), dtype=np.float32))


def rotated(angles: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]) -> NDArray[np.float64]:
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) @ np.diag(spacing), origin)


def centred(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Grid:
    """The grid whose middle lies at the origin of the world."""
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def by_scipy(image: torch.Tensor, source: Grid, target: Grid) -> NDArray[np.float64]:
    """Linear interpolation at the target's voxel centres; 0 outside the outermost centres."""
    indices = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij")).reshape(3, -1)
    to_source = np.linalg.inv(source.affine) @ target.affine
    points = to_source[:3, :3] @ indices + to_source[:3, 3:]
    return np.stack(
        [ndimage.map_coordinates(c.numpy().astype(float), points, order=1).reshape(target.shape) for c in image]
    )


# ---------------------------------------------------------------------------------------------- no interpolation


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.3)], ids=["straight", "oblique"])
def test_the_round_trip_over_every_orientation_is_exact_to_the_bit(codes: str, angles) -> None:
    grid = Grid((5, 6, 7), rotated(angles, (0.9, 1.1, 3.0), (-80.0, 95.5, -60.0)))
    image, other = noise(grid.shape), grid.reoriented(codes)
    there = resample_to(image, grid, other)
    expected = nib.orientations.apply_orientation(np.moveaxis(image.numpy(), 0, -1), grid.orientation_to(codes))
    assert np.array_equal(there.numpy(), np.moveaxis(expected, -1, 0))
    assert torch.equal(resample_to(there, other, grid), image)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.tuples(st.integers(-3, 4), st.integers(1, 8))] * 3),
    st.sampled_from(ORIENTATIONS),
    ANGLES,
    st.tuples(*[st.floats(0.3, 4)] * 3),
)
def test_crops_and_pads_move_voxels_and_never_change_them(shape, window, codes, angles, spacing) -> None:
    grid = Grid(shape, rotated(angles, spacing, (3.0, -40.0, 12.5)))
    image = noise(shape, 1)
    shifted = grid.affine.copy()
    shifted[:3, 3] += grid.affine[:3, :3] @ [start for start, _ in window]
    other = Grid(tuple(n for _, n in window), shifted)
    expected = np.zeros(other.shape, np.float32)
    for index in np.ndindex(*other.shape):
        at = [i + start for i, (start, _) in zip(index, window, strict=True)]
        if all(0 <= a < n for a, n in zip(at, shape, strict=True)):
            expected[index] = image[(0, *at)]
    there = resample_to(image, grid, other)
    assert np.array_equal(there[0].numpy(), expected)
    turned = other.reoriented(codes)
    assert torch.equal(resample_to(resample_to(image, grid, turned), turned, other), there)
    around = Grid(tuple(n + 4 for n in shape), grid.affine @ nib.affines.from_matvec(np.eye(3), [-2, -1, 0]))
    around = around.reoriented(codes)
    assert torch.equal(resample_to(resample_to(image, grid, around), around, grid), image)


def test_an_affine_that_is_off_in_the_seventh_digit_as_in_files_still_means_no_interpolation() -> None:
    grid = Grid((40, 30, 20), np.diag([1.0, 1.0, 1.0, 1.0]))
    stored = Grid((40, 30, 20), np.diag([1.0 + 1e-7, 1.0 - 1e-7, 1.0, 1.0]) + 1e-6 * np.eye(4, k=3))
    image = noise(grid.shape, 1)
    assert torch.equal(resample_to(image, grid, stored), image)


def test_a_grid_that_lies_elsewhere_gets_zeros() -> None:
    image = noise((3, 4, 5)) + 1
    away = np.diag([1.0, 1.0, 1.0, 1.0])
    away[1, 3] = 100
    for spacing in (1.0, 0.7):
        target = Grid((4, 6, 2), away @ np.diag([spacing, spacing, spacing, 1]))
        there = resample_to(image, Grid((3, 4, 5), np.eye(4)), target)
        assert there.shape == (2, 4, 6, 2) and not there.any()


def test_an_image_that_does_not_lie_on_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4, 6\) does not lie on a grid of shape \(3, 4, 5\)"):
        resample_to(noise((3, 4, 6)), Grid((3, 4, 5), np.eye(4)), Grid((3, 4, 5), np.eye(4)))


# ------------------------------------------------------------------------------------------------- interpolation


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    ANGLES,
    st.tuples(*[FINER] * 3),
    st.tuples(*[st.floats(0.01, 0.4) | st.just(0.0)] * 3),
)
def test_going_finer_is_linear_interpolation_as_scipy_computes_it(codes, angles, steps, shift) -> None:
    grid = centred((9, 8, 7), rotated(angles, (2.0, 1.5, 3.0), (0.0, 0.0, 0.0)))
    scale = nib.affines.from_matvec(np.diag(steps), np.array([2.0, 2.0, 2.0]) + shift)
    target = Grid((5, 4, 3), grid.affine @ scale).reoriented(codes)  # well inside
    image = noise(grid.shape)
    np.testing.assert_allclose(resample_to(image, grid, target).numpy(), by_scipy(image, grid, target), atol=2e-6)


def ramp(on: Grid, slope: tuple[float, ...]) -> NDArray[np.float64]:
    """A value that grows linearly in the world."""
    indices = np.stack(np.meshgrid(*map(np.arange, on.shape), indexing="ij"), axis=-1)
    return (indices @ on.affine[:3, :3].T + on.affine[:3, 3]) @ np.array(slope) + 10


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[FINER | st.sampled_from([2.0, 3.0])] * 3),
    st.tuples(*[st.floats(-1, 1)] * 3),
)
def test_a_linear_ramp_stays_that_ramp_when_going_finer_or_to_whole_multiples(codes, factors, slope) -> None:
    own = np.array([1.5, 1.0, 2.0])
    grid = centred((24, 22, 20), np.diag([*own, 1.0]))
    target = centred((4, 4, 4), np.diag([*(own * factors), 1.0])).reoriented(codes)
    there = resample_to(torch.as_tensor(ramp(grid, slope))[None], grid, target)
    np.testing.assert_allclose(there[0].numpy(), ramp(target, slope), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ORIENTATIONS), st.tuples(*[st.floats(1.0, 3.0)] * 3), st.tuples(*[st.floats(-0.5, 0.5)] * 3))
def test_averaging_moves_nothing_by_more_than_a_tenth_of_a_voxel(codes, factors, shift) -> None:
    # A triangle filter of any width, sampled at voxels, has its centre of mass not quite in its middle.
    grid = centred((24, 22, 20), np.eye(4))
    target = centred((4, 4, 4), np.diag([*factors, 1.0]))
    target = Grid(target.shape, target.affine + np.array([[0, 0, 0, s] for s in (*shift, 0)])).reoriented(codes)
    for slope in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        there = resample_to(torch.as_tensor(ramp(grid, slope))[None], grid, target)
        np.testing.assert_allclose(there[0].numpy(), ramp(target, slope), atol=0.1, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.floats(0.4, 4)] * 3), st.sampled_from(ORIENTATIONS))
def test_a_constant_stays_constant_and_probabilities_stay_probabilities_up_to_the_border(shape, spacing, codes) -> None:
    grid = Grid(shape, np.diag([1.0, 1.3, 0.8, 1.0]))
    finer = grid_at_spacing(grid, spacing).reoriented(codes)
    # A grid of larger voxels may stick out by part of a voxel; a constant has nothing to tell us beyond half a voxel.
    there = resample_to(torch.ones(1, *shape), grid, finer)
    centres = np.stack(np.meshgrid(*map(np.arange, finer.shape), indexing="ij"), axis=-1)
    to_source = np.linalg.inv(grid.affine) @ finer.affine
    at = centres @ to_source[:3, :3].T + to_source[:3, 3]
    inside = ((at > -0.5) & (at < np.array(shape) - 0.5)).all(axis=-1)
    np.testing.assert_allclose(there[0].numpy()[inside], 1.0, atol=1e-6)
    back = resample_to(torch.rand(2, *shape), grid, finer)
    assert back.min() >= 0 and back.max() <= 1 + 1e-6


def test_averaging_from_one_to_two_millimetres_by_hand_and_the_mean_is_kept() -> None:
    # A voxel of 2 mm centred between 1 mm voxels 2 and 3: triangle of half-width 2 at distances 1.5, .5, .5, 1.5,
    # so 1/4, 3/4, 3/4, 1/4, divided by their sum: 1/8, 3/8, 3/8, 1/8.
    row = axis_weights(6, np.array([2.5]), 2.0)[0]
    np.testing.assert_allclose(row, [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0])
    # At the border the missing part is left out: 3/4, 3/4, 1/4 over 7/4.
    np.testing.assert_allclose(axis_weights(6, np.array([0.5]), 2.0)[0], [3 / 7, 3 / 7, 1 / 7, 0, 0, 0])
    grid = Grid((32, 32, 32), np.eye(4))
    coarse = grid_at_spacing(grid, (2.0, 2.0, 2.0))
    image = torch.zeros(1, 32, 32, 32)
    image[:, 8:24, 8:24, 8:24] = noise((16, 16, 16), 1)
    there = resample_to(image, grid, coarse)
    assert coarse.shape == (16, 16, 16)
    # Away from the border every voxel gives all of itself: the sum over voxels of eight times the volume is an eighth.
    assert there.sum().item() * 8 == pytest.approx(image.sum().item(), rel=1e-5)


def test_a_checkerboard_averages_to_grey_and_does_not_alias() -> None:
    board = (np.indices((16, 16, 16)).sum(axis=0) % 2).astype(np.float32)
    grid = Grid((16, 16, 16), np.eye(4))
    there = resample_to(torch.as_tensor(board)[None], grid, grid_at_spacing(grid, (2.0, 2.0, 2.0)))
    np.testing.assert_allclose(there[0, 1:-1, 1:-1, 1:-1].numpy(), 0.5, atol=1e-6)


# ------------------------------------------------------------------------------------------------- rotated grids


def to_sitk(array: NDArray[np.float32], grid: Grid) -> sitk.Image:
    """SimpleITK has the world in LPS and arrays in reverse."""
    image = sitk.GetImageFromArray(array.T)
    flip = np.diag([-1.0, -1.0, 1.0])
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(tuple(flip @ grid.affine[:3, 3]))
    image.SetDirection(tuple((flip @ grid.affine[:3, :3] / np.array(grid.spacing_mm)).ravel()))
    return image


@settings(max_examples=20, deadline=None)
@given(ANGLES.filter(lambda a: max(map(abs, a)) > 0.05), st.sampled_from(ORIENTATIONS))
def test_rotated_grids_are_what_scipy_and_simpleitk_compute(angles, codes) -> None:
    source = centred((12, 11, 10), np.diag([1.0, 1.2, 1.5, 1.0]))
    target = centred((6, 5, 4), rotated(angles, (0.9, 1.0, 1.1), (0.0, 0.0, 0.0))).reoriented(codes)
    image = noise(source.shape)
    there = resample_to(image, source, target).numpy()
    np.testing.assert_allclose(there, by_scipy(image, source, target), atol=1e-5)
    moved = sitk.Resample(
        to_sitk(image[0].numpy(), source),
        to_sitk(np.zeros(target.shape, np.float32), target),
        sitk.Transform(),
        sitk.sitkLinear,
        0.0,
    )
    np.testing.assert_allclose(there[0], sitk.GetArrayFromImage(moved).T, atol=1e-5)


def test_a_rotation_of_less_than_a_thousandth_of_a_millimetre_is_none() -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    turned = Grid((10, 10, 10), rotated((0.0, 0.0, 5e-5), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    image = noise(grid.shape)
    assert torch.equal(resample_to(image, grid, turned), image)


# ------------------------------------------------------------------------------------------------ working grids


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*[st.integers(1, 60)] * 3),
    ANGLES,
    st.tuples(*[st.floats(0.3, 6)] * 3),
    st.tuples(*[st.none() | st.floats(0.5, 5)] * 3),
)
def test_the_grid_at_a_spacing_covers_the_box_centred_with_exactly_that_spacing(shape, angles, own, wanted) -> None:
    grid = Grid(shape, rotated(angles, own, (10.0, -20.0, 30.0)))
    new = grid_at_spacing(grid, wanted)
    for axis in range(3):
        aim = own[axis] if wanted[axis] is None else wanted[axis]
        # A spacing that adds up to less than 1e-3 mm over the whole box is the own one.
        assert new.spacing_mm[axis] == pytest.approx(aim, abs=1e-3 / shape[axis] + 1e-9)
        box, new_box = shape[axis] * own[axis], new.shape[axis] * new.spacing_mm[axis]
        assert new_box >= box - 2e-4 * new.spacing_mm[axis] - 1e-3
        assert new_box < box + new.spacing_mm[axis] + 1e-3
    middles = [g.affine @ [*((np.array(g.shape) - 1) / 2), 1] for g in (grid, new)]
    np.testing.assert_allclose(middles[0], middles[1], atol=1e-6)
    directions = [g.affine[:3, :3] / g.spacing_mm for g in (grid, new)]
    np.testing.assert_allclose(directions[0], directions[1], atol=1e-9)


def test_working_grids_by_hand() -> None:
    head = Grid((240, 240, 155), np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert grid_at_spacing(head, (2.0, 2.0, 2.0)).shape == (120, 120, 78)  # 77.5 voxels of 2 mm
    assert grid_at_spacing(head, (1.0, 1.0, None)).matches(head)
    # Two voxels of 1 mm have their middle at .5, and so has the one of 2 mm.
    assert grid_at_spacing(Grid((2, 2, 2), np.eye(4)), (2.0, 2.0, 2.0)).affine[:3, 3].tolist() == [0.5, 0.5, 0.5]
    unknown = Grid((4, 4, 4), np.eye(4), spacing_known=False)
    assert not grid_at_spacing(unknown, (2.0, 2.0, 2.0)).spacing_known


# ------------------------------------------------------------------------------------------------------ restore


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.sampled_from([(1.0, 1.0, 1.0), (0.9375, 0.9375, 1.2), (0.47, 0.47, 5.0)]),
    st.sampled_from([(2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (1.5, 1.5, None)]),
    st.sampled_from([(0.0, 0.0, 0.0), (0.1, 0.2, -0.15)]),
    st.integers(0, 5),
)
def test_a_patient_stored_in_another_orientation_gets_the_same_bits_back(codes, own, wanted, angles, seed) -> None:
    affine = rotated(angles, own, (-90.0, -126.0, -72.0)).astype(np.float32)  # as a file stores it
    first = Grid((9, 10, 6), affine)
    image = noise(first.shape, 2, seed)
    answers = []
    for native in (first, first.reoriented(codes)):
        stored = resample_to(image, first, native)
        turned = native.reoriented("RAS")
        working = grid_at_spacing(turned, wanted)
        seen = resample_to(resample_to(stored, native, turned), turned, working)
        back = restore(seen, working, native)
        assert back.shape == (2, *native.shape)
        answers.append(resample_to(back, native, first))
    assert torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR", "SLP"])
def test_restoring_a_crop_fills_zeros_around_it_and_without_resampling_gives_the_bits_back(codes: str) -> None:
    native = Grid((8, 9, 7), np.diag([-1.0, -1.0, 2.0, 1.0]))
    image = torch.zeros(1, *native.shape)
    image[:, 2:5, 3:8, 1:6] = noise((3, 5, 5), 1) + 0.1
    cropped = Grid((3, 5, 5), native.affine @ nib.affines.from_matvec(np.eye(3), [2, 3, 1])).reoriented(codes)
    assert torch.equal(restore(resample_to(image, native, cropped), cropped, native), image)


def test_a_ball_that_goes_to_two_millimetres_and_back_keeps_its_volume_and_place() -> None:
    native = Grid((40, 40, 30), np.diag([-1.0, -1.0, 1.0, 1.0]))
    x, y, z = np.indices(native.shape)
    ball = ((x - 21) ** 2 + (y - 17) ** 2 + (z - 14) ** 2 <= 64).astype(np.float32)
    working = grid_at_spacing(native.reoriented("RAS"), (2.0, 2.0, 2.0))
    back = restore(resample_to(torch.as_tensor(ball)[None], native, working), working, native)[0].numpy()
    assert back.sum() == pytest.approx(ball.sum(), rel=1e-4)
    mask = back >= 0.5
    assert 2 * (mask & (ball > 0)).sum() / (mask.sum() + ball.sum()) > 0.94
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), [21, 17, 14], atol=0.1)
    assert math.isclose(native.voxel_volume_ml, 0.001)


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.3, 0.7)])
def test_restoring_is_two_resamplings_to_the_bit_whatever_lies_outside(codes: str, spacing) -> None:
    native = Grid((24, 20, 18), rotated((0.2, -0.1, 0.3), (1.0, 1.1, 1.2), (-80.0, 95.5, -60.0)))
    along = native.reoriented("RAS")
    shift = nib.affines.from_matvec(np.eye(3), [3, -2, 5])  # one side sticks out
    working = grid_at_spacing(Grid((16, 12, 10), along.affine @ shift), spacing)
    image = noise(working.shape, 3)
    turned = native.reoriented(codes)
    expected = resample_to(resample_to(image, working, turned.reoriented("RAS")), turned.reoriented("RAS"), turned)
    back = restore(image, working, turned)
    assert back.dtype == torch.float32 and back.permute(0, 3, 2, 1).is_contiguous()  # as in a NIfTI file
    assert torch.equal(back, expected) and back.any()


@pytest.mark.parametrize("orders", itertools.product(itertools.permutations(range(3)), repeat=2))
def test_a_copy_between_any_two_memory_orders_is_the_same_voxels_as_the_targets_type(orders) -> None:
    shape = (3, 4, 5)
    source, target = (
        np.zeros([shape[axis] for axis in order], kind).transpose(np.argsort(order))
        for order, kind in zip(orders, (np.int16, np.float32), strict=True)
    )
    source[:] = np.arange(60).reshape(shape)
    copy_planes(source[:, ::-1], target)
    assert target.dtype == np.float32 and np.array_equal(target, np.arange(60).reshape(shape)[:, ::-1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.31, 0.5, 1.7, 2.0])
def test_an_axis_is_the_product_with_all_of_its_weights(axis: int, factor: float) -> None:
    shape = [5, 6, 7]
    shape[axis] = 70
    grid = Grid(tuple(shape), np.eye(4))
    aim: list[float | None] = [None] * 3
    aim[axis] = factor
    target = grid_at_spacing(grid, tuple(aim))
    first = float(target.affine[axis, 3])
    inside = first + factor * np.arange(target.shape[axis])
    inside = inside[(inside > -0.5 - 1e-6) & (inside < 69.5 + 1e-6)]
    image = noise(grid.shape)
    expected = np.moveaxis(np.tensordot(axis_weights(70, inside, factor), image.numpy(), (1, axis + 1)), 0, axis + 1)
    there = resample_to(image, grid, target).numpy()
    missing = there.shape[axis + 1] - expected.shape[axis + 1]
    there = np.take(there, np.arange(missing // 2, missing // 2 + len(inside)), axis + 1)
    np.testing.assert_allclose(there, expected, atol=1e-6)
