"""Windows: one that holds the whole brain where it fits, sliding ones elsewhere or where they are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from data.errors import UsageError
from data.find.discover import discover_cases
from pipeline.checkpoint import open_checkpoint, save_checkpoint, shipped_models
from pipeline.config import RunConfig
from pipeline.predict import inference
from pipeline.predict.memory import forecast as memory
from pipeline.predict.memory.forecast import ModelCost, one_window_bytes, phases
from pipeline.predict.predictor import Predictor
from pipeline.predict.windows import infer, sliding, window_size, with_window
from tests.conftest import make_model

CPU = torch.device("cpu")


def changed(config: RunConfig, **window: object) -> RunConfig:
    return config.model_copy(update={"window": config.window.model_copy(update=window)})


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> RunConfig:
    return open_checkpoint(tiny_model).config


def image(*shape: int) -> torch.Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1)).abs() + 0.1


class Sizes(nn.Module):
    """Remembers the windows that it is shown; its logits are the first channel."""

    def __init__(self, regions: int = 3) -> None:
        super().__init__()
        self.shown: list[tuple[int, ...]] = []
        self.regions = regions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(tuple(x.shape))
        return x[:, :1].repeat(1, self.regions, *[1] * (x.ndim - 2))


# ------------------------------------------------------------------------------------------------------- one window


@pytest.mark.parametrize(("whole", "shape", "passes"), [(True, (70, 40, 33), 1), (False, (32, 20, 32), 1)])
def test_a_window_that_holds_the_image_is_one_pass_and_its_answer_is_the_networks(
    config: RunConfig, whole: bool, shape: tuple[int, int, int], passes: int
) -> None:
    network, x = Sizes(), image(*shape)
    answer, _ = infer(changed(config, whole=whole), network, x, CPU)
    assert network.shown == [(1, 4, *shape)] * passes
    assert torch.equal(answer[2], torch.sigmoid(x[0]))  # to the bit: no weights, no sum


def test_smaller_windows_slide_as_monais(config: RunConfig) -> None:
    network, x = Sizes(), image(40, 40, 20)
    answer, _ = infer(config, network, x, CPU)
    assert {shape[2:] for shape in network.shown} == {(32, 32, 20)} and len(network.shown) == 4
    expected = sliding_window_inference(x[None], (32, 32, 20), 1, Sizes(), overlap=0.5, mode="gaussian")
    np.testing.assert_allclose(answer, torch.sigmoid(expected)[0], atol=1e-6)


def test_whole_slices_go_in_batches_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    flat = changed(open_checkpoint(make_model(tmp_path / "flat.safetensors", spatial_dims=2)).config, batch=3)
    network, x = Sizes(), image(20, 30, 9)
    x[..., [0, 4]] = 0
    answer, _ = infer(flat, network, x, CPU)
    assert network.shown == [(3, 4, 20, 30), (3, 4, 20, 30), (1, 4, 20, 30)]
    for z in range(9):
        if z in (0, 4):
            assert float(answer[..., z].max()) < 1e-8
        else:
            np.testing.assert_allclose(answer[1, ..., z], torch.sigmoid(x[0, ..., z]), rtol=1e-6)


def test_the_shipped_models_see_a_brain_in_one_pass() -> None:
    """The largest brain of the two real patients' set is below 160 x 190 x 150 mm."""
    for checkpoint in shipped_models():
        config = checkpoint.config
        spacing = [s for s in config.preprocess.spacing_mm if s is not None]
        if checkpoint.name.startswith("lgg"):
            continue  # without a voxel size: 256 pixels, halved, are its 128
        size = [round(mm / s) for mm, s in zip((160, 190, 150), spacing, strict=True)]
        assert list(window_size(config, size)) == size[: config.network.spatial_dims], checkpoint.name


# ----------------------------------------------------------------------------------------------------- the option


def test_auto_is_the_models_window_and_a_number_is_a_sliding_one(config: RunConfig) -> None:
    one = changed(config, whole=True)
    assert with_window(one, "auto") is one and window_size(one, (99, 98, 97)) == (99, 98, 97)
    asked = with_window(one, "64")
    assert window_size(asked, (99, 98, 40)) == (64, 64, 40)
    assert window_size(sliding(one), (99, 98, 40)) == (32, 32, 32)


@pytest.mark.parametrize("text", ["", "0", "8", "-64", "64.0", "2000", "whole", "²"])
def test_what_is_no_window_is_refused(config: RunConfig, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_window(config, text)
    assert str(caught.value) == (f"--window {text}: give auto, or the side of a sliding window, 16 to 1024 voxels")


def whole_model(folder: Path, tiny_model: Path) -> Path:
    checkpoint = open_checkpoint(tiny_model)
    config = changed(checkpoint.config, whole=True, size=(16, 16, 16))
    save_checkpoint(folder / "whole.safetensors", checkpoint.build(), config, {})
    return folder / "whole.safetensors"


def test_a_window_that_does_not_fit_slides_and_says_so(
    tmp_path: Path, tiny_model: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, path = discover_cases(phantoms)[0], whole_model(tmp_path, tiny_model)
    one, by_hand = Predictor(path, "cpu"), Predictor(path, "cpu", window="16")
    assert one.configs[0].window.whole
    assert one(case).remarks == ()
    monkeypatch.setattr(inference, "has_room", lambda needed: False)
    monkeypatch.setattr(inference, "available_bytes", lambda: 2**29)
    result = one(case)
    (remark,) = result.remarks
    assert remark.startswith("one window of ") and " voxels takes about 0." in remark
    assert remark.endswith("and 0.50 GiB are free: ran in sliding windows of 16x16x16")
    assert result.label_map.tobytes() == by_hand(case).label_map.tobytes() and by_hand(case).remarks == ()


def test_the_window_that_holds_everything_counts_where_the_grid_is_known(config: RunConfig) -> None:
    from tests.test_memory import four

    one, apart = (ModelCost(changed(config, whole=w), 1000.0) for w in (True, False))
    assert phases(four(), [one])["network"] == phases(four(), [apart])["network"]
    grid = (64, 64, 64)
    known, slid = (phases(four(), [cost], working=grid)["network"] for cost in (one, apart))
    more = (64**3 - 32**3) * (1000 * memory.ACTIVATION_FACTOR + 2 * 4 * 3)
    assert known - slid == pytest.approx(more, rel=1e-4)
    # Alone: maps, counts and the window, a tenth more; the image is there already.
    window = 64**3 * (1000 * memory.ACTIVATION_FACTOR + 2 * 4 * 3 + 4 * 3 + 4)
    expected = memory.HEADROOM * (window + 64**3 * 16) - 64**3 * 16
    assert one_window_bytes(one, grid) == pytest.approx(expected, rel=1e-4)


def test_a_model_file_keeps_its_window(tmp_path: Path, tiny_model: Path) -> None:
    path = whole_model(tmp_path, tiny_model)
    assert open_checkpoint(path).config.window.whole and not open_checkpoint(tiny_model).config.window.whole
