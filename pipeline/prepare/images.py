"""Preparation of one patient's images: register them to one, remove the skull.

What is ready is left as it is, to the bit. Else the images come onto one grid by one interpolation each, and outside
the brain they are 0, as the models expect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from data.case import GRID_ORDER
from data.errors import InputError, Mend, few
from data.grid import Grid
from data.io.read import ImageHeader, Volume
from data.io.suffixes import NIFTI_SUFFIXES
from data.plausibility import BRAIN_ML
from transforms.readiness import Readiness, examine
from transforms.registration.move import Move
from transforms.registration.register import picture, register
from transforms.restore import grid_at_spacing, resample_to
from transforms.skull import brain_of_head, is_installed

Mode = Literal["auto", "off", "always"]

LEAST_INFORMATION = 0.45
"""Mutual information in nats below which a registration has failed. Images of one head in register had .67 or more, in
wrong positions .35 at most."""
FINE_MM = (0.75, 1.25)
"""Spacings between which a reference's own grid is kept for the prepared images; else it is one of 1 mm."""
LEAST_MOVE_MM, LEAST_MOVE_DEGREES = 0.5, 0.5
"""A smaller move is not told."""

NAMES: Mapping[str, str] = {"t1": "T1", "t1c": "T1c", "t2": "T2", "flair": "FLAIR"}


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images of one patient, ready for a model, and the work that was done.

    Parameters
    ----------
    volumes : dict of modality to Volume
        On one grid, 0 outside the brain where the skull was removed.
    reference : str
        Modality that the others were laid on.
    came : dict of modality to ImageHeader
        Of every image as it came.
    moves : dict of modality to Move
        Of the modalities that were laid on the reference.
    stripped : str
        Name of the means by which the skull was removed; empty where it was not.
    """

    volumes: dict[str, Volume]
    reference: str
    came: dict[str, ImageHeader]
    moves: dict[str, Move]
    stripped: str = ""

    @property
    def native(self) -> ImageHeader:
        """Header of the reference as it came."""
        return self.came[self.reference]

    @property
    def done(self) -> str:
        """Entry of the column ``prepared``."""
        return "+".join([*(["registered"] if self.moves else []), *(["stripped"] if self.stripped else [])])

    @property
    def laid(self) -> str:
        """Moves for a person, the largest first; empty where none is worth telling."""
        told = {m: found for m, found in self.moves.items() if _is_told(found)}
        ordered = sorted(told.items(), key=lambda each: -each[1].moved_mm - each[1].degrees)
        parts = [
            f"{NAMES.get(m, m)} moved by {found.moved_mm:.1f} mm / {found.degrees:.0f} degrees" for m, found in ordered
        ]
        return f"{', '.join(parts)} onto {NAMES.get(self.reference, self.reference)}" if parts else ""

    @property
    def sentence(self) -> str:
        """Work that was done, for a person."""
        return "; ".join(filter(None, [self.laid, f"skull removed ({self.stripped})" if self.stripped else ""]))

    @property
    def told(self) -> dict[str, dict[str, float]]:
        """Moves, and the fit of the images after them, for run.json."""
        return {
            modality: {
                "moved_mm": move.moved_mm,
                "moved_degrees": move.degrees,
                "information": move.information,
                "overlap": move.overlap,
            }
            for modality, move in self.moves.items()
        }

    def brain_on(self, grid: Grid) -> NDArray[np.bool_]:
        """Return the voxels of a grid that lie in the brain."""
        shown = np.any([volume.array != 0 for volume in self.volumes.values()], axis=0)
        own = self.volumes[self.reference].grid
        share = resample_to(torch.from_numpy(shown.astype(np.float32))[None], own, grid)
        return np.asarray(share[0].numpy() >= 0.5)

    @property
    def columns(self) -> dict[str, Any]:
        """Entries of report.csv: the work, and each move in mm and degrees."""
        found: dict[str, Any] = {"prepared": self.done}
        for modality, move in self.moves.items():
            found[f"moved_mm_{modality}"] = round(move.moved_mm, 2)
            found[f"moved_degrees_{modality}"] = round(move.degrees, 2)
        return found


def _is_told(move: Move) -> bool:
    return move.moved_mm >= LEAST_MOVE_MM or move.degrees >= LEAST_MOVE_DEGREES


def choose_reference(grids: Mapping[str, Grid], wanted: str = "auto") -> str:
    """Return the modality that gives the grid.

    Parameters
    ----------
    grids : mapping of modality to Grid
        At least one.
    wanted : str
        ``auto``: the first of `data.case.GRID_ORDER`; ``finest``: the one with the smallest voxels; or a modality.

    Raises
    ------
    data.errors.InputError
        The patient has no image of that modality.
    """
    in_order = [name for name in (*GRID_ORDER, *grids) if name in grids]
    if wanted == "auto":
        return in_order[0]
    if wanted == "finest":
        return min(in_order, key=lambda name: grids[name].voxel_volume_ml)
    if wanted not in grids:
        raise InputError(f"--grid {wanted}: no {wanted} image; name one of {', '.join(in_order)}")
    return wanted


def prepare_images(
    volumes: Mapping[str, Volume], mode: Mode = "auto", *, grid: str = "auto", brain: Volume | None = None
) -> Prepared | None:
    """Prepare a patient's images, where they need it.

    Parameters
    ----------
    volumes : mapping of modality to Volume
        As they were read, each on its own grid.
    mode : "auto", "off" or "always"
        Prepare what is not ready; refuse it; or register every image, and strip those with a skull.
    grid : str
        See `choose_reference`.
    brain : Volume, optional
        Brain mask on the grid of any of the images; it takes the place of deepbet's.

    Returns
    -------
    Prepared or None
        None where the images are to be taken as they are.

    Raises
    ------
    data.errors.InputError
        The images are not ready and the mode is "off"; there is no means to remove the skull; a registration failed; or
        no brain was found.
    """
    if not volumes:
        return None
    reference = choose_reference({name: volume.grid for name, volume in volumes.items()}, grid)
    seen = examine({name: (volume.array, volume.header) for name, volume in volumes.items()}, reference)
    if mode == "off":
        _require_ready(seen, volumes)
        return None
    if seen.is_ready and mode == "auto" and brain is None:
        return None
    if seen.heads and brain is None and not is_installed():
        raise InputError(_head_sentence(seen, volumes), Mend.STRIP)
    every = bool(seen.heads) or mode == "always"  # of brains, those that lie well stay as they are
    moves = _moves(volumes, reference, volumes if every else seen.moved)
    came = {name: volume.header for name, volume in volumes.items()}
    target = _target(came[reference].grid)
    laid = {
        name: _laid(volume, moves[name].lay(volume.grid) if name in moves else volume.grid, target)
        for name, volume in volumes.items()
    }
    if brain is None and not seen.heads:
        return Prepared(laid, reference, came, moves)
    mask = _given(brain, volumes, moves, target) if brain is not None else find_brain({m: laid[m] for m in seen.heads})
    _require_brain(mask, target, volumes[reference])
    stripped = {name: replace(volume, array=volume.array * mask) for name, volume in laid.items()}
    means = brain.header.path.name if brain is not None else "deepbet"
    return Prepared(stripped, reference, came, moves, means)


def _require_ready(seen: Readiness, volumes: Mapping[str, Volume]) -> None:
    if seen.heads:
        raise InputError(_head_sentence(seen, volumes), Mend.PREPARE)
    if seen.moved:
        moved = [
            f"{volumes[name].header.path.name} by about {move.moved_mm:.0f} mm / {move.degrees:.0f} degrees"
            for name, move in seen.moved.items()
        ]
        of = volumes[seen.reference].header.path.name
        raise InputError(f"not registered to {of}: {', '.join(moved)}", Mend.PREPARE)


def _head_sentence(seen: Readiness, volumes: Mapping[str, Volume]) -> str:
    names = few(volumes[name].header.path.name for name in seen.heads)
    return f"{names}: a head with its skull, and the model expects skull-stripped images"


def _moves(volumes: Mapping[str, Volume], reference: str, apart: Collection[str]) -> dict[str, Move]:
    """Register the images that are ``apart`` to the reference."""
    if not set(apart) - {reference}:
        return {}
    fixed = volumes[reference]
    seen = picture(fixed.array, fixed.grid)
    moves = {}
    for name in (name for name in volumes if name in apart and name != reference):
        volume = volumes[name]
        require_placed(volume.header)
        moves[name] = move = register(seen, picture(volume.array, volume.grid))
        if move.information < LEAST_INFORMATION:
            raise InputError(
                f"{volume.header.path.name} could not be registered to {fixed.header.path.name} (mutual information "
                f"{move.information:.2f}, at least {LEAST_INFORMATION}); check that both show one patient's head"
            )
    return moves


def require_placed(header: ImageHeader) -> None:
    """Refuse an image of unknown orientation, which could be laid there mirrored. Raises InputError."""
    if header.path.name.lower().endswith(NIFTI_SUFFIXES) and not header.sform_code and not header.qform_code:
        raise InputError(
            f"{header.path.name}: has neither sform nor qform, so its left is not known, and it cannot be registered; "
            "export it again, or give it the header of an image on its grid"
        )


def _target(native: Grid) -> Grid:
    """Return the reference's own grid, or one of 1 mm over it."""
    low, high = FINE_MM
    fine = all(low <= mm <= high for mm in native.spacing_mm)
    return native if fine else grid_at_spacing(native, (1.0, 1.0, 1.0))


def _laid(volume: Volume, place: Grid, target: Grid) -> Volume:
    header = replace(volume.header, grid=target, placement={}, warnings=(), qform=None, ndim=3)
    if place.matches(target):
        return Volume(volume.array, header)
    image = torch.from_numpy(volume.array.astype(np.float32, copy=False))
    shown = (image != 0).to(torch.float32)
    laid, share = resample_to(torch.stack([image, shown]), place, target).numpy()
    return Volume(laid * (share >= 0.5), header)  # or a brain that was cut out would grow by half a voxel


def find_brain(heads: Mapping[str, Volume]) -> NDArray[np.bool_]:
    """Return the brain in images of a head on one grid, by deepbet."""
    grid = next(iter(heads.values())).grid
    upright = grid.reoriented("RAS")
    mask = brain_of_head({name: grid.turn(volume.array, "RAS") for name, volume in heads.items()})
    return upright.turn(mask, grid.orientation)


def _given(brain: Volume, volumes: Mapping[str, Volume], moves: Mapping[str, Move], target: Grid) -> NDArray[np.bool_]:
    """Bring a given mask onto the target, as the image on its grid."""
    own = next((name for name, volume in volumes.items() if volume.grid.holds_voxels_of(brain.grid)), None)
    if own is None:
        raise InputError(f"{brain.header.path.name}: this brain mask lies on the grid of none of the patient's images")
    place = moves[own].lay(brain.grid) if own in moves else brain.grid
    share = resample_to(torch.from_numpy((brain.array != 0).astype(np.float32))[None], place, target)
    return np.asarray(share[0].numpy() >= 0.5)


def _require_brain(mask: NDArray[np.bool_], grid: Grid, shown: Volume) -> None:
    low, high = BRAIN_ML
    found_ml = np.count_nonzero(mask) * grid.voxel_volume_ml
    if not low <= found_ml <= high:
        raise InputError(
            f"{shown.header.path.name}: the brain found in it has {found_ml:.0f} ml (a brain has {low:.0f} to "
            f"{high:.0f} ml)",
            Mend.STRIP,
        )
