"""What a killed run needs to go on as if nothing had happened: one file, written atomically, that can run no code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from data.errors import CheckpointError
from data.write import write_bytes_atomically

FORMAT = "brain-tumour-training-state 1"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, text, lists and dictionaries of them."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_bytes_atomically(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, on the CPU. Raises :class:`data.errors.CheckpointError`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises depends on where the damage is
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: cannot go on from it ({reason}); start again in another folder") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not the state of a training run; start again in another folder")
    return state
