"""Command line as `python -m pipeline`.

All of it is in run_pipeline.py.
"""

from pipeline.execute import interruption

if __name__ == "__main__":
    interruption.leave_at_once()  # before the imports that take a while

    from run_pipeline import main

    raise SystemExit(main())
