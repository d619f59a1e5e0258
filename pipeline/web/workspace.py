"""Folder of the server: its checks, folders of cases, remains of killed processes."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from data.errors import UsageError
from pipeline.execute.lock import remove_temporary_files
from pipeline.execute.own_folder import is_own_folder, make_own_folder, put_mark, remove_own_folder

log = logging.getLogger(__name__)

DATABASE = "web.sqlite3"
_CASE = re.compile(r"[0-9a-f]{32}")
_UPLOAD = re.compile(r"upload-[0-9a-f]{32}(\.nii|\.nii\.gz)?")
"""Name of an edited mask until the checking process takes it."""


def open_workspace(workspace: Path) -> None:
    """Make the folder and its ``cases`` where they are missing.

    They are made for the owner alone; the modes of an existing folder stay.

    Raises
    ------
    UsageError
        It cannot be made; it, ``cases`` or the data base is another user's or may be written to by others; one of the
        latter is a link; or ``cases`` holds something and no data base says what.
    """
    cases, database = workspace / "cases", workspace / DATABASE
    try:
        for path in (cases, database):
            if path.is_symlink():
                raise UsageError(
                    f"{path}: is a symbolic link, and the server keeps and removes files in its own folder alone; "
                    "choose another --workspace"
                )
        if not database.exists() and cases.exists() and any(cases.iterdir()):
            raise UsageError(
                f"{cases}: holds files, and no {DATABASE} beside it says that a server put them there; "
                "choose another --workspace, such as a folder that is not there yet"
            )
        workspace.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            workspace.mkdir(0o700)
        _require_private(workspace)
        cases.mkdir(0o700, exist_ok=True)
        _require_private(cases)
        if database.exists():
            _require_private(database)
    except OSError as error:
        raise UsageError(
            f"{workspace}: cannot be used ({error.strerror or error}); mend that, or choose another --workspace"
        ) from None


def _require_private(path: Path) -> None:
    """Refuse a folder or a data base that other users own or may write.

    Those of the system's own user are accepted.
    """
    if not hasattr(os, "getuid"):  # Windows
        return
    status = path.stat()
    if status.st_uid not in (0, os.getuid()):
        raise UsageError(
            f"{path}: belongs to another user, who could change what lies there; choose another --workspace"
        )
    if status.st_mode & 0o022:
        raise UsageError(
            f"{path}: others may write in it, and patients' images are to lie there; choose another "
            f"--workspace, or keep them out: chmod go-w {path}"
        )


class CaseFolders:
    """Folders of the cases in one workspace.

    Each holds a mark that names the workspace and the case.

    Parameters
    ----------
    root : Path
        Absolute or relative; there.
    workspace_id : str
        Of the data base: a folder that another server's data base knows is not ours.
    """

    def __init__(self, root: Path, workspace_id: str) -> None:
        self.root, self._workspace_id = root, workspace_id

    def path(self, case_id: str) -> Path:
        """Return the folder of a case's files."""
        return self.root / case_id

    def make(self, case_id: str) -> Path:
        """Make the folder of a new case and its subfolders.

        Raises OSError.
        """
        folder = self.path(case_id)
        make_own_folder(folder, self._made_for(case_id), 0o700)
        for name in ("files", "edits"):
            (folder / name).mkdir()
        return folder

    def is_ours(self, case_id: str) -> bool:
        """Return whether a case's folder is there as it was made, and no link."""
        return _CASE.fullmatch(case_id) is not None and is_own_folder(self.path(case_id), self._made_for(case_id))

    def remove(self, case_id: str) -> None:
        """Remove a case's folder, if it is ours.

        Else it stays, and the log says so.
        """
        folder = self.path(case_id)
        if not os.path.lexists(folder):
            return
        if not self.is_ours(case_id) or not remove_own_folder(folder, self._made_for(case_id)):
            log.warning("%s: not removed, or not whole; it is not as the server made it, or something keeps it", folder)

    def tidy(self, known: frozenset[str]) -> None:
        """Remove the remains of killed processes.

        These are folders of ours that no case has, and half-written files of the ``known`` cases.

        A known case's folder without a mark is of an older version, and gets one.
        """
        for folder in self.root.iterdir():
            if folder.name not in known:
                if self.is_ours(folder.name):
                    self.remove(folder.name)
                continue
            if folder.is_symlink() or not _CASE.fullmatch(folder.name):
                continue
            with contextlib.suppress(OSError):
                put_mark(folder, self._made_for(folder.name))
            if self.is_ours(folder.name):
                remove_leftovers(folder)
                for path in folder.iterdir():
                    if _UPLOAD.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    def _made_for(self, case_id: str) -> str:
        return f"{self._workspace_id} {case_id}"


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of a killed process from a case's folder.

    The caller must be the only process that works there.
    """
    remove_temporary_files(folder, ("files", "edits", "view"))
