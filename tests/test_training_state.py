"""pipeline/training/progress/state.py: what goes on is what was left, to the bit and the place in memory; else it is
refused."""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from data.errors import CheckpointError
from pipeline.sealed_file import seal
from pipeline.training.progress.state import FORMAT, STRUCTURE, load_state, save_state

STATE = {
    "recipe": "{}",
    "nothing": None,
    "yes": True,
    "trainee": {
        "network": OrderedDict(b=torch.arange(4.0), a=torch.tensor(3)),
        "optimiser": {"state": {0: {"step": torch.tensor(7.0)}, 1: {}}, "param_groups": [{"lr": 0.1 + 0.2, "n": 3}]},
        "records": [{"loss": 1e-320, "dice": {"WT": math.inf}}, {}],
    },
}


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_state(path)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{path}: ") and len(text) < 500
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_state(tmp_path / "state", STATE)
    return tmp_path / "state"


def test_tensors_numbers_texts_and_their_nesting_and_order_come_back(path: Path) -> None:
    state = load_state(path)
    ours, theirs = state["trainee"], STATE["trainee"]
    assert isinstance(theirs, dict)
    assert list(ours["network"]) == ["b", "a"]
    for name, tensor in theirs["network"].items():
        assert torch.equal(ours["network"][name], tensor) and ours["network"][name].dtype == tensor.dtype
    assert torch.equal(ours["optimiser"]["state"][0]["step"], torch.tensor(7.0))
    assert ours["optimiser"]["state"][1] == {} and ours["optimiser"]["param_groups"] == [{"lr": 0.1 + 0.2, "n": 3}]
    assert ours["records"] == theirs["records"]
    assert (state["recipe"], state["nothing"], state["yes"]) == ("{}", None, True)


def test_a_number_that_is_none_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path / "s", {"loss": math.nan, "weights": torch.tensor([math.nan, -0.0])})
    state = load_state(tmp_path / "s")
    assert math.isnan(state["loss"])
    assert state["weights"].numpy().tobytes() == torch.tensor([math.nan, -0.0]).numpy().tobytes()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_tensors_lie_in_memory_as_they_did(tmp_path: Path, layout: torch.memory_format) -> None:
    weight = torch.randn(6, 4, 3, 5, 2).contiguous(memory_format=layout)
    save_state(tmp_path / "s", {"w": weight, "turned": weight[0, 0].T[0]})
    state = load_state(tmp_path / "s")
    assert torch.equal(state["w"], weight) and state["w"].stride() == weight.stride()
    assert torch.equal(state["turned"], weight[0, 0].T[0])


def test_tensors_that_share_their_memory_and_empty_ones_are_kept(tmp_path: Path) -> None:
    one = torch.arange(6.0)
    save_state(tmp_path / "s", {"one": one, "same": one, "part": one[2:], "none": torch.zeros(0, 3)})
    state = load_state(tmp_path / "s")
    assert torch.equal(state["same"], one) and torch.equal(state["part"], one[2:])
    assert state["none"].shape == (0, 3)


def test_the_same_state_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    save_state(tmp_path / "again", STATE)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_what_cannot_be_kept_is_no_silent_loss(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_state(path, {"a": object()})
    assert path.read_bytes() == before


# ---------------------------------------------------------------------------------------------------------- refusal


def test_a_flipped_bit_anywhere_is_refused(path: Path) -> None:
    content, draw = path.read_bytes(), random.Random(0)
    for bit in [*range(64), *(draw.randrange(8 * len(content)) for _ in range(500))]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert "cannot go on from it (" in refused(path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_state_cut_short_is_refused(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(path).endswith("; start again in another folder")


def test_a_file_of_torch_save_is_refused_and_no_code_in_it_runs(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "trace",)

    for content in ({"format": "brain-tumour-training-state 1"}, {"a": Attack()}):
        torch.save(content, tmp_path / "state.pt")
        assert "cannot go on from it (not readable as safetensors" in refused(tmp_path / "state.pt")
    assert not (tmp_path / "trace").exists()


def test_another_sealed_file_and_one_without_a_seal_are_refused(path: Path) -> None:
    path.write_bytes(seal(save({"a": torch.ones(2)}, {"format": "brain-tumour-checkpoint 2"})))
    assert "(it is not the state of a training run); start again" in refused(path)
    path.write_bytes(save({"a": torch.ones(2)}, {"format": FORMAT}))
    assert "(it is not the state of a training run of this version); start again" in refused(path)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (Is a directory)" in refused(tmp_path)


@pytest.mark.parametrize(
    "structure",
    [
        "[" * 100_000,
        "9" * 5000,
        "{",
        "\\",
        '{"pairs": 3}',
        '{"pairs": [[1]]}',
        '{"pairs": [[[], 1]]}',
        '{"tensor": "99", "order": []}',
        '{"tensor": "0"}',
        '{"tensor": "0", "order": [0, 1]}',
        '{"tensor": "0", "order": [5]}',
        '{"tensor": [], "order": [0]}',
        "{}",
        "[]",
        "3",
    ],
    ids=lambda text: text[:30],
)
def test_a_structure_sealed_by_hand_that_is_none_is_refused(path: Path, structure: str) -> None:
    tensors = load(path.read_bytes())
    tensors[STRUCTURE] = torch.frombuffer(bytearray(structure.encode()), dtype=torch.uint8)
    path.write_bytes(seal(save(tensors, {"format": FORMAT})))
    assert "cannot go on from it" in refused(path)


def test_a_state_without_its_structure_is_refused(path: Path) -> None:
    path.write_bytes(seal(save({"0": torch.ones(2)}, {"format": FORMAT})))
    assert "cannot go on from it" in refused(path)
    tensors = {STRUCTURE: torch.tensor(json.dumps("x").encode()[0])}
    path.write_bytes(seal(save(tensors, {"format": FORMAT})))
    refused(path)
