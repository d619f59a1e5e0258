"""One patient under two ids, told by the files alone."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from data.case import Case, ImageSource
from data.errors import UsageError
from data.io.equal_files import same_files
from pipeline.segment.run import _doubled
from pipeline.training.splits import Split, fold_split, refuse_shared_files


def case(root: Path, name: str, **contents: bytes) -> Case:
    images = {}
    for modality, content in contents.items():
        path = root / f"{name}_{modality}"
        path.write_bytes(content)
        images[modality] = ImageSource((path,))
    return Case(case_id=name, folder=root, layout="", layout_reason="", images=images, reference=None)


def test_equal_images_are_one_patient_and_one_shared_image_among_others_is_not(tmp_path: Path) -> None:
    long = bytes(range(256)) * 1000
    cases = [
        case(tmp_path, "a", t1=long, t2=b"two"),
        case(tmp_path, "b", t1=gzip.compress(long, mtime=1), t2=gzip.compress(b"two")),
        case(tmp_path, "c", t1=long, t2=b"two"),
        case(tmp_path, "d", t1=long, t2=b"three"),
        case(tmp_path, "e", t1=gzip.compress(long, 1, mtime=2)),  # packed another way, and less of it
        case(tmp_path, "f"),
        case(tmp_path, "g", t1=long[:100_000] + b"x" + long[100_001:], t2=b"two"),  # between the blocks that are read
    ]
    assert same_files(cases) == [("a", "c"), ("b", "e")]


def test_cases_of_the_same_files_stay_on_one_side() -> None:
    ids = ["a", "b", "c", "d"]
    assert fold_split(ids, 2, 0).validation == ("a", "c")
    assert fold_split(ids, 2, 0, [("a", "d")]) == Split(("b",), ("a", "c", "d"))
    with pytest.raises(UsageError, match="split.json: a, d have the same image files"):
        refuse_shared_files(Split(("a",), ("d",)), [("a", "d")], "split.json")


def test_a_patient_is_said_to_be_scored_twice_only_where_there_is_a_reference(tmp_path: Path) -> None:
    cases = [case(tmp_path, name, t1=b"one") for name in ("a", "b", "c")]
    scored = [replace(one, reference=ImageSource((tmp_path / "seg",))) for one in cases[:2]]
    assert _doubled(cases) == {}
    assert list(_doubled([*scored, cases[2]])) == ["a", "b"]
    assert "the same files as those of b" in _doubled(scored)["a"][0]
