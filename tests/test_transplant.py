"""A lesion in another brain: where it stands, what of it is seen, and where its labels are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from transforms.augment.donor import REACH, Donor, is_whole, make_donor
from transforms.augment.placement import FADE, Placement, clear_of_faces, draw_placement
from transforms.augment.transplant import transplant

N = 2
"""Images; two regions follow."""


def brain(shape: tuple[int, int, int] = (40, 44, 36), value: float = 1.0) -> np.ndarray:
    """A box of brain without a lesion: both images are ``value``."""
    voxels = np.zeros((4, *shape), np.float32)
    voxels[:N] = value
    return voxels


def with_lesion(
    shape: tuple[int, int, int] = (40, 44, 36),
    at: tuple[int, int, int] = (20, 22, 18),
    half: int = 3,
    value: float = 5.0,
) -> np.ndarray:
    """A brain with a cube of side ``2 half + 1``, whose inner third of a side is the second region."""
    voxels = brain(shape)
    whole = tuple(slice(max(n - half, 0), n + half + 1) for n in at)
    core = tuple(slice(n - half // 3, n + half // 3 + 1) for n in at)
    voxels[(slice(0, N), *whole)] = value
    voxels[(2, *whole)], voxels[(3, *core)] = 1, 1
    return voxels


def everywhere(voxels: np.ndarray) -> list[np.ndarray]:
    return [np.arange(n) for n in voxels.shape[1:]]


def donor_of(voxels: np.ndarray, place: Any = None) -> Donor:
    donor = make_donor(voxels, N, place)
    assert donor is not None
    return donor


def at_its_place(voxels: np.ndarray, donor: Donor, **options: Any) -> Placement:
    centre = np.array(donor.place) * (np.array(voxels.shape[1:]) - 1)
    return Placement((float(centre[0]), float(centre[1]), float(centre[2])), **options)


def test_at_its_own_place_a_lesion_comes_back_to_the_voxel() -> None:
    source, host = with_lesion(), brain(value=2.0)
    donor = donor_of(source)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor, reach=4.0))
    np.testing.assert_array_equal(result[2:], source[2:])
    lesion = source[2] == 1
    np.testing.assert_allclose(result[:N, lesion], 5.0, rtol=1e-5)
    far = np.ones(lesion.shape, bool)
    far[12:29, 14:31, 10:27] = False
    np.testing.assert_array_equal(result[:N, far], 2.0)


def test_around_the_lesion_the_donors_images_fade_into_the_hosts() -> None:
    source, host = with_lesion(), brain(value=3.0)
    donor = donor_of(source)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor, reach=5.0))
    # One voxel off the lesion (20 + 3 + 1) the weight is (5 - 1) / 4 = 1, then 3/4, 1/2, 1/4, 0, of 1 against 3.
    np.testing.assert_allclose(result[0, 24:30, 22, 18], [1.0, 1.5, 2.0, 2.5, 3.0, 3.0], rtol=1e-5)


def test_a_mirrored_lesion_stands_on_the_other_side_turned_round() -> None:
    source = with_lesion(at=(10, 22, 18))
    source[2:, 7:9] = 0  # cut one side off, so that left and right differ
    source[:N, 7:9] = 1
    donor = donor_of(source)
    x, y, z = at_its_place(source, donor).centre
    host = brain(value=1.0)
    result = transplant(host, everywhere(host), donor, Placement((39 - x, y, z), mirrored=(True, False, False)))
    np.testing.assert_array_equal(result[2], source[2, ::-1])
    np.testing.assert_array_equal(result[3], source[3, ::-1])


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_scaled_lesion_has_its_sides_in_that_proportion(scale: float) -> None:
    source, host = with_lesion(half=4), brain()
    donor = donor_of(source)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor, scale=scale))
    side = np.count_nonzero(result[2, :, 22, 18] > 0.5)
    assert abs(side - 9 * scale) <= 1


@pytest.mark.parametrize("slices", [[18], [14, 16, 18, 20, 22], [35, 35, 35]])
def test_a_patch_shows_what_the_whole_volume_would(slices: list[int]) -> None:
    source, host = with_lesion(), brain(value=2.0)
    donor = donor_of(source)
    placement = Placement((21.3, 20.8, 18.4), 1.2, (True, False, False), 6.0)
    whole = transplant(host, everywhere(host), donor, placement)
    positions = [np.arange(5, 30), np.arange(-4, 21), np.array(slices)]
    inside = np.ix_(range(4), positions[0], range(21), slices)
    cut = np.zeros((4, 25, 25, len(slices)), np.float32)
    cut[:, :, 4:] = host[inside]
    result = transplant(cut, positions, donor, placement)
    np.testing.assert_allclose(result[:, :, 4:], whole[inside], atol=1e-5)
    assert not result[:, :, :4].any()  # beyond the host there is no brain to take a lesion


def test_a_cut_that_does_not_see_the_lesion_stays_as_it_is() -> None:
    source, host = with_lesion(), brain(value=2.0)
    donor = donor_of(source)
    positions = [np.arange(5), np.arange(5), np.arange(2)]
    cut = host[:, :5, :5, :2]
    np.testing.assert_array_equal(transplant(cut, positions, donor, at_its_place(host, donor)), cut)


def test_what_is_no_brain_takes_no_lesion() -> None:
    source, host = with_lesion(), brain(value=2.0)
    host[:, :, 22:] = 0
    donor = donor_of(source)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor))
    assert not result[:, :, 22:].any() and (result[2, :, :22] == 1).any()


def test_an_image_that_the_host_lacks_stays_empty() -> None:
    source, host = with_lesion(), brain(value=2.0)
    host[1] = 0
    donor = donor_of(source)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor))
    assert not result[1].any() and (result[0] == 5).any() and (result[2] == 1).any()


def test_a_lesion_that_its_volume_cuts_off_is_not_known_where_it_fades() -> None:
    source = with_lesion(shape=(20, 20, 20), at=(3, 10, 10), half=6)  # cut off at the first face of the first axis
    donor = donor_of(source, place=(0.5, 0.5, 0.5))
    host = brain(value=2.0)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor))
    # The donor's voxel 0 stands at (39 - 19) / 2 = 10; the weight there is 0, then 1/3, 2/3 and 1 from the third voxel
    # on.
    row = result[2, :, 21, 17]
    assert row[10] == 0 and np.isnan(row[11:13]).all()
    assert (row[13:20] == 1).all() and not row[20:].any()
    assert FADE == 3.0


def test_what_the_donor_does_not_know_is_not_known_in_the_host() -> None:
    source = with_lesion()
    source[3, 20, 22, 18] = np.nan
    donor, host = donor_of(source), brain(value=2.0)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor))
    assert np.isnan(result[2:, 20, 22, 18]).all()
    assert np.isnan(result[2:]).sum() == 2 and not np.isnan(result[:N]).any()


def test_a_hosts_own_lesion_is_known_under_the_new_one_and_beside_it_and_not_in_between() -> None:
    source, host = with_lesion(), with_lesion(at=(26, 22, 18), half=4, value=7.0)
    donor = donor_of(source)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor, reach=5.0))
    row = result[2, 17:32, 22, 18]
    # New lesion 17..23; own lesion 22..30. Weights behind 23: 1, 3/4, 1/2, 1/4, 0: at 24 the donor's brain is seen.
    np.testing.assert_array_equal(row[:8], [1, 1, 1, 1, 1, 1, 1, 0])
    assert np.isnan(row[8:11]).all()
    np.testing.assert_array_equal(row[11:], [1, 1, 1, 0])


def test_contrast_changes_the_donors_images_alone() -> None:
    source, host = with_lesion(), brain(value=2.0)
    donor = donor_of(source)
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor), np.array([[2.0, 1.0], [1.0, -1.0]]))
    np.testing.assert_allclose(result[:N, 20, 22, 18], [5 * 2 + 1, 5 - 1], rtol=1e-5)
    np.testing.assert_array_equal(result[:N, 0, 0, 0], 2.0)


def test_a_volume_without_a_lesion_or_with_an_unknown_one_gives_nothing() -> None:
    assert make_donor(brain(), N, None) is None
    unknown = with_lesion()
    unknown[2:] = np.nan
    assert make_donor(unknown, N, None) is None


def test_a_donor_is_the_lesion_with_its_surroundings_and_its_place_in_the_brain() -> None:
    donor = donor_of(with_lesion(shape=(80, 80, 80), at=(40, 20, 60)))
    # A cube of 7 voxels with REACH on each side, cut at the brain's face: 60 + 3 + 15 = 78 is still inside 0..79.
    assert donor.voxels.shape[1:] == (7 + 2 * REACH,) * 3
    np.testing.assert_allclose(np.array(donor.place) * 79, [40, 20, 60])
    assert donor.distance[REACH, REACH, REACH] == 0 and donor.distance[0, REACH + 3, REACH + 3] == REACH


def test_of_slices_at_an_unknown_distance_only_those_with_lesion_come_along() -> None:
    source, host = with_lesion(), brain(value=3.0)
    donor = make_donor(source, N, None, flat=True)
    assert donor is not None
    result = transplant(host, everywhere(host), donor, at_its_place(host, donor, reach=5.0))
    np.testing.assert_array_equal(result[2:], source[2:])
    np.testing.assert_array_equal(np.flatnonzero((result[0] != 3.0).any(axis=(0, 1))), np.arange(15, 22))
    np.testing.assert_allclose(result[0, 24:30, 22, 18], [1.0, 1.5, 2.0, 2.5, 3.0, 3.0], rtol=1e-5)


def test_a_placement_is_held_by_the_brain_or_there_is_none() -> None:
    source, host = with_lesion(half=5), brain(value=2.0)
    donor, generator = donor_of(source), np.random.default_rng(0)
    drawn = [draw_placement(donor, host[:N], generator, jitter=0.1) for _ in range(60)]
    assert all(drawn) and {placement.mirrored[0] for placement in drawn if placement} == {True, False}
    for placement in drawn:
        assert placement is not None
        at = np.round(placement.to_host(donor.lesion, donor.voxels.shape[1:])).astype(int)
        assert ((at >= 0) & (at < host.shape[1:])).all(axis=1).mean() >= 0.97
    assert not any(
        (placement := draw_placement(donor, host[:N], generator, mirror_axis=None)) and placement.mirrored[0]
        for _ in range(20)
    )
    hollow = host.copy()
    hollow[:, ::2] = 0  # half of it is no brain
    assert draw_placement(donor, hollow[:N], generator) is None


def test_to_host_and_to_donor_are_each_others_inverse() -> None:
    placement = Placement((12.0, 30.0, 8.0), 1.3, (True, False, True))
    voxels = np.random.default_rng(0).uniform(0, 20, (50, 3))
    host = placement.to_host(voxels, (20, 22, 24))
    for axis, size in enumerate((20, 22, 24)):
        np.testing.assert_allclose(placement.to_donor(host[:, axis], axis, size), voxels[:, axis])


# ------------------------------------------------------------------------------------------ large, and cut by a face


def cut_donor() -> Donor:
    """A cube of 24 voxels whose lesion, of value 5, goes on beyond the first face of the first axis."""
    voxels = np.zeros((4, 24, 24, 24), np.float32)
    voxels[:N] = 1
    voxels[:N, :18, 2:22, 2:22], voxels[2, :18, 2:22, 2:22] = 5, 1
    return donor_of(voxels, place=(0.5, 0.5, 0.5))


def drawn(donor: Donor, host: np.ndarray, seed: int = 0, **options: Any) -> Placement:
    placement = draw_placement(
        donor, host[:N], np.random.default_rng(seed), mirror_axis=None, jitter=0.0, tries=50, **options
    )
    assert placement is not None
    return placement


def test_a_size_of_the_recipe_is_drawn_log_uniformly_and_no_other() -> None:
    donor, host = donor_of(with_lesion()), brain()
    scales = np.array([drawn(donor, host, seed, scale=(0.5, 2.0)).scale for seed in range(400)])
    assert 0.5 <= scales.min() < 0.52 and 1.94 < scales.max() <= 2
    # As many below as above 1, and as many from 1 to the square root of 2 as from there to 2.
    np.testing.assert_allclose([(scales < 1).mean(), (scales < np.sqrt(2)).mean()], [0.5, 0.75], atol=0.08)


def test_without_a_size_of_the_recipe_it_stays_near_1_and_fades_as_ever() -> None:
    donor, host = cut_donor(), brain((60, 60, 60))
    placements = [drawn(donor, host, seed) for seed in range(50)]
    assert all(np.exp(-0.25) <= each.scale <= np.exp(0.25) for each in placements)
    assert all(each.fades is None and each.waves is None for each in placements)


def test_a_lesion_that_grows_grows_into_the_brain() -> None:
    donor = donor_of(with_lesion(shape=(61, 61, 61), at=(8, 30, 30)))
    host = brain((61, 61, 61))
    placement = drawn(donor, host, scale=(2.0, 2.0))
    at = placement.to_host(donor.lesion, donor.voxels.shape[1:])
    # Voxels 5..11 with gaps of 5 and 49 before 0 and 60; 12 long it leaves 48, of which 5 / 54 lie before it.
    np.testing.assert_allclose([at[:, 0].min(), at[:, 0].max()], [48 * 5 / 54, 48 * 5 / 54 + 12])
    np.testing.assert_allclose([at[:, 1].min(), at[:, 1].max()], [24, 36])
    np.testing.assert_allclose(drawn(donor, host, scale=(1.0, 1.0)).centre, np.array(donor.place) * 60)


def test_however_large_a_lesion_fades_in_voxels_of_the_host() -> None:
    donor, host = cut_donor(), brain((80, 80, 80), value=2.0)
    placement = replace(drawn(donor, host, scale=(2.0, 2.0)), centre=(40.0, 40.0, 40.0))
    assert placement.reach <= REACH / 2
    result = transplant(host, everywhere(host), donor, placement)
    # The donor's voxel 0 stands at 40 - 2 * 11.5 = 17: from there on a third more with every host voxel.
    np.testing.assert_allclose(result[0, 16:22, 40, 40], [2, 2, 3, 4, 5, 5], rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(result[2, 16:22, 40, 40]), [False, False, True, True, False, False])


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
def test_a_lesion_cut_by_a_face_ends_unevenly_and_unknown(scale: float) -> None:
    donor, host = cut_donor(), brain((80, 80, 80), value=2.0)
    placement = replace(drawn(donor, host, scale=(scale, scale), fade=5.0), centre=(40.0, 40.0, 40.0))
    result = transplant(host, everywhere(host), donor, placement)
    face = 40 - scale * 11.5
    inner = slice(int(40 - 6 * scale), int(40 + 6 * scale))
    rows = result[:, :, inner, inner]
    x = np.arange(80)
    assert (rows[0, x <= face] == 2).all() and (rows[2, x <= face] == 0).all()
    deep = (x >= face + 5) & (x <= face + 17 * scale)
    np.testing.assert_allclose(rows[0, deep], 5, rtol=1e-5)
    assert (rows[2, deep] == 1).all()
    begins = (rows[2] == 1).argmax(axis=0)
    assert np.ptp(begins) >= 1 and np.isnan(rows[2]).any(axis=0).mean() > 0.9
    # No label without its image: the lesion's is where 9 tenths of it are seen, the host's where a tenth is.
    before = x < face + 5
    assert (rows[0][before][rows[2][before] == 1] > 2 + 0.9 * 3 - 1e-4).all()
    assert (rows[0][before][rows[2][before] == 0] < 2 + 0.1 * 3 + 1e-4).all()


def test_faces_that_cut_no_lesion_fade_as_briefly_as_ever_and_none_over_more_than_a_quarter() -> None:
    fades = drawn(cut_donor(), brain((60, 60, 60)), scale=(1.0, 1.0), fade=40.0).fades
    assert fades == ((23 / 4, FADE), (FADE, FADE), (FADE, FADE))


def test_a_lesion_fades_at_the_faces_of_what_is_known_of_it() -> None:
    voxels = np.zeros((4, 24, 24, 24), np.float32)
    voxels[:N], voxels[2] = 5, 1
    voxels[:N, :6], voxels[2:, :6] = 0, np.nan  # cut out more tightly, and padded
    donor, host = donor_of(voxels, place=(0.5, 0.5, 0.5)), brain((60, 60, 60), value=2.0)
    placement = drawn(donor, host, fade=3.0, scale=(1.0, 1.0))
    assert donor.faces == ((6, 23), (0, 23), (0, 23))
    placement = replace(placement, centre=(29.5, 29.5, 29.5), waves=None)
    row = transplant(host, everywhere(host), donor, placement)[0, :, 30, 30]
    # The first known voxel, 6, stands at 29.5 - 11.5 + 6 = 24.
    np.testing.assert_allclose(row[22:29], [2, 2, 2, 3, 4, 5, 5], rtol=1e-5)


def test_a_patch_shows_the_uneven_border_that_the_whole_volume_would() -> None:
    donor, host = cut_donor(), brain((60, 60, 60), value=2.0)
    placement = drawn(donor, host, scale=(1.3, 1.3), fade=6.0)
    whole = transplant(host, everywhere(host), donor, placement)
    positions = [np.arange(10, 40), np.arange(20, 45), np.array([28, 30, 32])]
    inside = np.ix_(range(4), *positions)
    np.testing.assert_allclose(transplant(host[inside], positions, donor, placement), whole[inside], atol=1e-5)


def test_what_is_looked_at_does_not_fade_at_a_face() -> None:
    donor = cut_donor()
    placement = drawn(donor, brain((60, 60, 60)), scale=(1.0, 1.0), fade=5.0)
    middles = clear_of_faces(donor, placement)
    assert 0 < len(middles) < len(donor.lesion)
    assert middles[:, 0].min() == 5 and middles[:, 1:].min() == 3 and middles[:, 1:].max() == 20
    nowhere = replace(placement, fades=((30.0, 30.0),) * 3)
    np.testing.assert_array_equal(clear_of_faces(donor, nowhere), donor.lesion)


def test_a_lesion_is_whole_where_next_to_nothing_of_it_lies_on_the_faces_of_what_is_known() -> None:
    region = np.zeros((20, 20, 20))
    assert not is_whole(region)
    region[5:15, 5:15, 5:15] = 1  # 1000 voxels: less than 50 on faces are next to nothing
    assert is_whole(region)
    known = region.copy()
    known[:5] = np.nan  # 100 voxels now lie on the first known face
    assert not is_whole(known)
    region[0, :7, :7] = 1  # 1049 voxels, 51.6: 49 on one face and 7 on each of two that they touch
    assert not is_whole(region)
    region[0, :7, 3:] = 0  # 1021 voxels, 50.7: 21, and 7 and 3
    assert is_whole(region)
    # A whole patient's ends at its brain, which no face cuts.
    assert donor_of(with_lesion(at=(2, 22, 18), half=6)).cuts == ((0, 0),) * 3
    first, last = cut_donor().cuts[0]
    assert (first, last) == (1, 0)
