"""Command `python -m bench.chaos`."""

import sys

from bench.chaos.trials import main

sys.exit(main())
