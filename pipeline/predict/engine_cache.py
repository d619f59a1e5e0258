"""Converted networks on disk.

Converting takes about a second, and reading the result a fiftieth of it.

One sealed safetensors file (pipeline.sealed_file) each, in the user's own cache folder (XDG: ``$XDG_CACHE_HOME``, else
``~/.cache``). It holds two arrays of bytes, a network's description and its weights, and can run no code. What was
made for other weights, another level or another version is named differently and not found. The folder may be deleted
at any time; where it cannot be used, everything works without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from data.io.read import write_bytes_atomically
from pipeline.sealed_file import read_seal, read_sealed_file, seal

log = logging.getLogger(__name__)

FORMAT = "brain-tumour-converted-network 1"
LARGEST = 2**31
"""Bytes of one file; a larger one is neither written nor read."""
KEPT = 32
"""Files; the ones that were used longest ago go."""

_OWN = re.compile(r"[0-9a-f]{40}\.safetensors")

Identity = dict[str, str]
"""What a converted network was made from and with: every entry must be the same for it to be used."""


def cache_folder() -> Path | None:
    """Return the folder, which need not exist.

    It is None where the machine knows no home of the user.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # a relative one is to be ignored, says the rule
        return Path(base) / "brain-tumour-segmentation" / "networks"
    try:
        return Path.home() / ".cache" / "brain-tumour-segmentation" / "networks"
    except RuntimeError:
        return None


def load(identity: Identity) -> tuple[str, np.ndarray] | None:
    """Description and weights (n,) uint8 of a network that was stored; None where there is none that is whole and
    ours."""
    path = _path(identity)
    if path is None:
        return None
    try:
        _require_ours(path)
        content = read_sealed_file(path, LARGEST)
        header = read_seal(content)
        if any(header.metadata.get(key) != value for key, value in _about(identity).items()):
            raise ValueError("was made from something else")
        from safetensors.numpy import load as parse

        arrays = parse(content)
        description = arrays["description"].tobytes().decode()
        with suppress(OSError):
            os.utime(path)
        return description, arrays["weights"]
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is wrong with it, it is made anew
        log.info("%s: not used (%s)", path, error)
        return None


def store(identity: Identity, description: str, weights: np.ndarray) -> None:
    """Keep a converted network; where that cannot be, nothing happens."""
    path = _path(identity)
    if path is None or path.parent.is_symlink() or weights.nbytes + len(description) > LARGEST // 2:
        return
    from safetensors.numpy import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        arrays = {"description": np.frombuffer(description.encode(), np.uint8), "weights": weights}
        write_bytes_atomically(path, seal(save(arrays), _about(identity)))
        path.chmod(0o600)
        _forget_oldest(path.parent)
    except OSError as error:
        log.info("%s: not kept (%s)", path, error)


def _path(identity: Identity) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()
    return None if folder is None else folder / f"{name[:40]}.safetensors"


def _about(identity: Identity) -> dict[str, str]:
    return {"format": FORMAT, "made_from": json.dumps(identity, sort_keys=True)}


def _require_ours(path: Path) -> None:
    """Raise ValueError where another user could have written the file.

    The digest protects from damage, not from another user.
    """
    if not hasattr(os, "getuid"):
        return
    for place in (path, path.parent):
        status = place.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise ValueError(f"{place} belongs to, or may be written by, another user")


def _forget_oldest(folder: Path) -> None:
    own = [path for path in folder.iterdir() if _OWN.fullmatch(path.name)]
    files = sorted(own, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[KEPT:]:
        path.unlink(missing_ok=True)
