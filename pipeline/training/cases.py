"""Cases to learn from: patients, phantoms and single slices.

They are preprocessed as the predictor does and kept on disk.

A case is decompressed and preprocessed once and then mapped from the cache (`pipeline.array_cache`): an epoch reads
only the pages of the patches it draws, and memory does not grow with the number of patients.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from data.case import GRID_ORDER, Case, ImageSource
from data.errors import InputError
from data.find.recognise import SAY_CONVENTION, ConventionChoice, choose_conventions, read_label_values
from data.grid import Grid
from data.io.metaimage import read_metaimage
from data.io.read import MAX_VOXELS, Volume, read_header, read_label_map, read_volume
from data.labels import count_labels, load_convention
from data.references import filled, other_grid, reference_doubts, strange_labels
from data.same_patient import known_as
from pipeline.array_cache import array_path, file_digest, open_array, write_array
from pipeline.config import RunConfig
from pipeline.training.cached import Entry, TrainingCase, cached_cases, gather, naming_case
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import resample_to

log = logging.getLogger(__name__)


def patient_cases(
    cases: Sequence[Case],
    config: RunConfig,
    cache: Path,
    *,
    convention: str | None = None,
    workers: int = 0,
    way_out: str = SAY_CONVENTION,
) -> list[TrainingCase]:
    """Prepare patients to learn from, in the order of ``cases``.

    An empty sequence gives an empty list.

    Parameters
    ----------
    cases : sequence of Case
        Every one with a reference. A missing modality is zeros where the recipe trains for it, else refused.
    config : RunConfig
    cache : Path
        Folder for the preprocessed voxels; may be shared by folds and recipes.
    convention : str, optional
        Label convention of every reference, whatever the evidence says; else each one's own.
    workers : int
        Processes that preprocess; 0: here, one case after another. The bytes do not depend on it.
    way_out : str
        As for :func:`data.find.recognise.choose_conventions`.

    Raises
    ------
    data.errors.InputError
        Cases have no reference, lack a modality, cannot be read, their labels tell none of the regions, one of them is
        none of its convention, or the reference lies on another grid or is no tumour's; names all of them.
    data.errors.ConventionError
        There is no such convention.
    data.errors.UsageError
        The cache cannot be written.
    """
    names: dict[ImageSource, str] = {case.reference: case.case_id for case in cases if case.reference}
    choices = choose_conventions(
        [case for case in cases if case.reference],
        override=convention,
        read_labels=lambda source: label_values(source, names[source], Path(cache)),
        way_out=way_out,
    )
    entries: list[Entry] = []

    def add(case: Case) -> None:
        _refuse_unusable([case], config)
        entries.append(_patient_entry(case, choices[case.case_id], config, cache))

    *_, found = gather([*(partial(add, case) for case in cases), lambda: cached_cases(entries, config, workers)])
    opened: list[TrainingCase] = found
    return opened


def _patient_entry(case: Case, choice: ConventionChoice, config: RunConfig, cache: Path) -> Entry:
    for sentence in choice.warnings:
        log.warning("%s: %s", case.case_id, sentence)
    if choice.name is None:
        raise naming_case(case.case_id, choice.error or choice.reason)
    if not _tells_any(choice.name, config):
        raise InputError(
            f"{case.case_id}: its labels ({choice.name}) tell none of the recipe's regions "
            f"({', '.join(config.regions)}); leave it out"
        )
    try:
        made_from = ["patient", recipe_key(config), choice.name, digests_of(case, config)]
    except InputError as error:
        raise naming_case(case.case_id, str(error)) from None
    path = array_path(cache, case.case_id, made_from)
    make = partial(_on_working_grid, case, config, choice.name)
    return Entry(case.case_id, "patient", path, make, patient=known_as(case.case_id))


def _refuse_unusable(cases: Sequence[Case], config: RunConfig) -> None:
    """Refuse cases that are seen to be unusable without reading their voxels.

    It saves the hours spent on the others.
    """
    for case in cases:
        if case.problems or case.reference is None:
            raise InputError(
                f"{case.case_id}: {'; '.join(case.problems) or 'no reference mask to learn from'}; leave it out"
            )
    refuse_missing(cases, config)


def refuse_missing(cases: Sequence[Case], config: RunConfig) -> None:
    """Refuse unusable patients and those that lack a modality.

    A recipe may do without modalities.

    Raises
    ------
    data.errors.InputError
        Names the first one.
    """
    for case in cases:
        if case.problems:
            raise InputError(
                f"{case.case_id}: {'; '.join(case.problems)}; or leave it out (--leave-out {case.case_id})"
            )
        missing = [modality for modality in config.modalities if modality not in case.images]
        if missing and (len(missing) == len(config.modalities) or not config.missing_modalities):
            raise InputError(
                f"{case.case_id}: no {', '.join(missing)} image; add it, leave the case out (--leave-out "
                f"{case.case_id}), or train for missing modalities (augment.missing_modality in the recipe)"
            )


def _tells_any(convention: str, config: RunConfig) -> bool:
    return any(region in load_convention(convention).regions for region in config.regions)


def recipe_key(config: RunConfig) -> list[Any]:
    """Return the part of a recipe that decides the voxels of a case."""
    return [config.modalities, config.regions, config.preprocess.model_dump(mode="json")]


def _files(source: ImageSource) -> Iterator[Path]:
    for path in source.paths:
        yield path
        if path.name.lower().endswith(".mhd"):  # its voxels lie in another file
            yield read_metaimage(path, MAX_VOXELS)[1].path


def digests_of(case: Case, config: RunConfig) -> list[Any]:
    """Return the channel and the digests of the files of each role.

    A file that serves several roles, as a colour slice does, is read once.
    """
    sources: dict[str, ImageSource] = {m: case.images[m] for m in config.modalities if m in case.images}
    if case.reference is not None:
        sources["reference"] = case.reference
    files = {role: list(_files(source)) for role, source in sources.items()}
    digests = {path: file_digest(path) for path in dict.fromkeys(path for paths in files.values() for path in paths)}
    return [[role, source.channel, [digests[p] for p in files[role]]] for role, source in sources.items()]


def label_values(source: ImageSource, name: str, cache: Path) -> list[float]:
    """Return the distinct labels of a reference.

    They are kept like the voxels, so that the choice of a convention unpacks no file twice.
    """
    made_from = ["labels", source.channel, [file_digest(path) for path in _files(source)]]
    path = array_path(cache, f"{name}.labels", made_from)
    values = open_array(path, np.float64, (None,))
    if values is None:
        # 0 stands first, so that the array of an empty reference is not empty.
        values = np.array([0.0, *sorted(read_label_values(source))])
        write_array(path, values)
    return [float(value) for value in values[1:]]


def _on_working_grid(case: Case, config: RunConfig, convention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and region shares of a patient, (channels, d1, d2, d3) float32 each."""
    image = images_on_working_grid(case, config)
    assert case.reference is not None  # the callers have looked
    first = next(case.images[m] for m in GRID_ORDER if m in case.images and m in config.modalities)
    images = read_header(first).grid
    reference = filled(read_label_map(case.reference), images)
    if doubt := other_grid(reference.header, images):
        raise InputError(f"{case.case_id}: its reference {doubt}; resample it onto theirs, or leave the case out")
    _refuse_no_tumour(case, read_volume(first), reference, convention)
    shares = region_shares(case.case_id, reference.array, reference.grid, convention, grid_of(image), config)
    return image.as_tensor(), shares


def _refuse_no_tumour(case: Case, image: Volume, reference: Volume, convention: str) -> None:
    """Refuse a reference that marks the brain, or the air, as `segment` doubts it."""
    shown = image.grid.turn(image.array != 0, reference.grid.orientation)
    whole = next(iter(load_convention(convention).region_masks(reference.array).values()))
    if doubts := reference_doubts(reference.header.path.name, whole, shown):
        raise InputError(f"{case.case_id}: {'; '.join(doubts)}, or leave the case out")


def images_on_working_grid(case: Case, config: RunConfig) -> MetaTensor:
    """Return a patient's images as the network sees them, (modalities, d1, d2, d3) float32."""
    chain = preprocess_chain(
        config.modalities, **config.preprocess.model_dump(), zero_missing=config.missing_modalities
    )
    prepared = run_chain(chain, {m: case.images[m] for m in config.modalities if m in case.images})
    for sentence in prepared["warnings"]:
        log.warning("%s: %s", case.case_id, sentence)
    image: MetaTensor = prepared["image"]
    return image


def region_shares(
    name: str, label_map: NDArray[Any], grid: Grid, convention: str, working: Grid, config: RunConfig
) -> torch.Tensor:
    """Return the share of each voxel of the working grid that a region fills.

    Shape (regions, d1, d2, d3) float32, NaN where the reference does not tell.

    Raises
    ------
    data.errors.InputError
        A label is none of the convention's, or a region lies outside the working grid; names the case.
    """
    its = load_convention(convention)
    if doubt := strange_labels(count_labels(label_map), its):
        raise InputError(f"{name}: its reference {doubt}; correct it, name its convention, or leave the case out")
    told = [region for region in config.regions if region in its.regions]
    masks = its.region_masks(label_map, told)
    shares = torch.full((len(config.regions), *working.shape), torch.nan)
    for region, mask in masks.items():  # one at a time, for a float copy of all of them would be the largest array here
        moved = resample_to(torch.as_tensor(mask[None]).float(), grid, working)[0]
        if mask.any() and not moved.any():
            raise InputError(
                f"{name}: the {region} of its reference lies outside the images; give it the images' geometry"
            )
        shares[config.regions.index(region)] = moved
    return shares
