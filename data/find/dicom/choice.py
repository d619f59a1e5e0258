"""Choice of the series that show T1, T1c, T2 and FLAIR in one examination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from data.case import MODALITIES, ImageSource, Series
from data.errors import InputError, few
from data.find.dicom.rules import Verdict, judge
from data.io.dicom.geometry import same_kind, stack
from data.io.dicom.record import Record

FEWEST_PICTURES = 5
"""A volume of a head has so many slices; localisers have fewer."""
_MOST_VOLUMES = 8
_FINER = 0.8
"""Voxels of at most this share of another's volume are finer."""


@dataclass
class _Volume:
    records: list[Record]
    verdict: Verdict
    fault: str = ""
    voxel_ml: float = 0.0
    role: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return self.records[0].series

    @property
    def source(self) -> ImageSource:
        return ImageSource(tuple(record.path for record in self.records), series=self.uid)

    @property
    def is_derived(self) -> bool:
        return bool({"DERIVED", "SECONDARY"} & set(self.records[0].image_type[:2]))

    @property
    def named(self) -> str:
        return f"{self.records[0].shown} ({self.uid})"


@dataclass(frozen=True)
class Chosen:
    """Images of one examination, and the fate of each of its series.

    Parameters
    ----------
    images : mapping of modality to ImageSource
    series : tuple of Series
    files : tuple of ImageSource
        Of each of ``series``.
    problems, warnings : tuple of str
    """

    images: Mapping[str, ImageSource]
    series: tuple[Series, ...]
    files: tuple[ImageSource, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def choose_series(records: Sequence[Record], wanted: Mapping[str, str]) -> Chosen:
    """Choose a series for each modality of one study.

    Parameters
    ----------
    records : sequence of Record
        All files of one study.
    wanted : mapping of modality to SeriesInstanceUID
        Choices of the user, which no rule questions; UIDs of other studies are passed over.
    """
    by_series: dict[str, list[Record]] = {}
    for record in records:
        by_series.setdefault(record.series, []).append(record)
    protocols = _protocols(by_series)
    forced = {uid: role for role, uid in wanted.items()}
    volumes = [
        volume
        for uid, files in by_series.items()
        for volume in _volumes(files, protocols.get(uid, True), uid in forced)
    ]
    candidates = _candidates(volumes, forced)
    problems, warnings = _settle_contrast(candidates)
    for role in MODALITIES:
        problem, warning = _take(role, candidates.get(role, []))
        problems += problem
        warnings += warning
    taken = {volume.role: volume for volume in volumes if volume.role}
    warnings += [text for volume in taken.values() for text in _odd_pictures(volume, volumes)]
    images = {role: taken[role].source for role in MODALITIES if role in taken}
    volumes.sort(key=lambda volume: _order(volume.records[0]))
    files = tuple(volume.source for volume in volumes)
    return Chosen(images, _series(volumes), files, tuple(problems), (*warnings, *_other_days(taken)))


def _order(record: Record) -> tuple[bool, int, str]:
    return record.number is None, record.number or 0, record.series


def tie_fix(role: str) -> str:
    """Return the end of a tie's sentence, the fix on the command line."""
    return f"choose one with --series {role}=UID"


def _other_days(taken: Mapping[str, _Volume]) -> list[str]:
    """Say that images are of different time points, without the dates.

    Dates may identify a patient. An examination may go on after midnight.
    """
    days = {role: day for role in taken if (day := _day(taken[role].records[0].date)) is not None}
    if not days or (max(days.values()) - min(days.values())).days < 2:
        return []
    first = min(days.values())
    later = [f"{role} {(day - first).days} days after" for role, day in days.items() if (day - first).days > 1]
    earliest = next(role for role, day in days.items() if day == first)
    return [f"images of different time points: {', '.join(later)} {earliest}"]


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None


def _protocols(by_series: Mapping[str, Sequence[Record]]) -> dict[str, bool]:
    """Tell for each series whether its ProtocolName is its own.

    Several series may share that of the examination.
    """
    shared: dict[str, set[str]] = {}
    for files in by_series.values():
        words = files[0].words
        shared.setdefault(words["ProtocolName"], set()).add(words["SeriesDescription"])
    return {uid: len(shared[files[0].words["ProtocolName"]]) < 2 for uid, files in by_series.items()}


def _volumes(files: Sequence[Record], protocol: bool, forced: bool) -> list[_Volume]:
    """Split a series into volumes of one kind, such as its two echoes."""
    verdict = judge(files[0], protocol=protocol)
    if verdict.aside and not forced and not _has_kinds(files):
        return [_Volume(list(files), verdict)]
    groups: list[list[Record]] = []
    for record in files:
        for group in groups:
            if _alike(group[0], record):
                group.append(record)
                break
        else:
            groups.append([record])
        if len(groups) > _MOST_VOLUMES:
            aside = "of many kinds of pictures"
            return [_Volume(list(files), Verdict(aside, "", "", (f"more than {_MOST_VOLUMES}",)))]
    return [_measured(_Volume(group, judge(group[0], protocol=protocol))) for group in groups]


def _has_kinds(files: Sequence[Record]) -> bool:
    return any(not _alike(files[0], record) for record in files[1:])


def _alike(one: Record, other: Record) -> bool:
    if not one.frames or not other.frames:
        return len(one.frames) == len(other.frames)
    return (one.rows, one.columns) == (other.rows, other.columns) and same_kind(one.frames[0], other.frames[0])


def _measured(volume: _Volume) -> _Volume:
    """Find from its headers whether a volume can be read."""
    count = sum(record.n_frames for record in volume.records)
    try:
        if volume.verdict.aside:
            return volume
        if count < FEWEST_PICTURES:
            word = "picture" if count == 1 else "pictures"
            volume.verdict = Verdict(f"{count} {word} only", "", "", volume.verdict.reasons)
            return volume
        volume.voxel_ml = stack(volume.records).grid.voxel_volume_ml
    except InputError as error:
        volume.fault = str(error)
    return volume


def _candidates(volumes: Sequence[_Volume], forced: Mapping[str, str]) -> dict[str, list[_Volume]]:
    """Sort volumes by the modality that they may show.

    Under ``t1?`` stand those of which contrast is not told.
    """
    found: dict[str, list[_Volume]] = {}
    for volume in volumes:
        if volume.uid in forced:
            found.setdefault(forced[volume.uid], []).append(volume)
    done = set(found)
    for volume in volumes:
        verdict = volume.verdict
        if volume.uid in forced or verdict.aside:
            continue
        role = verdict.kind
        if role == "t1":
            role = {"with": "t1c", "without": "t1"}.get(verdict.contrast, "t1?")
        if role not in done:
            found.setdefault(role, []).append(volume)
        else:
            volume.notes.append(f"another series was named for {role}")
    return found


def _settle_contrast(found: dict[str, list[_Volume]]) -> tuple[list[str], list[str]]:
    """Decide on T1 of which contrast is not told.

    The problems and the warnings that come of it are returned.
    """
    unsure = found.pop("t1?", [])
    if not unsure:
        return [], []
    has_with, has_without = bool(found.get("t1c")), bool(found.get("t1"))
    if has_with and has_without:
        for volume in unsure:
            volume.notes.append("contrast is not told, and of others it is")
        return [], []
    if has_without:
        return [_ask("t1c", unsure, "may be T1 with contrast, which is not told")], []
    if any(volume.verdict.contrast == "contradicted" for volume in unsure) or (len(unsure) > 1 and not has_with):
        role = "t1" if has_with else "t1c"
        return [_ask(role, unsure, "cannot be told apart: contrast is not said, or contradicted")], []
    found["t1"] = unsure
    names = few((volume.records[0].shown for volume in unsure), 3)
    return [], [] if has_with else [f"t1: of {names} contrast is not said; taken for T1 without contrast"]


def _take(role: str, found: list[_Volume]) -> tuple[list[str], list[str]]:
    """Give a role to one volume.

    The problems and the warnings that come of it are returned.
    """
    if not found:
        return [], []
    usable = [volume for volume in found if not volume.fault]
    if not usable:
        return [volume.fault for volume in found], []
    warnings = [f"{volume.fault}; left aside" for volume in found if volume.fault]
    originals = [volume for volume in usable if not volume.is_derived]
    if not originals:
        warnings.append(f"{role}: {usable[0].records[0].shown} is derived from other images; no original is there")
    best = sorted(originals or usable, key=lambda volume: volume.voxel_ml)
    if len(best) > 1 and best[0].voxel_ml > _FINER * best[1].voxel_ml:
        alike = [volume for volume in best if best[0].voxel_ml > _FINER * volume.voxel_ml]
        return [_ask(role, alike, "fit equally well")], warnings
    best[0].role = role
    if len(best) > 1:
        others = few((volume.records[0].shown for volume in best[1:]), 3)
        warnings.append(f"{role}: {best[0].records[0].shown} was taken, whose voxels are finer than those of {others}")
    for volume in found:
        if volume is not best[0]:
            volume.notes.append(f"{best[0].records[0].shown} was taken for {role}")
    return [], warnings


def _odd_pictures(taken: _Volume, volumes: Sequence[_Volume]) -> list[str]:
    """Return a sentence where a series holds a few pictures of another kind."""
    beside = [volume for volume in volumes if volume.uid == taken.uid and volume is not taken and not volume.role]
    counts = [sum(record.n_frames for record in volume.records) for volume in beside]
    count = sum(number for number in counts if number < FEWEST_PICTURES)
    if not count:
        return []
    return [f"{taken.records[0].shown}: {count} of its pictures are of another size or kind; left aside"]


def _ask(role: str, volumes: Sequence[_Volume], why: str) -> str:
    listed = " and ".join(volume.named for volume in volumes[:4])
    if len({volume.uid for volume in volumes}) < len(volumes):  # a UID names both
        return f"{role}: {listed} {why}; export each as a series of its own"
    return f"{role}: {listed} {why}; {tie_fix(role)}"


def _series(volumes: Sequence[_Volume]) -> tuple[Series, ...]:
    """Return a line for each volume."""
    lines = []
    for volume in volumes:
        first, verdict = volume.records[0], volume.verdict
        reasons = [*([verdict.aside] if verdict.aside else []), *verdict.reasons, *volume.notes]
        reasons += [volume.fault] if volume.fault else []
        count = sum(record.n_frames for record in volume.records)
        line = Series(
            uid=volume.uid,
            number=first.number,
            description=first.description,
            role=volume.role,
            pictures=count,
            reasons=tuple(reasons),
        )
        lines.append(line)
    return tuple(lines)
