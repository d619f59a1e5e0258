"""Patients that a model has learnt from, as its card says.

Each has a kind, an id and fingerprints of its images.

In the card ``learnt_from`` is kind -> id -> modality -> fingerprint, and ``parents`` lists the models whose weights it
began with. A single slice or lesion has an id alone, one for each patient. A model of before this has neither key, and
then nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.case import Case
from data.io.read import read_volumes
from data.same_patient import known_as
from pipeline.array_cache import array_path, file_digest, open_array, write_array
from pipeline.checkpoint import Checkpoint
from pipeline.fingerprint import BLOCKS, SAME, distances, fingerprint

PRINTED = ("flair", "t1c", "t1", "t2")
"""Of the first two that a case has, fingerprints are kept: 330 patients in 100 kB of header."""
PRINTS = 1
"""Raise it whenever `pipeline.fingerprint` gives other texts: those that are kept are then made anew."""
Listing = dict[str, dict[str, dict[str, str]]]


@dataclass(frozen=True)
class Learnt:
    """One case that was learnt from.

    Parameters
    ----------
    kind : str
        "patient", "slice", "cube"...
    name : str
        The case id; of slices and lesions the patient's (:func:`data.same_patient.known_as`).
    prints : mapping of str to str
        Modality to fingerprint (`pipeline.fingerprint`); empty where there is no whole image.
    """

    kind: str
    name: str
    prints: Mapping[str, str] = field(default_factory=dict)


def as_listing(entries: Iterable[Learnt]) -> Listing:
    """Return the entries as a card holds them, sorted.

    Each patient of a kind is there once.
    """
    listing: Listing = {}
    for entry in sorted(entries, key=lambda each: (each.kind, each.name)):
        listing.setdefault(entry.kind, {}).setdefault(entry.name, {}).update(entry.prints)
    return listing


def entries_of(card: Mapping[str, Any]) -> list[Learnt] | None:
    """Return the entries that a card holds.

    The result is None where it does not say.
    """
    if "learnt_from" not in card:
        return None
    return [Learnt(kind, name, prints) for kind, cases in card["learnt_from"].items() for name, prints in cases.items()]


def patient_entries(cases: Sequence[Case], cache: Path) -> list[Learnt]:
    """Make the entries of whole patients.

    Their images are read once, and the fingerprints kept in the cache.

    Raises :class:`data.errors.InputError` where an image cannot be read, :class:`data.errors.UsageError` where the
    cache cannot be written.
    """
    return [Learnt("patient", case.case_id, _kept_prints(case, cache)) for case in cases]


def part_entries(names_by_kind: Mapping[str, Iterable[str]]) -> list[Learnt]:
    """Make the entries of slices and lesions, by kind and patient."""
    return [Learnt(kind, known_as(name)) for kind, names in names_by_kind.items() for name in names]


def prints_of(case: Case) -> dict[str, str]:
    """Compute the fingerprints of two images of a case (`PRINTED`), by modality.

    Raises :class:`data.errors.InputError`.
    """
    volumes = read_volumes({m: case.images[m] for m in _printed(case)})
    return {modality: fingerprint(volume.array, volume.grid) for modality, volume in volumes.items()}


def _printed(case: Case) -> list[str]:
    return [modality for modality in PRINTED if modality in case.images][:2]


def with_parent(card: Mapping[str, Any], parent: Checkpoint | Path) -> dict[str, Any]:
    """Return a card that also names the model its weights came from.

    The patients that the parent has learnt from are taken over.

    Parameters
    ----------
    card : mapping
        With ``learnt_from``.
    parent : Checkpoint or Path
        A model of ours, or a file of other weights, of which only name and digest are kept. A parent whose card does
        not say whom it learnt from is marked ``"learnt_from": "unknown"``.
    """
    if isinstance(parent, Path):
        return _joined(card, {}, [{"name": parent.name, "sha256": file_digest(parent)}])
    about = {"name": parent.name, "sha256": parent.sha256}
    if "learnt_from" not in parent.card:
        about |= {"learnt_from": "unknown", "trained_on": str(parent.card.get("trained_on", ""))}
    return _joined(card, parent.card, [about])


def with_earlier(card: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card that keeps the parents and entries of an earlier one.

    Both are of the same run.
    """
    return _joined(card, earlier, [])


def why_seen(card: Mapping[str, Any], case_id: str, prints: Mapping[str, str]) -> str:
    """Say why a case counts as learnt from.

    The reason is "by name, ..." or "by image, ..."; it is empty where it does not, or where nothing is known.

    Parameters
    ----------
    card : mapping
        Of the model.
    case_id : str
        Of the case to be scored; other names of the same patient count too.
    prints : mapping of str to str
        Its fingerprints by modality; may be empty.
    """
    entries = entries_of(card) or []
    patient = known_as(case_id)
    for entry in entries:
        if known_as(entry.name) == patient:
            return f"by name, {entry.name}"
    for entry in entries:
        if distances(entry.prints, prints) <= SAME:
            return f"by image, {entry.name}"
    return ""


def _joined(card: Mapping[str, Any], other: Mapping[str, Any], parents: list[dict[str, str]]) -> dict[str, Any]:
    entries = [*(entries_of(card) or ()), *(entries_of(other) or ())]
    known = [*card.get("parents", ()), *parents, *other.get("parents", ())]
    once = [parent for number, parent in enumerate(known) if parent not in known[:number]]
    return {**card, "learnt_from": as_listing(entries)} | ({"parents": once} if once else {})


def _kept_prints(case: Case, cache: Path) -> dict[str, str]:
    """Read the fingerprints of a case from the cache, or make them.

    They are kept as bits, a row for each modality that the case has; a row of zeros is the empty text.
    """
    present = _printed(case)
    digests = {path: file_digest(path) for m in present for path in case.images[m].paths}
    sources = [[m, case.images[m].channel, [digests[path] for path in case.images[m].paths]] for m in present]
    path = array_path(cache, f"{case.case_id}.prints", ["prints", PRINTS, sources])
    kept = open_array(path, np.uint8, (len(present), BLOCKS**3 // 8))
    if kept is None:
        made = prints_of(case)
        empty = bytes(BLOCKS**3 // 8)
        rows = [bytes.fromhex(made[m]) or empty for m in present]
        write_array(path, np.frombuffer(b"".join(rows), np.uint8).reshape(len(present), -1))
        return {m: text for m, text in made.items() if text}
    return {m: row.tobytes().hex() for m, row in zip(present, kept, strict=True) if row.any()}
