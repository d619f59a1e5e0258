"""Model files: what is saved comes back, what is damaged or foreign is refused, and no file can run code."""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import nn

from data.errors import CheckpointError, InputError
from data.find.discover import discover_cases
from data.phantom.patient import write_phantom
from networks import build_network, networks_of
from pipeline.checkpoint import (
    FORMAT,
    FORMAT_WITHOUT_DIGEST,
    MODELS,
    bring_forward,
    open_checkpoint,
    require_same_regions,
    save_checkpoint,
    shipped_files,
    shipped_models,
)
from pipeline.config import RunConfig, parse_config
from pipeline.predict.predictor import Predictor
from pipeline.sealed_file import read_seal, seal
from run_pipeline import main

CARD = {"trained_on": "nobody", "scores": {"dice_WT": 0.5}, "licence": "CC-BY", "date": "2024-01-01", "held_out": ["Æ"]}


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
    """The same weights under another header, sealed again; a value None takes the entry away."""
    return resealed(path, load_file(path), **changes)


def resealed(path: Path, weights: dict[str, torch.Tensor], **changes: Any) -> Path:
    """What somebody makes who edits a file and knows the format."""
    header = {**header_of(path), **changes}
    new = path.with_name("changed.safetensors")
    new.write_bytes(seal(save(weights, {key: value for key, value in header.items() if value is not None})))
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


@pytest.mark.parametrize("keep", [0, 4, 8, 200])
def test_a_file_without_its_whole_header_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    assert "not readable as safetensors" in refused(saved)


@pytest.mark.parametrize(
    "change", ["last byte lost", "half of the weights lost", "a byte more", "a block of zeros", "swapped"]
)
def test_a_damaged_file_is_refused_when_it_is_opened(saved: Path, change: str) -> None:
    content = saved.read_bytes()
    one, other = [w.numpy().tobytes() for w in load(content).values() if w.shape == (4, 4, 3, 3)][:2]
    damaged = {
        "last byte lost": content[:-1],
        "half of the weights lost": content[:-2000],
        "a byte more": content + b"\0",
        "a block of zeros": content[:-4096] + bytes(4096),
        "swapped": content.replace(one, b"?" * len(one)).replace(other, one).replace(b"?" * len(one), other),
    }[change]
    assert damaged != content
    saved.write_bytes(damaged)
    assert refused(saved).endswith("; copy it again from its source")
    assert "is damaged: its bytes have the SHA-256 " in refused(saved)


def test_every_flipped_bit_of_a_model_file_is_found(saved: Path) -> None:
    """All bits of a small network's file; test_sealed_file.py does the same where every byte is in sight."""
    content = bytearray(saved.read_bytes())
    missed = []
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        try:
            read_seal(bytes(content))
            missed.append(bit)
        except ValueError:
            pass
        content[bit // 8] ^= 1 << bit % 8
    read_seal(bytes(content))
    assert missed == []


def test_a_flipped_bit_is_refused_in_one_line_wherever_it_is(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    digest = content.index(b'"sha256"')
    draw = random.Random(1)
    bits = [*range(64), *range(8 * digest, 8 * (digest + 80), 5), *(draw.randrange(8 * header) for _ in range(100))]
    bits += [draw.randrange(8 * header, 8 * len(content)) for _ in range(100)]
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(flipped)
        refused(saved)


def test_damage_after_the_file_was_opened_is_found_even_where_size_and_time_are_as_before(saved: Path) -> None:
    checkpoint, status = open_checkpoint(saved), saved.stat()
    content = bytearray(saved.read_bytes())
    content[-100] ^= 1
    saved.write_bytes(content)
    os.utime(saved, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.build()


def test_another_good_model_under_the_name_of_the_one_that_was_opened_is_refused(saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    save_checkpoint(saved, make_network(make_config()), make_config(), {**CARD, "trained_on": "somebody"})
    with pytest.raises(CheckpointError, match="was changed since it was opened; start again"):
        checkpoint.build()
    assert open_checkpoint(saved).card["trained_on"] == "somebody"


def test_a_file_is_digested_once_for_each_of_its_states(saved: Path, monkeypatch) -> None:
    checked = []
    monkeypatch.setattr("pipeline.checkpoint.read_seal", lambda content: checked.append(1) or read_seal(content))
    for _ in range(3):
        open_checkpoint(saved)
    assert len(checked) == 1
    saved.write_bytes(saved.read_bytes())
    os.utime(saved, ns=(0, 0))
    open_checkpoint(saved)
    assert len(checked) == 2


def test_a_file_of_the_format_without_a_digest_is_refused_and_can_be_brought_forward(saved: Path) -> None:
    before, weights = header_of(saved), load(saved.read_bytes())  # load_file's would change with the file
    header = {name: before[name] for name in ("config", "card")}
    saved.write_bytes(save(weights, {**header, "format": FORMAT_WITHOUT_DIGEST}))
    assert "if you trust the file, bring it forward with `run_pipeline.py seal FILE`" in refused(saved)
    sha256 = bring_forward(saved)
    assert header_of(saved) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(saved).items())
    assert open_checkpoint(saved).sha256 == sha256
    with pytest.raises(CheckpointError, match="leave it as it is"):
        bring_forward(saved)


def test_the_command_that_the_error_names_brings_files_forward_and_passes_over_others(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, weights = header_of(saved), load(saved.read_bytes())
    header = {name: before[name] for name in ("config", "card")}
    saved.write_bytes(save(weights, {**header, "format": FORMAT_WITHOUT_DIGEST}))
    missing = tmp_path / "missing.safetensors"
    assert main(["seal", str(missing), str(saved)]) == 1
    printed = capsys.readouterr()
    assert header_of(saved) == before
    assert printed.out == f"{open_checkpoint(saved).sha256}  {saved.name}\n"
    assert str(missing) in printed.err and len(printed.err.splitlines()) == 1


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
    path.write_bytes(seal(save({"w": torch.zeros(3)}, {"format": "brain-tumour-training-state 2"})))
    assert "format 'brain-tumour-training-state 2'" in refused(path)


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.safetensors")
    assert "is no file of bytes" in refused(tmp_path / "fifo.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert "cannot be read" in refused(tmp_path / "folder.safetensors")


def test_a_giant_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "giant.safetensors", "wb") as file:
        file.truncate(2**42)
    assert f"has {2**42} bytes, more than the {2**31} that such a file may have" in refused(
        tmp_path / "giant.safetensors"
    )


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
        {"card": '{"scores": []}'},
        {"card": '{"scores": {"dice_WT": "high"}}'},
        {"card": '{"held_out": 3}'},
        {"card": '{"held_out": [[]]}'},
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


@pytest.mark.parametrize(
    "about",
    [
        {"learnt_from": ["a"]},
        {"learnt_from": {"patient": ["a"]}},
        {"learnt_from": {"patient": {"a": {"flair": 3}}}},
        {"parents": [3]},
        {"parents": [{"name": 3}]},
    ],
)
def test_provenance_of_another_kind_is_refused_when_the_file_is_opened(saved: Path, about: dict[str, Any]) -> None:
    assert "header is damaged" in refused(with_header(saved, card=json.dumps(CARD | about)))


@pytest.mark.parametrize("part", ["modalities", "regions"])
@pytest.mark.parametrize("value", [[["t1"]], [None], [1], {"t1": 1}, "t1", None])
def test_names_that_are_no_text_are_refused_when_the_file_is_opened(saved: Path, part: str, value: Any) -> None:
    plain = {**json.loads(header_of(saved)["config"]), part: value}
    assert "its header is damaged" in refused(with_header(saved, config=json.dumps(plain)))


def test_weights_of_another_architecture_or_width_are_refused(saved: Path) -> None:
    for other in (make_config("attention_unet"), make_config(channels=(4, 12))):
        text = refused(with_header(saved, config=other.model_dump_json()), build=True)
        assert f"its weights do not fit the {other.network.architecture} it says it is" in text


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(saved: Path, value: float) -> None:
    weights = load_file(saved)
    name = next(name for name, w in weights.items() if w.is_floating_point())
    weights[name].flatten()[0] = value
    text = refused(resealed(saved, weights), build=True)
    assert text.endswith(f"1 tensors hold NaN or infinity, the first is {name}; take another checkpoint")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights, name: {n: w for n, w in weights.items() if n != name}, "it lacks '{}' (1 such names)"),
        (lambda weights, name: {**weights, "more": torch.ones(3)}, "it also has 'more' (1 such names)"),
        (
            lambda weights, name: {**weights, name: weights[name].permute(3, 2, 1, 0).contiguous()},
            "{} has shape (3, 3, 2, 4), and it",
        ),
        (lambda weights, name: {**weights, name: weights[name].to(torch.int64)}, "{} is I64, and it takes a floating"),
        (lambda weights, name: {**weights, name: weights[name].to(torch.bool)}, "{} is BOOL, and it takes a floating"),
    ],
    ids=["one less", "one more", "another shape", "whole numbers", "truth values"],
)
def test_weights_that_are_not_the_networks_are_refused_with_the_first_that_is_not(saved, change, sentence) -> None:
    weights = load_file(saved)
    name = next(name for name, w in weights.items() if w.shape == (4, 2, 3, 3))
    text = refused(resealed(saved, change(weights, name)), build=True)
    assert "its weights do not fit the unet_plus_plus it says it is: " + sentence.format(name) in text


def test_weights_of_any_floating_point_type_are_taken(saved: Path) -> None:
    weights = load_file(saved)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        other = {name: w.to(dtype) if w.is_floating_point() else w for name, w in weights.items()}
        built = open_checkpoint(resealed(saved, other)).build().state_dict()
        assert all(torch.equal(w, other[name].to(w.dtype)) for name, w in built.items())


def test_a_case_without_the_models_modality_is_refused_with_both_lists(saved: Path, tmp_path: Path) -> None:
    case = discover_cases(write_phantom(tmp_path, 1, shape=(20, 20, 14), spacing_mm=(12.0, 12.0, 12.0)))[0]
    lacking = replace(case, images={m: source for m, source in case.images.items() if m != "flair"})
    with pytest.raises(InputError, match="no flair image, and mine needs t1, flair; add the file"):
        Predictor(saved, "cpu")(lacking)
    plain = json.loads(header_of(saved)["config"]) | {"modalities": ["t1", "petct"]}
    with pytest.raises(InputError, match="no petct image, and changed needs t1, petct; add the file"):
        Predictor(with_header(saved, config=json.dumps(plain)), "cpu")(case)


def test_models_of_other_regions_are_not_averaged(saved: Path, tmp_path: Path) -> None:
    plain = json.loads(header_of(saved)["config"]) | {"regions": ["TC"]}
    other = open_checkpoint(with_header(saved, config=json.dumps(plain)))
    with pytest.raises(CheckpointError) as caught:
        require_same_regions([open_checkpoint(saved), other])
    assert str(caught.value) == (
        "mine gives the regions WT but changed gives TC; only models of the same regions can be averaged"
    )


def test_names_of_patients_that_are_no_text_are_kept(tmp_path: Path) -> None:
    card = {**CARD, "held_out": ["a\udcff", "line\nbreak", "Æ"]}
    save_checkpoint(tmp_path / "a.safetensors", make_network(make_config()), make_config(), card)
    assert open_checkpoint(tmp_path / "a.safetensors").card == card


@pytest.mark.parametrize("channels", [(4_000_000, 4_000_000), (10**18, 10**18), (10**30, 4), (4,) * 100_000])
def test_a_header_cannot_make_us_take_memory_that_the_file_does_not_hold(saved: Path, channels) -> None:
    plain = json.loads(header_of(saved)["config"])
    plain["network"]["channels"] = channels
    text = refused(with_header(saved, config=json.dumps(plain)), build=True)
    assert len(text) < 600


settings_of_a_file = make_config().model_dump(mode="json")
places = [
    (part, key) for part, value in settings_of_a_file.items() for key in (value if isinstance(value, dict) else (None,))
]
values = st.one_of(
    st.sampled_from([None, [], {}, "", "\n", [[]], True, -1, 0, 2**63, 10**400, 1e308, float("nan"), "1e9", ["a"] * 9]),
    st.integers(),
    st.text(max_size=5),
    st.lists(st.integers(-(2**70), 2**70), max_size=4),
)


@hypothesis.settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.sampled_from(places), values)
def test_whatever_a_sealed_header_says_it_is_a_model_or_an_error_of_one_line(saved: Path, place, value) -> None:
    (part, key), plain = place, json.loads(header_of(saved)["config"])
    if key is None:
        plain[part] = value
    else:
        plain[part][key] = value
    try:
        open_checkpoint(with_header(saved, config=json.dumps(plain))).build()
    except CheckpointError as error:
        assert "\n" not in str(error) and "changed.safetensors" in str(error) and len(str(error)) < 800


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
    torch.set_num_threads(1)
    for network, stage in zip(networks_of(checkpoint.build()), config.stages, strict=True):
        with torch.no_grad():
            answer = network(torch.randn(1, stage.network.in_channels, *(17,) * stage.network.spatial_dims))
        assert answer.shape[1] == len(stage.regions) and torch.isfinite(answer).all()
    assert path.stat().st_size <= 12 * 2**20 * len(checkpoint.config.stages)


def test_shipped_models_are_those_in_the_folder_by_name() -> None:
    names = [checkpoint.name for checkpoint in shipped_models()]
    assert names == sorted(p.stem for p in MODELS.glob("*.safetensors"))
    assert names


def test_all_shipped_weights_together_are_small_enough_to_be_cloned() -> None:
    assert sum(path.stat().st_size for path in MODELS.glob("*.safetensors")) <= 40 * 2**20


def test_the_shipped_files_are_those_whose_digests_are_kept_beside_them() -> None:
    """`sha256sum -c SHA256SUMS` in the folder says the same: a good file under another's name is found, too."""
    kept = dict(reversed(line.split("  ")) for line in (MODELS / "SHA256SUMS").read_text().splitlines())
    assert kept == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped_files()}
    assert {model.path.name: model.as_listing()["sha256"] for model in shipped_models()} == kept


@pytest.mark.parametrize(
    "card",
    [
        '{"scores": {"dice_WT": NaN}}',
        '{"scores": {"dice_WT": 1' + "0" * 400 + "}}",
        '{"licence": ["a"]}',
        '{"licence": "a", "licence": "b"}',
        '{"trained_on": {"a": 1}}',
        '{"soup": [5]}',
        '{"held_out": ["' + "x" * 10**6 + '"]}',
        '{"licence": ' + "[" * 20_000 + "]" * 20_000 + "}",
        "[]",
    ],
    ids=lambda card: card[:30],
)
def test_a_card_of_another_form_is_refused_in_a_sentence(card: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(seal(Path(tiny_model).read_bytes(), {"card": card}))
    with pytest.raises(CheckpointError, match="its header is damaged") as caught:
        open_checkpoint(tmp_path / "m.safetensors")
    assert len(str(caught.value)) < 400
