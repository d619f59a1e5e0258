"""Bring model files of the first format, which held no SHA-256 of themselves, forward to the present one.

    python -m bench.seal FILE ...

The tensors, settings and card stay as they are. Only for files whose source you trust: what was damaged before is
sealed as it is. Prints the new digests as `sha256sum` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.errors import CheckpointError
from pipeline.checkpoint import bring_forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    refused = False
    for path in parser.parse_args().files:
        try:
            sys.stdout.write(f"{bring_forward(path)}  {path.name}\n")
        except (CheckpointError, OSError, ValueError) as error:
            refused = True
            sys.stderr.write(f"{error}\n")
    sys.exit(int(refused))


if __name__ == "__main__":
    main()
