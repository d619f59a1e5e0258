"""Command `python -m bench.card`."""

from bench.card.commands import main

main()
