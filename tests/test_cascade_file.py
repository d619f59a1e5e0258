"""A cascade's recipe and file: two networks, one description, and every part of it as strict as a single model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.errors import CheckpointError, UsageError
from networks import Cascade, build_network
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.config import load_recipe, parse_config
from tests.conftest import cascade_settings, make_cascade, make_model
from tests.test_checkpoint import header_of, resealed, with_header


def written(folder: Path, first: Any, **more: Any) -> Path:
    """A recipe of a cascade in a file, with ``first`` in the place of the first stage's settings."""
    plain = cascade_settings()
    plain["first"] |= {"recipe": first, **more}
    path = folder / "cascade.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return path


# --------------------------------------------------------------------------------------------------------- recipe


def test_a_recipe_may_name_its_first_stage_and_holds_it_whole(tmp_path: Path) -> None:
    named, inner = (
        load_recipe(str(written(tmp_path, "brats_unet_plus_plus_2d"))),
        load_recipe("brats_unet_plus_plus_2d"),
    )
    assert named.first is not None and named.first.recipe == inner
    assert named.stages == (inner, named) and inner.stages == (inner,)
    assert named.inputs == ("t1", "t1c", "t2", "flair", "first WT", "first TC", "first ET")
    assert parse_config(named.model_dump(mode="json"), "again") == named


def test_a_first_stage_in_a_file_is_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(cascade_settings()["first"]["recipe"]))
    assert load_recipe(str(written(tmp_path, "own.yaml"))) == load_recipe(
        str(written(tmp_path, cascade_settings()["first"]["recipe"]))
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"first": {"recipe": "resnet", "regions": []}}, "no recipe 'resnet'"),
        (
            {"first": {"recipe": "cascade.yaml", "regions": []}},
            "line 38: first.recipe: cascade.yaml is a cascade itself",
        ),
        ({"first": {"recipe": "broken.yaml", "regions": []}}, "broken.yaml, line 2: colour: unknown key"),
        ({"first": {"recipe": "demo", "regions": [], "margin": 3}}, "line 40: first.margin: unknown key"),
        ({"first": {"recipe": "demo"}}, "first.regions: Field required"),
        (
            {"first": {"recipe": "demo", "regions": [], "threshold": 1.5}},
            "first.threshold: Input should be less than 1",
        ),
        ({"first": {"recipe": "demo", "regions": [], "margin_mm": 2}}, "first: blend_mm 5 is more than margin_mm 2"),
        (
            {"first": {"recipe": "demo", "regions": ["WT"]}},
            "in_channels is 7, not 5: there are 4 modalities and 1 regions",
        ),
        ({"first": {"recipe": "demo", "regions": ["WT", "TC", "XX"]}}, "first.regions names XX, which this recipe"),
        ({"first": {"recipe": "demo", "regions": ["WT", "TC", "TC"]}}, "first.regions needs distinct names"),
        ({"first": {"recipe": "lgg_attention_unet_2d", "regions": ["WT"] * 3}}, "first.recipe has no region TC, ET"),
        ({"modalities": ["t1", "t1c", "t2"], "network__in_channels": 6}, "reads the modality flair, which this recipe"),
    ],
)
def test_a_first_stage_that_does_not_fit_is_refused_with_file_and_line(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    plain = cascade_settings() | {key: value for key, value in changes.items() if "__" not in key}
    plain["network"]["in_channels"] = changes.get("network__in_channels", 7)
    (tmp_path / "broken.yaml").write_text("name: broken\ncolour: red\n")
    (tmp_path / "cascade.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    with pytest.raises(UsageError) as caught:
        load_recipe(str(tmp_path / "cascade.yaml"))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_modalities_may_be_left_out_where_both_stages_learnt_it() -> None:
    both = cascade_settings(missing_modality=0.2)
    assert parse_config(both, "test").missing_modalities
    both["first"]["recipe"]["augment"]["missing_modality"] = 0
    assert not parse_config(both, "test").missing_modalities


def test_a_network_that_works_alone_is_described_as_before_there_were_cascades(tiny_model: Path) -> None:
    assert "first" not in json.loads(header_of(tiny_model)["config"])
    assert "first" not in open_checkpoint(tiny_model).config.model_dump()


# ----------------------------------------------------------------------------------------------------------- file


def test_one_file_holds_both_networks_and_gives_them_back(tmp_path: Path) -> None:
    config = parse_config(cascade_settings(), "test")
    torch.manual_seed(0)
    first, second = (build_network(stage.network) for stage in config.stages)
    save_checkpoint(tmp_path / "c.safetensors", Cascade(first, second), config, {"scores": {"dice_WT": 0.5}})
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    assert checkpoint.config == config
    built = checkpoint.build()
    assert isinstance(built, Cascade) and not built.first.training and not built.second.training
    for network, back in ((first, built.first), (second, built.second)):
        for name, value in network.state_dict().items():
            expected = value.half().float() if value.is_floating_point() else value
            assert torch.equal(back.state_dict()[name], expected)
    assert {name.split(".")[0] for name in load_file(checkpoint.path)} == {"first", "second"}
    assert checkpoint.as_listing()["first"] == "attention_unet"


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).build()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_lacks_a_stage_or_has_one_too_many_is_refused(
    tiny_cascade: Path, tiny_model: Path, tmp_path: Path
) -> None:
    path = make_cascade(tmp_path / "c.safetensors")
    weights = load_file(path)
    only_second = {name: w for name, w in weights.items() if name.startswith("second.")}
    assert "do not fit the cascade of attention_unet and attention_unet it says it is: it lacks 'first." in refusal(
        resealed(path, only_second)
    )
    unprefixed = {name.removeprefix("second."): w for name, w in only_second.items()}
    assert "it lacks 'first." in refusal(resealed(path, unprefixed))
    alone = make_model(tmp_path / "m.safetensors")
    assert "it also has 'first." in refusal(
        resealed(alone, load_file(alone) | {n: w for n, w in weights.items() if n.startswith("first.")})
    )


def test_a_stage_with_weights_of_another_shape_or_no_numbers_is_refused(tmp_path: Path) -> None:
    path = make_cascade(tmp_path / "c.safetensors")
    weights = load_file(path)
    name = next(n for n, w in weights.items() if n.startswith("first.") and w.is_floating_point())
    assert f"{name} has shape (1,), and it takes" in refusal(resealed(path, {**weights, name: torch.zeros(1).half()}))
    broken = weights[name].clone()
    broken.view(-1)[0] = float("nan")
    assert f"1 tensors hold NaN or infinity, the first is {name}" in refusal(resealed(path, {**weights, name: broken}))


@pytest.mark.parametrize(
    "first", [5, [], {}, {"recipe": "brats_unet_plus_plus_2d", "regions": []}, {"recipe": {"network": 5}}]
)
def test_a_header_with_half_a_first_stage_is_refused(tmp_path: Path, first: Any) -> None:
    path = make_cascade(tmp_path / "c.safetensors")
    plain = json.loads(header_of(path)["config"])
    refusal(with_header(path, config=json.dumps(plain | {"first": first})))


def test_a_header_of_stages_without_end_is_refused(tmp_path: Path) -> None:
    path = make_cascade(tmp_path / "c.safetensors")
    plain = json.loads(header_of(path)["config"])
    for _ in range(400):
        plain = {**plain, "first": {**plain["first"], "recipe": plain}}
    refusal(with_header(path, config=json.dumps(plain)))
