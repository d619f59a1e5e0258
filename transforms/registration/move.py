"""Moves in millimetres, and their files: ITK transforms.

A move is a 4x4 matrix, so that no voxel is interpolated here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from data.errors import InputError
from data.grid import Grid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns RAS+ into LPS+, the axes of ITK, and back."""


@dataclass(frozen=True, eq=False)
class Move:
    """Rigid or affine move that lays one image on another.

    Parameters
    ----------
    matrix : (4, 4) float64
        Takes a place in the fixed image to the same anatomy's place in the moving image, both in mm (RAS+).
    middle_mm : (3,) float64
        Middle of the fixed image's content, where the shift is measured.
    information : float
        Mutual information in nats at the last level; larger is better.
    overlap : float
        Dice of the places that both images show after the move, on the coarse grid.
    """

    matrix: NDArray[np.float64]
    middle_mm: NDArray[np.float64]
    information: float
    overlap: float = math.nan

    @property
    def moved_mm(self) -> float:
        """Distance that the middle of the head is moved."""
        return float(np.linalg.norm(self.matrix[:3, :3] @ self.middle_mm + self.matrix[:3, 3] - self.middle_mm))

    @property
    def degrees(self) -> float:
        """Angle of the turn about its axis, 0 to 180."""
        cosine = (np.trace(self.matrix[:3, :3]) - 1) / 2
        sine = np.linalg.norm(self.matrix[:3, :3] - self.matrix[:3, :3].T) / math.sqrt(8)
        return math.degrees(math.atan2(sine, cosine))

    @property
    def stretches(self) -> tuple[float, float, float]:
        """Lengths in the moving image of 1 in the fixed one, least first.

        They are negative where it is mirrored.
        """
        low, middle, high = sorted(np.linalg.svd(self.matrix[:3, :3], compute_uv=False))
        side = math.copysign(1.0, np.linalg.det(self.matrix[:3, :3]))
        return side * float(low), side * float(middle), side * float(high)

    def lay(self, moving: Grid) -> Grid:
        """Return the moving image's grid where its voxels belong in the fixed image."""
        return Grid(moving.shape, np.linalg.inv(self.matrix) @ moving.affine, moving.spacing_known)


def write_move(path: Path, move: Move) -> None:
    """Write a move as an ITK transform, a text file.

    It takes the fixed image's places to the moving one's, in LPS+.
    """
    matrix, middle_mm = LPS @ move.matrix @ LPS, LPS[:3, :3] @ move.middle_mm
    is_rigid = np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)
    sitk.WriteTransform(
        rigid_transform(matrix, middle_mm) if is_rigid else affine_transform(matrix, middle_mm), str(path)
    )


def read_move(path: Path) -> Move:
    """Read a move that `write_move` wrote; its mutual information is not known (NaN).

    Raises
    ------
    data.errors.InputError
        The file is no rigid ITK transform.
    """
    try:
        read = sitk.Euler3DTransform(sitk.ReadTransform(str(path)))
    except RuntimeError as error:
        raise InputError(f"{path.name}: is no rigid ITK transform; prepare the case again") from error
    turn, middle = np.reshape(read.GetMatrix(), (3, 3)), np.array(read.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, middle + read.GetTranslation() - turn @ middle
    return Move(LPS @ matrix @ LPS, LPS[:3, :3] @ middle, math.nan)


def affine_transform(matrix: NDArray[np.float64], centre_mm: NDArray[np.float64]) -> Any:
    affine = sitk.AffineTransform(3)
    affine.SetCenter(centre_mm.tolist())
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation((matrix[:3, :3] @ centre_mm + matrix[:3, 3] - centre_mm).tolist())
    return affine


def rigid_transform(matrix: NDArray[np.float64], centre_mm: NDArray[np.float64]) -> Any:
    euler = sitk.Euler3DTransform()
    euler.SetCenter(centre_mm.tolist())
    euler.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-6)
    euler.SetTranslation((matrix[:3, :3] @ centre_mm + matrix[:3, 3] - centre_mm).tolist())
    return euler


def matrix_of(euler: Any) -> NDArray[np.float64]:
    turn = np.array(euler.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(euler.GetCenter()), np.array(euler.GetTranslation())
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, centre + shift - turn @ centre
    return matrix
