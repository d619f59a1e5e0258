"""Patients with the same image files, under two ids."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.case import Case, ImageSource
from data.errors import few
from data.io.stream import printable
from data.regular_file import open_regular_file

_BLOCK = 2**16
_Key = tuple[object, ...]


def same_files(cases: Iterable[Case]) -> list[tuple[str, ...]]:
    """Group the cases that have the same image files.

    Two are alike where every modality that both have is the same image, and there is one. Little is read: of a gzip
    file the check sum at its end, of another file three blocks, and all of it where these are alike.

    Returns
    -------
    list of tuple of str
        Ids of two cases or more, in the order of ``cases``; empty where all differ. What cannot be read is alike to
        nothing.
    """
    sources = {case.case_id: case.images for case in cases}
    keys = {case_id: _keys(images) for case_id, images in sources.items()}
    alike: dict[tuple[str, _Key], list[str]] = {}
    group_of: dict[str, list[str]] = {}
    for case_id, own in keys.items():
        for place in own.items():
            first = next((one for one in alike.get(place, ()) if _alike(keys[one], own)), None)
            if first is None:
                alike.setdefault(place, []).append(case_id)
            elif case_id not in group_of and _are_equal(sources[first], sources[case_id]):
                group_of.setdefault(first, [first]).append(case_id)
                group_of[case_id] = group_of[first]
    return [tuple(group) for group in {id(group): group for group in group_of.values()}.values()]


def same_files_sentence(case_id: str, group: Iterable[str], what: str = "images") -> str:
    """Word that a case has the same files as the others of its group."""
    others = few((printable(Path(other)) for other in group if other != case_id), 3)
    return f"its {what} are the same files as those of {others}: one patient under several ids; keep one"


def _alike(one: Mapping[str, _Key], other: Mapping[str, _Key]) -> bool:
    return all(one[modality] == other[modality] for modality in one.keys() & other.keys())


def _keys(images: Mapping[str, ImageSource]) -> dict[str, _Key]:
    found: dict[str, _Key] = {}
    for modality, source in images.items():
        try:
            found[modality] = (source.channel, *(_key(path) for path in source.paths))
        except (OSError, ValueError):
            continue
    return found


def _key(path: Path) -> _Key:
    """Return a key that tells most files apart.

    It is size and check sum of a gzip file's content, or size and blocks.
    """
    with open_regular_file(path) as (file, size):
        if file.read(2) == b"\x1f\x8b" and size > 18:
            file.seek(-8, 2)
            return ("gzip", file.read(8))
        blocks = []
        for place in (0, size // 2, max(0, size - _BLOCK)):
            file.seek(place)
            blocks.append(zlib.crc32(file.read(_BLOCK)))
        return (size, *blocks)


def _are_equal(one: Mapping[str, ImageSource], other: Mapping[str, ImageSource]) -> bool:
    """Compare files without a stored check sum."""
    pairs = [(one[name].paths, other[name].paths) for name in one.keys() & other.keys()]
    try:
        return all(
            _sum(first) == _sum(second) for mine, theirs in pairs for first, second in zip(mine, theirs, strict=True)
        )
    except (OSError, ValueError):
        return False


def _sum(path: Path) -> int:
    with open_regular_file(path) as (file, _):
        if file.read(2) == b"\x1f\x8b":
            return 0
        file.seek(0)
        total = 0
        while block := file.read(2**20):
            total = zlib.crc32(block, total)
        return total
