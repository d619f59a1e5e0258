"""The cache: a file is whole or not there, and its name says what it was made from."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import InputError, UsageError
from pipeline.array_cache import array_path, file_digest, key_of, open_array, write_array

ARRAY = np.arange(2 * 3 * 4, dtype=np.float16).reshape(2, 3, 4)
SHAPE = (None, 3, None)


@pytest.fixture
def kept(tmp_path) -> Path:
    path = array_path(tmp_path / "cache", "patient", ["anything"])
    write_array(path, ARRAY)
    return path


def test_what_was_written_is_mapped_and_equal(kept):
    array = open_array(kept, np.float16, SHAPE)
    assert isinstance(array, np.memmap) and not array.flags.writeable
    np.testing.assert_array_equal(array, ARRAY)


def test_an_array_of_any_memory_order_is_kept_in_c_order(tmp_path):
    write_array(tmp_path / "a.0.npy", ARRAY.transpose(1, 2, 0))
    array = open_array(tmp_path / "a.0.npy", np.float16, (3, 4, 2))
    assert array is not None and array.flags.c_contiguous
    np.testing.assert_array_equal(array, ARRAY.transpose(1, 2, 0))


def test_what_is_not_there_is_none(tmp_path):
    assert open_array(tmp_path / "patient.0.npy", np.float16, SHAPE) is None


def test_a_name_says_what_the_array_was_made_from(tmp_path):
    made_from = ["patient", {"spacing": [1.0, None]}, ["digest"]]
    path = array_path(tmp_path, "patient", made_from)
    assert path == array_path(tmp_path, "patient", ["patient", {"spacing": (1.0, None)}, ["digest"]])
    assert path.parent == tmp_path and path.name.startswith("patient.") and path.suffix == ".npy"
    assert path != array_path(tmp_path, "patient", ["patient", {"spacing": [1.0, 1.0]}, ["digest"]])
    assert 0 < key_of(path) < 2**128


def test_another_format_has_other_names(tmp_path, monkeypatch):
    before = array_path(tmp_path, "patient", [])
    monkeypatch.setattr("pipeline.array_cache.FORMAT", 999)
    assert array_path(tmp_path, "patient", []) != before


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1, max_size=200))
def test_any_case_id_gives_one_name_in_the_folder(case_id):
    path = array_path(Path("cache"), case_id, [])
    assert path.parent == Path("cache") and len(os.fsencode(path.name)) < 255
    assert 0 <= key_of(path) < 2**128


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:5],
        lambda whole: whole[:-1],
        lambda whole: whole + b"\0",
        lambda whole: b"PK\3\4" + whole[4:],
        lambda whole: b"\x80\x04" + whole[2:],
        lambda whole: whole.replace(b"<f2", b"<i2"),
        lambda whole: whole.replace(b"<f2", b"|O2"),
        lambda whole: whole.replace(b"(2, 3, 4)", b"(3, 2, 4)"),
        lambda whole: whole.replace(b"(2, 3, 4)", b"(24, ) + "),
        lambda whole: whole.replace(b"(2, 3, 4)", b"(0, 3, 4)"),
        lambda whole: whole.replace(b"(2, 3, 4)", b"(2,-3,-4)"),
        lambda whole: whole.replace(b"False", b"True "),
    ],
    ids=["empty", "5-bytes", "short", "long", "zip", "objects", "dtype", "object-dtype", "shape", "sum", "zero",
         "negative", "fortran"],
)  # fmt: skip
def test_a_damaged_file_counts_as_not_there(kept, damage):
    whole = kept.read_bytes()
    assert damage(whole) != whole
    kept.write_bytes(damage(whole))
    assert open_array(kept, np.float16, SHAPE) is None
    write_array(kept, ARRAY)
    assert kept.read_bytes() == whole


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_no_byte_of_a_header_makes_opening_raise(kept, position, byte):
    whole = bytearray(kept.read_bytes())
    changed = whole.copy()
    changed[position] = byte
    kept.write_bytes(changed)
    array = open_array(kept, np.float16, SHAPE)
    kept.write_bytes(whole)
    assert array is None or (array.dtype == np.float16 and array.shape[1] == 3 and array.nbytes == ARRAY.nbytes)


def test_a_write_that_fails_leaves_the_older_file_and_nothing_else(kept, monkeypatch):
    def half(file, array, **_):
        file.write(b"\x93NUMPY")
        raise OSError(28, "No space left on device")

    before = kept.read_bytes()
    monkeypatch.setattr("pipeline.array_cache.np.save", half)
    with pytest.raises(UsageError, match=r"cache: cannot be written to .No space left on device."):
        write_array(kept, ARRAY + 1)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name] and kept.read_bytes() == before


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
import pipeline.array_cache as case_cache
def half(file, array, **_):
    file.write(b"half of it"); file.flush(); print("writing", flush=True); time.sleep(60)
case_cache.np.save = half
case_cache.write_array(Path(sys.argv[1]), np.zeros(4))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_a_killed_run_leaves_no_half_file_under_the_name_and_what_it_left_does_no_harm(tmp_path):
    path = tmp_path / "patient.0.npy"
    root = Path(__file__).resolve().parent.parent
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=root) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        writer.kill()
        writer.wait()
    (left,) = tmp_path.iterdir()  # the temporary file
    assert left != path and open_array(path, np.float16, SHAPE) is None
    write_array(path, ARRAY)
    assert open_array(path, np.float16, SHAPE) is not None


def test_a_cache_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file: cannot be written to"):
        write_array(tmp_path / "file" / "patient.0.npy", ARRAY)
    (tmp_path / "patient.0.npy").mkdir()
    with pytest.raises(UsageError, match=r"patient.0.npy: cannot be read"):
        open_array(tmp_path / "patient.0.npy", np.float16, SHAPE)


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "image.nii"
    path.write_bytes(bytes(range(256)) * 5000)
    assert file_digest(path) == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()


def test_what_is_no_file_has_no_digest_and_does_not_block(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        file_digest(tmp_path / "image.nii")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo.nii")
        start = time.monotonic()
        with pytest.raises(InputError, match="not a regular file"):
            file_digest(tmp_path / "fifo.nii")
        assert time.monotonic() - start < 10
