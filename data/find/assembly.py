"""Files of one folder, put together into patients."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.case import Case, ImageSource
from data.errors import Mend, advise, few
from data.find.naming import MODALITIES, REFERENCE, Layout, Match, load_layouts, match_suffix, plain_name
from data.find.tree import Entry
from data.io.suffixes import split_suffix


@dataclass(frozen=True)
class Named:
    """File and the match of its name."""

    entry: Entry
    match: Match


@dataclass(frozen=True)
class Draft:
    """Patient under construction.

    It keeps all that is needed to find a mask that lies elsewhere.

    Parameters
    ----------
    case : Case
    patient : str
        The patient's name as the file names spell it; ``""`` when they do not.
    scope : str
        The data set's folder, for sets whose names are unique only there; else ``""``.
    """

    case: Case
    patient: str
    scope: str = ""

    @property
    def n_roles(self) -> int:
        return len(self.case.images) + (self.case.reference is not None)


def unusable(
    folder: str, problem: str, warnings: Sequence[str] = (), files: Sequence[Entry] = (), name: str | None = None
) -> Draft:
    """Return the draft of a patient folder without anything to segment.

    It still gets its row, under the folder's name or `name`.
    """
    unrecognised = tuple(Path(entry.path) for entry in files)
    reason = "no layout names anything in it"
    return Draft(
        Case(
            case_id=os.path.basename(folder) if name is None else name,
            folder=Path(folder),
            layout="unknown",
            layout_reason=reason,
            images={},
            reference=None,
            problems=(problem,),
            warnings=tuple(warnings),
            unrecognised=unrecognised,
        ),
        "",
    )


def drafts_of_volumes(
    folder: str,
    base: str,
    named: Sequence[Named],
    rest: Sequence[Entry],
    warnings: Sequence[str],
    *,
    is_root: bool = False,
) -> list[Draft]:
    """Return the patients of a folder of volumes.

    The folder is one patient's, called `base`, or holds several patients' files.
    """
    groups: dict[str, list[Named]] = {}
    for item in named:
        groups.setdefault(item.match.patient, []).append(item)
    patients = split_patients(base, groups, is_root)
    drafts = []
    for patient, case_id, files, foreign in patients:
        mine = (
            list(rest)
            if len(patients) == 1
            else [entry for entry in rest if patient and entry.name.startswith(patient)]
        )
        problems = [_foreign_sentence(base, files, foreign)] if foreign else []
        drafts.append(assemble(folder, case_id, patient, files, mine, problems=problems, warnings=warnings))
    return drafts


def split_patients(
    base: str, groups: dict[str, list[Named]], is_root: bool
) -> list[tuple[str, str, list[Named], list[Named]]]:
    """Decide which patients own a folder.

    Give (patient, case id, own files, files of others) for each patient.

    One name: that patient's folder; the root may be called anything, so that there the files' name counts. Several: the
    folder's own patient is the one it is called after, and the others are strangers; a folder called after none holds
    patients side by side, unless a single stray file is all there is of the others.
    """
    groups = _one_spelling(groups)
    named = {patient: items for patient, items in groups.items() if patient}
    everything = [item for items in groups.values() for item in items]
    if len(named) <= 1:
        name = next(iter(named), "")
        # The input's own folder may be called anything; another one is called after its patient.
        is_elsewhere = is_root and name and not (base == name or _extends(base, name) or _extends(name, base))
        return [(name, name if is_elsewhere else base, everything, [])]
    roles = {
        patient: Counter(role for item in items for role, _ in item.match.roles) for patient, items in named.items()
    }
    shared = max(sum(role in count for count in roles.values()) for role in (*MODALITIES, REFERENCE)) > 1
    full = [patient for patient, count in roles.items() if len(count) > 1]
    owner = base if base in named else max((name for name in named if _extends(base, name)), key=len, default=None)
    if owner is None and not shared and all(_same_patient(base, name, items) for name, items in named.items()):
        owner = base
    if owner is None and (len(full) > 1 or (shared and (is_root or not full))):
        flat: list[tuple[str, str, list[Named], list[Named]]] = [
            (patient, patient, items, []) for patient, items in named.items()
        ]
        return [*flat, *([("", base, groups[""], [])] if groups.get("") else [])]
    if owner is None and len(full) == 1:
        owner = full[0]
    own = [
        item
        for name, items in groups.items()
        for item in items
        if not name or name == owner or (owner and _same_patient(owner, name, items))
    ]
    if not own:
        return [("", base, everything, everything)]
    return [(owner or "", base, own, [item for item in everything if item not in own])]


def _one_spelling(groups: dict[str, list[Named]]) -> dict[str, list[Named]]:
    """Put files together that differ only in their spelling of one patient.

    No modality is doubled by it.

    ``P1_reg_t1`` and ``P1_t1c_seg`` are P1's, and ``manual_seg`` is the one patient's in whose folder it lies.
    """
    generic = {name for name, items in groups.items() if all(item.match.layout.name == "generic" for item in items)}
    together: dict[str, list[str]] = {}
    for name in groups:
        plain = plain_name(name) if name in generic else name
        is_series = plain.isdigit() and len(plain) < 4 and len(groups[name]) == 1  # 1_T1, 2_T1GD, 3_T2
        together.setdefault("" if is_series else plain, []).append(name)
    nameless = together.pop("", [])
    if len(together) <= 1:
        key = next(iter(together), "")
        together[key] = [*together.get(key, []), *nameless]
    else:
        together |= {name: [name] for name in nameless}
    merged: dict[str, list[Named]] = {}
    for key, names in together.items():
        items = [item for name in names for item in groups[name]]
        roles = Counter(role for item in items for role, _ in item.match.roles)
        if len(names) > 1 and all(count == 1 for count in roles.values()):
            merged[key] = items
        else:
            merged |= {name: groups[name] for name in names}
    return merged


def _extends(longer: str, name: str) -> bool:
    return longer.startswith(name) and longer != name and not longer[len(name)].isalnum()


def _same_patient(owner: str, name: str, items: Sequence[Named]) -> bool:
    """Tell whether two names belong to one patient.

    ``smith_ax`` and ``smith_sag`` are smith's own; ``smith_2`` may be another, and a data set's own naming leaves no
    room. So is ``AX_T1_smith_SE_10``, an archive's name: the series' words, the patient, then anything.
    """
    if not all(item.match.layout.name == "generic" for item in items):
        return False
    if _extends(name, owner):
        return not re.search("[0-9]", name[len(owner) :])
    return all(_describes_before(owner, name, item.match.roles[0][0]) for item in items)


_SERIES_WORD = {"t1": "t1", "t1c": "t1", "t2": "t2", "flair": "flair"}


def _describes_before(owner: str, name: str, role: str) -> bool:
    """Tell whether a role's series words stand before its patient in a name."""
    found = re.search(rf"(?<![0-9A-Za-z]){re.escape(owner)}(?![0-9A-Za-z])", name)
    words = re.split("[^0-9a-z]+", name[: found.start()].lower()) if found else []
    return _SERIES_WORD.get(role) in words


def _foreign_sentence(base: str, files: Sequence[Named], foreign: Sequence[Named]) -> str:
    names = few((item.entry.name for item in foreign), 3)
    if len(files) == len(foreign):
        return advise(f"the files of {base} bear different patients' names ({names})", Mend.PART_THE_PATIENTS)
    return advise(f"the folder {base} holds another patient's file: {names}", Mend.MOVE_TO_ITS_PATIENT)


def assemble(
    folder: str, case_id: str, patient: str, named: Sequence[Named], rest: Sequence[Entry], *, scope: str = "",
    conventions: tuple[str, ...] | None = None, problems: Sequence[str] = (), warnings: Sequence[str] = (),
) -> Draft:  # fmt: skip
    """Assemble one patient from files with understood names.

    Doubled and unusable files become sentences.
    """
    layout, reason = _choose_layout(named)
    problems, warnings = list(problems), list(warnings)
    by_role: dict[str, list[tuple[Named, int | None]]] = {}
    for item in named:
        for role, channel in item.match.roles:
            by_role.setdefault(role, []).append((item, channel))
    sources = {}
    for role, found in by_role.items():
        item, channel = found[0]
        entry = item.entry
        if len(found) > 1 and role == REFERENCE:
            names = _several(item.entry.name for item, _ in found)
            warnings.append(f"more than one reference mask: {names}; none is scored, keep one")
        elif len(found) > 1:
            problems.append(_doubled_sentence(role, found))
        elif entry.problem and role == REFERENCE:
            warnings.append(f"the reference {entry.name} {entry.problem}")
        else:
            sources[role] = ImageSource((Path(entry.path),), channel, item.match.volumes)
    problems += entry_problems([item.entry for item in named if not item.match.is_reference])
    warnings += link_warnings([item.entry for item in named])
    warnings += _unread_images(rest, by_role)
    renamed = _called_after_another(case_id, patient, named)
    images = {modality: sources[modality] for modality in MODALITIES if modality in sources}
    case = Case(
        case_id=case_id,
        folder=Path(folder),
        layout=layout.name,
        layout_reason=reason,
        images=images,
        reference=sources.get(REFERENCE),
        conventions=layout.conventions if conventions is None else conventions,
        problems=tuple(problems),
        warnings=(*warnings, *renamed),
        unrecognised=tuple(Path(entry.path) for entry in rest),
    )
    return Draft(case, patient, scope)


def entry_problems(entries: Sequence[Entry]) -> list[str]:
    """Why files cannot be used, a sentence each; of many only the first."""
    found = sorted({f"{entry.name} {entry.problem}" for entry in entries if entry.problem})
    more = [f"{len(found) - 4} more files cannot be used either; look at them all"] if len(found) > 5 else []
    return [*found[: 4 if more else 5], *more]


def _doubled_sentence(role: str, found: Sequence[tuple[Named, int | None]]) -> str:
    """Return the sentence on one modality in several places.

    These are files, or the channels that dataset.json gives one name.
    """
    names = _several(item.entry.name for item, _ in found)
    if len({item.entry.path for item, _ in found}) == 1:
        channels = _several(str(channel) for _, channel in found)
        return (
            f"{role} is there more than once: dataset.json calls the channels {channels} of {found[0][0].entry.name} "
            "so; correct its channel_names"
        )
    if found[0][0].match.layout.kind == "numbered":
        return f"{role} is there more than once: dataset.json calls {names} so; correct its channel_names"
    return f"{role} is there more than once: {names}; keep one"


def _several(items: Iterable[str]) -> str:
    listed = list(items)
    return " and ".join(listed) if len(listed) <= 3 else few(listed, 3)


def link_warnings(entries: Sequence[Entry]) -> list[str]:
    """Return one sentence for all files that are links out of the input."""
    linked = [entry for entry in entries if entry.link_target]
    if not linked:
        return []
    more = f" (and {len(linked) - 1} more)" if len(linked) > 1 else ""
    return [f"{linked[0].name} is a link out of the input to {linked[0].link_target}{more}; it was followed"]


def _choose_layout(named: Sequence[Named]) -> tuple[Layout, str]:
    images = [item for item in named if not item.match.is_reference] or list(named)
    count = Counter(item.match.layout.name for item in images)
    best = max(count, key=lambda name: (name != "generic", count[name]))
    layout = load_layouts()[best]
    example = next(item.entry.name for item in images if item.match.layout.name == best)
    if best == "generic":
        return layout, f"no data set's naming fits, so the modality is taken from the end of the name ({example})"
    return layout, f"{count[best]} of {len(images)} image files are named as in {layout.title} ({example})"


_FOREIGN = (".nhdr", ".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".mnc", ".mnc.gz", ".head", ".brik", ".brik.gz")


def _unread_images(rest: Sequence[Entry], there: Collection[str]) -> list[str]:
    """Warn of images and masks in a format that is not read.

    One whose modality is there in another file makes no warning.
    """
    unread = {}
    for entry in rest:
        extension = next((each for each in _FOREIGN if entry.name.lower().endswith(each)), "")
        match = match_suffix(entry.name[: -len(extension)]) if extension else None
        if match is not None and match.roles[0][0] not in there:
            unread[entry.name] = match.roles[0][0]
    if not unread:
        return []
    role = next(iter(unread.values()))
    wanted = "seg" if role == REFERENCE else role
    return [f"{few(unread, 3)}: this format is not read; export it as one NIfTI file, NAME_{wanted}.nii.gz"]


def _called_after_another(case_id: str, patient: str, named: Sequence[Named]) -> list[str]:
    """Warn of a folder that bears one patient's name and holds only another's files."""
    first = named[0]
    pattern = first.match.layout.pattern
    if not patient or patient == case_id or pattern is None or first.match.layout.kind != "files":
        return []
    swapped = pattern.fullmatch(split_suffix(first.entry.name)[0].replace(patient, case_id, 1))
    if swapped and swapped.groupdict().get("patient") == case_id:
        return [f"the folder is called {case_id} but its files are called {patient}; check whose they are"]
    return []
