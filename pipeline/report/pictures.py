"""Pictures on the page: PNG files of a run, embedded whole or small."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.regular_file import read_regular_file

Picture = Path | Mapping[str, Path]
"""PNG file of a patient, or one for each system."""
LARGEST_PICTURE, LONGEST_SIDE = 2**24, 2**13
"""Bytes, and pixels of a side, of a picture that comes onto the page: ours have 0.5 MB and 1000 to 2000."""
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@dataclass(frozen=True)
class EmbeddedImage:
    """PNG file inside the page. With its size known the page does not jump while pictures are decoded."""

    alt: str
    width: int
    height: int
    base64: str


def embed_png(content: bytes, alt: str) -> EmbeddedImage:
    """Encode a PNG file for the page; its size stands in its first chunk."""
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    return EmbeddedImage(alt, width, height, base64.b64encode(content).decode())


def read_png(path: Path) -> bytes | None:
    """Read a picture that a run wrote beside a mask.

    None where there is none, or where something else lies in its place.
    """
    try:
        content = read_regular_file(path, LARGEST_PICTURE)
    except (OSError, ValueError):
        return None
    sides = [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)]
    return content if content.startswith(_PNG) and all(0 < side <= LONGEST_SIDE for side in sides) else None


def embed_pictures(case: str, picture: Picture | None) -> list[tuple[str, EmbeddedImage]]:
    """Embed a patient's pictures, each with its system's name.

    The name is empty where there is one picture. One that is not there is left out.
    """
    named = picture if isinstance(picture, Mapping) else {"": picture} if picture is not None else {}
    return [
        (
            system,
            embed_png(content, f"Three planes through the largest lesion of {case}{f', {system}' if system else ''}"),
        )
        for system, path in named.items()
        if (content := read_png(path)) is not None
    ]


def thumbnail(case: str, picture: Picture | None) -> EmbeddedImage | None:
    """Embed the first picture of a patient, small; None where there is none, or a damaged one."""
    from PIL import Image

    path = next(iter(picture.values()), None) if isinstance(picture, Mapping) else picture
    if path is None or (content := read_png(path)) is None:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # damaged, or no picture of a run
        return None
    small.thumbnail((560, 560))
    buffer = io.BytesIO()
    small.quantize(96, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return embed_png(buffer.getvalue(), f"{case}, small")
