"""pipeline/sealed_file.py: damage anywhere is found, and a header decides nothing before it was checked."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from data.regular_file import read_regular_file
from pipeline.sealed_file import NO_DIGEST, format_of, read_seal, seal

TENSORS = {"a": torch.arange(6, dtype=torch.float16), "b": torch.tensor([7, 8]), "c": torch.ones(6).half()}
METADATA = {"format": "test 1", "note": 'Æ "sha256": "' + "5" * 64 + '"'}
"""The note looks like a digest."""


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal(save(TENSORS, METADATA))


def by_hand(header: Any, data: bytes = bytes(24)) -> bytes:
    """A file with any header and a right digest, as an attacker, and the definition, would have it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    at = content.index(b'"sha256": "') + len(b'"sha256": "')
    blank = content[:at] + b"0" * 64 + content[at + 64 :]
    return content[:at] + hashlib.sha256(blank).hexdigest().encode() + content[at + 64 :]


def header_with(**entries: Any) -> dict[str, Any]:
    return {"__metadata__": {"sha256": "0" * 64}, **entries}


def entry(dtype: Any = "F32", shape: Any = (6,), data_offsets: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


def refused(content: bytes) -> str:
    with pytest.raises(ValueError) as caught:
        read_seal(content)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 250
    return text


# ------------------------------------------------------------------------------------------------------ round trip


def test_what_was_sealed_is_read_by_safetensors_as_it_was(sealed: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(sealed)
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert {**METADATA, "sha256": file.metadata()["sha256"]} == file.metadata()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in load(sealed).items())


def test_the_digest_is_that_of_the_file_with_its_digits_as_zeros(sealed: bytes) -> None:
    header = read_seal(sealed)
    digits = header.metadata["sha256"].encode()
    assert hashlib.sha256(sealed.replace(digits, b"0" * 64)).hexdigest().encode() == digits
    assert header.sha256 == hashlib.sha256(sealed).hexdigest()  # as sha256sum gives it
    assert header.tensors == {"a": ("F16", (6,)), "b": ("I64", (2,)), "c": ("F16", (6,))}


def test_the_same_content_gives_the_same_bytes_and_sealing_again_changes_nothing(sealed: bytes) -> None:
    for _ in range(5):  # safetensors writes its keys in another order each time
        assert seal(save(TENSORS, METADATA)) == sealed
    assert seal(sealed) == sealed
    assert format_of(seal(sealed, {"format": "test 2"})) == "test 2"


def test_a_tensor_without_elements_and_one_without_axes_are_tensors() -> None:
    header = read_seal(seal(save({"none": torch.zeros(0, 3), "one": torch.tensor(1.0)})))
    assert header.tensors == {"none": ("F32", (0, 3)), "one": ("F32", ())}


# ----------------------------------------------------------------------------------------------------------- damage


def test_every_single_flipped_bit_is_found(sealed: bytes) -> None:
    content = bytearray(sealed)
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        refused(bytes(content))
        content[bit // 8] ^= 1 << bit % 8
    read_seal(bytes(content))


def test_a_file_cut_short_anywhere_or_with_something_behind_it_is_found(sealed: bytes) -> None:
    for length in range(len(sealed)):
        refused(sealed[:length])
    for more in (b"\0", b" ", b"\n", sealed):
        assert "is damaged: its bytes have the SHA-256 " in refused(sealed + more)


def test_two_tensors_of_one_shape_in_each_others_place_are_found(sealed: bytes) -> None:
    a, c = (TENSORS[name].numpy().tobytes() for name in "ac")
    swapped = sealed.replace(a, b"X" * 12).replace(c, a).replace(b"X" * 12, c)
    assert len(swapped) == len(sealed) and not torch.equal(load(swapped)["a"], TENSORS["a"])
    assert "is damaged" in refused(swapped)


def test_a_file_without_a_digest_says_so() -> None:
    assert refused(save(TENSORS, {"format": "test 1"})) == NO_DIGEST
    assert refused(save(TENSORS, METADATA)) == NO_DIGEST  # a note that looks like one is none


# -------------------------------------------------------------------------------------------- a header sealed by hand


def test_a_header_sealed_by_hand_is_read_like_any_other() -> None:
    assert read_seal(by_hand(header_with(a=entry()))).tensors == {"a": ("F32", (6,))}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": entry(shape=[10**9, 25], data_offsets=[0, 10**11])},  # 100 GB
        {"a": entry(shape=[2**62, 2**62])},
        {"a": entry(shape=[0, 2**62, 10**30], data_offsets=[0, 0])},
        {"a": entry(shape=[6] + [1] * 20)},
        {"a": entry(shape=[-6])},
        {"a": entry(shape=[6.0])},
        {"a": entry(shape=[True] * 6)},
        {"a": entry(shape="6")},
        {"a": entry(shape={"6": 6})},
        {"a": entry(shape=None)},
        {"a": entry(shape=[5])},
        {"a": entry(dtype="F33")},
        {"a": entry(dtype=["F32"])},
        {"a": entry(dtype="C64", shape=[3])},
        {"a": entry(dtype="F4", shape=[48])},
        {"a": entry(data_offsets=[8, 32])},
        {"a": entry(data_offsets=[24, 0])},
        {"a": entry(data_offsets=[-24, 0])},
        {"a": entry(data_offsets=[0])},
        {"a": entry(data_offsets=[0, 24, 24])},
        {"a": entry(data_offsets="0 24")},
        {"a": {**entry(), "more": 1}},
        {"a": {}},
        {"a": 3},
        {},
        {"a": entry(shape=[3], data_offsets=[0, 12])},
        {"a": entry(), "b": entry()},
        {"a": entry(shape=[3], data_offsets=[0, 12]), "b": entry(shape=[4], data_offsets=[8, 24])},
        {"a": entry(shape=[2], data_offsets=[0, 8]), "b": entry(shape=[3], data_offsets=[12, 24])},
    ],
    ids=lambda entries: json.dumps(entries)[:90],
)
def test_a_table_of_tensors_that_is_not_the_bytes_that_are_there_is_refused(entries: dict[str, Any]) -> None:
    assert "header is damaged" in refused(by_hand(header_with(**entries)))


@pytest.mark.parametrize(
    "text",
    [
        b'{"__metadata__": {"sha256": "%b", "a": 1}}',
        b'{"__metadata__": {"sha256": "%b", "a": null}}',
        b'{"__metadata__": ["sha256", {"sha256": "%b"}]}',
        b'{"__metadata__": {"sha256": "%b", "a": "1", "a": "2"}}',
        b'{"__metadata__": {}, "__metadata__": {"sha256": "%b"}}',
        b'{"__metadata__": {"sha256": "%b"}, "a": ' + b"[" * 200_000 + b"}",
        b'{"__metadata__": {"sha256": "%b"}, "a": ' + b"9" * 5_000 + b"}",
        b'{"__metadata__": {"sha256": "%b"}',
        b'{"__metadata__": {"sha256": "%b", "a": "\xff"}}',
        b'["sha256": "%b"]',
        b'[{"sha256": "%b"}]',
        b'{"__metadata__": {"x\\"sha256": "%b"}}',
        b'{"sha256": "%b"}',
    ],
    ids=range(13),
)
def test_a_header_that_is_no_table_of_texts_is_refused(text: bytes) -> None:
    content = by_hand(text.replace(b"%b", b"0" * 64), b"")
    assert "safetensors" in refused(content) or "header is damaged" in refused(content)


@pytest.mark.parametrize("length", [0, 1, 2**22 + 1, 2**40, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_or_than_any_of_ours_is_refused(sealed: bytes, length: int) -> None:
    content = length.to_bytes(8, "little") + sealed[8:] + bytes(2**22)
    assert f"not readable as safetensors (a header of {length} bytes" in refused(content)


numbers = st.integers(-1, 24) | st.integers(0, 2**70)
values = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=4) | st.lists(numbers, max_size=3)
entries = values | st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BOOL", "F8_E4M3", 0]),
        "shape": st.lists(numbers, max_size=3) | values,
        "data_offsets": st.sampled_from([[0, 24], [0, 8], [8, 24], [0, 0]]) | values,
    }
)


@settings(max_examples=250, deadline=None, database=None)
@given(
    st.dictionaries(st.text(max_size=2), entries, max_size=2), st.dictionaries(st.text(max_size=2), values, max_size=2)
)
def test_whatever_a_sealed_header_says_it_is_right_or_refused(tensors: dict[str, Any], metadata: dict) -> None:
    content = by_hand({**tensors, "__metadata__": {**metadata, "sha256": "0" * 64}})
    try:
        header = read_seal(content)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert load(content).keys() == header.tensors.keys()


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_right_or_refused(content: bytes) -> None:
    refused(content)
    assert format_of(content) is None


# --------------------------------------------------------------------------------------------------------- the disk


def test_a_fifo_a_folder_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    start = time.monotonic()
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is no file of bytes"):
            read_regular_file(path)
    with pytest.raises(OSError):
        read_regular_file(tmp_path)
    assert time.monotonic() - start < 1


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=f"has {2**40} bytes, more than the 4096"):
        read_regular_file(tmp_path / "large", 4096)
    (tmp_path / "exact").write_bytes(bytes(4096))
    assert read_regular_file(tmp_path / "exact", 4096) == bytes(4096)
