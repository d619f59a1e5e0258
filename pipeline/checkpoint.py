"""Model files: one .safetensors that holds the weights and, as JSON in its header, everything needed to use them.

Such a file can run no code. Its settings are checked as strictly as a recipe before a weight is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import CheckpointError, InputError, UsageError
from data.io import read_header, write_bytes_atomically

if TYPE_CHECKING:  # torch takes seconds to import, and `models` needs none of it
    from torch import nn

    from data.case import Case
    from pipeline.config import RunConfig

MODELS = Path(__file__).parent / "models"
FORMAT = "brain-tumour-checkpoint 1"
CARD_KEYS = ("trained_on", "held_out", "scores", "licence", "date", "command")


@dataclass(frozen=True)
class Checkpoint:
    """A model file whose header was read and checked; weights are loaded by :meth:`build`.

    Parameters
    ----------
    path : Path
    name : str
        File name without suffix, as the user types it.
    settings : dict
        The RunConfig as plain data.
    card : dict
        ``trained_on``, ``held_out``, ``scores`` {metric_region: value}, ``licence``, ``date``, ``command``.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    card: Mapping[str, Any]

    @cached_property
    def sha256(self) -> str:
        """Of the whole file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @cached_property
    def config(self) -> RunConfig:
        """The settings, checked. Raises :class:`data.errors.CheckpointError`."""
        from pipeline.config import parse_config

        try:
            return parse_config(self.settings, str(self.path))
        except UsageError as error:
            raise CheckpointError(f"{error}; the file was made by another version or is damaged") from None

    def build(self) -> nn.Module:
        """The network with its weights, float32, in ``eval`` mode. Raises :class:`data.errors.CheckpointError`."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from networks import build_network

        with torch.device(
            "meta"
        ):  # shapes alone: how much memory we take is decided by the file's size, not by its header
            network = build_network(self.config.network)
        own = {name: w.dtype for name, w in network.state_dict().items()}
        try:
            weights = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{self.path}: not readable as safetensors ({error}); copy it again from its source"
            ) from None
        weights = {name: w.to(own.get(name, w.dtype)) for name, w in weights.items()}
        broken = [name for name, w in weights.items() if not torch.isfinite(w).all()]
        if broken:
            raise CheckpointError(
                f"{self.path}: {len(broken)} tensors hold NaN or infinity, the first is {broken[0]}; "
                "take another checkpoint"
            )
        try:
            network.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self.path}: its weights do not fit the {self.config.network.architecture} it says it is: {detail}"
            ) from None
        return network.eval()

    def as_listing(self) -> dict[str, Any]:
        """What ``models --json`` shows of one model."""
        network = self.settings["network"]
        return {
            "name": self.name,
            "architecture": network["architecture"],
            "spatial_dims": network["spatial_dims"],
            "modalities": list(self.settings["modalities"]),
            "regions": list(self.settings["regions"]),
            "convention": self.settings["convention"],
            "trained_on": self.card.get("trained_on", ""),
            "scores": self.card.get("scores", {}),
            "licence": self.card.get("licence", ""),
            "file": str(self.path),
            "sha256": self.sha256,
        }


def open_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Find a shipped model by name, or a file by path, and read its header.

    Raises
    ------
    data.errors.CheckpointError
        There is no such model (the text lists those that are shipped), or the file is not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(name_or_path)
    if path.suffix != ".safetensors":
        path = MODELS / f"{name_or_path}.safetensors"
        if not path.is_file() or Path(str(name_or_path)).name != str(name_or_path):
            known = ", ".join(p.stem for p in shipped_files()) or "none"
            raise CheckpointError(
                f"no model {str(name_or_path)!r}; give a .safetensors file or one of the shipped models: {known}"
            )
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors ({error}); copy it again from its source") from None
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: its header says format {header.get('format')!r}, not {FORMAT!r}; "
            "it was not written by this pipeline"
        )
    try:
        settings, card = json.loads(header["config"]), json.loads(header["card"])
        parts: list[tuple[Any, type]] = [(settings, dict), (settings["network"], dict), (card, dict)]
        parts += [(settings["modalities"], list), (settings["regions"], list), (settings["convention"], str)]
        parts += [(settings["network"]["architecture"], str), (settings["network"]["spatial_dims"], int)]
        if any(not isinstance(part, kind) for part, kind in parts):
            raise ValueError("a part of it is of the wrong kind")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({error!r}); copy it again from its source") from None
    return Checkpoint(path, path.stem, settings, card)


def require_same_regions(checkpoints: Sequence[Checkpoint]) -> None:
    """Models whose probabilities are averaged give the same regions. Raises :class:`data.errors.CheckpointError`."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if set(other.settings["regions"]) != set(first.settings["regions"]):
            ours, theirs = (", ".join(c.settings["regions"]) for c in (first, other))
            raise CheckpointError(
                f"{first.name} gives the regions {ours} but {other.name} gives {theirs}; "
                "only models of the same regions can be averaged"
            )


def shipped_files() -> list[Path]:
    """Files of the models that come with the pipeline, by name."""
    return sorted(MODELS.glob("*.safetensors"))


def shipped_models() -> list[Checkpoint]:
    """The models that come with the pipeline, by name."""
    return [open_checkpoint(path) for path in shipped_files()]


def save_checkpoint(path: Path, network: nn.Module, config: RunConfig, card: Mapping[str, Any]) -> None:
    """Write a model file atomically: floating point weights as float16, the rest as it is.

    Raises
    ------
    data.errors.CheckpointError
        A weight is not finite, or too large for float16.
    """
    import torch
    from safetensors.torch import save

    weights = {
        name: (w.half() if w.is_floating_point() else w).detach().cpu().contiguous()
        for name, w in network.state_dict().items()
    }
    broken = [name for name, w in weights.items() if w.is_floating_point() and not torch.isfinite(w).all()]
    if broken:
        raise CheckpointError(f"{path}: {broken[0]} is not finite in float16; not written")
    header = {"format": FORMAT, "config": config.model_dump_json(), "card": json.dumps(dict(card), ensure_ascii=False)}
    write_bytes_atomically(path, _ordered(save(weights, metadata=header)))


def _ordered(content: bytes) -> bytes:
    """The same file with its header's keys in order: safetensors writes them in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


def choose_model(case: Case) -> Checkpoint:
    """The shipped model that fits a case best.

    In this order: it is of the case's data set (LGG slices or not: those heads are not skull-stripped), the case has the
    modalities that it needs, it is 2D for a single slice, its held-out Dice of the whole tumour is highest. Raises :class:`data.errors.CheckpointError` where no
    model is shipped.
    """
    models = shipped_models()
    if not models:
        raise CheckpointError("no model is shipped; name a .safetensors file with --model")
    # What cannot be read here is read again, and reported, by the predictor.
    with contextlib.suppress(InputError, StopIteration):
        single_slice = read_header(next(iter(case.images.values()))).grid.shape[2] == 1
        models = [m for m in models if (m.settings["network"]["spatial_dims"] == 2) or not single_slice] or models

    def rank(model: Checkpoint) -> tuple[bool, int, float]:
        lacking = len(set(model.settings["modalities"]) - set(case.images))
        of_this_set = model.name.startswith("lgg-") == case.layout.startswith("lgg")
        return (of_this_set, -lacking, float(model.card.get("scores", {}).get("dice_WT", 0)))

    return max(models, key=rank)
