"""Command line of the pipeline.

This is the only file that prints or exits; each subcommand is one dataclass, and its attributes are the options.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

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
    import tyro
except ModuleNotFoundError as missing:
    here = Path(__file__).resolve().parent
    once = "" if (here / ".venv" / ".ready").is_file() else f"run `make .venv` in {here} once, then "
    lacking = f"{sys.executable} lacks the package {missing.name}"
    print(f"run_pipeline.py: {lacking}; {once}call {here}/.venv/bin/python run_pipeline.py", file=sys.stderr)
    sys.exit(2)

from data.errors import SegmentationError, UsageError, explain
from data.visible import visible
from pipeline.options import SegmentOptions, TrainOptions
from pipeline.web.settings import Settings

OK, SOME_FAILED, CANNOT_START = 0, 1, 2


@dataclass
class Inspect:
    """Show the content of a folder before any work.

    Shown are the layout, the label convention, the images, and each fault or gap.
    """

    input: tyro.conf.Positional[Path]
    """A data set's folder, or one patient's folder of files."""
    full: bool = False
    """Read every voxel, not only headers."""
    json: bool = False
    """Print JSON for programs."""
    convention: str | None = None
    """Label convention of all masks, whatever the evidence says: a name, or a YAML file of your own."""
    layout: list[Path] = field(default_factory=list)
    """YAML files that say how the files of your own data are named, in the form of the shipped layouts."""
    strict: bool = False
    """A warning is an error."""
    max_voxels: int = 2**28
    """A file whose header promises more voxels is refused, unread."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from pipeline.inspect import inspect_cases

        found = inspect_cases(
            self.input, full=self.full, convention=self.convention, strict=self.strict, max_voxels=self.max_voxels
        )
        if self.json:
            print(json.dumps(found, indent=1))
        else:
            _print_inspection(found)
        return SOME_FAILED if any(case["status"] == "error" for case in found) else OK


@dataclass(frozen=True, kw_only=True)
class Segment(SegmentOptions):
    """Give every patient of a folder a tumour mask, and write the report."""

    input: tyro.conf.Positional[Path]
    """A data set's folder, or one patient's folder of files."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for masks and reports; finished cases in it are kept."""
    models: Annotated[tuple[str, ...], tyro.conf.arg(name="model")] = ()
    layout: list[Path] = field(default_factory=list)
    """YAML files that say how the files of your own data are named, in the form of the shipped layouts."""
    executor: str = "serial"
    """serial, processes:N, cuda:0,1,..., dask:tcp://HOST:PORT, or dask:slurm:N for up to N jobs."""
    cases: tuple[str, ...] = ()
    """Only these patients."""
    shard: str | None = None
    """I/N: the I-th of N parts of the patients, into OUTPUT/shard-I-of-N; then `merge` the parts."""
    interactive: tuple[str, ...] = ()
    """Cases that the page shows in a 3D viewer; each adds megabytes."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from data.find.discover import discover_cases
        from pipeline.execute.lock import output_lock

        if self.output.resolve() == self.input.resolve():
            raise UsageError(
                f"--output {self.output} is the input folder; choose another, so that masks and images stay apart"
            )
        from pipeline.segment.shards import parse_shard

        shard = parse_shard(self.shard) if self.shard is not None else None
        output = shard.folder_in(self.output) if shard else self.output
        with output_lock(output):  # before torch, whose import takes seconds
            from pipeline.segment.run import segment_cases

            cases = _only(discover_cases(self.input, exclude=self.output), self.cases)
            options = SegmentOptions(**_options_of(self, SegmentOptions))
            here = len(shard.part_of(case.case_id for case in cases)) if shard else len(cases)
            with _Progress(here, self.quiet) as progress:
                report = segment_cases(
                    cases,
                    output,
                    options,
                    executor=self.executor,
                    progress=progress,
                    interactive=list(self.interactive),
                    command=_command_line(),
                    shard=shard,
                )
        return _conclude(report, output, self.quiet)


@dataclass
class Merge:
    """Make one result of the parts that `segment --shard` left.

    It is equal to the result of an undivided run.
    """

    parts: tyro.conf.Positional[list[Path]]
    """The folders shard-I-of-N of all parts."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for masks and reports; not around the parts. Masks are hard links where the file system can."""
    interactive: list[str] = field(default_factory=list)
    """Cases that the page shows in a 3D viewer; each adds megabytes."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from pipeline.segment.merge import merge_shards

        report = merge_shards(self.parts, self.output, interactive=self.interactive, command=_command_line())
        return _conclude(report, self.output, self.quiet)


@dataclass
class Evaluate:
    """Score masks against references, matched by case: tables and a page."""

    predictions: tyro.conf.Positional[Path]
    """Folder of masks, nested or flat."""
    references: tyro.conf.Positional[Path]
    """Folder of reference masks, nested or flat."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for report.csv, metrics.csv, lesions.csv, detection.csv, summary.csv and report.html."""
    metrics: list[str] = field(default_factory=lambda: ["standard"])
    """standard (always there) and lesion-wise sets: brats2023-gli, -ssa, -ped, -men, -met, brats2024-gli."""
    tolerance_mm: float = 1.0
    """Of the normalised surface Dice (nsd)."""
    compare: list[Path] = field(default_factory=list)
    """Folders of other systems' masks of the same patients: side by side, with paired differences."""
    convention: str | None = None
    """Label convention of the masks, and of references of which nothing is known: a name, or a YAML file of your own.
    Default: recognised."""
    reference_convention: str | None = None
    """Label convention of the references: a name, or a YAML file of your own. Default: recognised."""
    layout: list[Path] = field(default_factory=list)
    """YAML files that say how the files of your own data are named, in the form of the shipped layouts."""
    resample: bool = False
    """Resample masks that lie on another grid than their reference; otherwise they are error rows."""
    like: Path | None = None
    """Folder of the images: masks that have lost their header, and have their number of voxels, get theirs."""
    split_lesions: bool = False
    """Tell touching lesions apart by watershed before they are listed and counted."""
    workers: int | None = None
    """Processes; 1: this one. Default: one for each CPU."""
    pictures: int = 50
    """So many patients, those with the lowest mean Dice, get a picture."""
    interactive: list[str] = field(default_factory=list)
    """Cases that the page shows in a 3D viewer; each adds megabytes."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from pipeline.execute.lock import output_lock

        with output_lock(self.output), _Progress(0, self.quiet) as progress:
            from pipeline.evaluate.run import ScoreOptions, evaluate

            report = evaluate(
                self.predictions,
                self.references,
                self.output,
                convention=self.convention,
                reference_convention=self.reference_convention,
                options=ScoreOptions(tuple(self.metrics), self.tolerance_mm, self.split_lesions),
                compare=self.compare,
                resample=self.resample,
                like=self.like,
                workers=self.workers,
                progress=progress,
                pictures=self.pictures,
                interactive=self.interactive,
            )
        return _conclude(report, self.output, self.quiet)


@dataclass
class Models:
    """List the models that come with the pipeline."""

    json: bool = False
    """Print JSON for programs."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from pipeline.checkpoint import shipped_models

        listing = [checkpoint.as_listing() for checkpoint in shipped_models()]
        if self.json:
            print(json.dumps(listing, indent=1))
            return OK
        for model in listing:
            after = f", in the box that an {model['first']} finds" if "first" in model else ""
            planes = f", slices: {', '.join(model['planes'])}" if "planes" in model else ""
            print(f"{model['name']}: {model['architecture']}, {model['spatial_dims']}D{planes}{after}")
            print(
                f"    from {', '.join(model['modalities'])} to {', '.join(model['regions'])}; trained on "
                f"{model['trained_on']}"
            )
            print(
                "    "
                + ", ".join(f"{name} {value:.3f}" for name, value in model["scores"].items())
                + f"; {model['licence']}"
            )
        return OK


@dataclass
class Seal:
    """Bring model files of the first format forward to the present one.

    They held no SHA-256 of themselves.

    Tensors, settings and card stay. Only for files whose source you trust: earlier damage is sealed with the rest.
    """

    files: tyro.conf.Positional[list[Path]]
    """Model files; each is replaced."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from pipeline.checkpoint import bring_forward

        status = OK
        for path in self.files:
            try:
                print(f"{bring_forward(path)}  {_printable(path.name)}")  # as sha256sum prints it
            except (SegmentationError, OSError) as error:
                status = SOME_FAILED
                print(f"run_pipeline.py: {_printable(_sentence(error))}", file=sys.stderr)
        return status


@dataclass(frozen=True, kw_only=True)
class Train(TrainOptions):
    """Train a recipe on a folder of patients with references.

    Model, history and curves are written to a folder.
    """

    input: tyro.conf.Positional[Path]
    """A data set's folder."""
    recipe: str
    """A shipped recipe's name, or a YAML file: what is computed."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for model.safetensors, history.csv, curves.png and what --resume needs."""
    fold: str = "0"
    extra: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    command: Annotated[str, tyro.conf.Suppress] = ""
    on_step: Annotated[Any, tyro.conf.Suppress] = None
    layout: list[Path] = field(default_factory=list)
    """YAML files that say how the files of your own data are named, in the form of the shipped layouts."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from pipeline.execute.lock import output_lock

        leads = os.environ.get("RANK", "0") == "0"  # torchrun's numbering of its processes
        with output_lock(self.output) if leads else nullcontext():  # before torch, whose import takes seconds
            return self._train(leads)

    def _train(self, leads: bool) -> int:
        from pipeline.training.run import run_training

        if leads and not self.quiet:
            logging.getLogger("pipeline").setLevel(logging.INFO)
        with _Steps(self.quiet or not leads) as bar:
            options = TrainOptions(**_options_of(self, TrainOptions) | {"command": _command_line(), "on_step": bar})
            model = run_training(self.input, self.recipe, self.output, options)
        if leads and not self.quiet:
            print(f"model: {model}")
        return OK


@dataclass
class Demo:
    """Make three phantom patients, segment them with a shipped model, and evaluate the result."""

    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("out/demo")
    """Folder for patients, masks and reports."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        from pipeline.execute.lock import output_lock

        with output_lock(self.output), _Progress(3, self.quiet) as progress:
            from pipeline.demo import run_demo

            report = run_demo(self.output, progress, command=_command_line())
        return _conclude(report, self.output, self.quiet)


@dataclass(frozen=True, kw_only=True)
class Serve(Settings):
    """Show the web app.

    A clinician drops images into a browser and sees the tumour. Everything stays on this machine.
    """

    workspace: Path = Path("out/web")
    models: Annotated[tuple[str, ...], tyro.conf.arg(name="model")] = ()
    allowed_hosts: Annotated[tuple[str, ...], tyro.conf.arg(name="allowed-host")] = ()
    token_file: Path | None = None
    """File whose first line every user must know, at least 16 characters."""
    token: Annotated[str | None, tyro.conf.Suppress] = None
    job_memory_bytes: Annotated[int | None, tyro.conf.Suppress] = Settings.job_memory_bytes
    debug: bool = False
    """Show the traceback of an error."""

    def run(self) -> int:
        try:
            from pipeline.web.app import serve
        except ModuleNotFoundError as error:
            raise UsageError(f"the web app needs {error.name}; install it with: pip install '.[web]'") from None

        token = self.token_file.read_text(encoding="utf-8").partition("\n")[0].strip() if self.token_file else None
        logging.getLogger("pipeline").setLevel(logging.INFO)
        serve(Settings(**_options_of(self, Settings) | {"token": token}))
        return OK


Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Segment, tyro.conf.subcommand("segment")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Seal, tyro.conf.subcommand("seal")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
)


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
        line = _row_line(row)
        if self.bar is not None:
            if row["status"] != "ok":
                self.bar.write(line)
            self.bar.update()
        elif not self.quiet:
            print(f"[{self.done}/{self.total}] {line} ({row.get('seconds', 0):.1f} s)", flush=True)

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


def _options_of(command: Any, options: type) -> dict[str, Any]:
    """Return the values of the options that a command has inherited."""
    return {each.name: getattr(command, each.name) for each in fields(options)}


def _command_line() -> str:
    return "python run_pipeline.py " + shlex.join(sys.argv[1:])


def _printable(text: object) -> str:
    """Return a text on one line that moves no terminal's cursor.

    Names of files are not to be trusted.
    """
    return visible(str(text), "?")


def _row_line(row: Mapping[str, Any]) -> str:
    return _printable(f"{row['case']}: {row['status']}" + (f", {row['reason']}" if row.get("reason") else ""))


def _only(cases: list[Any], wanted: Sequence[str]) -> list[Any]:
    unknown = [name for name in wanted if name not in {case.case_id for case in cases}]
    if unknown:
        raise UsageError(f"--cases: no patient {', '.join(map(repr, unknown))}; `inspect` lists those that there are")
    return [case for case in cases if not wanted or case.case_id in wanted]


def _conclude(report: Any, output: Path, quiet: bool) -> int:
    from pipeline.score.catalogue import Place, report_name, shown_in

    counts = report["status"].value_counts()
    errors = int(counts.get("error", 0))
    if quiet:
        for row in report[report["status"] == "error"].to_dict("records"):
            print(_row_line(row), file=sys.stderr)
    else:
        listed = ", ".join(f"{int(counts.get(status, 0))} {status}" for status in ("ok", "warn", "error"))
        print(f"{len(report)} patients: {listed}")
        shown = tuple(f"{report_name(metric)}_" for metric in shown_in(Place.TERMINAL))
        for name, rows in report.groupby("system", sort=False) if "system" in report else [("", report)]:
            if name:
                print(_printable(f"  {name}"))
            for column in (c for c in rows.columns if c.startswith(shown) and rows[c].notna().any()):
                print(f"  {column}: mean {rows[column].mean():.3f}, median {rows[column].median():.3f}")
        print(f"report: {output / 'report.csv'}")
        if (output / "report.html").is_file():
            print(f"page: {output / 'report.html'}")
    return SOME_FAILED if errors else OK


def _print_inspection(found: list[dict[str, Any]]) -> None:
    for case in found:
        print(_printable(f"{case['case']}: {case['status']}"))
        print(_printable(f"    layout {case['layout']}: {case['layout_reason']}"))
        print(_printable(f"    convention {case['convention'] or 'not known'}: {case['convention_reason']}"))
        for name, image in case["images"].items():
            shape = "x".join(map(str, image["shape"])) if image["shape"] else "not readable"
            spacing = (
                "x".join(f"{s:.4g}" for s in image["spacing_mm"]) + " mm" if image["spacing_mm"] else "spacing unknown"
            )
            print(_printable(f"    {name}: {shape}, {spacing}, {image['orientation'] or ''}, {image['file']}"))
        for kind in ("problems", "warnings", "missing", "unrecognised"):
            for text in case[kind]:
                print(_printable(f"    {kind.rstrip('s') if kind != 'missing' else kind}: {text}"))
    counts = {status: sum(case["status"] == status for case in found) for status in ("ok", "warn", "error")}
    print(f"{len(found)} patients: " + ", ".join(f"{n} {status}" for status, n in counts.items()))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: no error row. 1: some error row, or a result could not be written. 2: could not start. 130, 143: stopped by
    SIGINT, SIGTERM.
    """
    if (sys.argv[1:] if arguments is None else arguments)[:1] == ["--version"]:
        print(f"run_pipeline.py {__version__}")
        return OK
    command = tyro.cli(
        Command,
        args=arguments,
        prog="run_pipeline.py",
        description="Brain tumour segmentation, from a folder of patients to masks and a report. "
        "--version prints the version.",
    )
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks must not end the run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with interruption.stoppable(), _log(command.debug), _own_files(command) as command:
            status = command.run()
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if command.debug:
            traceback.print_exc()
        print(f"run_pipeline.py: {_printable(' '.join(_sentence(error).split()))}", file=sys.stderr)
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
    layouts = getattr(command, "layout", [])
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
def _log(debug: bool) -> Iterator[None]:
    """Warnings, and with ``debug`` the traceback of every patient's error, go to stderr."""
    root, own = logging.getLogger(), logging.getLogger("pipeline")
    handler, level = logging.StreamHandler(sys.stderr), own.level
    handler.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    if debug:
        own.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        own.setLevel(level)


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{sys.executable} lacks the package {error.name}; set up again, see README.md"
    return explain(error)


if __name__ == "__main__":
    sys.exit(main())
