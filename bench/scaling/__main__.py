"""Command `python -m bench.scaling`."""

import sys

from bench.scaling.page import main

sys.exit(main())
