"""Further grids of a case's mask: its images' own, and MNI152's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from data.case import ImageSource
from data.errors import InputError, Mend
from data.grid import Grid
from data.io.read import ImageHeader, Volume, read_volume
from data.phantom.template import template_file
from data.plausibility import impression, shows_head
from pipeline.prepare.images import find_brain, require_placed
from transforms.readiness import can_tell
from transforms.registration.move import Move
from transforms.registration.register import Picture, picture, register_head
from transforms.skull import is_installed

SHOW_ANATOMY = ("t1c", "t1")
"""Images that may be registered to the template, a T1; the first that is there."""
LEAST_INFORMATION, LEAST_OVERLAP = 0.54, 0.9
"""Of a registration to the template. T1 and T1c of twelve patients had .57 nats and .93 or more; turned by 90 or 180
degrees .50 nats at most."""
STRETCHES = (0.65, 1.3)
"""Size of a brain against the template's: .86 to .97 in patients; beyond these bounds its voxel size is wrong."""


@dataclass(frozen=True, eq=False)
class Place:
    """Grid on which a mask shall lie.

    Parameters
    ----------
    header : ImageHeader
        The mask's.
    grid : Grid
        Where its voxels lie in the case's own images.
    move : Move, optional
        That takes a place in the template to one in the case's own images.
    """

    header: ImageHeader
    grid: Grid
    move: Move | None = None


def native_places(came: Mapping[str, ImageHeader], moves: Mapping[str, Move]) -> dict[str, Place]:
    """Return the own grid of each image, as it came and was moved."""
    return {m: Place(own, moves[m].lay(own.grid) if m in moves else own.grid) for m, own in came.items()}


def mni_place(volume: Volume | None) -> Place:
    """Register a patient's T1c, or T1, to the MNI152 template.

    A head loses its skull first, for the template has none.

    Raises
    ------
    data.errors.InputError
        There is no image, it tells no place, no means to remove the skull is there, or the registration failed.
    """
    if volume is None:
        raise InputError("the model reads no T1c or T1 image of the patient, which is registered to the template")
    called = volume.header.path.name
    if not can_tell(volume.grid):
        raise InputError(f"{called}: has no known voxel size, or too few slices to be registered")
    require_placed(volume.header)
    if shows_head(impression(volume.array, volume.header)):
        if not is_installed():
            raise InputError(f"{called}: a head with its skull, and the template has none", Mend.STRIP)
        volume = Volume(volume.array * find_brain({called: volume}), volume.header)
    header, seen = template()
    found = register_head(seen, picture(volume.array, volume.grid))
    if fault := _fault(found):
        raise InputError(f"{called}: could not be registered ({fault})")
    grid = Grid(header.grid.shape, found.matrix @ header.grid.affine)
    return Place(header, grid, found)


def _fault(move: Move) -> str:
    """Say why a registration to the template is not believed; empty where it is."""
    if not move.information >= LEAST_INFORMATION:
        return f"mutual information {move.information:.2f}, at least {LEAST_INFORMATION}"
    if not move.overlap >= LEAST_OVERLAP:
        return f"overlap {move.overlap:.2f}, at least {LEAST_OVERLAP}"
    low, high = STRETCHES
    if move.stretches[0] < low or move.stretches[-1] > high:
        sizes = " x ".join(f"{stretch:.2f}" for stretch in move.stretches)
        return f"{sizes} times the template's size, {low} to {high} expected; check the voxel size"
    return ""


@lru_cache(maxsize=1)
def template() -> tuple[ImageHeader, Picture]:
    """Read the template: its header, and its T1 as the registration sees it."""
    volume = read_volume(ImageSource((template_file("t1"),)))
    return volume.header, picture(volume.array, volume.grid)
