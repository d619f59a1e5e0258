"""Model files: the weights, and everything needed to use them, in one .safetensors.

The settings and the card are JSON in its header.

Such a file can run no code, and holds its own SHA-256 (pipeline.sealed_file), which is checked before anything else.
Its settings are checked as strictly as a recipe before a weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import CheckpointError, UsageError
from data.io.read import write_bytes_atomically
from data.plausibility import expects_brain_alone
from data.regular_file import parse_json, read_regular_file
from pipeline.model_card import check_kinds
from pipeline.sealed_file import NO_DIGEST, SealedHeader, format_of, read_seal, read_sealed_file, seal

if TYPE_CHECKING:  # torch takes seconds to import, and `models` needs none of it
    import torch
    from torch import nn

    from pipeline.config import RunConfig

MODELS = Path(__file__).parent / "models"
FORMAT = "brain-tumour-checkpoint 2"
FORMAT_WITHOUT_DIGEST = "brain-tumour-checkpoint 1"
LARGEST_FILE = 2**31
"""Bytes of a model file: a thousand million weights. A larger one is refused before it is read."""
COPY_AGAIN = "copy it again from its source"


@dataclass(frozen=True)
class Checkpoint:
    """Model file with digest and header checked; :meth:`build` loads the weights.

    Parameters
    ----------
    path : Path
    name : str
        File name without suffix, as the user types it.
    settings : dict
        The RunConfig as plain data.
    card : dict
        ``trained_on``, ``held_out``, ``scores`` {metric_region: value}, ``licence``, ``date``, ``command``; perhaps
        ``learnt_from`` and ``parents`` (pipeline.provenance).
    sha256 : str
        Of the whole file, as ``sha256sum`` gives it.
    """

    path: Path
    name: str
    settings: Mapping[str, Any]
    card: Mapping[str, Any]
    sha256: str = ""

    @cached_property
    def config(self) -> RunConfig:
        """Settings, checked.

        Raises :class:`data.errors.CheckpointError`.
        """
        from pipeline.config import parse_config

        try:
            return parse_config(self.settings, str(self.path))
        except UsageError as error:
            raise CheckpointError(f"{str(error)[:500]}; the file was made by another version or is damaged") from None

    def build(self) -> nn.Module:
        """Return the network with its weights, float32, in ``eval`` mode.

        Of a cascade it is a :class:`networks.Cascade`.

        Raises
        ------
        data.errors.CheckpointError
            The weights are not those of the settings, not finite, or the file was changed.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        network = self._empty_network()
        content, header = _read_sealed(self.path)
        if header.sha256 != self.sha256:
            raise CheckpointError(f"{self.path}: was changed since it was opened; start again")
        own = network.state_dict()
        if misfit := _misfit(header, own):
            raise CheckpointError(
                f"{self.path}: its weights do not fit the {_kind(self.config)} it says it is: {misfit}; "
                "take another checkpoint"
            )
        try:
            weights = {name: w.to(own[name].dtype) for name, w in load(content).items()}
        except SafetensorError as error:  # what it checks was checked
            raise CheckpointError(f"{self.path}: not readable as safetensors ({error}); {COPY_AGAIN}") from None
        broken = [name for name, w in weights.items() if not torch.isfinite(w).all()]
        if broken:
            raise CheckpointError(
                f"{self.path}: {len(broken)} tensors hold NaN or infinity, the first is {broken[0]}; "
                "take another checkpoint"
            )
        network.load_state_dict(weights, assign=True)
        return network.eval()

    def _empty_network(self) -> nn.Module:
        """Build the network without its weights.

        The file's size decides how much memory we take, not its header.
        """
        import torch

        from networks import Cascade, build_network

        stages = self.config.stages
        try:
            with torch.device("meta"):
                built = [build_network(stage.network) for stage in stages]
                return built[0] if len(built) == 1 else Cascade(*built)
        except (RuntimeError, OverflowError, TypeError, ValueError) as error:  # sizes beyond any integer
            detail = " ".join(str(error).split())[:100]
            raise CheckpointError(
                f"{self.path}: no {_kind(self.config)} can be built as its header says ({detail}); "
                "take another checkpoint"
            ) from None

    @property
    def expects_brain_alone(self) -> bool:
        """True where 0 stands for "outside the brain".

        Images must then be skull-stripped.
        """
        preprocess = self.settings.get("preprocess", {})  # not of the config, whose check imports torch
        return expects_brain_alone(preprocess.get("crop", "nonzero"), preprocess.get("blank_air", False))

    def as_listing(self) -> dict[str, Any]:
        """Return the entry of one model in ``models --json``."""
        network, first = self.settings["network"], self.settings.get("first")
        found_by = {} if first is None else {"first": first["recipe"]["network"]["architecture"]}
        planes = self.settings["window"].get("planes")
        return {
            "name": self.name,
            "architecture": network["architecture"],
            "spatial_dims": network["spatial_dims"],
            **({} if planes is None else {"planes": list(planes)}),
            **found_by,
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
    """Find a shipped model by name, or a file by path.

    Its digest and header are read and checked.

    Raises
    ------
    data.errors.CheckpointError
        There is no such model (the text lists those that are shipped), or the file is not one of ours.
    """
    path = Path(name_or_path)
    if path.suffix != ".safetensors":
        path = MODELS / f"{name_or_path}.safetensors"
        if not path.is_file() or Path(str(name_or_path)).name != str(name_or_path):
            known = ", ".join(p.stem for p in shipped_files()) or "none"
            raise CheckpointError(
                f"no model {str(name_or_path)!r}; give a .safetensors file or one of the shipped models: {known}"
            )
    try:
        status = path.stat()
    except OSError:
        raise CheckpointError(f"{path}: no such model file; check the path") from None
    return _opened(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=32)
def _opened(path: Path, _state_of_the_file: tuple[int, ...]) -> Checkpoint:
    """Once for each state of a file: every case asks for its model."""
    _, header = _read_sealed(path)
    try:
        settings, card = parse_json(header.metadata["config"]), parse_json(header.metadata["card"])
        check_kinds(settings, card)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({str(error)[:100]!r}); {COPY_AGAIN}") from None
    return Checkpoint(path, path.stem, settings, card, header.sha256)


def _read_sealed(path: Path) -> tuple[bytes, SealedHeader]:
    """Read a model file's bytes and header, and check the digest.

    Raises :class:`data.errors.CheckpointError`.
    """
    try:
        content = read_sealed_file(path, LARGEST_FILE)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; name a .safetensors file") from None
    try:
        header = read_seal(content)
        found = header.metadata.get("format")
    except ValueError as error:
        found = format_of(content)
        if str(error) != NO_DIGEST or found == FORMAT:
            raise CheckpointError(f"{path}: {error}; {COPY_AGAIN}") from None
    if found == FORMAT_WITHOUT_DIGEST:
        raise CheckpointError(
            f"{path}: its header says format {found!r}, which holds no SHA-256; "
            "if you trust the file, bring it forward with `run_pipeline.py seal FILE`"
        )
    if found != FORMAT:
        raise CheckpointError(
            f"{path}: its header says format {found!r}, not {FORMAT!r}; "
            "it was not written by this pipeline: take another file"
        )
    return content, header


def _kind(config: RunConfig) -> str:
    architectures = [stage.network.architecture for stage in config.stages]
    return architectures[0] if len(architectures) == 1 else f"cascade of {' and '.join(architectures)}"


def _misfit(header: SealedHeader, own: Mapping[str, torch.Tensor]) -> str:
    """Describe how a file's tensors differ from those of a network.

    ``own`` holds the network's weights; the text is empty where they fit.
    """
    for names, what in (
        (own.keys() - header.tensors.keys(), "lacks"),
        (header.tensors.keys() - own.keys(), "also has"),
    ):
        if names:
            return f"it {what} {min(names)[:80]!r} ({len(names)} such names)"
    for name, tensor in own.items():
        dtype, shape = header.tensors[name]
        if shape != tuple(tensor.shape):
            return f"{name} has shape {shape}, and it takes {tuple(tensor.shape)}"
        if dtype not in (("F16", "BF16", "F32", "F64") if tensor.is_floating_point() else ("I64",)):
            return f"{name} is {dtype}, and it takes {'a floating point type' if tensor.is_floating_point() else 'I64'}"
    return ""


def require_same_regions(checkpoints: Sequence[Checkpoint]) -> None:
    """Check that models to be averaged give the same regions.

    Raises :class:`data.errors.CheckpointError`.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if set(other.settings["regions"]) != set(first.settings["regions"]):
            ours, theirs = (", ".join(c.settings["regions"]) for c in (first, other))
            raise CheckpointError(
                f"{first.name} gives the regions {ours} but {other.name} gives {theirs}; "
                "only models of the same regions can be averaged"
            )


def shipped_files() -> list[Path]:
    """List the files of the models that come with the pipeline, by name."""
    return sorted(MODELS.glob("*.safetensors"), key=lambda path: path.stem)


def shipped_models() -> list[Checkpoint]:
    """List the models that come with the pipeline, by name."""
    return [open_checkpoint(path) for path in shipped_files()]


def save_checkpoint(path: Path, network: nn.Module, config: RunConfig, card: Mapping[str, Any]) -> None:
    """Write a model file atomically.

    Floating point weights are stored as float16, the rest as it is.

    Parameters
    ----------
    network : nn.Module
        Of ``config``; where that has a first stage, a :class:`networks.Cascade` of both.

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
    # ASCII: a patient's name among those held out may be bytes that are no text.
    header = {"format": FORMAT, "config": config.model_dump_json(), "card": json.dumps(dict(card))}
    write_bytes_atomically(path, seal(save(weights, metadata=header)))


def bring_forward(path: Path) -> str:
    """Seal a model file of the format without a digest.

    Its source must be trusted; the tensors stay as they are.

    Returns the new file's SHA-256. Raises :class:`data.errors.CheckpointError` where it is no such file.
    """
    content = read_regular_file(path, LARGEST_FILE)
    if format_of(content) != FORMAT_WITHOUT_DIGEST:
        raise CheckpointError(f"{path}: is no model file of format {FORMAT_WITHOUT_DIGEST!r}; leave it as it is")
    write_bytes_atomically(path, seal(content, {"format": FORMAT}))
    return open_checkpoint(path).sha256
