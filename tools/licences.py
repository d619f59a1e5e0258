"""Table LICENCES.md: the packages that the program needs, and their licences.

    python -m tools.licences [--check]

Without --check the file is written; with it, exit status 1 says that the file no longer is what it should be.
"""

from __future__ import annotations

import argparse
import sys

from tools.dependencies import OPTIONAL, OURS, ROOT, installed, licence, needed_by, read_pins

TABLE = ROOT / "LICENCES.md"
HEAD = """\
# Licences of what the program runs on

Written by `make licences` from the metadata of the installed wheels; the versions are those of `constraints.txt`. Our
own code is Apache-2.0 (`LICENSE`); the licence of each model is in its card in `pipeline/models/`. What only develops
or tests (pytest, ruff, mypy, h5py, ...) is not listed; no GPL or AGPL is among it either
(`tests/test_supply_chain.py::test_no_installed_package_is_under_the_gpl_or_agpl`).

"""
FOOT = """
Inside these wheels, and not visible in their metadata:

- `nilearn` carries the viewer NiiVue 0.68.1 (BSD-2-Clause), of which `--interactive` puts a copy into the page, and the
  MNI152 template (ICBM 152 non-linear 2009a symmetric), from which phantoms are made. nilearn calls the template's
  licence unknown; its makers, the McConnell Brain Imaging Centre of the Montreal Neurological Institute, let it be
  used, copied, changed and passed on with their notice of copyright.
- `numpy` and `scipy` carry OpenBLAS (BSD-3-Clause), `libgfortran` and `libquadmath` (GPL-3.0 with the GCC runtime
  library exception, LGPL-2.1: programs that link them stay under their own licence); `scikit-learn` and `torch` carry
  an OpenMP library (`libgomp`: the same exception). `pillow` carries the usual image libraries (libjpeg-turbo, libpng,
  libtiff, ...).
- A CUDA build of `torch` brings NVIDIA's own packages, which are proprietary and not in the table; the CPU build does
  not.

`connected-components-3d` is LGPL-3.0-or-later: we import it unchanged, and whoever gets the program can put another
version in its place with pip, which is what that licence asks for. Who builds a single binary from all this must keep
that possible. `certifi` and `tqdm` are MPL-2.0: only changes to their own files would have to be published.
"""


def licence_table() -> str:
    """Return the whole of LICENCES.md.

    Pinned run-time dependencies are sorted by name.
    """
    environment, pins = installed(), read_pins()
    lines = ["| package | version | licence (SPDX) | asked for by |", "|---|---|---|---|"]
    for name, askers in sorted(needed_by(OURS, OPTIONAL, environment).items()):
        if name not in pins:  # what a CUDA build of torch brings
            continue
        who = "us" if OURS in askers else ", ".join(sorted(askers))
        lines.append(f"| {environment[name].name} | {pins[name]} | {licence(environment[name])} | {who} |")
    return HEAD + "\n".join(lines) + "\n" + FOOT


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    table = licence_table()
    if not parser.parse_args().check:
        TABLE.write_text(table, encoding="utf-8")
        return 0
    if TABLE.read_text(encoding="utf-8") == table:
        return 0
    print(f"{TABLE.name} is not up to date; run 'make licences'")
    return 1


if __name__ == "__main__":
    sys.exit(main())
