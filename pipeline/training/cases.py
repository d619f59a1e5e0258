"""Cases to learn from: patients, phantoms and single slices.

They are preprocessed as the predictor does and kept on disk.

A case is decompressed and preprocessed once and then mapped from the cache (`pipeline.array_cache`): an epoch reads only
the pages of the patches it draws, and memory does not grow with the number of patients.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from numpy.typing import NDArray

import data.phantom
from data.case import Case, ImageSource
from data.errors import InputError, UsageError, few
from data.find.recognise import choose_conventions
from data.grid import Grid
from data.io.metaimage import read_metaimage
from data.io.read import MAX_VOXELS, ImageHeader, read_label_map
from data.labels import count_labels, load_convention
from data.phantom.patient import Contrast, draw_patient
from data.same_patient import known_as
from pipeline.array_cache import array_path, file_digest, key_of, open_array, write_array
from pipeline.config import RunConfig
from pipeline.execute.executors import make_executor
from pipeline.training.sources.slice_files import read_slice_file, slice_files
from transforms.preprocess import grid_of, preprocess_chain, run_chain
from transforms.restore import resample_to

log = logging.getLogger(__name__)


class TumourShape(Protocol):
    """Tumour of a real patient for a phantom, as pipeline.training.sources.tumour_shapes reads it."""

    def digest(self) -> str:
        """Return the SHA-256 of everything that decides the shape."""

    def read(self) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
        """Return the codes of `data.phantom.tumour` and the spacing in mm."""


_INFINITE = 0x7C00
"""The bits of float16 infinity."""
MAX_CENTRES = 4096
"""Most voxel positions that are kept of each region; more would not make the patches more various."""


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """One patient, phantom or slice on the working grid.

    Parameters
    ----------
    name : str
        The case id.
    kind : str
        Of its source: "patient", "phantom", "slice", "cube"...
    voxels : (modalities + regions, d1, d2, d3) float16
        Read-only, mapped from the cache. First the images as the network sees them, then the share of each voxel that a
        region fills, in [0, 1]; NaN where that is not known. On disk the slices of the third axis follow each other, so
        that a slice or a patch is read from few pages.
    n_images : int
        How many of the first channels are images.
    centres : mapping of str to (n, 3) int16
        "brain" (any image is not 0) and each region (share above 0) to voxel positions, all or `MAX_CENTRES` drawn at
        random, the same for the same content. What fills no voxel is absent.
    patient : str
        Whom it shows; cases of one patient never stand on two sides.
    beyond_known : bool
        Whether nothing is beyond the volume's faces, as around a brain. If not, the lesion may go on there.
    place : three floats, optional
        Where the volume's middle lies in the brain's box, from 0 to 1 along each axis. None: the volume is that box.
    apart : bool
        Whether the slices of the third axis are no neighbours, for their distance is not known.
    """

    name: str
    kind: str
    voxels: np.ndarray
    n_images: int
    centres: Mapping[str, np.ndarray]
    patient: str = ""
    beyond_known: bool = True
    place: tuple[float, float, float] | None = None
    apart: bool = False


@dataclass(frozen=True)
class Entry:
    """Case to be opened, with the function that makes its voxels.

    The function is called where the cache does not have them, and may go to a worker process.

    ``make`` gives images and region shares, (channels, d1, d2, d3) float32 each, NaN where a share is not known. The other
    fields are those of :class:`TrainingCase`.
    """

    name: str
    kind: str
    path: Path
    make: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    patient: str = ""
    beyond_known: bool = True
    place: tuple[float, float, float] | None = None
    apart: bool = False


def patient_cases(
    cases: Sequence[Case], config: RunConfig, cache: Path, *, convention: str | None = None, workers: int = 0
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

    Raises
    ------
    data.errors.InputError
        A case has no reference, lacks a modality, cannot be read, its labels tell none of the regions, or one of them
        is none of its convention; names it.
    data.errors.ConventionError
        There is no such convention.
    data.errors.UsageError
        The cache cannot be written.
    """
    _refuse_unusable(cases, config)
    names: dict[ImageSource, str] = {case.reference: case.case_id for case in cases if case.reference}
    choices = choose_conventions(
        cases, override=convention, read_labels=lambda source: _label_values(source, names[source], Path(cache))
    )
    entries = []
    for case in cases:
        choice = choices[case.case_id]
        for sentence in choice.warnings:
            log.warning("%s: %s", case.case_id, sentence)
        if choice.name is None:
            raise _naming(case.case_id, choice.error or choice.reason)
        if not _tells_any(choice.name, config):
            raise InputError(
                f"{case.case_id}: its labels ({choice.name}) tell none of the recipe's regions "
                f"({', '.join(config.regions)}); leave it out"
            )
        try:
            made_from = ["patient", recipe_key(config), choice.name, digests_of(case, config)]
        except InputError as error:
            raise _naming(case.case_id, str(error)) from None
        path = array_path(cache, case.case_id, made_from)
        entries.append(
            Entry(
                case.case_id,
                "patient",
                path,
                partial(_on_working_grid, case, config, choice.name),
                patient=known_as(case.case_id),
            )
        )
    return cached_cases(entries, config, workers)


def phantom_digests() -> list[str]:
    """Return the SHA-256 of every module that decides the look of a phantom.

    `RuntimeError` where none is found.

    An empty list would silently keep phantoms of an older generator in the cache.
    """
    modules = sorted(Path(data.phantom.__file__ or "").parent.glob("*.py"))
    if "patient.py" not in {path.name for path in modules}:
        raise RuntimeError(f"no modules of phantoms beside {data.phantom.__file__}: the package is not installed whole")
    return [file_digest(path) for path in modules]


def phantom_cases(
    seeds: Sequence[int],
    config: RunConfig,
    cache: Path,
    *,
    workers: int = 0,
    shape_of: Callable[[int], TumourShape] | None = None,
) -> list[TrainingCase]:
    """Prepare phantoms at 1 mm, called ``phantom-SEED``, as patients are.

    Parameters and errors are those of `patient_cases`.

    Contrast and lesions are those of ``config.training.sampling``; of "both" contrasts an even seed has the clinical one.
    ``shape_of`` gives the real tumour of a seed; without it tumours are drawn.
    """
    # What a seed gives is decided by these files: they stand for the input.
    generator = phantom_digests() if seeds else []
    sampling, entries = config.training.sampling, []
    for seed in seeds:
        name, contrast = f"phantom-{seed}", sampling.phantom_contrast
        if contrast == "both":
            contrast = "random" if seed % 2 else "mri"
        made_from = ["phantom", recipe_key(config), int(seed), generator, contrast, sampling.phantom_lesions]
        shape = shape_of(int(seed)) if shape_of else None
        if shape:
            made_from.append(shape.digest())
        make = partial(_phantom, int(seed), config, contrast, shape)
        entries.append(Entry(name, "phantom", array_path(cache, name, made_from), make, patient=name))
    return cached_cases(entries, config, workers)


def slice_cases(
    folder: Path, config: RunConfig, cache: Path, *, names: Sequence[str] | None = None, workers: int = 0
) -> list[TrainingCase]:
    """Prepare single axial slices of BraTS 2020, or only those called ``names``.

    The third axis has one voxel; see `pipeline.training.sources.slice_files`. Else as `patient_cases`.

    Raises
    ------
    data.errors.UsageError
        The folder holds no slice, the recipe wants another modality, or h5py is not installed.
    data.errors.InputError
        A file is no such slice.
    """
    entries = []
    for file in slice_files(folder, config.modalities):
        if names is not None and file.stem not in names:
            continue
        path = array_path(cache, file.stem, ["slice", recipe_key(config), file_digest(file)])
        make = partial(read_slice_file, file, config.modalities, config.regions, config.preprocess)
        entries.append(Entry(file.stem, "slice", path, make, patient=known_as(file.stem)))
    return cached_cases(entries, config, workers)


# What a case was made from


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


def _naming(name: str, sentence: str) -> InputError:
    return InputError(sentence if name in sentence else f"{name}: {sentence}")


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


def _label_values(source: ImageSource, name: str, cache: Path) -> list[float]:
    """Return the distinct labels of a reference.

    They are kept like the voxels, so that the choice of a convention unpacks no file twice.
    """
    made_from = ["labels", source.channel, [file_digest(path) for path in _files(source)]]
    path = array_path(cache, f"{name}.labels", made_from)
    values = open_array(path, np.float64, (None,))
    if values is None:
        # 0 stands first, so that the array of an empty reference is not empty.
        values = np.array([0.0, *sorted(count_labels(read_label_map(source).array))])
        write_array(path, values)
    return [float(value) for value in values[1:]]


# Making


def _on_working_grid(case: Case, config: RunConfig, convention: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and region shares of a patient, (channels, d1, d2, d3) float32 each."""
    image = images_on_working_grid(case, config)
    assert case.reference is not None  # the callers have looked
    reference = read_label_map(case.reference)
    shares = region_shares(case.case_id, reference.array, reference.grid, convention, grid_of(image), config)
    return image.as_tensor(), shares


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
    if unknown := its.unknown_labels(count_labels(label_map)):
        raise InputError(
            f"{name}: its reference holds the label {few(unknown)}, which {convention} does not know; correct it, name "
            "its convention, or leave the case out"
        )
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


def _phantom(
    seed: int, config: RunConfig, contrast: Contrast, shape: TumourShape | None
) -> tuple[torch.Tensor, torch.Tensor]:
    tumour: dict[str, Any] = (
        dict(zip(("tumour_labels", "tumour_spacing_mm"), shape.read(), strict=True)) if shape else {}
    )
    phantom = draw_patient(seed, 1.0, contrast=contrast, lesions=config.training.sampling.phantom_lesions, **tumour)
    name = f"phantom-{seed}"
    header = ImageHeader(Path(name), phantom.grid, "int16", 1, sform_code=1, qform_code=1, qform=None, xyzt_units=2)
    meta = {"header": np.array(header, dtype=object)}  # as `transforms.preprocess.CheckedReader` passes it on
    affine = torch.as_tensor(phantom.grid.affine.copy())
    images = {
        modality: MetaTensor(torch.as_tensor(phantom.images[modality])[None], affine=affine, meta=dict(meta))
        for modality in config.modalities
        if modality in phantom.images
    }
    chain = preprocess_chain(
        config.modalities, **config.preprocess.model_dump(), zero_missing=config.missing_modalities
    )
    # There is no file to load.
    steps = [step for step in chain.transforms if not isinstance(step, LoadImaged | EnsureChannelFirstd)]
    image = run_chain(Compose(steps), images)["image"]
    shares = region_shares(name, phantom.label_map, phantom.grid, "brats2023", grid_of(image), config)
    return image.as_tensor(), shares


def _make(entry: Entry) -> None:
    """Make the voxels of a case and write them into the cache.

    The bytes do not depend on the process that makes them.
    """
    threads, start = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)  # a sum that is split among threads rounds differently
    try:
        image, shares = entry.make()
    except InputError as error:
        raise _naming(entry.name, str(error)) from None
    finally:
        torch.set_num_threads(threads)
    voxels = torch.cat((image, shares.clamp(0, 1))).half().add_(0)  # + 0: no -0, which is no background to a bit test
    if not voxels[: len(image)].isfinite().all():
        raise InputError(f"{entry.name}: image values beyond 65504 do not fit float16; normalise them (preprocess)")
    write_array(entry.path, voxels.permute(3, 0, 1, 2).numpy())
    log.info("%s: preprocessed in %.1f s", entry.name, time.monotonic() - start)


def _make_all(entries: Sequence[Entry], workers: int) -> None:
    if workers <= 0 or len(entries) <= 1:
        for entry in entries:
            _make(entry)
        return
    executor, _ = make_executor(f"processes:{min(workers, len(entries))}", _start_worker)
    try:
        for future in [executor.submit(_make, entry) for entry in entries]:
            future.result()
    except BrokenProcessPool:
        raise UsageError(
            "a worker process died while it preprocessed, probably for want of memory; use fewer workers"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)


# Opening


def cached_cases(entries: Sequence[Entry], config: RunConfig, workers: int) -> list[TrainingCase]:
    """Open the cases in the order of ``entries``, making those not in the cache."""
    channels = len(config.modalities) + len(config.regions)
    # One after another is looked at and closed again: a limit of open files does not limit the cases.
    waiting = {entry.path: entry for entry in entries if _open(entry.path, channels) is None}
    _make_all(list(waiting.values()), workers)
    return [_training_case(entry, config, channels) for entry in entries]


def _open(path: Path, channels: int) -> NDArray[Any] | None:
    return open_array(path, np.float16, (None, channels, None, None))


def _training_case(entry: Entry, config: RunConfig, channels: int) -> TrainingCase:
    stored = _open(entry.path, channels)
    if stored is None:
        raise UsageError(f"{entry.path}: vanished or was damaged while it was used; give the run a cache of its own")
    n_images = len(config.modalities)
    centres = _centres(stored, n_images, config.regions, key_of(entry.path))
    return TrainingCase(
        entry.name,
        entry.kind,
        stored.transpose(1, 2, 3, 0),
        n_images,
        centres,
        entry.patient,
        entry.beyond_known,
        entry.place,
        entry.apart,
    )


def _centres(stored: NDArray[Any], n_images: int, regions: Sequence[str], seed: int) -> dict[str, NDArray[np.int16]]:
    bits = stored.view(np.uint16)  # numpy compares float16 by way of float32, twenty times slower
    centres = {}
    for index, name in enumerate(("brain", *regions)):
        if name == "brain":
            present = (bits[:, :n_images] != 0).any(axis=1)
        else:
            share = bits[:, n_images + index - 1]
            present = (share != 0) & (share <= _INFINITE)  # NaN, which is not known, lies above
        places = np.flatnonzero(present)
        if len(places) > MAX_CENTRES:
            places = np.random.default_rng([seed, index]).choice(places, MAX_CENTRES, replace=False)
        if len(places):
            k, i, j = np.unravel_index(places, present.shape)
            centres[name] = np.stack((i, j, k), axis=1).astype(np.int16)
    return centres
