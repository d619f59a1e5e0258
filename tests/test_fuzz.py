"""Whatever bytes a file holds, the reader gives a checked volume or one sentence: it never crashes, hangs or takes
memory without bound."""

from __future__ import annotations

import gzip
import io
import logging
import os
import time
import tracemalloc
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from data.case import ImageSource
from data.errors import InputError
from data.io.read import Volume, read_header, read_label_map, read_volume

log = logging.getLogger(__name__)

TRIES = int(os.environ.get("FUZZ_TRIES", "400"))
"""Examples of each run; ``FUZZ_TRIES=10000 pytest tests/test_fuzz.py --log-cli-level=INFO`` counts their outcomes."""
LONGEST_CPU_S, LONGEST_MS = 2.0, 20_000
"""For one file: what the reader may work, and, since a busy machine is no fault of the reader's, may take."""
MOST_BYTES = 64 * 2**20
"""Of memory that Python and numpy take for one file. The largest file here has 2 kB."""
VOXELS = np.random.default_rng(0).integers(1, 120, (5, 6, 7)).astype(np.int16)
AFFINE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([0.9, 1.1, 3.0]), [-80, 95.5, -60])
META = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = %s\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    b"Offset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = %s\n"
)
NRRD = (
    b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 6 7\n"
    b"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nendian: little\nencoding: %s\n"
    b"space origin: (0,0,0)\n%s\n"
)
SEGMENTS = b"Segment0_ID:=Segment_1\nSegment0_LabelValue:=1\nSegment0_Name:=edema\n"
OUTCOMES: Counter[tuple[str, str]] = Counter()


def _nifti(array: np.ndarray, kind: type = nib.Nifti1Image, endian: str = "<") -> bytes:
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(array.dtype)
    image = kind(array, AFFINE, header)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    return image.to_bytes()


def _picture(kind: str, array: np.ndarray, **options: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


RAW = VOXELS.tobytes(order="F")
GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)
COLOUR = np.stack([GREY, GREY // 2, GREY // 3], axis=-1)
SEEDS: dict[str, tuple[str, bytes, bool]] = {
    "nifti": ("a.nii", _nifti(VOXELS), False),
    "nifti-2, big-endian, float64": ("a.nii", _nifti(VOXELS.astype(">f8"), nib.Nifti2Image, ">"), False),
    "gzip stream": ("a.nii.gz", gzip.compress(_nifti(VOXELS)), False),
    "nifti within gzip": ("a.nii.gz", _nifti(VOXELS), True),
    "nifti of 4D within gzip": ("a.nii.gz", _nifti(np.stack([VOXELS, VOXELS], axis=-1)), True),
    "metaimage": ("a.mha", META % (b"False", b"LOCAL") + RAW, False),
    "metaimage, packed": ("a.mha", META % (b"True", b"LOCAL") + zlib.compress(RAW), False),
    "metaimage header beside its voxels": ("a.mhd", META % (b"False", b"a.raw"), False),
    "nrrd": ("a.nrrd", NRRD % (b"raw", b"") + RAW, False),
    "segmentation of 3D Slicer, packed": ("a.seg.nrrd", NRRD % (b"gzip", SEGMENTS) + gzip.compress(RAW), False),
    "tiff": ("a.tif", _picture("TIFF", COLOUR), False),
    "tiff, packed": ("a.tif", _picture("TIFF", GREY, compression="tiff_lzw"), False),
    "png": ("a.png", _picture("PNG", GREY), False),
}
"""What is broken: file name, bytes, and whether they are packed as gzip once they are broken, which gets deeper."""

SPECIAL = (b"\0", b"\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\x7f", b"\0\x80", b"\xff\xff\xff\x7f", b"\0\0\0\x80",
           b"\x1f\x8b", b"-1", b"nan ", b"99999999999")  # fmt: skip
"""NaN, infinity and the limits of whole numbers, as a header may hold them."""


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """A few changes: what is done, where (0 to 1 of the file, half of them in its first 400 bytes), and with what."""
    in_place, moving = ["flip", "flip", "overwrite"], ["insert", "remove", "repeat", "cut"]
    # Where nothing moves, more of a header stays believable, and what is wrong is met deeper in the reader.
    kinds = in_place + moving if draw(st.booleans()) else in_place
    changes = []
    for _ in range(draw(st.integers(1, 5))):
        what = draw(st.sampled_from(kinds))
        value = draw(st.one_of(st.sampled_from(SPECIAL), st.binary(min_size=1, max_size=8)))
        changes.append((what, draw(st.floats(-1, 1)), value))
    return changes


def damaged(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """The bytes with each change made in turn."""
    for what, where, value in changes:
        at = int(where * (len(content) - 1)) if where >= 0 else int(-where * min(400, len(content) - 1))
        at = max(0, at)
        head, tail = content[:at], content[at:]
        if what == "flip" and tail:
            content = head + bytes([tail[0] ^ (value[0] or 1)]) + tail[1:]
        elif what == "overwrite":
            content = head + value + tail[len(value) :]
        elif what == "insert":
            content = head + value + tail
        elif what == "remove":
            content = head + tail[len(value) :]
        elif what == "repeat":
            content = head + tail[:64] * (1 + value[0] % 8) + tail
        elif what == "cut":
            content = head
    return content


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the broken files lie; the outcomes are counted in the log."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.raw").write_bytes(RAW)
    yield folder
    for (kind, outcome), count in sorted(OUTCOMES.items()):
        log.info("%s: %s %d", kind, outcome, count)


def outcome_of(read: object, source: ImageSource) -> str:
    """ "volume" or "refused"; anything else fails here."""
    try:
        got = read(source)  # type: ignore[operator]
    except InputError as error:
        sentence = str(error)
        assert sentence.isprintable() and "; " in sentence and Path(source.paths[0]).stem in sentence
        return "refused"
    if isinstance(got, Volume):
        assert np.isfinite(got.array).all()
        assert got.array.shape == got.grid.shape
        assert got.array.dtype.kind == "f" or got.array.min() >= 0
        return "volume, with a warning" if got.header.warnings else "volume"
    assert np.isfinite(got.grid.affine).all() and min(got.grid.shape) >= 1
    assert all(text.isprintable() for text in got.warnings)
    return "header"


@pytest.mark.parametrize("kind", SEEDS)
def test_an_undamaged_file_is_read(scratch: Path, kind: str):
    name, content, pack = SEEDS[kind]
    (scratch / name).write_bytes(gzip.compress(content) if pack else content)
    channel = 1 if "4D" in kind or kind == "tiff" else None
    assert read_volume(ImageSource((scratch / name,), channel)).array.shape in ((5, 6, 7), (20, 30, 1))


@settings(
    max_examples=TRIES,
    deadline=LONGEST_MS,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(kind=st.sampled_from(sorted(SEEDS)), changes=damages(), channel=st.sampled_from([None, None, 0, 1]))
def test_damaged_bytes_give_a_checked_volume_or_one_sentence(scratch: Path, kind, changes, channel):
    name, content, pack = SEEDS[kind]
    content = damaged(content, changes)
    path = scratch / name
    path.write_bytes(gzip.compress(content, 1) if pack else content)
    source = ImageSource((path,), channel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        begin = time.process_time()
        tracemalloc.start()
        try:
            outcomes = [outcome_of(read, source) for read in (read_header, read_volume, read_label_map)]
            assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
        finally:
            tracemalloc.stop()
        assert time.process_time() - begin < LONGEST_CPU_S
    OUTCOMES[kind, outcomes[1]] += 1
    event(outcomes[1])


@settings(max_examples=max(TRIES // 8, 25), deadline=LONGEST_MS, database=None)
@given(
    name=st.sampled_from(["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd", "a.tif", "a.png"]),
    content=st.binary(max_size=700),
)
def test_bytes_of_no_format_are_refused(scratch: Path, name: str, content: bytes):
    (scratch / name).write_bytes(content)
    outcome = outcome_of(read_volume, ImageSource((scratch / name,)))
    OUTCOMES["bytes of no format", outcome] += 1
    assert outcome == "refused"
