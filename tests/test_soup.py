"""Averages of models: the mean of each weight, and only of models that compute the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import CheckpointError
from networks import build_network
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.config import parse_config
from pipeline.soup import average_weights, soup_card, soup_network
from tools import soup as command

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "modalities": ["t1c", "flair"],
    "regions": ["WT"],
    "convention": "brats2023",
    "network": {
        "architecture": "attention_unet",
        "spatial_dims": 2,
        "in_channels": 2,
        "out_channels": 1,
        "channels": [4, 8],
    },
    "window": {"size": [16, 16]},
    "training": {"patch": [16, 16]},
}


def write_model(path: Path, value: float, steps: int, held_out: list[str], **changed: Any) -> Path:
    """A model whose weights and running statistics are all ``value``."""
    config = parse_config({**RECIPE, **changed}, "test")
    network = build_network(config.network)
    for tensor in network.state_dict().values():
        tensor.fill_(value if tensor.is_floating_point() else steps)
    card = {"trained_on": path.stem, "held_out": held_out, "scores": {"dice_WT": 0.5}, "licence": "CC0"}
    save_checkpoint(path, network, config, card)
    return path


@pytest.fixture
def pair(tmp_path) -> list[Path]:
    return [
        write_model(tmp_path / "a.safetensors", 0.25, 7, ["x", "y"]),
        write_model(tmp_path / "b.safetensors", 0.75, 9, ["y", "z"], name="other", training={"patch": [8, 8]}),
    ]


def test_the_average_is_the_mean_of_each_weight_and_statistic_and_has_the_counters_of_the_first(pair):
    network = soup_network([open_checkpoint(path) for path in pair])
    assert not network.training
    for name, tensor in network.state_dict().items():
        expected = 0.5 if tensor.is_floating_point() else 7
        assert (tensor == expected).all(), name
    assert any("running_var" in name for name in network.state_dict())


def test_the_mean_is_taken_tensor_by_tensor_and_leaves_the_parents_as_they_are():
    states = [{"w": torch.tensor([0.0, 1.0]), "n": torch.tensor(3)},
              {"w": torch.tensor([1.0, 5.0]), "n": torch.tensor(4)},
              {"w": torch.tensor([2.0, 0.0]), "n": torch.tensor(5)}]  # fmt: skip
    mean = average_weights(states)
    assert mean["w"].tolist() == [1.0, 2.0] and mean["n"].item() == 3
    mean["n"] += 1
    assert states[0]["n"].item() == 3 and states[0]["w"].tolist() == [0.0, 1.0]


def test_a_case_is_held_out_of_an_average_only_if_no_parent_has_seen_it(pair):
    models = [open_checkpoint(path) for path in pair]
    card = soup_card(models, "how")
    assert card["held_out"] == ["y"] and card["scores"] == {} and card["command"] == "how"
    assert (card["trained_on"], card["licence"]) == ("a; b", "CC0")
    assert [(each["name"], each["sha256"]) for each in card["parents"]] == [(m.name, m.sha256) for m in models]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"modalities": ["flair", "t1c"]}, "modalities"),
        ({"network": {**RECIPE["network"], "channels": [8, 8]}}, "network.channels"),
        ({"preprocess": {"spacing_mm": [2, 2, 2]}}, "preprocess.spacing_mm"),
        ({"postprocess": {"threshold": 0.4}}, "postprocess.threshold"),
        ({"augment": {"flip_axes": [0]}}, "augment.flip_axes"),
        ({"augment": {"missing_modality": 0.1}}, "missing_modalities"),
    ],
)
def test_models_that_compute_something_else_are_refused_with_file_value_and_fix(changed, key, pair, tmp_path):
    other = write_model(tmp_path / "c.safetensors", 1.0, 1, [], **changed)
    sentence = (
        rf"c\.safetensors: its {key} is .*, but that of .*a\.safetensors is .*; average models of one recipe alone"
    )
    with pytest.raises(CheckpointError, match=sentence):
        soup_network([open_checkpoint(pair[0]), open_checkpoint(other)])


def test_one_model_is_no_average(pair):
    with pytest.raises(CheckpointError, match="1 model cannot be averaged; name two or more"):
        soup_network([open_checkpoint(pair[0])])


def test_the_command_writes_the_average_with_its_parents_and_writes_over_nothing(pair, tmp_path, monkeypatch, capsys):
    out = tmp_path / "soup.safetensors"
    monkeypatch.setattr(sys, "argv", ["soup", *map(str, pair), "--output", str(out)])
    command.main()
    model = open_checkpoint(out)
    assert capsys.readouterr().out == f"{model.sha256}  soup.safetensors\n"
    assert [parent["name"] for parent in model.card["parents"]] == ["a", "b"]
    assert str(tmp_path) not in model.card["command"]
    assert all((w == 0.5).all() for w in model.build().state_dict().values() if w.is_floating_point())
    with pytest.raises(SystemExit):
        command.main()
    assert "not there yet" in capsys.readouterr().err


def test_the_command_names_what_differs(pair, tmp_path, monkeypatch, capsys):
    other = write_model(tmp_path / "c.safetensors", 1.0, 1, [], postprocess={"threshold": 0.4})
    monkeypatch.setattr(sys, "argv", ["soup", str(pair[0]), str(other), "--output", str(tmp_path / "s.safetensors")])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    assert "postprocess.threshold is 0.4" in capsys.readouterr().err
    assert not (tmp_path / "s.safetensors").exists()
