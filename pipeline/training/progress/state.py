"""State file from which a killed run goes on as if nothing happened.

It is one sealed file, written atomically, that runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from data.errors import CheckpointError
from data.io.write import write_bytes_atomically
from pipeline.sealed_file import NO_DIGEST, read_seal, read_sealed_file, seal

FORMAT = "brain-tumour-training-state 2"
LARGEST_FILE = 2**34
"""Bytes: the weights of the largest model, their average and two moments of each, all in float32."""
STRUCTURE = "structure"
"""The tensor that holds everything but the tensors, as JSON in UTF-8: a header is for short texts."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, text, and lists and dictionaries of them.

    A tuple comes back as a list.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_packed(state, tensors))
    tensors[STRUCTURE] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    write_bytes_atomically(path, seal(save(tensors, metadata={"format": FORMAT})))


def load_state(path: Path) -> dict[str, Any]:
    """Read a file of :func:`save_state`, onto the CPU.

    Raises :class:`data.errors.CheckpointError`.
    """
    try:
        content = read_sealed_file(path, LARGEST_FILE)
        if read_seal(content).metadata.get("format") != FORMAT:
            raise ValueError("it is not the state of a training run")
        tensors = load(content)
        state = _unpacked(json.loads(tensors.pop(STRUCTURE).numpy().tobytes()), tensors)
        if not isinstance(state, dict):
            raise ValueError("its structure is no table")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except Exception as error:  # sealed by hand, its structure may be anything
        reason = "it is not the state of a training run of this version" if str(error) == NO_DIGEST else str(error)
        reason = " ".join(reason.split())[:200]
        raise CheckpointError(f"{path}: cannot go on from it ({reason}); start again in another folder") from None
    return state


def _packed(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return JSON for ``value``; put its tensors into ``tensors``.

    They go there as they lie in memory.

    A dictionary becomes a list of pairs, for its keys may be numbers. The order of a tensor's axes in memory is kept:
    arithmetic on channels_last and on plain tensors need not round alike.
    """
    if isinstance(value, torch.Tensor):
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().permute(order).clone(memory_format=torch.contiguous_format)
        return {"tensor": name, "order": order}
    if isinstance(value, Mapping):
        return {"pairs": [[key, _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_packed(item, tensors) for item in value]
    return value


def _unpacked(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpacked(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        order = packed["order"]
        return tensors[packed["tensor"]].permute([order.index(axis) for axis in range(len(order))])
    return {key: _unpacked(item, tensors) for key, item in packed["pairs"]}
