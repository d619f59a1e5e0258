"""What may be removed: folders with our mark, themselves and no links.

Nothing that is mounted or linked in them goes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.execute.own_folder import MARK, is_own_folder, make_own_folder, put_mark, remove_own_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def own(tmp_path):
    make_own_folder(tmp_path / "own", "a test")
    (tmp_path / "own" / "below").mkdir()
    (tmp_path / "own" / "below" / "file").write_text("x")
    return tmp_path / "own"


@pytest.fixture
def foreign(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "scan.nii.gz").write_text("a patient's")
    return tmp_path / "foreign"


def test_a_folder_of_ours_goes_with_all_that_is_in_it(own):
    assert is_own_folder(own, "a test")
    assert remove_own_folder(own, "a test") and not own.exists()
    assert not remove_own_folder(own, "a test")  # and is not there a second time


def test_one_that_is_there_already_is_not_made_ours(foreign):
    with pytest.raises(FileExistsError):
        make_own_folder(foreign, "a test")
    assert [path.name for path in foreign.iterdir()] == ["scan.nii.gz"]


@pytest.mark.parametrize("mark", ["none", "another's", "longer", "empty", "folder", "link", "pipe"])
def test_without_the_very_mark_nothing_is_removed(own, foreign, mark):
    path = foreign / MARK
    if mark == "another's":
        put_mark(foreign, "another test")
    elif mark == "longer":
        path.write_text("a test\n" + "x" * 10_000)
    elif mark == "empty":
        path.touch()
    elif mark == "folder":
        path.mkdir()
    elif mark == "link":
        path.symlink_to(own / MARK)
    elif mark == "pipe":
        os.mkfifo(path)
    assert not is_own_folder(foreign, "a test")
    assert not remove_own_folder(foreign, "a test")
    assert (foreign / "scan.nii.gz").read_text() == "a patient's"


def test_a_link_to_a_folder_of_ours_is_none(own, tmp_path):
    (tmp_path / "link").symlink_to(own)
    assert not remove_own_folder(tmp_path / "link", "a test")
    assert (own / "below" / "file").exists()


def test_links_within_go_and_what_they_lead_to_stays(own, foreign):
    (own / "to-folder").symlink_to(foreign)
    (own / "below" / "to-file").symlink_to(foreign / "scan.nii.gz")
    os.link(foreign / "scan.nii.gz", own / "below" / "second name")
    assert remove_own_folder(own, "a test")
    assert (foreign / "scan.nii.gz").read_text() == "a patient's"


def test_what_could_not_be_removed_whole_is_still_ours(own, monkeypatch):
    def broken_off(path):
        raise OSError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", broken_off)
        assert not remove_own_folder(own, "a test")
    assert is_own_folder(own, "a test") and remove_own_folder(own, "a test")


MOUNTED = """
import subprocess, sys
from pipeline.execute.own_folder import remove_own_folder
from pathlib import Path
foreign, place, own = map(Path, sys.argv[1:])
subprocess.run(["mount", "--bind", foreign, place], check=True)
print(remove_own_folder(own, "a test"))
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="mounting needs rights that this user lacks",
)
def test_what_is_mounted_within_is_not_removed(own, foreign):
    """A bind mount is no link and no other device: only the system's table of mounts tells."""
    place = own / "below" / "mounted here"
    place.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", MOUNTED, foreign, place, own]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
    assert (foreign / "scan.nii.gz").read_text() == "a patient's" and (own / "below" / "file").exists()
