"""Patients with volumes that are kept as one picture a slice."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

from data.case import Case, ImageSource
from data.errors import Mend, advise, few
from data.find.assembly import Draft, entry_problems, link_warnings
from data.find.naming import (
    MODALITIES,
    REFERENCE,
    Layout,
    load_layouts,
    match_suffix,
)
from data.find.tree import Entry
from data.io.suffixes import SLICE_SUFFIXES, split_suffix


def drafts_of_slices(
    folder: str, base: str, files: Sequence[Entry], warnings: Sequence[str], *, is_leaf: bool
) -> list[Draft]:
    """Return the patients of a folder of TIFF or PNG slices.

    All slices of one patient are one volume, in the order of their numbers.
    """
    layouts = load_layouts()
    for layout in (layouts["lgg"], layouts["generic-slices"]):
        if layout.name != "lgg" and not is_leaf:  # a picture beside patient folders is no patient
            continue
        groups: dict[str, list[tuple[Entry, re.Match[str]]]] = {}
        rest = []
        for entry in files:
            stem, extension = split_suffix(entry.name)
            found = layout.pattern.fullmatch(stem) if layout.pattern and extension in SLICE_SUFFIXES else None
            if found:
                groups.setdefault(found["patient"] if layout.name == "lgg" else "", []).append((entry, found))
            else:
                rest.append(entry)
        if groups:
            alone = len(groups) == 1
            if base in groups and not alone:
                foreign = [entry.name for patient, items in groups.items() if patient != base for entry, _ in items]
                fault = f"the folder {base} holds another patient's file: {few(foreign, 3)}"
                problem = [advise(fault, Mend.MOVE_TO_ITS_PATIENT)]
                return [_draft_of_slices(folder, layout, base, base, groups[base], rest, warnings, problem)]
            return [
                _draft_of_slices(
                    folder, layout, base if alone else name, name, items, rest if alone else [], warnings, []
                )
                for name, items in groups.items()
            ]
    return []


def _by_role(layout: Layout, items: Sequence[tuple[Entry, re.Match[str]]]) -> dict[str, dict[int, list[Entry]]]:
    """Group slices by role, then by their number.

    A role is a modality, ``"colour"`` where the name says none, or ``"reference"``; a number has its files.
    """
    stacks: dict[str, dict[int, list[Entry]]] = {}
    for entry, found in items:
        match = match_suffix(found["patient"].rstrip("-_. ")) if layout.name != "lgg" else None
        role = (
            REFERENCE if found["mask"] or (match and match.is_reference) else match.roles[0][0] if match else "colour"
        )
        stacks.setdefault(role, {}).setdefault(int(found["slice"]), []).append(entry)
    return stacks


def _first_gap(numbers: Collection[int]) -> int | None:
    """Return the lowest number missing between the first and the last.

    Names may hold any number, a date for one.
    """
    ordered = sorted(numbers)
    return next((low + 1 for low, high in pairwise(ordered) if high > low + 1), None)


def _shown(number: int) -> str:
    """Return a number of a file name, short enough for a sentence."""
    text = str(number)
    return text if len(text) <= 20 else f"{text[:8]}... ({len(text)} digits)"


def _draft_of_slices(
    folder: str, layout: Layout, case_id: str, patient: str, items: Sequence[tuple[Entry, re.Match[str]]], rest:
    Sequence[Entry],
    warnings: Sequence[str], problems: Sequence[str],
) -> Draft:  # fmt: skip
    problems, warnings = list(problems), [*warnings, *link_warnings([entry for entry, _ in items])]
    stacks = _by_role(layout, items)
    problems += entry_problems([entry for entry, _ in items])
    for stack in stacks.values():
        doubled = next((found for found in stack.values() if len(found) > 1), None)
        if doubled:
            problems.append(f"one slice is there more than once: {few((entry.name for entry in doubled), 3)}; keep one")
    masks = stacks.pop(REFERENCE, None)
    sources = {role: tuple(Path(stack[number][0].path) for number in sorted(stack)) for role, stack in stacks.items()}
    images = {role: ImageSource(paths) for role, paths in sources.items() if role != "colour"}
    numbers = set().union(*stacks.values()) if stacks else set()
    if "colour" in sources and not images:
        images = {modality: ImageSource(sources["colour"], band) for band, modality in enumerate(layout.channels)}
        if layout.name != "lgg":
            warnings.append(
                f"the names do not say what the slices show ({sources['colour'][0].name}): their bands are "
                f"taken as {', '.join(layout.channels)}"
            )
    if (gap := _first_gap(numbers)) is not None:
        warnings.append(
            f"the slices are numbered {_shown(min(numbers))} to {_shown(max(numbers))}, but {_shown(gap)} is missing; "
            "the others are stacked without it"
        )
    for role, stack in stacks.items():
        if set(stack) != numbers:
            problems.append(
                f"{role} has {len(stack)} slices where the patient has {len(numbers)}; put the missing ones in"
            )
    reference = ImageSource(tuple(Path(masks[number][0].path) for number in sorted(masks))) if masks else None
    if masks and numbers and set(masks) != numbers:
        odd = min(set(masks) ^ numbers)
        warnings.append(
            f"slice {_shown(odd)} has {'no mask' if odd in numbers else 'a mask but no image'}, so the reference is "
            "not used; complete the masks"
        )
        reference = None
    if not images and reference is None:
        problems.append(advise("no image that any layout names", Mend.NAME_AS_A_LAYOUT))
    reason = f"{len(items)} files are slices named as in {layout.title} ({items[0][0].name})"
    ordered = {modality: images[modality] for modality in MODALITIES if modality in images}
    case = Case(
        case_id=case_id,
        folder=Path(folder),
        layout=layout.name,
        layout_reason=reason,
        images=ordered,
        reference=reference,
        conventions=layout.conventions,
        problems=tuple(problems),
        warnings=tuple(warnings),
        unrecognised=tuple(Path(e.path) for e in rest),
    )
    return Draft(case, patient)
