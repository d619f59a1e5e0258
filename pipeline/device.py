"""Which device the networks run on."""

from __future__ import annotations

import torch

from data.errors import UsageError


def choose_device(name: str) -> torch.device:
    """``auto`` (CUDA if there is a card), ``cpu``, ``cuda`` or ``cuda:N``. Raises :class:`data.errors.UsageError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: not a device; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; choose auto or cpu"
        )
    return device
