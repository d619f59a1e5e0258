"""Average of the weights of several model files of one recipe.

They may be of several runs; the result is one model file.

    python -m tools.soup MODEL MODEL ... --output FILE

MODEL is a file or a shipped model's name. The card of FILE lists its parents with their SHA-256 and holds no scores:
`python -m bench.heldout` measures it. FILE must not be there yet.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from data.errors import SegmentationError
from pipeline.checkpoint import open_checkpoint, save_checkpoint
from pipeline.soup import soup_card, soup_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.output.exists() or arguments.output.suffix != ".safetensors":
        parser.error(f"--output {arguments.output}: name a .safetensors file that is not there yet")
    try:
        models = [open_checkpoint(name) for name in arguments.models]
        names = [Path(name).name for name in arguments.models]
        command = shlex.join(["python", "-m", "tools.soup", *names, "--output", arguments.output.name])
        save_checkpoint(arguments.output, soup_network(models), models[0].config, soup_card(models, command))
        sys.stdout.write(f"{open_checkpoint(arguments.output).sha256}  {arguments.output.name}\n")
    except (SegmentationError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
