"""Files of a run, brought back in pieces and joined."""

from __future__ import annotations

from pathlib import Path

from bench.card.parts import MIB, read_content, read_index, write_parts
from bench.card.unpacking import within
from data.io.write import write_bytes_atomically
from pipeline.training.progress.extension import BEFORE_COOLDOWN, STATE_NAME
from pipeline.training.progress.files import KEPT, LAST_NAME, MODEL_NAME

BACK = "back"


BACK_BYTES = 16 * MIB


BROUGHT_BACK = (
    "recipe.yaml",
    "history.csv",
    "validation.csv",
    "validation_lesions.csv",
    MODEL_NAME,
    LAST_NAME,
    STATE_NAME,
    BEFORE_COOLDOWN,
    f"{KEPT}/epoch_*.safetensors",
)


def bring_back(output: Path) -> int:
    """Leave the run's files in pieces; return the number of files.

    It is 0 where no epoch was kept.
    """
    found = [path for pattern in BROUGHT_BACK for path in sorted(output.glob(pattern)) if path.is_file()]
    files = {path.relative_to(output).as_posix(): path for path in found}
    if STATE_NAME not in files:
        return 0
    same = {}
    if MODEL_NAME in files and files[LAST_NAME].read_bytes() == files[MODEL_NAME].read_bytes():
        same = {LAST_NAME: MODEL_NAME}
        del files[LAST_NAME]
    contents = ((name, path.read_bytes()) for name, path in files.items())
    return 1 + write_parts(output / BACK, contents, BACK_BYTES, {"same": same})


def join(back: Path, output: Path) -> list[str]:
    """Put the files of a run together in ``output``; returns their names."""
    index = read_index(back)
    contents = {name: name for name in index["files"]} | index["same"]
    for name, content in contents.items():
        write_bytes_atomically(within(output, name), read_content(back, index, content))
    return list(contents)
