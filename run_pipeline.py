"""Command line of the pipeline.

This is the only file that prints or exits. Each subcommand is one dataclass in pipeline/commands, and its attributes
are the options.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036 (setup.cfg is not asked before this file runs)
    version = sys.version.split()[0]
    print(f"run_pipeline.py: Python {version} is too old; take 3.11 or newer, see README.md", file=sys.stderr)
    sys.exit(2)

from pipeline import __version__
from pipeline.execute import interruption

if __name__ == "__main__":
    interruption.leave_at_once()  # before the imports that take a while

if os.environ.get("NO_COLOR"):  # no-color.org; tyro, which colours help and errors, has a name of its own for it
    os.environ["PYTHON_TYRO_ANSI_CODES"] = "False"

try:
    import tyro  # noqa: F401
except ModuleNotFoundError as missing:
    here = Path(__file__).resolve().parent
    once = "" if (here / ".venv" / ".ready").is_file() else f"run `make .venv` in {here} once, then "
    lacking = f"{sys.executable} lacks the package {missing.name}"
    print(f"run_pipeline.py: {lacking}; {once}call {here}/.venv/bin/python run_pipeline.py", file=sys.stderr)
    sys.exit(2)

from data.errors import UsageError, explain
from data.visible import visible
from pipeline.commands.options import command_line, line_that_goes_on
from pipeline.commands.parser import PROGRAM, parse
from pipeline.commands.terminal.console import CANNOT_START, OK, SOME_FAILED
from pipeline.commands.terminal.lines import progress_line

log = logging.getLogger("pipeline.commands")


class Terminal:
    """Standard output and standard error, as :class:`pipeline.commands.terminal.console.Console` describes them."""

    def __init__(self, handler: logging.Handler) -> None:
        self.handler = handler

    def say(self, text: str) -> None:
        print(_printable(text), flush=True)

    def raw(self, text: str) -> None:
        print(text, flush=True)

    def complain(self, text: str) -> None:
        print(_printable(text), file=sys.stderr)

    def cases(self, total: int, quiet: bool) -> _Progress:
        return _Progress(total, quiet)

    def steps(self, quiet: bool) -> _Steps:
        return _Steps(quiet)

    def show_log(self) -> None:
        self.handler.setLevel(min(self.handler.level, logging.INFO))
        own = logging.getLogger("pipeline")
        own.setLevel(min(own.level or logging.INFO, logging.INFO))


class _Progress:
    """Progress of a run: a bar on a terminal, else a line a case.

    A log file can hold the lines.
    """

    def __init__(self, total: int, quiet: bool) -> None:
        self.total, self.quiet, self.done, self.bar = total, quiet, 0, None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="case")

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, row: dict[str, Any], total: int | None = None) -> None:
        if total is not None and total != self.total:  # known only now
            self.total = total
            if self.bar is not None:
                self.bar.total = total
        self.done += 1
        line = progress_line(row, self.done, self.total)
        log.info("%s", line)
        if self.bar is not None:
            if row["status"] != "ok":
                self.bar.write(_printable(line))
            self.bar.update()
        elif not self.quiet:
            print(_printable(line), flush=True)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


class _Steps:
    """Bar of optimiser steps, on a terminal.

    Elsewhere the log's line for each epoch is enough.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.bar = quiet or not sys.stderr.isatty(), None

    def __enter__(self) -> _Steps:
        return self

    def __call__(self, done: int, total: int, loss: float) -> None:
        if self.quiet:
            return
        if self.bar is not None and done <= self.bar.n:  # the second stage of a cascade begins
            self.bar.close()
            self.bar = None
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done - 1, unit="step", smoothing=0.05)
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.bar.update()

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _printable(text: object) -> str:
    """Return a text on one line that moves no terminal's cursor.

    Names of files are not to be trusted.
    """
    return visible(str(text), "?")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: no error row. 1: some error row, or a result could not be written. 2: could not start. 130, 143: stopped by
    SIGINT, SIGTERM.
    """
    if (sys.argv[1:] if arguments is None else arguments)[:1] == ["--version"]:
        print(f"{PROGRAM} {__version__}")
        return OK
    try:
        command = parse(arguments)
    except UsageError as error:
        print(f"{PROGRAM}: {_printable(error)}", file=sys.stderr)
        return CANNOT_START
    interruption.go_on_with(_printable(line_that_goes_on(command)))
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks must not end the run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        file = getattr(command, "log_file", None)
        with interruption.stoppable(), _log(command.debug, file) as handler, _own_files(command) as command:
            status: int = command.run(Terminal(handler))
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if command.debug:
            traceback.print_exc()
        print(f"{PROGRAM}: {_printable(' '.join(_sentence(error).split()))}", file=sys.stderr)
        return SOME_FAILED if isinstance(error, OSError) else CANNOT_START
    except KeyboardInterrupt as stopped:
        print(interruption.sentence(stopped), file=sys.stderr)
        return stopped.exit_status if isinstance(stopped, interruption.Interrupted) else 130


@contextmanager
def _own_files(command: Any) -> Iterator[Any]:
    """Give the command the content of the user's own label conventions.

    Within it the user's own layouts hold.
    """
    names = [name for name in ("convention", "reference_convention") if getattr(command, name, None) is not None]
    layouts = list(getattr(command, "layout", ()))
    if not names and not layouts:
        yield command
        return
    from data.find.layouts.layout import own_layouts
    from data.labels import convention_option

    with own_layouts(layouts):
        yield replace(command, **{name: convention_option(getattr(command, name)) for name in names})


class _OneLine(logging.Formatter):
    """Messages as `_printable` has them; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _printable(super().formatMessage(record))


@contextmanager
def _log(debug: bool, file: Path | None) -> Iterator[logging.Handler]:
    """Send warnings to stderr, with ``debug`` the traceback of every patient's error, too.

    A file gets them and all information, with times. Yields the handler of stderr.
    """
    root, own = logging.getLogger(), logging.getLogger("pipeline")
    level, handler = own.level, logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    handlers: list[logging.Handler] = [handler]
    if file is not None:
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
        handlers[1].setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for each in handlers:
        root.addHandler(each)
    if debug or file is not None:
        own.setLevel(logging.DEBUG if debug else logging.INFO)
    if file is not None:
        log.info("%s", command_line())
    try:
        yield handler
    except Exception as error:
        handler.setLevel(logging.WARNING)  # it is said there anyway
        log.info("not done: %s", _sentence(error))
        raise
    finally:
        for each in handlers:
            root.removeHandler(each)
            each.close()
        own.setLevel(level)


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{sys.executable} lacks the package {error.name}; set up again, see README.md"
    return explain(error)


if __name__ == "__main__":
    sys.exit(main())
