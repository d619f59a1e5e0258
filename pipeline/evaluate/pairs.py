"""Pairs of prediction and reference.

It says which label map belongs to which, and in which label convention each of them is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.case import ImageSource
from data.errors import InputError
from data.find.recognise import ConventionChoice, choose_conventions, read_label_values
from data.io.equal_files import same_files, same_files_sentence
from data.labels import CONVENTIONS, LabelConvention, convention_name, load_convention
from pipeline.evaluate.label_maps import LabelMap, by_patient, find_label_maps, matched_by_folder_name
from pipeline.score.tables import text_cell

Labels = Collection[float]
MapLabels = Callable[[Sequence[ImageSource]], Sequence[Labels]]
"""The labels in each of some label maps; an unreadable one has none. May use several processes."""


@dataclass(frozen=True)
class Pair:
    """One patient of one system.

    On either side it has none, one or (an error) several label maps.
    """

    case: str
    """The id as a table holds it."""
    system: str
    """The name of the predictions' folder, for comparisons."""
    predictions: tuple[LabelMap, ...]
    references: tuple[LabelMap, ...]
    roots: tuple[Path, Path]
    """The folders of predictions and of references."""
    choices: tuple[ConventionChoice | None, ConventionChoice | None]
    """Each side's own evidence; None where there is not one label map."""
    asked: str | None
    """The convention that the user named for predictions."""
    labels: tuple[Labels, Labels] = ((), ())
    """Those of all the folder's predictions, which have one convention, and of their references; empty where no more
    than the pair's own are wanted."""


def system_names(folders: Sequence[Path]) -> list[str]:
    """Return each folder's name, as a table holds it.

    Where two are called the same the folder above is named too.

    Folders that still have one name (the same folder twice) are numbered from the second on.
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    names = [path.name for path in paths]
    names = [
        f"{path.parent.name}/{name}" if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)
    ]
    numbered = [f"{name}#{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]
    return [text_cell(name) for name in numbered]


def find_pairs(
    systems: Mapping[str, Path],
    references: Path,
    conventions: tuple[str | None, str | None],
    map_labels: MapLabels,
    *,
    exclude: Path | None = None,
) -> list[Pair]:
    """Return every patient of every system or of the references.

    First come the references' in their order, then the others.

    Parameters
    ----------
    systems : mapping of name to Path
        Folders of predictions.
    references : Path
    conventions : (str or None, str or None)
        What the user named for predictions and for references.
    map_labels : callable
        Reads the labels of the files whose names leave their convention open.
    exclude : Path, optional
        An output folder, which is no input even where it lies inside one.

    Raises
    ------
    data.errors.UsageError
        A folder is missing or holds no label map.
    """
    expected = by_patient(find_label_maps(references, exclude=exclude))
    expected_in, _ = _choose(expected, conventions[1], map_labels, "--reference-convention")
    if conventions[0] is not None:  # of references of which nothing is known, what the user says of predictions
        named = ConventionChoice(conventions[0], "asked for with --convention, and nothing tells another")
        expected_in = {key: choice if choice.name else named for key, choice in expected_in.items()}
    pairs = []
    for system, folder in systems.items():
        predicted = matched_by_folder_name(by_patient(find_label_maps(folder, exclude=exclude)), expected)
        predicted_in, read = _choose(predicted, conventions[0], map_labels, "--convention")
        pooled = _pooled(read, predicted, expected, expected_in, map_labels)
        pairs += [
            Pair(
                key,
                system,
                tuple(predicted.get(key, ())),
                tuple(expected.get(key, ())),
                (folder, references),
                (predicted_in.get(key), expected_in.get(key)),
                conventions[0],
                pooled.get(key, ((), ())),
            )
            for key in dict.fromkeys([*expected, *predicted])
        ]
    return pairs


def doubled_cases(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return a sentence for each case that has the same files as another.

    Compared are the images of the reference, else those of the prediction, else the reference itself.
    """
    cases, alone = {}, set()
    for pair in pairs:
        if pair.case not in cases and len(pair.references) == 1 and len(pair.predictions) == 1:
            reference, images = pair.references[0].case, pair.references[0].images or pair.predictions[0].images
            if not images and reference.reference is not None:
                images = {"reference": reference.reference}
                alone.add(pair.case)
            cases[pair.case] = replace(reference, case_id=pair.case, images=dict(images))
    return {
        case: same_files_sentence(case, group, "reference masks" if case in alone else "images")
        for group in same_files(cases.values())
        for case in group
    }


def _pooled(
    read: Mapping[str, Labels],
    predicted: Mapping[str, Sequence[LabelMap]],
    expected: Mapping[str, Sequence[LabelMap]],
    expected_in: Mapping[str, ConventionChoice],
    map_labels: MapLabels,
) -> dict[str, tuple[Labels, Labels]]:
    """Return each pair's `Pair.labels`: one folder of predictions has one convention.

    Predictions go together whose names say the same and whose references are in one convention. References are read
    only where the labels of some prediction do not fit them.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for key in read:
        if key in expected_in and (name := expected_in[key].name) is not None:
            groups.setdefault((name, predicted[key][0].case.conventions), []).append(key)
    found: dict[str, tuple[Labels, Labels]] = {}
    for (name, _), keys in groups.items():
        labels = frozenset().union(*(read[key] for key in keys))
        if len(keys) > 1 and load_convention(name).unknown_labels(labels):
            sources = [expected[key][0].case.reference for key in keys]
            theirs = map_labels([source for source in sources if source is not None])
            found |= dict.fromkeys(keys, (labels, frozenset().union(*theirs)))
    return found


def labels_of(source: ImageSource) -> Labels:
    """Return the distinct labels of a label map but for 0.

    There are none where it cannot be read, which costs that patient's row later.
    """
    try:
        return read_label_values(source)
    except InputError:
        return ()


def settle_conventions(
    pair: Pair, labels: tuple[Labels, Labels]
) -> tuple[tuple[LabelConvention, str], tuple[LabelConvention, str]]:
    """Return the conventions of one patient's prediction and reference.

    Each comes with the reason, from both sides' evidence.

    ``labels`` are those that occur in the two.

    Raises
    ------
    data.errors.InputError
        One of them cannot be told.
    """
    prediction, reference = pair.choices
    assert prediction is not None and reference is not None  # there is one label map on either side
    (of_prediction, of_reference), own = (set(a) | set(b) for a, b in zip(labels, pair.labels, strict=True)), labels[0]
    if reference.name is None and not labels[1] and prediction.name is not None:
        # No label, no question which is which: only the list of regions is wanted.
        reference = ConventionChoice(prediction.name, "the prediction's, as it holds no label")
    if reference.name is None:
        why = "; ".join([reference.error or reference.reason, *reference.warnings])
        raise InputError(f"not scored: the convention of the reference is undecided: {why}")
    expected = load_convention(reference.name)
    read_reference = (expected, reference.reason)
    admitted = _admitted(pair)
    if not expected.unknown_labels(of_prediction) and (expected.spelling in admitted or not admitted):
        reason = prediction.reason if pair.asked else "the reference's, which its labels fit"
        return (expected, reason), read_reference
    if prediction.name is not None:
        return (load_convention(prediction.name), prediction.reason), read_reference
    fitting = [name for name in CONVENTIONS if not load_convention(name).unknown_labels(of_prediction)]
    if fitting and _alike(fitting, expected, of_prediction):
        return (load_convention(fitting[0]), "all that its labels fit read them alike here"), read_reference
    # With every label of its reference there, a further one is a stray; with one missing, it is another convention.
    if not fitting or set(of_reference) <= set(of_prediction):
        return (expected, "the reference's, as no other is evident"), read_reference
    whose = "its" if set(own) == of_prediction else "its folder's"
    raise InputError(
        f"label convention of the prediction: {whose} labels {_listed(of_prediction)} do not fit {expected.name}, "
        f"its reference's, and could be {', '.join(fitting)}; name it with --convention and the reference's with "
        "--reference-convention, or convert it"
    )


def _alike(names: Sequence[str], expected: LabelConvention, labels: Labels) -> bool:
    """Tell whether conventions agree on the regions that the reference tells."""
    regions = [load_convention(name).regions for name in names]
    known = set(labels)
    return all(
        all(r in each for each in regions) and len({frozenset(each[r] & known) for each in regions}) == 1
        for r in expected.regions
    )


def _admitted(pair: Pair) -> tuple[str, ...]:
    """Return the conventions that user, report and file naming leave.

    They are empty when these say nothing.
    """
    mask = pair.predictions[0]
    named = pair.asked or mask.reported
    return (named,) if named else mask.case.conventions


def _choose(
    found: Mapping[str, Sequence[LabelMap]], asked: str | None, map_labels: MapLabels, option: str
) -> tuple[dict[str, ConventionChoice], dict[str, Labels]]:
    """Return each patient's own evidence and the labels read for it.

    The evidence is that of one side of the comparison.

    Patients without one label map have none.
    """
    single = {key: items[0] for key, items in found.items() if len(items) == 1 and items[0].case.reference is not None}
    if asked is not None:
        return {key: _asked(item, asked, option) for key, item in single.items()}, {}
    unreported = [item.case for item in single.values() if not item.reported]
    # Names that leave one convention need no reading (see choose_conventions).
    open_ones = [c.reference for c in unreported if c.reference is not None and len(c.conventions) != 1]
    read: dict[Any, Labels] = dict(zip(open_ones, map_labels(open_ones), strict=True)) if open_ones else {}
    way_out = f"say which with {option} NAME"
    chosen = choose_conventions(unreported, read_labels=lambda s: read[s], way_out=way_out) if unreported else {}
    choices = {
        key: ConventionChoice(item.reported, "its report.csv says so") if item.reported else chosen[item.case.case_id]
        for key, item in single.items()
    }
    return choices, {key: read[item.case.reference] for key, item in single.items() if item.case.reference in read}


def _asked(item: LabelMap, asked: str, option: str) -> ConventionChoice:
    """Return the convention that the user names.

    A warning says where report or names say another.
    """
    others = (item.reported,) if item.reported else item.case.conventions
    warnings: tuple[str, ...] = ()
    if others and asked not in others:
        source = "its report.csv" if item.reported else f"the file naming ({item.case.layout})"
        listing = " or ".join(map(convention_name, others))
        warnings = (f"{option} {convention_name(asked)} was taken, though {source} says {listing}; check it",)
    return ConventionChoice(asked, "asked for", None, warnings)


def _listed(labels: Labels) -> str:
    return "{" + ", ".join(f"{label:g}" for label in sorted(labels)) + "}"
