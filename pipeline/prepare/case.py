"""Preparation of a case within a segmentation, from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.case import Case, ImageSource
from data.errors import InputError
from data.grid import Grid
from data.io.read import ImageHeader, Volume, read_header, read_label_map, read_volumes
from data.output_names import MNI
from pipeline.options import SegmentOptions
from pipeline.prepare.brain_masks import brain_mask_of
from pipeline.prepare.grids import SHOW_ANATOMY, Place, mni_place, native_places
from pipeline.prepare.images import Prepared, choose_reference, prepare_images
from transforms.readiness import FEWEST_SLICES, can_tell


@dataclass(frozen=True, eq=False)
class Ready:
    """Preparation of a case, and the grids on which its mask shall lie.

    Parameters
    ----------
    prepared : Prepared or None
        None where the images are taken as they are.
    onto : ImageHeader or None
        Of the mask; None is the usual one.
    places : dict of str to Place
        Further grids, by modality or ``mni``.
    checks : list of str
        What was looked at in the images, and what was found.
    warnings : list of str
    """

    prepared: Prepared | None = None
    onto: ImageHeader | None = None
    places: dict[str, Place] = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def moves(self) -> dict[str, dict[str, float]]:
        """Registrations that were done, for run.json."""
        told = {} if self.prepared is None else self.prepared.told
        move = self.places[MNI].move if MNI in self.places else None
        return told | ({} if move is None else {MNI: {"information": move.information, "overlap": move.overlap}})


def make_ready(
    case: Case, options: SegmentOptions, modalities: Sequence[str], volumes: dict[str, Volume], *, brain_alone: bool
) -> Ready:
    """Prepare a case where it needs it, and find its further grids.

    Parameters
    ----------
    modalities, volumes
        As for `prepare_case`.
    brain_alone : bool
        The models expect images without skull; else the images are taken as they come.

    Raises
    ------
    data.errors.InputError
        As `prepare_case` does. A template that the images do not fit is a warning.
    """
    prepared = prepare_case(case, options, modalities, volumes) if brain_alone else None
    if prepared is None:
        onto = output_header(case, options, modalities)
        came = {m: read_header(case.images[m], max_voxels=options.max_voxels) for m in modalities if m in case.images}
    else:
        onto, came = prepared.native, prepared.came
    places = native_places(came, {} if prepared is None else prepared.moves) if options.native else {}
    warnings = [prepared.sentence] if prepared is not None and prepared.sentence else []
    warnings += _alone(came, prepared)
    if options.space == MNI:
        try:
            places[MNI] = mni_place(_anatomy(case, options, list(came), volumes))
        except InputError as error:
            warnings.append(f"no mask in MNI space: {error}")
    checks = _checks(prepared, [header.grid for header in came.values()], options, brain_alone=brain_alone)
    return Ready(prepared, onto, places, checks, warnings)


def _anatomy(case: Case, options: SegmentOptions, names: Sequence[str], volumes: Mapping[str, Volume]) -> Volume | None:
    """Return the image that is registered to a template, one that the models read."""
    name = next((m for m in SHOW_ANATOMY if m in names), None)
    if name is None or name in volumes:
        return None if name is None else volumes[name]
    return read_volumes({name: case.images[name]}, max_voxels=options.max_voxels)[name]


def _alone(came: Mapping[str, ImageHeader], prepared: Prepared | None) -> list[str]:
    """Say of an image that it alone lies on another grid.

    Where the others are resampled onto the reference's grid, that of another image is said already.
    """
    if len(came) < 4:
        return []
    fits = {m: [o for o in came if o != m and came[o].grid.holds_voxels_of(came[m].grid)] for m in came}
    odd = [m for m in came if not fits[m]]
    if len(odd) != 1 or any(len(fits[m]) < len(came) - 2 for m in came if m not in odd):
        return []
    if prepared is None and odd[0] != choose_reference({m: header.grid for m, header in came.items()}):
        return []
    return [f"{came[odd[0]].path.name} alone lies on another grid than the other {len(came) - 1} images"]


def _checks(
    prepared: Prepared | None, grids: Sequence[Grid], options: SegmentOptions, *, brain_alone: bool
) -> list[str]:
    """Word the checks of a case's images, and their findings."""
    if not brain_alone:
        return ["Registered, skull: not looked at, for the model takes images as they come"]
    told = [can_tell(grid) for grid in grids]
    if not any(told):
        return [f"Registered, skull: not looked at, for no image has a voxel size and {FEWEST_SLICES} slices"]
    rest = "" if all(told) else f" (of {told.count(True)} images)"
    if sum(told) < 2:
        registered = "only one image can tell"
    elif prepared is None or not prepared.moves:
        registered = f"the images lie on each other{rest}"
    else:
        registered = prepared.laid or f"{len(prepared.moves)} images laid on the reference, none moved{rest}"
    skull = f"removed ({prepared.stripped})" if prepared is not None and prepared.stripped else f"none seen{rest}"
    return [f"Registered: {registered}", f"Skull: {skull}"]


def prepare_case(
    case: Case, options: SegmentOptions, modalities: Sequence[str], volumes: dict[str, Volume]
) -> Prepared | None:
    """Read a case's images into ``volumes``, and prepare them where they need it.

    Parameters
    ----------
    modalities : sequence of str
        That the models read.
    volumes : dict of modality to Volume
        Images that were read already; the others are added, and what was prepared takes their place.

    Returns
    -------
    Prepared or None
        None where the images are taken as they are.

    Raises
    ------
    data.errors.InputError
        A file cannot be used, or the images cannot be prepared, see `pipeline.prepare.images.prepare_images`.
    """
    wanted = {m: case.images[m] for m in modalities if m in case.images and m not in volumes}
    volumes.update(read_volumes(wanted, max_voxels=options.max_voxels))
    brain = _brain_mask(case, options)
    prepared = prepare_images(volumes, options.prepare, grid=options.grid, brain=brain)
    if prepared is not None:
        volumes.update(prepared.volumes)
    return prepared


def output_header(case: Case, options: SegmentOptions, modalities: Sequence[str]) -> ImageHeader | None:
    """Return the header that a case's mask shall have.

    None is the usual one, of the first image of `data.case.GRID_ORDER`.

    Raises
    ------
    data.errors.InputError
        There is no such image.
    """
    if options.grid == "auto":
        return None
    sources = {m: case.images[m] for m in modalities if m in case.images}
    headers = {m: read_header(source, max_voxels=options.max_voxels) for m, source in sources.items()}
    chosen = headers[choose_reference({m: header.grid for m, header in headers.items()}, options.grid)]
    return chosen


def _brain_mask(case: Case, options: SegmentOptions) -> Volume | None:
    if options.brain_mask is None:
        return None
    folder = Path(options.brain_mask)
    path = brain_mask_of(folder, case.case_id)
    if path is None:
        raise InputError(f"{folder}: no brain mask of {case.case_id}; add {case.case_id}.nii.gz")
    return read_label_map(ImageSource((path,)), max_voxels=options.max_voxels)
