"""Names that other programs may import from `pipeline`.

They are exactly `__all__`, each with a docstring, each loaded when asked for.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import pipeline


@pytest.mark.parametrize("name", [name for name in pipeline.__all__ if name != "__version__"])
def test_every_public_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    found = getattr(pipeline, name)
    assert inspect.isclass(found) or inspect.isfunction(found)
    assert len(inspect.getdoc(found) or "") > 40


def test_what_can_be_imported_is_what_is_listed() -> None:
    listed = [name for name in dir(pipeline) if not name.startswith("_")]
    names = {name for name in listed if not isinstance(getattr(pipeline, name), ModuleType)}
    assert names | {"__version__"} == set(pipeline.__all__)
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'pipeline'"):
        from pipeline import nothing  # noqa: F401


def test_no_public_name_is_that_of_a_module_which_would_take_its_place_once_imported() -> None:
    from pipeline.evaluate import run

    assert pipeline.evaluate_masks is run.evaluate
    assert not [name for name in pipeline.__all__ if f"pipeline.{name}" in sys.modules]


def test_the_names_cost_nothing_before_they_are_asked_for() -> None:
    code = "import sys, pipeline; print(sorted({'torch', 'monai', 'numpy', 'pydantic'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
