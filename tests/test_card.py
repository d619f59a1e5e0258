"""Training from parts, as on a rented card.

What is packed, what is learnt, what comes back, and what must be brought.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from bench.card import commands as card
from bench.card.back import join
from bench.card.packing import pack
from bench.card.parts import pack_voxels, read_content, read_index, unpack_voxels, write_parts
from bench.card.training import shared_memory_allows, train_on_card, with_batch
from bench.card.unpacking import unpack
from data.errors import InputError, UsageError
from data.find.discover import discover_cases
from data.phantom.patient import write_phantom
from networks import build_network
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.config import load_recipe, parse_config
from pipeline.options import TrainOptions
from pipeline.predict.predictor import Predictor
from pipeline.training import plan
from pipeline.training.distributed import Process
from pipeline.training.loop import _batches
from pipeline.training.plan import chosen_cases
from pipeline.training.progress import files as run_files
from pipeline.training.progress.extension import BEFORE_COOLDOWN, STATE_NAME
from pipeline.training.run import run_training
from pipeline.training.sampling import PatchDataset
from tests.conftest import read_history
from tests.test_sources import write_cube

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["BraTS-GLI-90001-000", "BraTS-GLI-90002-000"]
CUBE = "BraTS20_Training_001"

WITHOUT_OTHERS = '''
import sys

sys.path.insert(0, sys.argv.pop(1))
WITH_TORCH = {"torch", "torchgen", "functorch", "numpy", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2",
              "markupsafe", "filelock", "fsspec", "setuptools"}
OURS = {"data", "transforms", "networks", "pipeline", "bench", "tools"}
here = WITH_TORCH | OURS | set(sys.stdlib_module_names) | set(sys.argv.pop(1).split(","))

class Only:
    """Finds what a finder finds, but of other packages nothing, as if they were not installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        known = top in here or top.startswith(("_sysconfigdata", "__editable"))
        return self.finder.find_spec(name, path, target) if known else None

sys.meta_path[:] = [Only(finder) for finder in sys.meta_path]
from bench.card import commands as card
card.main()
print("imported:", *sorted(set(card.WHEELS) & set(sys.modules)))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("card")


@pytest.fixture(scope="module")
def recipe(folder) -> str:
    settings = {
        "name": "tiny",
        "modalities": ["t1", "t1c", "t2", "flair"],
        "regions": ["WT", "TC", "ET"],
        "convention": "brats2023",
        "network": {
            "architecture": "attention_unet",
            "spatial_dims": 2,
            "in_channels": 4,
            "out_channels": 3,
            "channels": [4, 8],
        },
        "preprocess": {"spacing_mm": [6.0, 6.0, 6.0]},
        "augment": {"transplant": 0.5},
        "window": {"size": [16, 16], "batch": 16},
        "training": {
            "patch": [16, 16],
            "batch": 4,
            "epochs": 2,
            "steps_per_epoch": 1,
            "learning_rate": 0.01,
            "sampling": {"extra_share": 0.5},
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    return str(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def options(folder) -> TrainOptions:
    for seed in (1, 2):
        write_phantom(folder / "patients", seed, shape=(30, 30, 20), spacing_mm=(8.0, 8.0, 8.0))
    (folder / "cubes").mkdir()
    write_cube(folder / "cubes" / f"{CUBE}.npz")
    (folder / "split.json").write_text(json.dumps({"train": NAMES, "validation": []}))
    extra = [folder / "cubes", f"{folder / 'patients'}:patient"]
    return TrainOptions(device="cpu", split=folder / "split.json", extra=extra, cache=folder / "cache")


@pytest.fixture(scope="module")
def parts(folder, recipe, options) -> Path:
    count = pack(folder / "patients", recipe, folder / "parts", options, 40_000, False)
    sizes = [path.stat().st_size for path in sorted((folder / "parts").glob("part-*.bin"))]
    assert count == len(sizes) > 3 and set(sizes[:-1]) == {40_000} and sizes[-1] <= 40_000
    return folder / "parts"


@pytest.fixture(scope="module")
def dataset(parts, folder) -> PatchDataset:
    """Unpacked from the parts into a cache of its own."""
    index = read_index(parts)
    config = parse_config(index["recipe"], "parts")
    return PatchDataset(*unpack(parts, index, config, folder / "unpacked", 2))


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch) -> None:
    """They take longer than a tiny epoch."""
    monkeypatch.setattr(run_files, "plot_curves", lambda *_: None)


@pytest.fixture(autouse=True)
def _one_thread():
    """As the process of its own has it: sums over several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain_dataset(recipe: str, folder: Path, options: TrainOptions) -> PatchDataset:
    """What `train` learns from."""
    cases, split, further, options = chosen_cases(folder / "patients", options)
    learnt = [cases[name] for name in split.train]
    return plan.patches_of(learnt, further, load_recipe(recipe), folder, options)


# ----------------------------------------------------------------------------------------------------- what is packed


def test_voxels_come_out_of_the_parts_as_they_lie_in_the_cache(dataset, recipe, folder, options):
    ours, theirs = dataset.pools, plain_dataset(recipe, folder, options).pools
    assert [share for _, share in ours] == [share for _, share in theirs]
    for (cases, _), (others, _) in zip(ours, theirs, strict=True):
        for case, other in zip(cases, others, strict=True):
            assert case.voxels.tobytes() == other.voxels.tobytes()
            for name in ("name", "kind", "n_images", "patient", "beyond_known", "place"):
                assert getattr(case, name) == getattr(other, name)
            assert case.centres.keys() == other.centres.keys()
            assert all((case.centres[key] == other.centres[key]).all() for key in case.centres)


def test_the_first_batch_is_that_of_train(dataset, recipe, folder, options):
    process = Process(0, 1, torch.device("cpu"))
    (ours,), (theirs,) = (list(_batches(d, 0, process, 0)) for d in (dataset, plain_dataset(recipe, folder, options)))
    for key in ("image", "regions"):
        assert ours[key].numpy().tobytes() == theirs[key].numpy().tobytes()


def test_voxels_are_packed_to_the_bit_whatever_they_are():
    bits = np.arange(2**16, dtype=np.uint16).reshape(16, 2, 32, 64)
    for voxels in (bits.view(np.float16), bits[::-1].copy().view(np.float16), np.zeros((1, 3, 2, 2), np.float16)):
        assert unpack_voxels(pack_voxels(voxels)).tobytes() == voxels.tobytes()


def test_smooth_voxels_take_much_less_than_plain_deflate_gives_them():
    x, y, z = np.meshgrid(*[np.arange(40)] * 3, indexing="ij")
    counts = 1000 + 3 * x + 5 * y + 2 * z + np.random.default_rng(0).integers(4, size=x.shape)
    voxels = ((counts - 1200) / 70).astype(np.float16)[:, None]
    assert len(pack_voxels(voxels)) < 0.25 * voxels.nbytes


def test_a_content_may_go_on_in_the_next_part_and_old_parts_do_not_stay(tmp_path):
    files = {"a": b"12345", "empty": b"", "b": b"6789"}
    assert write_parts(tmp_path, files.items(), 2, {}) == 5
    assert write_parts(tmp_path, files.items(), 4, {"more": 1}) == 3
    assert len(list(tmp_path.iterdir())) == 4
    index = read_index(tmp_path)
    assert {name: read_content(tmp_path, index, name) for name in files} == files and index["more"] == 1


@pytest.mark.parametrize("damaged", ["part-002.bin", "index.json"])
@pytest.mark.parametrize("how", ["a bit", "half", "gone"])
def test_a_part_that_is_damaged_or_missing_is_refused_by_its_name(damaged, how, tmp_path):
    write_parts(tmp_path, {"a": bytes(100)}.items(), 40, {})
    path = tmp_path / damaged
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if how == "a bit" else content[: len(content) // 2])
    if how == "gone":
        path.unlink()
    with pytest.raises(InputError, match=damaged):
        read_index(tmp_path)


# ------------------------------------------------------------------------------------- two steps, here and there


def test_a_step_there_with_the_listed_wheels_alone_and_one_here_are_two_steps_of_train(
    parts, recipe, folder, options, tmp_path
):
    command: list[Any] = [sys.executable, "-c", WITHOUT_OTHERS, ROOT, ",".join(card.WHEELS)]
    # No minutes: the call ends after one epoch.
    command += ["train", parts, "--output", tmp_path / "there", "--minutes", "0", "--device", "cpu", "--workers", "0"]
    done = subprocess.run(
        [str(a) for a in command], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout.decode().splitlines()[-1] == f"imported: {' '.join(sorted(card.WHEELS))}"

    here = tmp_path / "here"
    assert STATE_NAME in join(tmp_path / "there" / "back", here)
    assert [record.step for record in read_history(here / "history.csv")] == [1]
    trained = open_checkpoint(here / "model.safetensors")
    assert trained.card["trained_on"] == "4 patients, 1 cube"  # the extra folder has the two again
    case = discover_cases(folder / "patients")[0]
    assert Predictor(str(here / "model.safetensors"), "cpu")(case).label_map.shape == (30, 30, 20)

    run_training(folder / "patients", str(here / "recipe.yaml"), here, replace(options, resume=True))
    run_training(folder / "patients", recipe, tmp_path / "plain", options)
    ours, theirs = (load_file(run / "model.safetensors") for run in (here, tmp_path / "plain"))
    assert ours.keys() == theirs.keys()
    assert all(ours[key].numpy().tobytes() == theirs[key].numpy().tobytes() for key in ours)
    plain = open_checkpoint(tmp_path / "plain" / "model.safetensors").card
    for about in (trained.card, open_checkpoint(here / "model.safetensors").card):
        assert about["learnt_from"] == plain["learnt_from"]
    assert all(plain["learnt_from"]["patient"][name] for name in NAMES)  # with fingerprints


def test_a_second_call_goes_on_and_another_batch_is_another_recipe(parts, folder, tmp_path):
    out = tmp_path / "out"
    given: dict[str, Any] = {"device": "cpu", "workers": 0, "cache": folder / "unpacked"}
    assert train_on_card(parts, out, minutes=0, **given) == 2  # one piece and its index
    with pytest.raises(UsageError, match="go on with --resume"):
        train_on_card(parts, out, minutes=0, **given)
    with pytest.raises(UsageError, match="another recipe"):
        train_on_card(parts, out, minutes=0, batch=8, resume=True, **given)
    train_on_card(parts, out, minutes=5, resume=True, **given)
    assert [record.step for record in read_history(out / "history.csv")] == [1, 2]


def test_patients_and_lesions_to_validate_on_can_come_along(recipe, folder, options, tmp_path):
    settings = yaml.safe_load(Path(recipe).read_text())
    settings["training"] |= {"validate_every": 1, "soup": 2, "schedule": {"name": "constant_cooldown", "cooldown": 0.6}}
    (tmp_path / "soup.yaml").write_text(yaml.safe_dump(settings))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": NAMES[:1], "validation": NAMES[1:], "set_aside": [CUBE]}))
    given = replace(options, split=split, extra=[folder / "cubes"])
    pack(folder / "patients", str(tmp_path / "soup.yaml"), tmp_path / "parts", given, 10**6, True)
    train_on_card(tmp_path / "parts", tmp_path / "out", minutes=5, device="cpu", workers=0)
    run_training(folder / "patients", str(tmp_path / "soup.yaml"), tmp_path / "plain", given)
    ours, theirs = (read_history(tmp_path / run / "history.csv") for run in ("out", "plain"))
    for record, other in zip(ours, theirs, strict=True):
        assert record.lesion_dice is not None and record.val_loss is not None
        assert record == replace(other, minutes=record.minutes)
    back = set(join(tmp_path / "out" / "back", tmp_path / "home"))
    plain = {path.relative_to(tmp_path / "plain").as_posix() for path in (tmp_path / "plain").rglob("*.*")}
    assert {"validation.csv", "validation_lesions.csv", "kept/epoch_000001.safetensors"} <= back
    assert BEFORE_COOLDOWN in back and back - plain == {"recipe.yaml"}


def test_a_cascade_learns_behind_the_model_that_was_packed(recipe, folder, options, tmp_path):
    config = load_recipe(recipe)
    about = {"trained_on": "nobody", "held_out": [], "scores": {}, "licence": "", "date": "", "command": ""}
    save_checkpoint(tmp_path / "coarse.safetensors", build_network(config.network), config, about)
    settings = config.model_dump(mode="json")
    settings["network"]["in_channels"] = 7
    settings["first"] = {"recipe": config.model_dump(mode="json"), "regions": ["WT", "TC", "ET"]}
    (tmp_path / "cascade.yaml").write_text(yaml.safe_dump(settings))
    given: dict[str, Any] = {"part_bytes": 10**6, "validation": False}
    patients, cascade = folder / "patients", str(tmp_path / "cascade.yaml")
    with pytest.raises(UsageError, match="give it as --first"):
        pack(patients, cascade, tmp_path / "parts", options, **given)
    options = replace(options, first=str(tmp_path / "coarse.safetensors"))
    pack(patients, cascade, tmp_path / "parts", options, **given)
    train_on_card(tmp_path / "parts", tmp_path / "out", minutes=0, device="cpu", workers=0)
    join(tmp_path / "out" / "back", tmp_path / "home")
    run_training(patients, str(tmp_path / "home" / "recipe.yaml"), tmp_path / "home", replace(options, resume=True))
    model = open_checkpoint(tmp_path / "home" / "model.safetensors")
    assert model.config.first is not None and model.card["parents"][0]["name"] == "coarse"
    assert [record.step for record in read_history(tmp_path / "home" / "history.csv")] == [1, 2]


def test_synthetic_patients_have_the_same_real_shapes_there_as_here(parts, folder, options, tmp_path, monkeypatch):
    index = read_index(parts)
    sampling = index["recipe"]["training"]["sampling"]
    sampling |= {"phantoms": 2, "phantom_share": 0.5, "phantom_shapes": "real"}
    config = parse_config(index["recipe"], "parts")
    shapes: list[str] = []

    def spy(seeds: Any, *_: Any, shape_of: Any, **__: Any) -> list[Any]:
        shapes.extend(shape_of(seed).digest() for seed in seeds)
        return []

    monkeypatch.setattr("pipeline.training.sources.phantoms.phantom_cases", spy)
    unpack(parts, index, config, folder / "unpacked", 1)
    _, _, further, options = chosen_cases(folder / "patients", options)
    plan.patches_of([], further, config, folder, options)
    assert len(shapes) == 4 and shapes[:2] == shapes[2:]


# ------------------------------------------------------------------------------------------------------ how it is run


def test_the_rate_follows_the_square_root_of_the_batch_and_an_epoch_keeps_its_samples(recipe):
    config = load_recipe(recipe)
    settings = config.model_dump()
    settings["training"] |= {"steps_per_epoch": 100, "ema_decay": 0.9}
    config = parse_config(settings, "test")
    training = with_batch(config, 16).training
    assert (training.batch, training.steps_per_epoch, training.schedule.warmup_steps) == (16, 25, 12)
    assert training.learning_rate == pytest.approx(0.02) and training.ema_decay == pytest.approx(0.6561)
    assert with_batch(config, 4) is config
    with pytest.raises(UsageError, match="--batch 0"):
        with_batch(config, 0)


def test_no_more_processes_load_than_the_shared_memory_holds_batches_of(recipe, tmp_path, monkeypatch):
    config = load_recipe(recipe)  # 4 samples of 7 channels of 16 x 16 float32: 28,672 bytes, five times a process
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * 5 * 28_672 + 1}))
    assert shared_memory_allows(14, config, tmp_path) == 3
    assert shared_memory_allows(2, config, tmp_path) == 2
    assert shared_memory_allows(14, config, tmp_path / "none") == 14
