"""Contents of an environment: the distributions that a package needs.

Their versions and licences are told with them.

Nothing is asked of a network: all of it stands in the metadata of the installed wheels.
"""

from __future__ import annotations

import importlib.metadata as metadata
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OURS = "brain-tumour-segmentation"
OPTIONAL = ("cluster", "cpu", "dicom", "web")
"""The extras that a user may ask for; `dev` only develops and tests."""
PINS = ROOT / "constraints.txt"
BOOTSTRAP = {"pip", "setuptools", "wheel"}
"""What comes with Python itself, whether we ask for it or not."""
UNKNOWN = "not stated"

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
}
"""Classifiers that name one licence. "BSD License" is not among them: it may be any of three."""


def read_pins(path: Path = PINS) -> dict[str, str]:
    """Normalised name -> version of every line ``name==version``.

    Raises
    ------
    ValueError
        A line is something else than an exact pin, a comment or empty, or a name stands twice.
    """
    pins: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)", text)
        if not match:
            raise ValueError(f"{path.name} line {number}: {text!r} is no exact pin; write name==version")
        name = canonicalize_name(match[1])
        if name in pins:
            raise ValueError(f"{path.name} line {number}: {name} is pinned twice; keep one line")
        pins[name] = match[2]
    return pins


def installed(paths: list[str] | None = None) -> dict[str, metadata.Distribution]:
    """Normalised name -> distribution, of the running environment or of the folders given."""
    found = metadata.distributions(path=paths) if paths else metadata.distributions()
    return {canonicalize_name(distribution.name): distribution for distribution in found}


def requirements(distribution: metadata.Distribution, extras: Collection[str] = ()) -> Iterator[Requirement]:
    """Return the requirements of a distribution on this machine and Python.

    Those of its extras are included.
    """
    for line in distribution.requires or ():
        wanted = Requirement(line)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


def needed_by(name: str, extras: Collection[str], environment: dict[str, metadata.Distribution]) -> dict[str, set[str]]:
    """Return everything that ``name`` with ``extras`` needs -> the packages asking for it.

    Needs of needs are included. ``name`` itself is left out.

    What is asked for but not in ``environment`` is left out too: pip has refused such a set-up already.
    """
    askers: dict[str, set[str]] = {}
    waiting, done = [(canonicalize_name(name), frozenset(extras))], set()
    while waiting:
        state = waiting.pop()
        if state in done:
            continue
        done.add(state)
        asker, asked_extras = state
        for wanted in requirements(environment[asker], asked_extras):
            child = canonicalize_name(wanted.name)
            if child in environment:
                askers.setdefault(child, set()).add(asker)
                waiting.append((child, frozenset(wanted.extras)))
    return askers


def licence(distribution: metadata.Distribution) -> str:
    """Return the licence as an SPDX expression, from the first source that tells.

    1. ``License-Expression``, which must be SPDX; 2. ``License``, where it is SPDX; 3. a classifier that names one
       licence;
    4. the words of the licence itself, in ``License`` or in the licence files that the wheel carries.
    :data:`UNKNOWN` where none does.
    """
    fields = distribution.metadata
    stated = "\n".join(fields.get_all("License", []))
    for text in (*fields.get_all("License-Expression", []), stated):
        if expression := _spdx(text):
            return expression
    for classifier in fields.get_all("Classifier", []):
        if expression := CLASSIFIERS.get(classifier.split(" :: ")[-1]):
            return expression
    texts = [stated, *(_read(distribution, path) for path in _licence_files(distribution))]
    return next((found for found in map(licence_of_text, texts) if found), UNKNOWN)


def licence_of_text(text: str) -> str | None:
    """Recognise the licence that a text is or names.

    Phrases peculiar to each tell it. None where it cannot be told.
    """
    words = " ".join(text.split()).lower()
    names = re.match(r"(apache(?: software)?(?: license)?,?(?: version)? 2\.0|bsd 3-clause|bsd 2-clause)\b", words)
    if names:
        return {"bsd 3-clause": "BSD-3-Clause", "bsd 2-clause": "BSD-2-Clause"}.get(names[1], "Apache-2.0")
    if "redistribution and use in source and binary forms" in words:
        # the third clause forbids to advertise with the authors' names, whatever it calls them
        return "BSD-3-Clause" if re.search(r"endorse or promote products", words) else "BSD-2-Clause"
    if "apache license" in words and "version 2.0" in words:
        return "Apache-2.0"
    if "permission is hereby granted, free of charge" in words:
        return "MIT"
    return None


def is_strong_copyleft(expression: str) -> bool:
    """Tell whether every choice of the expression is strong copyleft.

    It is GPL or AGPL without an exception for linking.

    An expression with brackets is taken as one choice: rather a false alarm than none.
    """
    choices = [expression] if "(" in expression else re.split(r"\s+OR\s+", expression)
    return all(re.search(r"(?<![A-Za-z-])A?GPL-\d\.\d\S*(?!\S*\s+WITH\s)", choice) for choice in choices)


def _spdx(text: str) -> str | None:
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def _licence_files(distribution: metadata.Distribution) -> list[metadata.PackagePath]:
    pattern = re.compile(r"(licen[cs]e|copying)[^/]*$", re.I)
    return [
        path for path in distribution.files or () if ".dist-info" in path.parts[0] and pattern.search(path.as_posix())
    ]


def _read(distribution: metadata.Distribution, path: metadata.PackagePath) -> str:
    return Path(str(distribution.locate_file(path))).read_text(encoding="utf-8", errors="replace")
