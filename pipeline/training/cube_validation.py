"""Validation on single lesions of BraTS 2020, cut out as cubes.

Many patients are scored in the time of one.

Each stands alone, as `pipeline.training.sources.cubes` reads it: the network sees zeros around it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from data.case import Case, ImageSource
from data.errors import InputError, UsageError
from data.labels import load_convention
from data.same_patient import known_as
from pipeline.checkpoint import Checkpoint, open_checkpoint
from pipeline.predict.predictor import Predictor
from pipeline.score.metrics import dice
from pipeline.training.distributed import Process
from pipeline.training.sources.cubes import CUBE_CHANNELS, CUBE_CONVENTION, LesionCube, read_cubes

Row = dict[str, float | str]


def cube_files_of(folder: Path, patients: Collection[str]) -> list[Path]:
    """Return the lesion files of some patients, by patient.

    Parameters
    ----------
    folder : Path
        Of the .npz files.
    patients : collection of str
        Whose cubes are wanted, under any of their names (:func:`data.same_patient.known_as`).

    Raises
    ------
    data.errors.UsageError
        A patient has no file there.
    """
    files = {known_as(path.stem): path for path in sorted(folder.glob("*.npz"))}
    wanted = sorted({known_as(name) for name in patients})
    if absent := [name for name in wanted if name not in files]:
        raise UsageError(f"{folder}: no cubes of {absent[0]} ({len(absent)} such patients); correct the split")
    return [files[name] for name in wanted]


def cubes_of(folder: Path, patients: Collection[str]) -> list[LesionCube]:
    """Read the lesions of some patients, by patient and number.

    Parameters and errors are those of :func:`cube_files_of`.

    Raises
    ------
    data.errors.InputError
        A file is not of this kind.
    """
    return [cube for path in cube_files_of(folder, patients) for cube in read_cubes(path)]


def validate_cubes(model: Path, cubes: Sequence[LesionCube], process: Process) -> list[Row]:
    """Return one row for each lesion.

    ``case`` and, per region of the model, ``dice_WT`` and ``voxels_WT``.

    Dice is over the cube's voxels; both masks empty give 1, one of them 0. ``voxels_WT`` counts the reference's. The
    processes of a distributed run share the lesions; each gets all rows.

    Raises
    ------
    data.errors.InputError
        The model has no region that the labels tell, or needs another modality.
    """
    predictor = cube_predictor(open_checkpoint(model), str(process.device))
    return process.gathered([_scores(predictor, cube) for cube in process.share(list(cubes))])


def cube_predictor(checkpoint: Checkpoint, device: str) -> Predictor:
    """Return the user's predictor for images that are already z-scored.

    The steps that need the whole brain are off.

    Nothing is normalised, and no component is removed, no hole filled and no border moved; thresholds and nesting stay.
    """
    settings = _without_normalising(checkpoint.settings)
    settings["postprocess"] = {"threshold": checkpoint.config.postprocess.threshold}
    return Predictor(replace(checkpoint, settings=settings), device)


def without_empty(rows: Sequence[Row], regions: Sequence[str]) -> dict[str, float]:
    """Return the mean Dice of each region over the lesions that have it.

    A region that no reference holds is absent.
    """
    known = {r: [float(row[f"dice_{r}"]) for row in rows if row.get(f"voxels_{r}", 0) != 0] for r in regions}
    return {region: float(np.mean(values)) for region, values in known.items() if values}


def _without_normalising(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with every ``preprocess.normalise`` off.

    Networks within a network's settings are included.
    """
    changed = {
        key: _without_normalising(value) if isinstance(value, Mapping) else value for key, value in settings.items()
    }
    if "preprocess" in changed:
        changed["preprocess"]["normalise"] = "none"
    elif "network" in changed:
        changed["preprocess"] = {"normalise": "none"}
    return changed


def _scores(predictor: Predictor, cube: LesionCube) -> Row:
    convention = load_convention(CUBE_CONVENTION)
    told = [region for region in predictor.regions if region in convention.regions]
    if not told:
        raise InputError(f"{predictor.name}: has none of the regions {', '.join(convention.regions)}; leave cubes out")
    with _as_case(cube) as case:
        masks = predictor(case).masks
    row: Row = {"case": cube.name}
    for region, truth in convention.region_masks(cube.labels, told).items():
        row |= {f"dice_{region}": dice(masks[region], truth), f"voxels_{region}": int(truth.sum())}
    return row


@contextmanager
def _as_case(cube: LesionCube) -> Iterator[Case]:
    """Write the lesion as a patient's files, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="cube-") as name:
        images: Mapping[str, ImageSource] = {
            modality: ImageSource((Path(name) / f"{modality}.nii",)) for modality in CUBE_CHANNELS
        }
        for source, image in zip(images.values(), cube.images, strict=True):
            nib.save(nib.Nifti1Image(image, cube.grid.affine), source.paths[0])
        yield Case(
            case_id=cube.name,
            folder=Path(name),
            layout="cube",
            layout_reason="one lesion of BraTS 2020",
            images=images,
            reference=None,
        )
