"""Places of a walk: folders and files on a disk, or names alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.case import Case
from data.find.dataset_json import DatasetJson, parse_dataset_json, read_dataset_json
from data.find.earlier_run import EarlierRun, read_earlier_run
from data.find.naming import natural_key
from data.find.recognise import with_segment_names
from data.find.tree import NEVER, Entry, Listing, begins_as_dicom, linked_out, list_folder


@dataclass(frozen=True)
class Disk:
    """Folders of a disk; ``root_real`` is the real path of the input, links out of which are told of."""

    root_real: str

    def list_folder(self, folder: str) -> Listing:
        """List a folder as :func:`data.find.tree.list_folder` does."""
        return list_folder(folder, self.root_real)

    def is_dicom(self, entry: Entry) -> bool:
        """Tell whether a file begins as DICOM does.

        One with the name of another format is not opened.
        """
        return begins_as_dicom(entry)

    def earlier_run(self, folder: str) -> EarlierRun | None:
        """Read an earlier run as :func:`data.find.earlier_run.read_earlier_run` does."""
        return read_earlier_run(folder)

    def dataset_json(self, path: str) -> tuple[DatasetJson, Sequence[Entry]]:
        """Read a ``dataset.json``.

        The second item is the file itself where it is a link out of the input.
        """
        return read_dataset_json(path), linked_out(path, self.root_real)

    def with_segment_names(self, case: Case) -> Case:
        """Read the names of segments as :func:`data.find.recognise.with_segment_names` does."""
        return with_segment_names(case)


@dataclass(frozen=True)
class Names:
    """Folders and files that are names alone, as those of an upload.

    No disk is asked for them.

    Parameters
    ----------
    root : str
        What their paths begin with; need not exist.
    """

    root: str
    _files: dict[str, list[str]] = field(default_factory=dict)
    _folders: dict[str, dict[str, None]] = field(default_factory=dict)
    _texts: dict[str, bytes] = field(default_factory=dict)

    def add(self, parts: Sequence[str], text: bytes | None = None) -> str | None:
        """Add the file ``parts[-1]`` in the folders before it; ``text`` is what a ``dataset.json`` holds.

        Returns
        -------
        str or None
            Its path. None, and nothing is added, where a file or a folder of that path is there.
        """
        chain = [os.path.join(self.root, *parts[:depth]) for depth in range(len(parts) + 1)]
        path = chain[-1]
        if any(step in self._texts for step in chain) or path in self._folders:
            return None
        for folder, step, name in zip(chain, chain[1:], parts[:-1], strict=False):
            self._folders.setdefault(folder, {})[name] = None
            self._folders.setdefault(step, {})
        self._folders.setdefault(chain[-2], {})
        self._files.setdefault(chain[-2], []).append(parts[-1])
        self._texts[path] = text or b""
        return path

    @property
    def n_folders(self) -> int:
        """Number of folders, the root among them once it holds something."""
        return len(self._folders)

    def list_folder(self, folder: str) -> Listing:
        """List a folder's direct content in natural order.

        Hidden names are passed over in silence.
        """
        files, folders = (
            [Entry(name, os.path.join(folder, name)) for name in sorted(names, key=natural_key) if _is_listed(name)]
            for names in (self._files.get(folder, ()), self._folders.get(folder, ()))
        )
        return Listing(files, folders, [])

    def is_dicom(self, entry: Entry) -> bool:
        """False: names do not tell."""
        return False

    def earlier_run(self, folder: str) -> EarlierRun | None:
        """None: names are no run's output."""
        return None

    def dataset_json(self, path: str) -> tuple[DatasetJson, Sequence[Entry]]:
        """Parse a ``dataset.json``; it is no link."""
        text = self._texts.get(path)
        return (DatasetJson() if text is None else parse_dataset_json(path, text)), ()

    def with_segment_names(self, case: Case) -> Case:
        """Return the case as it is: names have no header."""
        return case


def _is_listed(name: str) -> bool:
    return name not in NEVER and (not name.startswith(".") or name.startswith(".."))


Places = Disk | Names
__all__ = ["Disk", "Names", "Places"]
