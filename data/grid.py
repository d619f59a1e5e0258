"""Place of voxels in the patient: shape and affine, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

TOLERANCE_MM = 1e-3
"""Two grids whose corners agree to this many millimetres are the same grid (files store the affine in float32)."""

NEARLY = 0.25
"""Part of a voxel's side by which a header may be off: rounding, or a program's own way of storing directions."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Regular lattice of voxels in the patient.

    Parameters
    ----------
    shape : (d1, d2, d3)
        Number of voxels along the three array axes; a single slice has ``d3 = 1``.
    affine : (4, 4) float64
        Maps voxel indices to millimetres: x grows to the patient's right, y to the front, z to the head (RAS+).
    spacing_known : bool
        False when the file gives no voxel size (TIFF and PNG slices): mm and ml mean nothing then.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spacing_known: bool = field(default=True)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, not {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(f"an affine is a finite 4x4 matrix, not {affine.tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError(f"the affine is singular: {affine[:3, :3].tolist()}")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxel centres along each array axis."""
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    @property
    def orientation(self) -> str:
        """Three letters, the direction in which each array axis grows: ``"RAS"``, ``"LPS"``..."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, ``|det(affine[:3, :3])| / 1000`` (exact for sheared grids too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    def described(self) -> str:
        """Shape, spacing, orientation and place in words, for messages about grids that differ."""
        shape = "x".join(map(str, self.shape))
        spacing = "x".join(f"{length:g}" for length in self.spacing_mm)
        origin = ", ".join(f"{value:g}" for value in self.affine[:3, 3])
        return f"{shape} voxels of {spacing} mm, {self.orientation}, first voxel at ({origin}) mm"

    def corners_mm(self) -> NDArray[np.float64]:
        """World coordinates of the eight corner voxel centres, (8, 3), in array order."""
        indices = np.array(list(product(*((0, n - 1) for n in self.shape))))
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]

    def matches(self, other: Grid, tolerance_mm: float = TOLERANCE_MM) -> bool:
        """Tell whether both grids have the same shape and place.

        Their corner voxels lie within ``tolerance_mm`` of each other.
        """
        if self.shape != other.shape:
            return False
        # Half a shape of one voxel has its direction in no corner, so the matrix is compared as well.
        apart = np.abs(self.corners_mm() - other.corners_mm()).max()
        return bool(max(apart, np.abs(self.affine - other.affine).max()) <= tolerance_mm)

    def reoriented(self, codes: str) -> Grid:
        """Return the grid with array axes in the order ``codes`` (``"RAS"``).

        The voxels are the same, permuted and flipped: exact, no interpolation.
        """
        transform = self.orientation_to(codes)
        shape = tuple(self.shape[int(np.flatnonzero(transform[:, 0] == axis)[0])] for axis in range(3))
        affine = self.affine @ nib.orientations.inv_ornt_aff(transform, self.shape)
        return Grid(shape, affine, self.spacing_known)  # type: ignore[arg-type]

    def turn(self, array: NDArray[Any], codes: str) -> NDArray[Any]:
        """Return an array of this grid with its axes in the order ``codes``.

        Its shape is (d1, d2, d3).

        It is a view on the grid that `reoriented` gives: permuted and flipped, nothing is copied.
        """
        return nib.orientations.apply_orientation(array, self.orientation_to(codes))

    def holds_voxels_of(self, other: Grid) -> bool:
        """Tell whether both grids have the same voxels, stored in any order of axes."""
        return self.reoriented(other.orientation).matches(other)

    def off_mm(self, other: Grid) -> float | None:
        """Return how far a corner lies from that of nearly the same grid, mm.

        It is None where the grids have other shapes, in any order of axes, or lie a quarter of a voxel apart or more.
        """
        turned = self.reoriented(other.orientation)
        if turned.shape != other.shape:
            return None
        off = float(np.sqrt(((turned.corners_mm() - other.corners_mm()) ** 2).sum(axis=1).max()))
        nearly = NEARLY * min(other.spacing_mm)
        return off if off < nearly and turned.matches(other, nearly) else None

    def offset_in(self, whole: Grid) -> tuple[int, int, int] | None:
        """Return the place of this grid's first voxel in one that holds them all.

        It is the index in ``whole`` once this grid is turned to its order of axes; None where some voxel is none of
        ``whole``'s.
        """
        turned = self.reoriented(whole.orientation)
        first = np.round(np.linalg.solve(whole.affine, turned.affine)[:3, 3])
        if not np.isfinite(first).all() or (first < 0).any() or (first + turned.shape > whole.shape).any():
            return None
        moved = whole.affine.copy()
        moved[:3, 3] += whole.affine[:3, :3] @ first
        if not turned.matches(Grid(turned.shape, moved)):
            return None
        return (int(first[0]), int(first[1]), int(first[2]))

    def orientation_to(self, codes: str) -> NDArray[np.float64]:
        """nibabel's orientation transform from this grid's array axes to ``codes``, for ``apply_orientation``."""
        return nib.orientations.ornt_transform(
            nib.orientations.io_orientation(self.affine), nib.orientations.axcodes2ornt(codes)
        )
