"""What is read back from a folder that others can write to.

It is never waited for, bounded, and in its form or not at all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.errors import SegmentationError, UsageError
from data.find.earlier_run import read_earlier_run
from data.regular_file import MOST_VALUES, parse_json, read_json_object
from data.strict_yaml import read_strict_yaml
from pipeline.array_cache import open_array
from pipeline.checkpoint import open_checkpoint
from pipeline.evaluate.label_maps import find_label_maps
from pipeline.execute.lock import output_lock
from pipeline.predict.engine_cache import _path as engine_path
from pipeline.predict.engine_cache import load as load_engine
from pipeline.report.pictures import read_png
from pipeline.score.tables import read_columns
from pipeline.segment import identity
from pipeline.segment.shards import read_shard, record_path
from pipeline.segment.state import read_state
from pipeline.training.progress.identity import lesion_score
from pipeline.training.progress.state import load_state
from pipeline.training.sources.cubes import read_cubes
from pipeline.training.sources.tumour_shapes import CubeShape
from pipeline.training.splits import read_split

# Every reader with the name that its file has in a folder.
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "state file": (".state/X.json", read_state),
    "run.json": ("run.json", read_json_object),
    "shard": (".state/shard", lambda path: read_shard(path.parent.parent)),
    "report.csv": ("report.csv", lambda path: find_label_maps(path.parent)),
    "columns": ("table.csv", lambda path: read_columns(path, ("case",))),
    "earlier run": (".state/X.json", lambda path: read_earlier_run(str(path.parent.parent))),
    "earlier run's record": ("run.json", lambda path: read_earlier_run(str(path.parent))),
    "lock": (".lock.owner", lambda path: _locked(path.parent)),
    "split": ("split.json", read_split),
    "recipe": ("recipe.yaml", read_strict_yaml),
    "scores of lesions": ("validation_lesions.csv", lambda path: lesion_score(path, ("WT",))),
    "training state": ("state.safetensors", load_state),
    "model": ("model.safetensors", open_checkpoint),
    "array": ("a.0.npy", lambda path: open_array(path, np.float32, (1, None))),
    "cubes": ("P.npz", read_cubes),
    "shape": ("P.npz", lambda path: CubeShape(path).read()),
    "picture": ("a_preview.png", read_png),
}  # fmt: skip


def _locked(folder: Path) -> None:
    from pipeline.execute.lock_owner import read_owner as _read_owner

    assert _read_owner(folder / ".lock.owner") is None
    with output_lock(folder):
        pass


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**42)


PUT: dict[str, Callable[[Path], object]] = {
    "fifo": _fifo,
    "folder": Path.mkdir,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path),
    "4 TiB": _sparse,
    "nothing": lambda path: path.write_bytes(b""),
    "another kind": lambda path: path.write_bytes(b"[1, 2]"),
    "a mapping of others": lambda path: path.write_bytes(b'{"key": 1, "row": [2], "regions": {"x": 1e999}}'),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "NaN": lambda path: path.write_bytes(b'{"key": NaN}'),
    "no text": lambda path: path.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("put", PUT)
@pytest.mark.parametrize("reader", READERS)
def test_whatever_lies_in_a_files_place_is_refused_in_a_sentence_or_not_used(reader, put, tmp_path):
    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    PUT[put](path)
    signal.signal(signal.SIGALRM, lambda *a: pytest.fail("it waits for the file"))
    signal.alarm(20)
    try:
        found = read(path)
    except (SegmentationError, OSError, ValueError) as error:
        assert "\n" not in str(error) and len(str(error)) < 1000 + 2 * len(str(path))
    else:
        harmless = put in ("another kind", "a mapping of others", "nothing", "NaN")
        assert not found or (harmless and reader in ("run.json", "recipe"))
    finally:
        signal.alarm(0)


def test_a_converted_network_that_is_a_fifo_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = engine_path({"network": "x"})
    path.parent.mkdir(parents=True, mode=0o700)
    os.mkfifo(path, 0o600)
    assert load_engine({"network": "x"}) is None


def test_json_with_more_values_than_memory_should_hold_is_refused_before_it_is_parsed():
    with pytest.raises(ValueError, match="holds more than"):
        parse_json(b"[" + b"[]," * MOST_VALUES + b"[]]")


def test_json_with_a_number_beyond_any_float_is_refused():
    for text in ('{"a": 1e999}', '{"a": -1e999}', '{"a": ' + "9" * 400 + ".0}"):
        with pytest.raises(ValueError, match="is larger than any number"):
            parse_json(text)
    assert parse_json('{"a": 1e308, "b": 1e-999}') == {"a": 1e308, "b": 0.0}


@pytest.mark.parametrize(
    "name",
    ["\ud800", "a\0b", "x" * 10_000_000, "a/" * 2_000_000, "/tmp/../" * 1_000_000],
    ids=["surrogate", "null", "long", "steps", "steps back"],
)
def test_what_run_json_names_as_an_input_is_compared_and_never_walked(name, tmp_path):
    image, seg = tmp_path / "P" / "P_t1.nii.gz", tmp_path / "P" / "P_seg.nii.gz"
    image.parent.mkdir()
    image.touch()
    seg.touch()
    (tmp_path / "linked").symlink_to(image.parent)
    inputs = {name: "", str(tmp_path / "linked" / image.name): ""}
    record = {"command": "", "options": {}, "models": {}, "versions": {}}
    for named, wrote in ((inputs, False), ({name: ""}, True), (dict.fromkeys(map(str, range(300_000))), True)):
        record["cases"] = {"P": {"folder": "P", "inputs": named}}
        (tmp_path / "run.json").write_text(json.dumps(record))
        started = time.process_time()
        run = read_earlier_run(str(tmp_path))
        assert run is not None and run.wrote(str(image)) is wrote and run.wrote(str(seg))
        assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "content", [b"\n" * (2**26 - 1), b"," * (2**26 - 1), b"\r" * (2**24)], ids=["lf", "comma", "cr"]
)
def test_a_table_of_more_cells_than_memory_should_hold_is_refused_before_it_is_parsed(content, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    readers: list[Callable[[Path], object]] = [
        lambda path: read_columns(path, ("case",)), lambda path: lesion_score(path, ("WT",)),
    ]  # fmt: skip
    for read in readers:
        with pytest.raises((ValueError, UsageError), match=f"more than {MOST_VALUES} cells"):
            read(tmp_path / "t.csv")


def test_a_table_of_more_rows_than_any_run_has_cases_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"case\n" + b"a\n" * 2**18)
    with pytest.raises(ValueError, match="more than 131072 rows"):
        read_columns(tmp_path / "t.csv", ("case",))


def test_the_score_of_lesions_is_the_mean_over_regions_of_the_cells_that_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("case,dice_WT,dice_ET\na,0.5,\nb,1.0,0.25\n")
    assert lesion_score(tmp_path / "t.csv", ("WT", "TC", "ET")) == 0.5  # of .75 and .25


def test_a_file_to_learn_from_that_goes_on_for_terabytes_is_refused_before_it_is_read(tmp_path):
    from data.errors import InputError
    from pipeline.array_cache import file_digest

    _sparse(tmp_path / "P.npz")
    with pytest.raises(InputError, match="P.npz: has 4398046511104 bytes, more than the 2147483648"):
        file_digest(tmp_path / "P.npz")


def test_a_dataset_json_is_read_as_every_other_json_is(tmp_path):
    from data.find.dataset_json import read_dataset_json

    path = tmp_path / "dataset.json"
    channels = '"channel_names": {"0": "T1"}'
    for text, why in (
        (f"{{{channels}, {channels.replace('T1', 'T2')}}}", "the key channel_names is said twice"),
        (f'{{{channels}, "x": NaN}}', "NaN is no number of JSON"),
        ("[" + "[]," * 2**20 + "[]]", "holds more than 1048576 values"),
    ):
        path.write_text(text)
        found = read_dataset_json(str(path))
        assert not found.channels and found.warning is not None and why in found.warning
    labels = {f"oedema {number}": 2 for number in range(100_000)}
    path.write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": labels}))
    assert read_dataset_json(str(path)).channels == ("t1",) and read_dataset_json(str(path)).conventions == ()


def test_json_with_a_key_twice_is_refused():
    with pytest.raises(ValueError, match="the key a is said twice"):
        parse_json('{"a": 1, "a": 2}')


MADE_WITH = {identity.TABLE_FORMAT: identity.TABLES}


def test_a_record_of_a_part_in_a_thousand_million_is_refused_at_once(tmp_path):
    from pipeline.segment.merge import merge_shards

    part = tmp_path / "part"
    record_path(part).parent.mkdir(parents=True)
    record = {"shard": [1, 999_999_999], "n_patients": 2**31 - 1, "patients": "0" * 64, "made_with": MADE_WITH,
              "options": {"models": []}, "cases": []}  # fmt: skip
    run = {"started": "", "seconds": 1, "command": "", "working_folder": "", "machine": {"cpus": 1},
           "options": {"executor": "serial", "device_used": "cpu"}}  # fmt: skip
    record_path(part).write_text(json.dumps(record))
    (part / "run.json").write_text(json.dumps(run))
    with pytest.raises(UsageError, match=re.escape("part 2/999999999, 3/999999999")):
        merge_shards([part], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("options", {"models": [], "max_voxels": 1e30}),
        ("options", {"models": [], "flat": "yes"}),
        ("n_patients", "many"),
        ("patients", 5),
        ("made_with", [1]),
        ("cases", [{}]),
        ("cases", 7),
    ],
)
def test_a_record_of_another_form_is_of_no_finished_part(change, value, tmp_path):
    record = {"shard": [1, 1], "n_patients": 0, "patients": "0" * 64, "made_with": MADE_WITH, "options": {"models": []},
              "cases": []}  # fmt: skip
    run = {"started": "", "seconds": 1, "command": "", "working_folder": "", "machine": {"cpus": 1},
           "options": {"executor": "serial", "device_used": "cpu"}}  # fmt: skip
    record_path(tmp_path).parent.mkdir()
    (tmp_path / "run.json").write_text(json.dumps(run))
    record_path(tmp_path).write_text(json.dumps(record))
    assert read_shard(tmp_path).n_patients == 0
    record_path(tmp_path).write_text(json.dumps(record | {change: value}))
    with pytest.raises(UsageError, match="no finished part"):
        read_shard(tmp_path)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, r"line 2: the alias \*a is not read"),
        ("a: " + "[" * 5000, "line 1: is nested more than 32 levels deep"),
        ("a:\n" + "".join(" " * n + "- \n" for n in range(1, 40)), "is nested more than 32 levels deep|not valid YAML"),
        ("a: 2020-13-45", "a number or date in it cannot be read"),
        ("a: " + "1" * 5000, "line 1: a value is longer than 1000 letters"),
        ("a: 0x" + "f" * 5000, "line 1: a value is longer than 1000 letters"),
        ("b: 1\n? " + "k" * 5000 + "\n: 1", "line 2: a value is longer than 1000 letters"),
        ("a: 1" + ":59" * 20_000, "line 1: a value is longer than 1000 letters"),
        ("a: !!timestamp x", "a number or date in it cannot be read"),
        ("a: " + "x" * 2**21, "more than the 65536"),
    ],
)
def test_yaml_that_would_take_memory_or_the_stack_is_refused_in_a_sentence(text, why, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=why) as caught:
        read_strict_yaml(tmp_path / "r.yaml")
    assert str(tmp_path / "r.yaml") in str(caught.value) and "\n" not in str(caught.value)
