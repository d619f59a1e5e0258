"""A cascade: where the second network works, what it sees there, and whose answer stands in each voxel."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from data.case import Case
from data.errors import UsageError
from data.find.discover import discover_cases
from networks import Cascade, build_network
from pipeline.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from pipeline.config import FirstStageConfig, parse_config
from pipeline.predict import inference
from pipeline.predict import predictor as module
from pipeline.predict.cascade import BOX_MULTIPLE, blend_into, blend_weights, second_input, tumour_box
from pipeline.predict.memory.forecast import phases
from pipeline.predict.openvino import installed
from pipeline.predict.predictor import Predictor, Segmentation
from pipeline.predict.uncertainty import MemberSpread
from tests.conftest import cascade_settings, make_cascade, make_model

MODALITIES = ("t1", "flair")
SHAPE = (48, 40, 36)


def settings(**first: Any) -> FirstStageConfig:
    config = parse_config(cascade_settings(**first), "test")
    assert config.first is not None
    return config.first


# ------------------------------------------------------------------------------------------------------------ the box


def found(shape: tuple[int, int, int], *where: tuple[int, int, int], value: float = 0.9) -> torch.Tensor:
    """Probabilities of two regions; the second, alone, has ``value`` in some voxels."""
    p = torch.full((2, *shape), 0.1)
    for voxel in where:
        p[(1, *voxel)] = value
    return p


def test_the_box_is_what_was_found_with_a_margin_in_millimetres() -> None:
    first = settings(margin_mm=6, smallest_mm=0, blend_mm=0)
    # Voxels 30 to 33, 40, and 20 to 21; margins of 6, 3 and 2 voxels: 24 to 39 are 16 already, 37 to 43 become 16 (4
    # less, 5 more), and across the slices of a 2D network nothing is rounded.
    box = tumour_box(found((80, 80, 40), (30, 40, 20), (33, 40, 21)), (1.0, 2.0, 3.0), first, {0, 1})
    assert box == (slice(24, 40), slice(33, 49), slice(18, 24))
    deep = tumour_box(found((80, 80, 40), (30, 40, 20), (33, 40, 21)), (1.0, 2.0, 3.0), first, {0, 1, 2})
    assert deep is not None and deep[2] == slice(13, 29)


def test_a_margin_of_a_part_of_a_voxel_takes_all_of_it() -> None:
    first = settings(margin_mm=6.5, smallest_mm=0, blend_mm=0)
    box = tumour_box(found((9, 9, 9), (4, 4, 4)), (3.25, 6.0, 6.5), first, {0, 1})
    assert box == (slice(0, 9), slice(0, 9), slice(3, 6))  # an image of 9 has no 16: all of it


def test_the_box_ends_with_the_image_and_its_size_is_moved_inwards() -> None:
    first = settings(margin_mm=4, smallest_mm=20, blend_mm=0)
    box = tumour_box(found((80, 80, 80), (0, 79, 40)), (1.0, 1.0, 1.0), first, {0, 1, 2})
    assert box == (slice(0, 32), slice(48, 80), slice(25, 57))  # 20 mm are 32 voxels of multiples of 16


def test_a_probability_at_the_threshold_is_found_and_one_below_is_not() -> None:
    first = settings(threshold=0.5)
    assert tumour_box(found((20, 20, 20), (4, 5, 6), value=0.5), (1.0,) * 3, first, {0, 1, 2}) is not None
    assert tumour_box(found((20, 20, 20), (4, 5, 6), value=0.49), (1.0,) * 3, first, {0, 1, 2}) is None


def test_the_answers_pass_into_each_other_inside_the_faces_but_not_where_the_image_ends() -> None:
    box = (slice(2, 10), slice(0, 3), slice(0, 3))
    first = settings(blend_mm=4)
    weight = blend_weights(box, (12, 3, 3), (2.0, 1.0, 1.0), first)
    # Centres lie 1, 3, 5... mm inside the faces of the first axis, over 4 mm; the other axes are the image's.
    assert weight[:, 1, 1].tolist() == [0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25]
    assert torch.equal(weight, weight[:, :1, :1].expand(8, 3, 3))
    cut = blend_weights((slice(2, 12), slice(1, 3), slice(0, 3)), (12, 3, 3), (2.0, 1.0, 1.0), first)
    assert cut[-1, 1, 0] == pytest.approx(0.375) and cut[0, 0, 0] == pytest.approx(0.125)  # the nearer face decides
    assert blend_weights(box, (12, 3, 3), (2.0, 1.0, 1.0), settings(blend_mm=0)).eq(1).all()
    # Where the first network has a quarter of the say, the second's answer counts three quarters of that.
    averaged = blend_weights(box, (12, 3, 3), (2.0, 1.0, 1.0), settings(blend_mm=4, share=0.25))
    assert averaged[:, 1, 1].tolist() == [0.1875, 0.5625, 0.75, 0.75, 0.75, 0.75, 0.5625, 0.1875]


def test_the_second_answer_is_put_in_by_its_weight() -> None:
    whole, answer = torch.full((1, 4, 1, 1), 0.2), torch.full((1, 2, 1, 1), 0.6)
    both = blend_into(
        whole, answer, (slice(1, 3), slice(0, 1), slice(0, 1)), torch.tensor([0.25, 1.0]).reshape(2, 1, 1)
    )
    np.testing.assert_allclose(both.flatten(), [0.2, 0.3, 0.6, 0.2], rtol=1e-6)
    assert both is whole and both[0, 2, 0, 0] == answer[0, 0, 0, 0]  # to the bit


def test_probabilities_are_shown_only_where_an_image_shows_something() -> None:
    image, p = torch.zeros(2, 3, 1, 1), torch.full((1, 3, 1, 1), 0.4)
    image[1, 2] = 5.0
    seen = second_input(image, p, (slice(1, 3), slice(0, 1), slice(0, 1)))
    assert seen[:, :, 0, 0].tolist() == [[0, 0], [0, 5], [0, pytest.approx(0.4)]]


# ----------------------------------------------------------------------------------------------- one patient, by hand


def write_case(folder: Path, cube: tuple[slice, slice, slice] | None, affine: np.ndarray | None = None) -> Case:
    """A patient of 48 x 40 x 36 mm: T1 is 100 and more, other from voxel to voxel; FLAIR is 1 or 2, and 9 in a cube."""
    rng = np.random.default_rng(0)
    t1 = rng.integers(100, 200, SHAPE).astype(np.int16)
    flair = rng.integers(1, 3, SHAPE).astype(np.int16)
    if cube is not None:
        flair[cube] = 9
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("t1n", t1), ("t2f", flair)):
        image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
        nib.save(image, folder / f"BraTS-GLI-00001-000-{name}.nii.gz")
    return discover_cases(folder)[0]


CUBE = (slice(20, 28), slice(12, 20), slice(14, 22))
"""Even bounds: it is whole voxels of 2 mm."""


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """A cascade from 2 mm to 1 mm that sees the images as they are; its networks are replaced in each test."""
    plain = cascade_settings(
        dims=(3, 3), spacing_mm=(2.0, 1.0), modalities=MODALITIES, regions=("WT", "TC"), margin_mm=3, blend_mm=2,
        smallest_mm=0,
    )  # fmt: skip
    for stage in (plain, plain["first"]["recipe"]):
        stage["preprocess"] |= {"crop": "none", "normalise": "none"}
        stage["window"] |= {"whole": True}
    config = parse_config(plain, "test")
    network = Cascade(*(build_network(stage.network) for stage in config.stages))
    save_checkpoint(tmp_path / "hand.safetensors", network, config, {})
    return tmp_path / "hand.safetensors"


def with_stubs(path: Path | Checkpoint, second: Any = None, **options: Any) -> tuple[Predictor, list[torch.Tensor]]:
    """The first network's logits are FLAIR - 5 and T1 / 100 - 6; what the second sees is listed."""
    predictor, seen = Predictor(path, "cpu", **options), []
    first_stage, second_stage = predictor.models[0]

    def see(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return torch.full_like(x[:, :2], 2.0) if second is None else second(x)

    network: Any = first_stage.runner.network
    network.forward = lambda x: torch.stack((x[:, 1] - 5, x[:, 0] / 100 - 6), dim=1)
    second_stage.runner.network.forward = see  # type: ignore[method-assign]
    return predictor, seen


def with_first(path: Path, **changed: Any) -> Checkpoint:
    """A cascade with other settings of how its first network is used."""
    checkpoint = open_checkpoint(path)
    return replace(checkpoint, settings=checkpoint.settings | {"first": checkpoint.settings["first"] | changed})


def expected_first(case: Case) -> np.ndarray:
    """The stub's probabilities (2, d1, d2, d3) at 1 mm, by scipy: averages of a triangle of 2 mm, and linear back."""
    t1, flair = (np.asarray(nib.load(case.images[m].paths[0]).dataobj, np.float64) for m in MODALITIES)

    def coarse(image: np.ndarray) -> np.ndarray:
        # The triangle of half-width 2 around the middle of two voxels: the two weigh 0.75 each, the next ones 0.25.
        for axis in range(3):
            image = ndimage.correlate1d(image, [0.125, 0.375, 0.375, 0.125], axis=axis, mode="nearest", origin=-0)
            # correlate1d's even window is around the voxel behind the middle.
            image = np.take(image, range(1, image.shape[axis], 2), axis=axis)
        return image

    low = [1 / (1 + np.exp(-(coarse(flair) - 5))), 1 / (1 + np.exp(-(coarse(t1) / 100 - 6)))]
    at = np.meshgrid(*((np.arange(n) - 0.5) / 2 for n in SHAPE), indexing="ij")
    return np.stack([ndimage.map_coordinates(p, at, order=1, mode="nearest") for p in low])


def test_the_second_network_sees_exactly_the_firsts_probabilities_at_their_voxels(
    by_hand: Path, tmp_path: Path
) -> None:
    case = write_case(tmp_path / "a", CUBE)
    predictor, seen = with_stubs(by_hand)
    predictor(case)
    p, (shown,) = expected_first(case), seen
    # At 2 mm the cube's border voxels have FLAIR between 2 and 9; from which on the threshold of 0.3 is passed says
    # scipy.
    where = np.argwhere(p[0] >= 0.3)
    low, high = where.min(axis=0) - 3, where.max(axis=0) + 1 + 3
    sides = -(-(high - low) // BOX_MULTIPLE) * BOX_MULTIPLE
    start = low - (sides - (high - low)) // 2
    box = tuple(slice(int(a), int(a + n)) for a, n in zip(start, sides, strict=True))
    assert shown.shape == (1, 4, *sides) and all(s.start > 0 for s in box)
    t1, flair = (np.asarray(nib.load(case.images[m].paths[0]).dataobj) for m in MODALITIES)
    np.testing.assert_array_equal(shown[0, 0], t1[box])
    np.testing.assert_array_equal(shown[0, 1], flair[box])
    np.testing.assert_allclose(shown[0, 2:], p[(slice(None), *box)], atol=2e-5)
    assert shown[0, 2].max() > 0.9 and shown[0, 2].min() < 0.1 and shown[0, 3].std() > 1e-4


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_deep_in_the_box_the_answer_is_the_seconds_or_the_mean_of_both_outside_the_firsts_and_between_there_is_no_seam(
    by_hand: Path, tmp_path: Path, share: float
) -> None:
    case = write_case(tmp_path / "a", CUBE)
    predictor, seen = with_stubs(with_first(by_hand, share=share))
    result, p = predictor(case), expected_first(case)
    sides = seen[0].shape[2:]
    centre = [(s.start + s.stop) // 2 for s in CUBE]
    start = [c - n // 2 for c, n in zip(centre, sides, strict=True)]
    second = 1 / (1 + np.exp(-2.0))
    for region, first in zip(("WT", "TC"), p, strict=True):
        answer = result.probabilities[region]
        inner = tuple(slice(a + 2, a + n - 2) for a, n in zip(start, sides, strict=True))
        np.testing.assert_allclose(answer[inner], (1 - share) * second + share * first[inner], atol=2e-5)
        outside = np.zeros(SHAPE, bool)
        outside[3:-3, 3:-3, 3:-3] = True  # at the image's border ours and scipy's averages take other voxels
        outside[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = False
        np.testing.assert_allclose(answer[outside], first[outside], atol=2e-5)
        line = answer[:, centre[1], centre[2]]
        from_first = first[:, centre[1], centre[2]]
        # 0.5 and 1.5 mm inside the face, over 2 mm.
        for voxel, ramp in ((start[0], 0.25), (start[0] + 1, 0.75)):
            weight = ramp * (1 - share)
            assert line[voxel] == pytest.approx((1 - weight) * from_first[voxel] + weight * second, abs=2e-5)


def alone(path: Path, folder: Path) -> Path:
    """The first stage of a cascade as a model of its own."""
    checkpoint = open_checkpoint(path)
    built, first = checkpoint.build(), checkpoint.config.first
    assert first is not None and isinstance(built, Cascade)
    save_checkpoint(folder / "first.safetensors", built.first, first.recipe, {})
    return folder / "first.safetensors"


def test_where_nothing_is_found_the_second_does_not_run_and_the_firsts_answer_stands(
    by_hand: Path, tmp_path: Path
) -> None:
    case = write_case(tmp_path / "a", None, np.diag([1.5, 1.5, 1.5, 1.0]))  # neither grid is the images' own
    predictor, seen = with_stubs(by_hand)
    single = Predictor(alone(by_hand, tmp_path), "cpu")
    single.networks[0].forward = predictor.models[0][0].runner.network.forward  # type: ignore[method-assign]
    one, other = predictor(case), single(case)
    assert seen == [] and one.label_map.tobytes() == other.label_map.tobytes()
    for region in one.probabilities:
        assert one.probabilities[region].tobytes() == other.probabilities[region].tobytes()
    assert not one.masks["WT"].any()


@pytest.mark.parametrize("tta", [False, True])
def test_where_nothing_is_found_mirrored_passes_are_the_firsts(by_hand: Path, tmp_path: Path, tta: bool) -> None:
    case = write_case(tmp_path / "a", None)
    predictor, _ = with_stubs(by_hand, tta=tta)
    result = predictor(case)
    assert (result.uncertainty is not None) is tta
    if result.uncertainty is not None:  # a voxel-wise network says the same of a mirrored image
        assert max(float(u.max()) for u in result.uncertainty.values()) < 1e-3


def test_the_box_is_the_same_in_the_patient_however_the_images_are_stored(by_hand: Path, tmp_path: Path) -> None:
    """All 48 orientations would take long: each permutation once, with the flips in turn."""
    case, seen_first = write_case(tmp_path / "a", CUBE), None
    for number, (axes, flips) in enumerate(
        zip(permutations(range(3)), list(product((1, -1), repeat=3))[1:], strict=False)
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        ornt = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)], float)
        for source in case.images.values():
            nib.save(nib.load(source.paths[0]).as_reoriented(ornt), folder / source.paths[0].name)
        turned = discover_cases(folder)[0]
        (predictor, seen), (straight, plain) = with_stubs(by_hand), with_stubs(by_hand)
        result = predictor(turned)
        seen_first = straight(case) if seen_first is None else seen_first
        assert all(torch.equal(a, b) for a, b in zip(seen, plain or seen, strict=True))
        assert result.native.grid.shape == tuple(int(n) for n in nib.load(turned.images["t1"].paths[0]).shape)
        for region, answer in result.probabilities.items():
            back = nib.orientations.apply_orientation(
                answer,
                nib.orientations.ornt_transform(
                    nib.io_orientation(result.native.grid.affine), nib.io_orientation(np.eye(4))
                ),
            )
            assert np.array_equal(back, seen_first.probabilities[region])


def test_the_margin_is_in_millimetres_of_an_anisotropic_grid(tmp_path: Path) -> None:
    plain = cascade_settings(dims=(3, 2), spacing_mm=(4.0, 1.0), modalities=MODALITIES, regions=("WT", "TC"),
                             margin_mm=6, blend_mm=2, smallest_mm=0)  # fmt: skip
    plain["preprocess"]["spacing_mm"] = [1.0, 1.0, None]
    for stage in (plain, plain["first"]["recipe"]):
        stage["preprocess"] |= {"crop": "none", "normalise": "none"}
        stage["window"] |= {"whole": True}
    config = parse_config(plain, "test")
    save_checkpoint(tmp_path / "c.safetensors", Cascade(*(build_network(s.network) for s in config.stages)), config, {})
    case = write_case(tmp_path / "a", (slice(16, 32), slice(8, 24), slice(12, 24)), np.diag([1.0, 1.0, 3.0, 1.0]))
    predictor, seen = with_stubs(tmp_path / "c.safetensors")
    predictor(case)
    p = np.concatenate([s.numpy()[:, 2] for s in seen])  # slices, as a 2D network sees them
    assert len(seen) == 1 or {s.shape[1:] for s in seen} == {seen[0].shape[1:]}
    slices = np.flatnonzero((p >= 0.3).any(axis=(1, 2)))
    assert slices[0] == 2 and len(p) - 1 - slices[-1] == 2  # 6 mm are two slices of 3 mm
    rows = np.flatnonzero((p >= 0.3).any(axis=(0, 2)))
    assert rows[0] >= 6 and p.shape[1] - 1 - rows[-1] >= 6 and p.shape[1] % BOX_MULTIPLE == 0


# ------------------------------------------------------------------------------------------------ as any other model


@pytest.fixture(scope="module")
def case(phantoms: Path) -> Case:
    return discover_cases(phantoms)[0]


def same(one: Segmentation, other: Segmentation) -> bool:
    return one.label_map.tobytes() == other.label_map.tobytes() and all(
        one.probabilities[r].tobytes() == other.probabilities[r].tobytes() for r in one.probabilities
    )


def test_files_are_read_once_for_both_networks(tiny_cascade: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = inference.read_volumes, []

    def counting(sources: Any, **options: Any) -> Any:
        asked.extend(sources)
        return read(sources, **options)

    monkeypatch.setattr(inference, "read_volumes", counting)
    monkeypatch.setattr(
        "transforms.preprocess.read_volumes", lambda sources, **_: dict(sources) and pytest.fail("again")
    )
    result = Predictor(tiny_cascade, "cpu")(case)
    assert sorted(asked) == ["flair", "t1", "t1c", "t2"]
    assert set(result.seconds) == {"read", "preprocess", "network", "restore"} and result.warnings == ()


def test_the_stages_of_the_work_are_told_with_a_share_that_grows(tiny_cascade: Path, case: Case) -> None:
    told: list[tuple[str, float]] = []
    Predictor(tiny_cascade, "cpu")(case, on_stage=lambda stage, share: told.append((stage, share)))
    assert list(dict(told)) == ["read", "preprocess", "network", "restore"]
    shares = [share for stage, share in told if stage == "network"]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and 0.5 in shares


def test_the_mean_of_the_members_is_the_answer(tiny_cascade: Path, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[MemberSpread] = []
    monkeypatch.setattr(
        module, "MemberSpread", lambda threshold: gathered.append(MemberSpread(threshold)) or gathered[0]
    )
    result = Predictor(tiny_cascade, "cpu", tta=True)(case)
    spread = gathered[0]
    assert spread.grid is not None and len(spread.weights) == 8  # the second network's; the first, of slices, has 4
    mean = module.restore(spread.mean, spread.grid, result.native.grid).numpy()
    for region, wanted in zip(("WT", "TC", "ET"), mean, strict=True):
        # The passes that mirror the third axis have no partner in the first stage, whose mean stands in for it.
        np.testing.assert_allclose(result.probabilities[region], wanted, atol=1e-5)
    assert result.uncertainty is not None and result.disagreement is not None
    assert 0 < max(result.disagreement.values()) <= 1


def test_a_member_is_one_mirrored_pass_of_both_networks(
    by_hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[MemberSpread] = []
    monkeypatch.setattr(
        module, "MemberSpread", lambda threshold: gathered.append(MemberSpread(threshold)) or gathered[0]
    )
    predictor, _ = with_stubs(by_hand, tta=True)
    network = predictor.models[0][0].runner.network
    plain = network.forward
    # Surer towards the end of the first axis, so that passes that mirror it differ, and no others.
    network.forward = lambda x: plain(x) + torch.linspace(-1, 1, x.shape[2]).reshape(1, 1, -1, 1, 1)  # type: ignore
    result = predictor(write_case(tmp_path / "a", CUBE))
    assert len(gathered[0].weights) == 8 and gathered[0].grid is not None
    assert result.uncertainty is not None
    # Logits far from the cube: FLAIR is 1.5 on average, T1 150.
    for region, mean, logit in zip(("WT", "TC"), gathered[0].mean.numpy(), (-3.5, -4.5), strict=True):
        back = module.restore(torch.as_tensor(mean[None]), gathered[0].grid, result.native.grid)[0]
        np.testing.assert_allclose(result.probabilities[region], back, atol=1e-6)
        spread = result.uncertainty[region]
        # There the first network's two answers stand, half of their difference apart from their mean.
        low, high = (1 / (1 + np.exp(-(logit + slope))) for slope in (-1, 1))
        assert spread[0].mean() == pytest.approx((high - low) / 2, rel=0.1) and spread[24, 16, 18] < 1e-6


def test_a_first_network_that_is_mirrored_gives_the_mean_of_its_passes_and_the_second_still_runs_once(
    by_hand: Path, tmp_path: Path
) -> None:
    case, answers = write_case(tmp_path / "a", CUBE), []
    for mirrored in (False, True):
        predictor, seen = with_stubs(with_first(by_hand, mirrored=mirrored))
        network = predictor.models[0][0].runner.network
        plain = network.forward
        network.forward = lambda x, plain=plain: plain(x) + torch.linspace(-1, 1, x.shape[2])[:, None, None]
        answers.append(predictor(case))
        assert len(seen) == 1 and answers[-1].uncertainty is None
    once, both = (answer.probabilities["TC"] for answer in answers)
    # Far from the cube T1 is 150 on average, a logit of -4.5, and 1 more or less at the ends of the mirrored axis.
    low, high = (1 / (1 + np.exp(4.5 - slope)) for slope in (-1, 1))
    assert once[0].mean() == pytest.approx(low, rel=0.1) and once[-1].mean() == pytest.approx(high, rel=0.1)
    assert both[0].mean() == pytest.approx((low + high) / 2, rel=0.1)
    np.testing.assert_allclose(both[0].mean(), both[-1].mean(), rtol=0.1)


def test_cascades_and_single_models_are_averaged(tiny_cascade: Path, tiny_model: Path, case: Case) -> None:
    one, other = Predictor(tiny_cascade, "cpu")(case), Predictor(tiny_model, "cpu")(case)
    for models in ([tiny_cascade, tiny_model], [tiny_model, tiny_cascade]):
        both = Predictor(models, "cpu")(case)
        for region in both.probabilities:
            mean = (one.probabilities[region] + other.probabilities[region]) / 2
            np.testing.assert_allclose(both.probabilities[region], mean, atol=1e-6)
        assert both.disagreement is not None and max(both.disagreement.values()) > 0


def test_a_window_is_that_of_both_networks(tiny_cascade: Path) -> None:
    predictor = Predictor(tiny_cascade, "cpu", window="24")
    assert [stage.config.window.size for stage in predictor.models[0]] == [(24, 24), (24, 24, 24)]


def test_a_level_cuts_the_stage_that_has_levels(tmp_path: Path, tiny_cascade: Path) -> None:
    plain = cascade_settings()
    plain["first"]["recipe"]["network"] |= {
        "architecture": "unet_plus_plus",
        "channels": [4, 4, 4],
        "deep_supervision": True,
    }
    config = parse_config(plain, "test")
    save_checkpoint(tmp_path / "c.safetensors", Cascade(*(build_network(s.network) for s in config.stages)), config, {})
    first, second = (stage.runner.network for stage in Predictor(tmp_path / "c.safetensors", "cpu", level=1).models[0])
    assert first.level == 1 and not hasattr(second, "level")
    with pytest.raises(UsageError, match="--level 1: tiny-cascade is no UNet"):
        Predictor(tiny_cascade, "cpu", level=1)


def test_memory_of_both_networks_is_predicted(tiny_cascade: Path, tmp_path: Path) -> None:
    from tests.test_memory import four

    (second,) = Predictor(tiny_cascade, "cpu").costs
    (first,) = Predictor(alone(tiny_cascade, tmp_path), "cpu").costs
    assert second.first == first
    for tta in (False, True):
        both, only = phases(four(), [second], tta=tta), phases(four(), [first], tta=tta)
        assert all(both[stage] >= only[stage] for stage in both)
    # A million voxels at 1 mm, 5 mm and 10 mm: 8000 and 1000. While the first's image is made, all that was read stays.
    found = phases(four(), [second])
    assert found["preprocess"] == 4 * 10**6 + 16 * 10**6 + 2 * 16 * 10**6


def test_a_mirrored_first_network_is_predicted_to_take_the_mirrored_image_and_the_sum_of_its_answers() -> None:
    from pipeline.predict.memory.forecast import ModelCost
    from tests.test_memory import four

    taken = []
    for mirrored in (False, True):
        # The first network works on a million voxels, the second on a thousand, so that the first decides.
        config = parse_config(cascade_settings(dims=(3, 3), spacing_mm=(1.0, 10.0), mirrored=mirrored), "test")
        assert config.first is not None
        cost = ModelCost(config, 0.0, ModelCost(config.first.recipe, 0.0))
        taken.append(phases(four(), [cost])["network"])
    assert taken[1] - taken[0] == 4 * 10**6 * (4 + 3)  # four modalities, three regions


@pytest.mark.skipif(not installed(), reason="openvino is not installed (extra cpu)")
def test_another_engine_runs_both_networks_and_keeps_them_apart(tiny_cascade: Path, case: Case, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from pipeline.predict import openvino as openvino_network

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    converted, convert = [], openvino_network._convert
    monkeypatch.setattr(openvino_network, "_convert", lambda *a: converted.append(1) or convert(*a))
    torch_result = Predictor(tiny_cascade, "cpu", engine="torch")(case)
    predictor = Predictor(tiny_cascade, "cpu", engine="openvino")
    first, second = predictor(case), predictor(case)
    assert (torch_result.engine, first.engine, first.remarks) == ("torch", "openvino", ()) and same(first, second)
    for region, mask in torch_result.masks.items():
        assert 2 * (mask & first.masks[region]).sum() >= 0.999 * (mask.sum() + first.masks[region].sum())
    again = Predictor(tiny_cascade, "cpu", engine="openvino")(case)  # from the cache, each network its own
    assert len(converted) == 2 and same(again, first)


def test_two_cascades_differ_in_what_they_are_called(tmp_path: Path, case: Case) -> None:
    paths = [make_cascade(tmp_path / "a.safetensors"), make_model(tmp_path / "b.safetensors")]
    both = Predictor([open_checkpoint(path) for path in paths], "cpu", engine="torch")
    assert both.name == "a+b" and both(case).engine == "torch+torch"
