"""Device that the networks run on, its free memory, and errors of full memory."""

from __future__ import annotations

import torch

from data.errors import UsageError

_PHRASES = (
    "out of memory",  # CUDA, also without a class of its own: "CUDA error: out of memory"
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "allocate memory",  # torch's CPU allocator: "DefaultCPUAllocator: can't allocate memory"
    "not enough memory",  # the same on Windows
    "could not create a memory",  # oneDNN
    "bad_alloc",
)


def choose_device(name: str) -> torch.device:
    """Choose the device by its name.

    The name is ``auto`` (CUDA if there is a card), ``cpu``, ``cuda`` or ``cuda:N``. Raises
    :class:`data.errors.UsageError`.
    """
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


def free_card_bytes(device: torch.device) -> int | None:
    """Return the bytes that PyTorch could still take of a card.

    These are its free memory and the part that this process holds unused. None for the CPU.
    """
    if device.type != "cuda":
        return None
    try:
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    except (RuntimeError, AssertionError):  # a card that cannot even be asked; torch without CUDA asserts
        return None


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out.

    The error itself counts, and every error that it was made from; the memory is that of a card or of the machine.

    By class where there is one, else by its text: cuBLAS, cuDNN, oneDNN and the allocator of the CPU raise a plain
    ``RuntimeError``, and MONAI wraps an error into one.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError | torch.cuda.OutOfMemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(phrase in str(cause) for phrase in _PHRASES):
            return True
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False
