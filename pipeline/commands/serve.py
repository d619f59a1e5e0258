"""Command `serve`: the web app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data.errors import UsageError
from pipeline.commands.options import Debug, LogFile, ServedModels, options_of
from pipeline.commands.terminal.console import OK, Console
from pipeline.web.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Serve(Settings):
    """Show the web app.

    A clinician drops images into a browser and sees the tumour. Everything stays on this machine.
    """

    workspace: Path = Path("out/web")
    models: ServedModels = ()
    allowed_hosts: Annotated[tuple[str, ...], tyro.conf.arg(name="allowed-host")] = ()
    token_file: Path | None = None
    """File whose first line every user must know, at least 16 characters."""
    token: Annotated[str | None, tyro.conf.Suppress] = None
    job_memory_bytes: Annotated[int | None, tyro.conf.Suppress] = Settings.job_memory_bytes
    log_file: LogFile = None
    debug: Debug = False

    def run(self, console: Console) -> int:
        try:
            from pipeline.web.app import serve
        except ModuleNotFoundError as error:
            raise UsageError(f"the web app needs {error.name}; install it with: pip install '.[web]'") from None

        token = self.token_file.read_text(encoding="utf-8").partition("\n")[0].strip() if self.token_file else None
        console.show_log()
        serve(Settings(**options_of(self, Settings) | {"token": token}))
        return OK
