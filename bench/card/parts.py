"""Files cut into numbered parts that can be copied one by one.

Put together again, damage is found and named.

Arrays of voxels are packed without loss: each channel's values become their ranks, neighbouring ranks are subtracted,
and what is left, mostly small numbers, is deflated. A brain at 1 mm takes a sixth of its size.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InputError
from data.io.write import write_bytes_atomically

INDEX = "index.json"
FORMAT = "brain-tumour-parts 1"
MIB = 2**20


def write_parts(folder: Path, files: Iterable[tuple[str, bytes]], part_bytes: int, about: Mapping[str, Any]) -> int:
    """Write named contents as ``part-001.bin``, ``part-002.bin``... and an index; returns the number of parts.

    Parameters
    ----------
    folder : Path
        Parts that are there already are written over; those beyond the last are removed.
    files : iterable of (name, content)
        Taken one at a time. A content may go on in the next part.
    part_bytes : int
        Most bytes of a part.
    about : JSON data
        Further keys of the index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)  # until the new one is written, nothing here is whole
    table: dict[str, list[int]] = {}
    parts: list[list[Any]] = []
    waiting, end = bytearray(), 0

    def write(content: bytes) -> None:
        name = f"part-{len(parts) + 1:03d}.bin"
        write_bytes_atomically(folder / name, content)
        parts.append([name, len(content), hashlib.sha256(content).hexdigest()])

    for name, content in files:
        table[name] = [end, len(content)]
        end += len(content)
        waiting += content
        while len(waiting) >= part_bytes:
            write(bytes(waiting[:part_bytes]))
            del waiting[:part_bytes]
    if waiting:
        write(bytes(waiting))
    for left in set(folder.glob("part-*.bin")) - {folder / name for name, _, _ in parts}:
        left.unlink()
    index = {**about, "format": FORMAT, "files": table, "parts": parts}
    text = json.dumps(index | {"sha256": _digest(index)}, indent=1)
    write_bytes_atomically(folder / INDEX, text.encode())
    return len(parts)


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index, and every part once to check it.

    Raises
    ------
    data.errors.InputError
        The index or a part is missing or damaged; names it.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_bytes())
        said = index.pop("sha256")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); copy it again") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise InputError(f"{path}: is damaged, or no index of parts; copy it again") from None
    if said != _digest(index) or index.get("format") != FORMAT:
        raise InputError(f"{path}: is damaged, or of another version ({index.get('format')!r}); copy or pack it again")
    for name, size, digest in index["parts"]:
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{folder / name}: cannot be read ({error.strerror}); copy it, too") from None
        if found != digest:
            raise InputError(
                f"{folder / name}: is damaged ({(folder / name).stat().st_size} of {size} bytes, "
                f"SHA-256 {found[:12]}..., not {digest[:12]}...); copy it again"
            )
    return index


def read_content(folder: Path, index: Mapping[str, Any], name: str) -> bytes:
    """Read one of the contents from the parts that hold it."""
    start, length = index["files"][name]
    content, first = bytearray(), 0
    for part, size, _ in index["parts"]:
        begin, end = max(start - first, 0), min(start + length - first, size)
        if begin < end:
            with (folder / part).open("rb") as file:
                file.seek(begin)
                content += file.read(end - begin)
        first += size
    return bytes(content)


def pack_voxels(voxels: NDArray[np.float16]) -> bytes:
    """Pack (slices, channels, rows, columns) float16 without loss."""
    arrays: dict[str, NDArray[Any]] = {"shape": np.array(voxels.shape)}
    for channel in range(voxels.shape[1]):
        bits = np.ascontiguousarray(voxels[:, channel]).view(np.uint16)
        # The order of these numbers is that of the values, negative ones among them.
        keys = np.where(bits & 0x8000, ~bits, bits | 0x8000).astype(np.uint16)
        values, ranks = np.unique(keys, return_inverse=True)
        steps = ranks.reshape(keys.shape).astype(np.uint16)
        for axis in (1, 2):
            steps = np.diff(steps, axis=axis, prepend=np.zeros((), np.uint16))  # modulo 2^16
        signed = steps.view(np.int16)
        small = ((signed << 1) ^ (signed >> 15)).view(np.uint16)  # 0, -1, 1, -2... become 0, 1, 2, 3...
        arrays[f"values{channel}"] = values
        arrays[f"steps{channel}"] = np.stack((small & 255, small >> 8)).astype(np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_voxels(content: bytes) -> NDArray[np.float16]:
    """Unpack the array of :func:`pack_voxels`, to the bit."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        result = np.empty(file["shape"], np.uint16)
        for channel in range(result.shape[1]):
            low, high = file[f"steps{channel}"].astype(np.uint16)
            small = low | high << 8
            ranks = (small >> 1) ^ (0 - (small & 1)).astype(np.uint16)
            for axis in (2, 1):
                ranks = np.add.accumulate(ranks, axis=axis, dtype=np.uint16)
            keys = file[f"values{channel}"][ranks]
            result[:, channel] = np.where(keys & 0x8000, keys ^ 0x8000, ~keys)
    return result.view(np.float16)


def _digest(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
