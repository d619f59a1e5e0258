"""The register of faults: what each one breaks, and what the pipeline must make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.faults.patient import Patient

Status = Literal["ok", "warn", "error"]
Maker = Callable[[Patient], Sequence[str] | None]


class CannotMake(Exception):
    """This platform or this user cannot make the fault: its test is skipped, saying why."""


@dataclass(frozen=True)
class Fault:
    """One way in which a patient can be broken, or look broken and be fine.

    Parameters
    ----------
    name, kind : str
        Its name, unique, and the module that makes it.
    about : str
        One sentence: what is wrong with the patient.
    make : callable
        Damages a `Patient` that lies on disk. Returns the case ids of the rows that the tree then must give, the one
        that is judged first; None stands for that one alone.
    status : "ok", "warn" or "error"
        Of the patient's row. "ok" is for oddities that do no harm.
    says : tuple of str
        Words that the row's reason must hold, of any case: the file's name and the value that is wrong.
    mask : bool
        Whether a mask must be there; by default, unless the row is an error.
    same : bool
        The mask must be that of the undamaged patient in world space, voxel for voxel.
    scored : bool or None
        Whether the row has a Dice; None where it does not matter.
    folder : str or None
        What the patient's folder is called; None for an ordinary name.
    """

    name: str
    kind: str
    about: str
    make: Maker
    status: Status
    says: tuple[str, ...] = ()
    mask: bool = True
    same: bool = False
    scored: bool | None = None
    folder: str | None = None


FAULTS: dict[str, Fault] = {}
"""Every fault by its name, in the order of the modules; filled when `tests.faults` is imported."""


def fault(
    status: Status,
    *says: str,
    mask: bool | None = None,
    same: bool | None = None,
    scored: bool | None = None,
    folder: str | None = None,
) -> Callable[[Maker], Maker]:
    """Enter a maker into `FAULTS` under its own name, with its docstring; see `Fault`.

    ``same`` is by default what "ok" means: an oddity that does no harm changes nothing.
    """

    def enter(make: Maker) -> Maker:
        about = (make.__doc__ or "").strip().splitlines()[0]
        add(make.__name__, make.__module__, about, make, status, says, mask, same, scored, folder)
        return make

    return enter


def add(
    name: str,
    module: str,
    about: str,
    make: Maker,
    status: Status,
    says: tuple[str, ...] = (),
    mask: bool | None = None,
    same: bool | None = None,
    scored: bool | None = None,
    folder: str | None = None,
) -> None:
    """The same for faults that are made in a loop over values."""
    if name in FAULTS:
        raise ValueError(f"two faults are called {name}")
    mask = status != "error" if mask is None else mask
    same = status == "ok" if same is None else same
    FAULTS[name] = Fault(name, module.rpartition(".")[2], about, make, status, says, mask, same, scored, folder)
