"""Alignment of visits, on phantom patients whose moves and lesions are known from geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.phantom.visits import STORIES, Visit, draw_visits, write_visits
from pipeline.follow.align import Aligned, align, choose_images, look_at, stay, write_aligned
from pipeline.follow.components import find_components
from pipeline.follow.lesions import follow_lesions
from transforms.registration.move import Move
from transforms.registration.register import Picture

TC = (1, 3)


@pytest.fixture(scope="module")
def visits() -> list[Visit]:
    """Masks alone, of five visits."""
    return draw_visits(0, 5, spacing_mm=2.2, modalities=())


@pytest.fixture(scope="module")
def pair() -> list[Visit]:
    """First and last visit, with images."""
    return draw_visits(0, 2, spacing_mm=3.0, modalities=("t1c",))


def seen(visit: Visit) -> Picture:
    return look_at(visit.phantom.images["t1c"], visit.phantom.grid, visit.phantom.label_map > 0)


@pytest.fixture(scope="module")
def last(pair: list[Visit]) -> Aligned:
    return align(seen(pair[0]), seen(pair[1]))


def errors_mm(pair: list[Visit], aligned: Aligned) -> np.ndarray:
    """Return how far the brain's places at the baseline are laid from where they are."""
    baseline = pair[0].phantom
    voxels = np.argwhere(baseline.images["t1c"] > 0)[::50]
    places = np.c_[voxels @ baseline.grid.affine[:3, :3].T + baseline.grid.affine[:3, 3], np.ones(len(voxels))]
    return np.linalg.norm(places @ (aligned.transform.matrix - pair[1].move_from(pair[0])).T, axis=1)


def test_a_visit_is_laid_on_the_baseline_within_a_millimetre_and_without_a_doubt(pair, last):
    assert errors_mm(pair, last).max() < 1.0
    assert not last.is_doubtful and last.overlap > 0.95


def test_another_patients_head_is_doubted(pair):
    other = draw_visits(1, 1, spacing_mm=4.0, modalities=("t1c",))[0]
    aligned = align(seen(pair[0]), seen(other))
    assert aligned.is_doubtful and "mutual information" in aligned.doubt


@pytest.mark.parametrize(
    ("information", "shared", "said"),
    [
        (0.76, 0.91, ""),
        (0.74, 0.91, "mutual information 0.74, at least 0.75 expected"),
        (0.76, 0.89, "brains overlap with Dice 0.89, at least 0.9 expected"),
        (
            np.nan,
            np.nan,
            "mutual information nan, at least 0.75 expected; brains overlap with Dice nan, at least 0.9 expected",
        ),
    ],
)
def test_a_doubt_says_what_was_found_and_what_is_expected(monkeypatch, information, shared, said):
    monkeypatch.setattr("pipeline.follow.align.register", lambda *_: Move(np.eye(4), np.zeros(3), information))
    monkeypatch.setattr("pipeline.follow.align.overlap", lambda *_: shared)
    nothing = Picture({}, np.zeros(3))
    aligned = align(nothing, nothing)
    assert (aligned.doubt, aligned.is_doubtful, aligned.overlap) == (
        said,
        bool(said),
        pytest.approx(shared, nan_ok=True),
    )


def test_a_kept_transform_takes_the_baseline_to_the_visit(tmp_path: Path, pair, last):
    path = write_aligned(tmp_path, "case", last)
    assert path.name == "case_xfm_baseline.txt"
    x, y, z = 12.0, -20.0, 31.0
    there = last.transform.matrix @ [x, y, z, 1]
    assert sitk.ReadTransform(str(path)).TransformPoint((-x, -y, z)) == pytest.approx(
        (-there[0], -there[1], there[2]), abs=1e-6
    )
    baseline = stay(seen(pair[0]))
    assert (baseline.transform.moved_mm, baseline.transform.degrees, baseline.doubt) == (0, 0, "")


def test_the_same_modality_is_registered_where_both_visits_have_one():
    assert choose_images({"t1", "t1c", "flair"}, {"flair", "t1c"}) == ("t1c", "t1c")
    assert choose_images({"t1", "flair"}, {"flair", "t2"}) == ("flair", "flair")
    assert choose_images({"t1c"}, {"flair"}) == ("t1c", "flair")
    with pytest.raises(ValueError, match="without images"):
        choose_images({"t1c"}, set())


def test_every_story_is_told_by_the_truth(visits):
    balls = [{each.balls for each in visit.lesions["TC"]} for visit in visits]
    story = {ball: each.story for visit in visits for each in visit.lesions["TC"] for ball in each.balls}
    assert set(story.values()) == set(STORIES)
    first = {name: min(ball for ball, told in story.items() if told == name) for name in STORIES}
    a, b = first["splits"], first["merges"]
    assert (a, a + 1) in balls[0] and {(a,), (a + 1,)} <= balls[4]
    assert {(b,), (b + 1,)} <= balls[0] and (b, b + 1) in balls[4]
    ml = [{each.lesion: each.volume_ml for each in visit.lesions["TC"]} for visit in visits]
    assert ml[4][first["grows"]] > 4 * ml[0][first["grows"]]
    assert ml[0][first["shrinks"]] > 4 * ml[4][first["shrinks"]]
    assert [first["vanishes"] in each for each in ml] == [True, True, True, False, False]
    assert [first["returns"] in each for each in ml] == [True, True, False, False, True]
    assert [first["comes"] in each for each in ml] == [False, False, True, True, True]


def test_volumes_of_the_truth_are_those_of_the_drawn_voxels(visits):
    for visit in visits:  # voxels of 2 to 3.5 mm, and rims of 2.5 mm
        voxel_ml = visit.phantom.grid.voxel_volume_ml
        for region, labels in (("WT", (1, 2, 3)), ("TC", TC), ("ET", (3,))):
            drawn = np.isin(visit.phantom.label_map, labels).sum() * voxel_ml
            assert drawn == pytest.approx(sum(each.volume_ml for each in visit.lesions[region]), rel=0.06)


def test_visits_differ_in_place_in_voxels_and_in_noise_and_the_same_seed_gives_the_same(visits, pair):
    assert len({visit.phantom.grid.spacing_mm for visit in visits}) == 5
    assert all(Move(visit.move_from(visits[0]), np.zeros(3), 1.0).degrees > 2 for visit in visits[1:])
    once, again = (draw_visits(0, 2, spacing_mm=8.0, modalities=("t1c",))[1].phantom for _ in range(2))
    assert once.images["t1c"].tobytes() == again.images["t1c"].tobytes()
    assert once.label_map.tobytes() == again.label_map.tobytes()
    brains = [visit.phantom.images["t1c"] for visit in pair]
    assert np.median(brains[0][brains[0] > 0]) != np.median(brains[1][brains[1] > 0])


def test_lesions_of_a_phantom_keep_the_numbers_of_its_truth(visits):
    parts = [
        find_components(
            np.isin(visit.phantom.label_map, TC), visit.phantom.grid, visit.move_from(visits[0]), visits[0].phantom.grid
        )
        for visit in visits
    ]
    names: dict[int, int] = {}
    for visit, components, told in zip(visits, parts, follow_lesions(parts), strict=True):
        assert len(told.lesions) == len(visit.lesions["TC"])
        for lesion in told.lesions:
            true = set(visit.lesion_map[components.labels == lesion.component.number].tolist())
            assert {names.setdefault(lesion.lesion, next(iter(true)))} == true
    assert len(set(names.values())) == len(names)


def test_visits_are_written_as_patients_of_brats(tmp_path: Path):
    folders = write_visits(tmp_path, 2, 2, spacing_mm=9.0)
    assert [folder.name for folder in folders] == ["BraTS-GLI-90002-000", "BraTS-GLI-90002-001"]
    assert len(list(folders[1].iterdir())) == 5


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        draw_visits(0, 0)
    with pytest.raises(ValueError, match="modality"):
        draw_visits(0, 1, modalities=("pd",))
    with pytest.raises(ValueError, match="spacing"):
        draw_visits(0, 1, spacing_mm=0.0)
