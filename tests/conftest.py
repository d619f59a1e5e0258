"""What several test files share: small phantom patients, a small model with random weights, the real patients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from data.phantom.patient import Phantom

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted networks go to a folder of the session's, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_patients() -> Path:
    """The folder of the two real BraTS 2021 patients that lies beside the project."""
    folder = SHARED / "brats"
    if not folder.is_dir():
        pytest.skip(f"real patients are not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def real_slices() -> Path:
    """One real LGG patient as colour slices."""
    folder = SHARED / "lgg" / "kaggle_3m"
    if not folder.is_dir():
        pytest.skip(f"real slices are not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small phantom patients (40 x 48 x 32 voxels of 5 mm), BraTS 2023 naming."""
    from data.phantom.patient import write_phantom

    root = tmp_path_factory.mktemp("phantoms")
    for seed in (1, 2):
        write_phantom(root, seed, shape=(40, 48, 32), spacing_mm=(5.0, 5.0, 5.0))
    return root


def make_phantom_slice(
    seed: int, *, shape: tuple[int, int] = (240, 240), spacing_mm: tuple[float, float] = (1.0, 1.0)
) -> Phantom:
    """One axial slice of a phantom patient through its tumour, (d1, d2, 1), 1 mm thick."""
    from data.phantom.anatomy import TumourPlan
    from data.phantom.fields import stream
    from data.phantom.patient import _make

    level_mm = float(stream(seed, "level").uniform(-5.0, 35.0))
    return _make(seed, (*shape, 1), (*spacing_mm, 1.0), level_mm, TumourPlan(), "mri")


def make_model(
    path: Path,
    *,
    regions: tuple[str, ...] = ("WT", "TC", "ET"),
    modalities: tuple[str, ...] = ("t1", "t1c", "t2", "flair"),
    seed: int = 3,
    missing_modalities: bool = False,
    spatial_dims: int = 3,
    spacing_mm: float = 5.0,
    convention: str = "",
) -> Path:
    """A checkpoint of a tiny network with random weights: its masks mean nothing, but they are the same for the same
    voxels."""
    import torch

    from networks import build_network
    from pipeline.checkpoint import save_checkpoint
    from pipeline.config import parse_config

    config = parse_config(
        {
            "name": path.stem,
            "modalities": modalities,
            "regions": regions,
            "convention": convention or ("brats2023" if "TC" in regions else "lgg"),
            "network": {
                "architecture": "attention_unet",
                "spatial_dims": spatial_dims,
                "in_channels": len(modalities),
                "out_channels": len(regions),
                "channels": (4, 8),
            },
            "preprocess": {"spacing_mm": (spacing_mm,) * 3},
            "window": {"size": (32,) * spatial_dims},
            # Noise falls into thousands of specks, and each would be measured as a lesion.
            "postprocess": {"min_component_ml": dict.fromkeys(regions, 1.0)},
            "augment": {"missing_modality": 0.2 if missing_modalities else 0.0},
            "training": {"patch": (16,) * spatial_dims},
        },
        "test",
    )
    torch.manual_seed(seed)
    network = build_network(config.network)
    with torch.no_grad():  # a steep head; with the default seed every region of a phantom gets voxels and none gets all
        for name, weight in network.named_parameters():
            if name.startswith("heads") and name.endswith("weight"):
                weight.mul_(30)
    save_checkpoint(path, network, config, {"trained_on": "nothing", "scores": {"dice_WT": 0.0}, "licence": "none"})
    return path


def cascade_settings(
    *,
    dims: tuple[int, int] = (2, 3),
    spacing_mm: tuple[float, float] = (10.0, 5.0),
    regions: tuple[str, ...] = ("WT", "TC", "ET"),
    modalities: tuple[str, ...] = ("t1", "t1c", "t2", "flair"),
    missing_modality: float = 0.0,
    **first: object,
) -> dict[str, Any]:
    """Settings of a cascade of two tiny networks, as plain data; ``first`` are further keys of that part."""

    def one(name: str, n: int, inputs: int) -> dict[str, Any]:
        return {
            "name": name,
            "modalities": list(modalities),
            "regions": list(regions),
            "convention": "brats2023",
            "network": {
                "architecture": "attention_unet",
                "spatial_dims": dims[n],
                "in_channels": inputs,
                "out_channels": len(regions),
                "channels": [4, 8],
            },
            "preprocess": {"spacing_mm": [spacing_mm[n]] * 3},
            "window": {"size": [32] * dims[n]},
            "augment": {"missing_modality": missing_modality},
            "training": {"patch": [16] * dims[n]},
        }

    fed = list(first.get("regions", regions))  # type: ignore[call-overload]
    second = one("tiny-cascade", 1, len(modalities) + len(fed))
    return {**second, "first": {"recipe": one("tiny-first", 0, len(modalities)), "regions": fed, **first}}


def make_cascade(path: Path, *, seed: int = 3, **settings: Any) -> Path:
    """A checkpoint of a cascade of two tiny networks with random weights."""
    import torch

    from networks import Cascade, build_network
    from pipeline.checkpoint import save_checkpoint
    from pipeline.config import parse_config

    config = parse_config(cascade_settings(**settings), "test")
    torch.manual_seed(seed)
    networks = [build_network(stage.network) for stage in config.stages]
    with torch.no_grad():
        for network in networks:
            for name, weight in network.named_parameters():
                if name.startswith("heads") and name.endswith("weight"):
                    weight.mul_(30)
    save_checkpoint(path, Cascade(*networks), config, {"trained_on": "nothing", "scores": {"dice_WT": 0.0}})
    return path


@pytest.fixture(scope="session")
def tiny_cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`make_cascade`."""
    return make_cascade(tmp_path_factory.mktemp("cascade") / "tiny-cascade.safetensors")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`make_model`."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Two test processes share two cores."""
    import torch

    torch.set_num_threads(1)


def read_mask(path: Path) -> np.ndarray:
    """Voxels of a written mask, as nibabel sees them."""
    import nibabel as nib

    return np.asarray(nib.load(path).dataobj)


def read_history(path: Path) -> list[Any]:
    """The epochs of a history.csv; an empty cell is None, and an empty Dice is not in ``dice``."""
    import csv

    from pipeline.training.progress.history import EpochRecord

    measured = ("val_loss", "mean_dice", "tversky_index", "pixel_accuracy", "lesion_dice")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        EpochRecord(
            **{name: int(row[name]) for name in ("epoch", "step")},
            **{name: float(row[name]) for name in ("minutes", "learning_rate", "loss")},
            **{name: float(row[name]) if row[name] else None for name in measured},
            dice={
                name.removeprefix("dice_"): float(row[name]) for name in row if name.startswith("dice_") and row[name]
            },
        )
        for row in rows
    ]
