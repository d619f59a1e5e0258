"""Model files: what is saved comes back, what is damaged or foreign is refused, and no file can run code."""

from __future__ import annotations

import ast
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from data.case import discover_cases
from data.errors import CheckpointError
from data.phantom import write_phantom
from networks import build_network
from pipeline.checkpoint import (
    CARD_KEYS,
    FORMAT,
    MODELS,
    Checkpoint,
    choose_model,
    open_checkpoint,
    save_checkpoint,
    shipped_files,
    shipped_models,
)
from pipeline.config import RunConfig, parse_config

ROOT = Path(__file__).parents[1]
CARD = {"trained_on": "nobody", "scores": {"dice_WT": 0.5}, "licence": "CC-BY", "date": "2024-01-01", "held_out": "Æ"}


def make_config(architecture: str = "unet_plus_plus", channels: tuple[int, ...] = (4, 8)) -> RunConfig:
    return parse_config(
        {
            "name": "tiny",
            "modalities": ["t1", "flair"],
            "regions": ["WT"],
            "convention": "brats2017",
            "network": {
                "architecture": architecture,
                "spatial_dims": 2,
                "in_channels": 2,
                "out_channels": 1,
                "channels": channels,
                "norm": "batch",
            },
            "window": {"size": [16, 16]},
            "training": {"patch": [16, 16]},
        },
        "test",
    )


def make_network(config: RunConfig) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(config.network)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 1.0)
    return network.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = make_config()
    save_checkpoint(tmp_path / "mine.safetensors", make_network(config), config, CARD)
    return tmp_path / "mine.safetensors"


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return dict(file.metadata())


def with_header(path: Path, **changes: Any) -> Path:
    """The same weights under another header; a value None takes the entry away."""
    header = {**header_of(path), **changes}
    new = path.with_name("changed.safetensors")
    save_file(load_file(path), new, {key: value for key, value in header.items() if value is not None})
    return new


def refused(path: Path | str, build: bool = False) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint = open_checkpoint(path)
        assert build
        checkpoint.build()
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


# ------------------------------------------------------------------------------------------------------ round trip


@pytest.mark.parametrize("architecture", ["attention_unet", "unet_plus_plus"])
def test_a_saved_network_comes_back_as_the_same_function_in_float16_precision(tmp_path: Path, architecture) -> None:
    config = make_config(architecture)
    network, path = make_network(config), tmp_path / "a.safetensors"
    save_checkpoint(path, network, config, CARD)
    checkpoint = open_checkpoint(path)
    loaded = checkpoint.build()
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        original = network.state_dict()[name]
        assert value.dtype == original.dtype  # float32 again, and the counters whole numbers
        assert torch.equal(value, original.half().float() if original.is_floating_point() else original), name
    x = torch.randn(1, 2, 12, 10)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network(x), rtol=0.02, atol=0.02)
    assert all(p.requires_grad for p in loaded.parameters())


def test_settings_and_card_come_back_whole(saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    assert checkpoint.config == make_config()
    assert checkpoint.card == CARD
    assert checkpoint.name == "mine" and checkpoint.path == saved
    listing = checkpoint.as_listing()
    assert listing["modalities"] == ["t1", "flair"] and listing["regions"] == ["WT"]
    assert listing["scores"] == {"dice_WT": 0.5} and listing["architecture"] == "unet_plus_plus"
    assert json.loads(json.dumps(listing)) == listing


def test_floating_point_weights_are_stored_as_float16_and_the_file_is_as_small_as_that(saved: Path) -> None:
    weights = load_file(saved)
    assert {w.dtype for w in weights.values()} == {torch.float16, torch.int64}
    n_bytes = sum(w.numel() * w.element_size() for w in weights.values())
    assert n_bytes < saved.stat().st_size < n_bytes + 20_000


def test_the_same_network_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    config = make_config()
    save_checkpoint(tmp_path / "again.safetensors", make_network(config), config, CARD)
    assert saved.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert open_checkpoint(saved).sha256 == open_checkpoint(tmp_path / "again.safetensors").sha256


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_float16_cannot_hold_are_not_written(tmp_path: Path, value: float) -> None:
    config = make_config()
    network = make_network(config)
    with torch.no_grad():
        next(network.parameters()).flatten()[0] = value
    with pytest.raises(CheckpointError, match="is not finite in float16; not written"):
        save_checkpoint(tmp_path / "a.safetensors", network, config, CARD)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- refusal


def test_a_model_that_is_not_there_is_refused_with_those_that_are() -> None:
    known = ", ".join(path.stem for path in shipped_files())
    assert refused("resnet").endswith(f"one of the shipped models: {known}")
    assert "no such model file" in refused("nowhere/a.safetensors")
    for outside in ("../models/x", "/etc/passwd"):
        assert "no model" in refused(outside)


@pytest.mark.parametrize("keep", [0, 4, 8, 200, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    assert "not readable as safetensors" in refused(saved)


def test_a_flipped_bit_in_the_header_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for position in (0, 8, content.index(b'"config"') + 2):
        saved.write_bytes(content[:position] + bytes([content[position] ^ 0x5A]) + content[position + 1 :])
        refused(saved, build=True)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip, as torch.save writes", b"\x80\x04\x95 a pickle", b"text" * 99])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    assert "not readable as safetensors" in refused(path)


def test_someone_elses_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(3)}, path)
    assert "its header says format None" in refused(path)
    save_file({"w": torch.zeros(3)}, path, {"format": "pt"})
    assert f"format 'pt', not '{FORMAT}'; it was not written by this pipeline" in refused(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"card": None},
        {"config": "{"},
        {"config": "[]"},
        {"config": '"text"'},
        {"card": "[]"},
        {"config": '{"network": {}}'},
        {"config": '{"network": 3, "modalities": [], "regions": [], "convention": "x"}'},
        {"config": "[" * 100_000},
        {"config": "9" * 5_000},
    ],
)
def test_a_header_without_what_is_needed_is_refused(saved: Path, changes: dict[str, Any]) -> None:
    assert "its header is damaged" in refused(with_header(saved, **changes))


@pytest.mark.parametrize(
    "change",
    [
        {"convention": "brats1999"},
        {"surprise": 1},
        {"regions": ["XX"]},
        {"network": {**make_config().model_dump(mode="json")["network"], "architecture": "resnet"}},
    ],
)
def test_settings_are_checked_as_strictly_as_a_recipe(saved: Path, change: dict[str, Any]) -> None:
    plain = {**json.loads(header_of(saved)["config"]), **change}
    text = refused(with_header(saved, config=json.dumps(plain)), build=True)
    assert text.endswith("the file was made by another version or is damaged")


def test_weights_of_another_architecture_or_width_are_refused(saved: Path) -> None:
    for other in (make_config("attention_unet"), make_config(channels=(4, 12))):
        text = refused(with_header(saved, config=other.model_dump_json()), build=True)
        assert f"its weights do not fit the {other.network.architecture} it says it is" in text


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(saved: Path, value: float) -> None:
    weights = load_file(saved)
    name = next(name for name, w in weights.items() if w.is_floating_point())
    weights[name].flatten()[0] = value
    save_file(weights, saved, header_of(saved))
    assert f"1 tensors hold NaN or infinity, the first is {name}" in refused(saved, build=True)


def test_a_file_that_breaks_off_after_its_header_was_read_is_refused(saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    saved.write_bytes(saved.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        checkpoint.build()


def test_a_header_cannot_make_us_take_memory_that_the_file_does_not_hold(saved: Path) -> None:
    giant = make_config(channels=(4_000_000, 4_000_000))  # 144 TB of weights
    assert "do not fit" in refused(with_header(saved, config=giant.model_dump_json()), build=True)
    # safetensors itself: a header of a terabyte, as its first eight bytes say
    saved.write_bytes(struct.pack("<Q", 2**40) + saved.read_bytes()[8:])
    assert "not readable as safetensors" in refused(saved)


# --------------------------------------------------------------------------------------------------- shipped models


@pytest.mark.parametrize("path", shipped_files(), ids=lambda path: path.stem)
def test_every_shipped_model_loads_answers_and_matches_its_listing(path: Path) -> None:
    checkpoint = open_checkpoint(path.stem)
    assert checkpoint.path == path
    config, listing = checkpoint.config, checkpoint.as_listing()
    assert listing["name"] == path.stem
    assert listing["architecture"] == config.network.architecture
    assert listing["spatial_dims"] == config.network.spatial_dims
    assert tuple(listing["modalities"]) == config.modalities and tuple(listing["regions"]) == config.regions
    assert listing["convention"] == config.convention and len(listing["sha256"]) == 64
    assert set(checkpoint.card) <= set(CARD_KEYS)
    network = checkpoint.build()
    torch.set_num_threads(1)
    with torch.no_grad():
        answer = network(torch.randn(1, config.network.in_channels, *(17,) * config.network.spatial_dims))
    assert answer.shape[1] == len(config.regions) and torch.isfinite(answer).all()
    assert path.stat().st_size <= (12 if config.network.spatial_dims == 3 else 6) * 2**20


def test_shipped_models_are_those_in_the_folder_by_name() -> None:
    names = [checkpoint.name for checkpoint in shipped_models()]
    assert names == sorted(p.stem for p in MODELS.glob("*.safetensors"))
    assert names


def listed(name: str, dims: int, dice: float, modalities: str = "t1 t1c t2 flair") -> Checkpoint:
    settings = {"modalities": modalities.split(), "network": {"spatial_dims": dims}}
    return Checkpoint(Path(f"{name}.safetensors"), name, settings, {"scores": {"dice_WT": dice}})


def test_the_model_that_is_chosen_fits_data_set_then_modalities_then_score(tmp_path: Path, monkeypatch) -> None:
    case = discover_cases(write_phantom(tmp_path, 1, shape=(20, 20, 14), spacing_mm=(12.0, 12.0, 12.0)))[0]
    models = [listed("brats-a", 3, 0.8), listed("brats-b", 2, 0.85), listed("lgg-c", 2, 0.99)]
    monkeypatch.setattr("pipeline.checkpoint.shipped_models", lambda: models)
    assert choose_model(case).name == "brats-b"
    models.append(listed("lgg-d", 2, 0.9, "t1 flair t1c"))  # lacks nothing, but was trained on heads with their skulls
    without_t2 = replace(case, images={m: source for m, source in case.images.items() if m != "t2"})
    assert choose_model(without_t2).name == "brats-b"
    flair = replace(case, images={"flair": case.images["flair"]})
    models.append(listed("brats-flair", 3, 0.1, "flair"))
    assert choose_model(flair).name == "brats-flair"
    models.clear()
    with pytest.raises(CheckpointError, match="no model is shipped"):
        choose_model(case)


def test_a_single_slice_gets_a_model_of_slices(tmp_path: Path, monkeypatch) -> None:
    case = discover_cases(write_phantom(tmp_path, 1, shape=(60, 60, 1), spacing_mm=(4.0, 4.0, 4.0)))[0]
    models = [listed("brats-a", 3, 0.9), listed("brats-b", 2, 0.7)]
    monkeypatch.setattr("pipeline.checkpoint.shipped_models", lambda: models)
    assert choose_model(case).name == "brats-b"


# ------------------------------------------------------------------------------------------------------------ code

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__", "os.system", "yaml.load", "yaml.full_load",
                   "yaml.unsafe_load", "pandas.read_pickle", "numpy.load", "torch.load", "torch.serialization.load",
                   "torch.jit.load", "torch.hub.load"}  # fmt: skip
ALLOWED_WITH = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
"""Calls that are safe with this keyword, written out as a literal."""


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: ``import numpy as np`` gives {"np": "numpy"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_allowed(call: ast.Call, name: str) -> bool:
    keyword, wanted = ALLOWED_WITH.get(name, ("", None))
    values = [k.value for k in call.keywords if k.arg == keyword]
    return any(isinstance(value, ast.Constant) and value.value is wanted for value in values)


def ways_to_run_code(source: str) -> set[str]:
    """Forbidden imports, and forbidden functions wherever they are named but in a call that is allowed."""
    tree = ast.parse(source)
    known = full_names(tree)

    def full_name(node: ast.AST) -> str:
        first, *rest = ast.unparse(node).split(".")
        return ".".join([known.get(first, first), *rest])

    allowed = {n.func for n in ast.walk(tree) if isinstance(n, ast.Call) and is_allowed(n, full_name(n.func))}
    named = {full_name(n) for n in ast.walk(tree) if isinstance(n, (ast.Name, ast.Attribute)) and n not in allowed}
    return (named & FORBIDDEN_NAMES) | ({name.split(".")[0] for name in known.values()} & FORBIDDEN_IMPORTS)


@pytest.mark.parametrize(
    "path",
    [p for package in ("data", "networks", "transforms", "pipeline") for p in sorted((ROOT / package).rglob("*.py"))]
    + [ROOT / "run_pipeline.py"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_module_can_be_made_to_run_code_by_a_file(path: Path) -> None:
    assert ways_to_run_code(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import torch; torch.load(path)", "torch.load"),
        ("import torch; torch.load(path, weights_only=False)", "torch.load"),
        ("import torch; torch.load(path, weights_only=1)", "torch.load"),
        ("import torch; torch.load(path, weights_only=safe)", "torch.load"),
        ("import torch; torch.load(path, allow_pickle=False)", "torch.load"),
        ("import torch; torch.load(path, **{'weights_only': True})", "torch.load"),
        ("import torch; torch.load(path, weights_only=True); torch.load(path)", "torch.load"),
        ("import torch; read = torch.load; read(path)", "torch.load"),
        ("import torch as t; t.load(path)", "torch.load"),
        ("from torch import load; load(path)", "torch.load"),
        ("from torch import load as read; read(path)", "torch.load"),
        ("import torch.nn; torch.load(path)", "torch.load"),
        ("from torch import serialization; serialization.load(path)", "torch.serialization.load"),
        ("import numpy as np; np.load(path)", "numpy.load"),
        ("import numpy as np; np.load(path, allow_pickle=True)", "numpy.load"),
        ("import numpy as np; np.load(path, allow_pickle=0)", "numpy.load"),
        ("import numpy as np; np.load(path, None, False)", "numpy.load"),
        ("from numpy import load; load(path)", "numpy.load"),
        ("import pandas as pd; pd.read_pickle(path)", "pandas.read_pickle"),
        ("import yaml; yaml.load(text, Loader=yaml.SafeLoader)", "yaml.load"),
        ("import os; os.system(text)", "os.system"),
        ("def run(text):\n    return eval(text)", "eval"),
        ("def read(path):\n    import pickle as safe\n    return safe.load(path)", "pickle"),
        ("from pickle import loads", "pickle"),
    ],
)
def test_a_way_to_run_code_is_caught_however_it_is_written(source: str, caught: str) -> None:
    assert ways_to_run_code(source) == {caught}


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path, map_location='cpu', weights_only=True)",
        "import torch as t; t.load(path, weights_only=True)",
        "from torch import load; load(path, weights_only=True)",
        "import torch; torch.save(state, path)",  # writing runs nothing
        "import numpy as np; np.load(path, mmap_mode='r', allow_pickle=False)",
        "import json; json.load(file)",
        "import re; re.compile(text)",
        "network.eval()",
    ],
)
def test_safe_reading_and_writing_is_let_through(source: str) -> None:
    assert ways_to_run_code(source) == set()
