"""`python -m pipeline`: another name of run_pipeline.py, which is all of the command line."""

import runpy

if __name__ == "__main__":
    runpy.run_module("run_pipeline", run_name="__main__", alter_sys=True)
