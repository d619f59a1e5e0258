"""Number format of the matrix products in training.

It is float32, or half the bits where the machine is faster with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pipeline.config import TrainingConfig


def product_type(training: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """Choose the type for ``torch.autocast``; None for float32 throughout.

    The weights, their updates, the statistics of the normalisation and the loss are float32 in any case. float16 alone
    needs its loss scaled; bfloat16 has the range of float32.
    """
    if not training.mixed_precision:
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type != "cpu" or training.cpu_precision == "float32":
        return None
    return torch.bfloat16 if training.cpu_precision == "bfloat16" or has_bfloat16_tiles() else None


def has_bfloat16_tiles() -> bool:
    """Tell whether this CPU multiplies matrices of bfloat16 in hardware (AMX).

    Without that the type costs time.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
