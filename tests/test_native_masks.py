"""Masks on further grids: hand-made moves of cubes, of which every voxel is worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import torch

from data.grid import Grid
from data.labels import load_convention
from pipeline.config import parse_config
from pipeline.predict.region_masks import Answer, Own, labels_elsewhere, to_labels
from tests.conftest import cascade_settings
from transforms.postprocess import kept_elsewhere
from transforms.registration.move import Move
from transforms.restore import average_to, resample_to

REGIONS = ("WT", "TC", "ET")
OWN = Grid((20, 24, 16), np.eye(4))
CUBE = (slice(4, 10), slice(6, 11), slice(3, 8))
"""6 x 5 x 5 voxels of 1 mm."""


def shift(*mm: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = mm
    return matrix


QUARTER = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
"""Turn by 90 degrees about z: x goes to y, y to -x."""


def config(**postprocess):
    settings = {**cascade_settings(), "name": "tiny"}
    settings.pop("first")
    settings["network"] = {**settings["network"], "in_channels": 4}
    return parse_config(settings | {"postprocess": {"min_component_ml": {}, **postprocess}}, "test")


def answer(**boxes) -> dict[str, np.ndarray]:
    """Probabilities of 1 in boxes of each region; a region that is not named is that of the next outer one."""
    found, last = {}, ()
    for region in REGIONS:
        last = boxes.get(region, last)
        found[region] = np.zeros(OWN.shape, np.float32)
        for box in last:
            found[region][box] = 1
    return found


def elsewhere(grid: Grid, probabilities, settings=None, convention="brats2023", **own):
    """The label map on another grid, of one model that answers on the case's own grid."""
    settings = settings or config()
    label_map, masks, written = to_labels(settings, "tiny", probabilities, OWN, None, convention)
    answers = [Answer(torch.from_numpy(np.stack(list(probabilities.values()))), OWN, REGIONS)]
    main = Own(OWN, label_map, written, masks, probabilities, **own)
    return labels_elsewhere(settings, answers, main, grid), label_map


def laid(move: np.ndarray, grid: Grid) -> Grid:
    """Where an image's voxels belong, which was moved by ``move``: what registration finds."""
    return Move(move, np.zeros(3), 1.0).lay(grid)


def where(mask: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, np.argwhere(mask).tolist()))


def test_a_grid_of_the_same_voxels_has_the_same_mask_in_any_order_of_axes():
    probabilities = answer(WT=[CUBE], ET=[(slice(5, 8), slice(7, 9), slice(4, 6))])
    there, own = elsewhere(Grid(OWN.shape, OWN.affine), probabilities)
    assert np.array_equal(there, own) and there.any()
    turned = OWN.reoriented("PSL")  # y backwards, z, x backwards
    there, own = elsewhere(turned, probabilities)
    assert np.array_equal(there, own.transpose(1, 2, 0)[::-1, :, ::-1])


def test_on_the_same_voxels_nothing_is_computed_anew():
    probabilities = answer(WT=[CUBE])
    _, masks, written = to_labels(config(), "tiny", probabilities, OWN, None, None)
    written_otherwise = np.zeros(OWN.shape, np.uint8)
    written_otherwise[1, 2, 3] = 2
    own = Own(OWN, written_otherwise, written, masks, probabilities)
    answers = [Answer(torch.from_numpy(np.stack(list(probabilities.values()))), OWN, REGIONS)]
    assert np.array_equal(labels_elsewhere(config(), answers, own, Grid(OWN.shape, OWN.affine)), written_otherwise)


def test_an_image_that_was_shifted_by_whole_voxels_has_the_cube_as_many_voxels_further():
    # A place p of the case is at p + (3, -2, 4) mm in the image, so that voxel (4, 6, 3) is there (7, 4, 7).
    there, own = elsewhere(laid(shift(3, -2, 4), Grid(OWN.shape, np.eye(4))), answer(WT=[CUBE]))
    expected = np.zeros(OWN.shape, np.uint8)
    expected[7:13, 4:9, 7:12] = 3
    assert np.array_equal(there, expected) and own[4, 6, 3] == 3


def test_an_image_that_was_turned_by_90_degrees_has_the_cube_turned():
    # The case's (x, y, z) lies at (-y, x, z) in the image; voxel i of the image is at x = i - 23.
    image = Grid((24, 20, 16), shift(-23, 0, 0))
    there, _ = elsewhere(laid(QUARTER, image), answer(WT=[CUBE]))
    expected = {(23 - y, x, z) for x in range(4, 10) for y in range(6, 11) for z in range(3, 8)}
    assert where(there) == expected


def test_an_image_of_half_the_voxels_halves_the_cube_by_its_centres():
    # Voxel (i, j, k) of 2 mm has its centre at .5 + 2 i: between two voxels, and a triangle of 2 mm to either side.
    # Along x the cube is 4..9: at i = 1 (2.5 mm) a weight of (.25) is inside, at i = 2 (4.5 mm) .875, at 4 (8.5) .875.
    image = Grid((10, 12, 8), np.diag([2.0, 2, 2, 1]) + shift(0.5, 0.5, 0.5) - np.eye(4))
    box = (slice(4, 10), slice(6, 12), slice(4, 8))
    there, _ = elsewhere(image, answer(WT=[box]))
    assert where(there) == {(i, j, k) for i in (2, 3, 4) for j in (3, 4, 5) for k in (2, 3)}


def test_probabilities_are_interpolated_not_masks():
    # .9 and .4 side by side: half a voxel between them is .65, and of a mask it would be .5 as anywhere.
    probabilities = answer(WT=[CUBE])
    for region in probabilities.values():
        region[region > 0] = 0.9
    probabilities["WT"][10, 6:11, 3:8] = 0.4  # below the threshold here
    half = Grid(OWN.shape, shift(0.5, 0, 0))
    there, own = elsewhere(half, probabilities)
    assert own[10, 8, 5] == 0
    assert there[9, 8, 5] == 2, ".65 at 9.5 mm"
    assert there[10, 8, 5] == 0, ".2 at 10.5 mm"
    assert there[3, 8, 5] == 0, ".45 at 3.5 mm"


def test_several_models_are_averaged_there_too_and_regions_lie_in_each_other():
    probabilities = answer(WT=[CUBE])
    label_map, masks, written = to_labels(config(), "both", probabilities, OWN, None, None)
    sure, unsure, none = (torch.from_numpy(np.stack(list(probabilities.values()))) * p for p in (0.9, 0.3, 0.2))
    both = [Answer(sure, OWN, REGIONS), Answer(unsure, Grid(OWN.shape, np.eye(4)), REGIONS)]
    own = Own(OWN, label_map, written, masks, probabilities)
    image = laid(shift(1, 0, 0), Grid(OWN.shape, np.eye(4)))
    found = labels_elsewhere(config(), both, own, image)
    assert where(found) == {(x + 1, y, z) for x, y, z in where(masks["WT"])}  # .6
    assert not labels_elsewhere(config(), [both[1], both[1]], own, image).any()  # .3, though both together are .6
    alone = [Answer(none * 0, OWN, REGIONS), Answer(none * 5, OWN, REGIONS)]  # one of two sees nothing at all
    for answers in (alone, alone[::-1]):
        assert np.array_equal(labels_elsewhere(config(), answers, own, image), found)


def test_a_region_does_not_reach_beyond_the_one_around_it_between_the_voxels():
    # A quarter of a voxel beyond the cube's last voxel WT has .75 x .6 = .45, and TC, which goes on in the own
    # probabilities though not in the mask, has 1.
    probabilities = answer(WT=[CUBE])
    probabilities["WT"][CUBE] = 0.6
    probabilities["TC"][10:13, 6:11, 3:8] = 1
    quarter = Grid(OWN.shape, shift(0.25, 0, 0))
    assert where(elsewhere(quarter, probabilities)[0]) == {v for v in where(answer(WT=[CUBE])["WT"]) if v[0] < 9}
    assert elsewhere(quarter, probabilities, config(nest=False))[0][9, 8, 5]


def test_on_much_finer_voxels_the_cube_reaches_half_a_voxel_beyond_its_outermost_middles():
    fine = Grid((80, 24, 16), shift(3.05, 0, 0) @ np.diag([0.1, 1, 1, 1]))
    there, _ = elsewhere(fine, answer(WT=[CUBE]))
    assert where(there[:, 8:9, 5:6]) == {(i, 0, 0) for i in range(5, 65)}  # from 3.55 to 9.45 mm


SPECK = (slice(15, 18), slice(18, 21), slice(10, 13))
"""27 voxels, .027 ml."""


def test_a_speck_that_post_processing_dropped_is_dropped_everywhere_and_none_other_is():
    probabilities = answer(WT=[CUBE, SPECK])
    settings = config(min_component_ml={"WT": 0.05})
    fine = Grid((40, 48, 32), np.diag([0.5, 0.5, 0.5, 1]))
    coarse = Grid((10, 12, 8), np.diag([2.0, 2, 2, 1]))
    for grid in (fine, coarse, laid(shift(3, 2, 1), OWN)):
        everything, _ = elsewhere(grid, probabilities, config())
        there, own = elsewhere(grid, probabilities, settings)
        speck = {v for v in where(everything) if (grid.affine @ [*v, 1])[0] > 12}
        assert speck, "it would be there"
        assert where(there) == where(everything) - speck
    # The cube has .150 ml here and 3 x 3 x 2 voxels of .008 ml there: it stays, though .144 ml would be too few.
    smaller, own = elsewhere(coarse, probabilities, config(min_component_ml={"WT": 0.146}))
    assert (np.count_nonzero(own), np.count_nonzero(smaller)) == (150, 18)


def test_a_voxel_follows_the_nearest_one_of_the_own_grid():
    before = np.zeros((20, 3, 3), bool)
    before[2:6, 1, 1] = before[8:10, 1, 1] = True
    after = before.copy()
    after[8:10] = False
    own = Grid(before.shape, np.eye(4))
    found = np.ones((20, 3, 3), bool)
    kept = kept_elsewhere(found, own, before, after, own)
    # Reach is twice the diagonal of a voxel, 3.46 mm. Between 5 and 8 the middle is 6.5.
    assert where(kept[:, 1:2, 1:2]) == {(x, 0, 0) for x in range(0, 7)}
    far = np.zeros_like(found)
    far[14:] = True
    assert not kept_elsewhere(far, own, before, before, own).any(), "the own grid shows nothing there"
    assert not kept_elsewhere(found, own, np.zeros_like(before), np.zeros_like(before), own).any()
    last = before & (np.arange(20) > 2)[:, None, None]
    between = kept_elsewhere(found, Grid(own.shape, shift(0.6, 0, 0)), before, last, own)
    assert not between[1, 1, 1] and between[2, 1, 1], "2.6 follows 3, and 1.6 follows 2, which was dropped"


def test_a_voxel_beyond_the_own_grid_follows_its_border_and_no_voxel_of_the_other_end():
    before, after = (np.zeros((20, 3, 3), bool) for _ in range(2))
    before[:3, 1, 1] = before[17:, 1, 1] = after[17:, 1, 1] = True
    further = Grid((30, 3, 3), shift(-5, 0, 0))
    kept = kept_elsewhere(np.ones(further.shape, bool), further, before, after, Grid(before.shape, np.eye(4)))
    assert where(kept[:, 1:2, 1:2]) == {(x + 5, 0, 0) for x in range(14, 23)}  # 3.46 mm from 17 and from 19


def test_the_reach_is_in_millimetres():
    own = Grid((20, 3, 3), np.diag([2.0, 1, 1, 1]))
    before = np.zeros(own.shape, bool)
    before[4:6, 1, 1] = True
    kept = kept_elsewhere(np.ones(own.shape, bool), own, before, before, own)  # twice the diagonal is 4.9 mm
    assert where(kept[:, 1:2, 1:2]) == {(x, 0, 0) for x in range(2, 8)}


def test_cavities_are_filled_as_on_the_own_grid():
    shell = answer(WT=[CUBE])
    for region in shell.values():
        region[6:8, 8:9, 5:6] = 0
    image = laid(shift(2, 0, 0), OWN)
    assert not elsewhere(image, shell)[0][8, 8, 5]
    assert elsewhere(image, shell, config(fill_holes=True))[0][8, 8, 5]


def test_a_border_drawn_on_edges_goes_with_the_mask(monkeypatch):
    drawn = np.zeros(OWN.shape, bool)
    drawn[2:12, 4:13, 1:10] = True
    monkeypatch.setattr("pipeline.predict.region_masks.refine_by_watershed", lambda *a, **k: drawn)
    probabilities = answer(WT=[CUBE])
    flair = np.ones(OWN.shape, np.float32)
    settings = config(watershed=True)
    label_map, masks, written = to_labels(settings, "tiny", probabilities, OWN, flair, None)
    own = Own(OWN, label_map, written, masks, probabilities, flair)
    answers = [Answer(torch.from_numpy(np.stack(list(probabilities.values()))), OWN, REGIONS)]
    there = labels_elsewhere(settings, answers, own, laid(shift(1, 1, 1), OWN))
    assert where(there) == {(x + 1, y + 1, z + 1) for x, y, z in where(drawn)}


def test_a_region_without_a_label_is_left_out_and_an_image_elsewhere_is_empty():
    there, _ = elsewhere(laid(shift(1, 0, 0), OWN), answer(WT=[CUBE]), convention="whole-tumour")
    assert set(np.unique(there)) == {0, 1}
    assert load_convention("whole-tumour").regions.keys() == {"WT"}
    nowhere, _ = elsewhere(Grid(OWN.shape, shift(500, 0, 0)), answer(WT=[CUBE]))
    assert nowhere.shape == OWN.shape and not nowhere.any()


def test_thick_slices_average_alike_whether_they_are_turned_or_not():
    rng = np.random.default_rng(4)
    image = torch.from_numpy(rng.random((1, 40, 40, 40), np.float32))
    own, thick = Grid((40, 40, 40), np.eye(4)), np.diag([1.0, 1, 5, 1])
    level = Grid((30, 30, 5), shift(5, 5, 8) @ thick)
    assert torch.equal(average_to(image, own, level), resample_to(image, own, level))
    c, s = math.cos(1e-3), math.sin(1e-3)  # 40 voxels drift by .04 mm, which changes nearly nothing
    tilt = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])
    turned = Grid(level.shape, tilt @ level.affine)
    apart = (average_to(image, own, turned) - resample_to(image, own, level)).abs()
    assert float(apart.max()) < 0.05
    fine = Grid(own.shape, tilt)
    assert torch.equal(average_to(image, own, fine), resample_to(image, own, fine)), "nothing is to be averaged"
    assert float((resample_to(image, own, turned) - resample_to(image, own, level)).abs().max()) > 0.3, "one slice of 5"
