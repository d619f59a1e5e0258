"""Tables on disk: harmless CSV of rounded numbers, and the columns of report.csv.

A table is read by people in a spreadsheet, by programs, and by the next run. So a text cell holds exactly what it
should (a newline stays inside the quotes), except for what would harm a reader: see :func:`text_cell`.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd

from data.io.read import atomic_write, write_bytes_atomically
from data.labels import sort_regions
from data.regular_file import MOST_VALUES, read_regular_file
from data.visible import INVISIBLE
from pipeline.score import catalogue

REPORT_COLUMNS = ("case", "folder", "status", "reason", "flags", "model", "convention", "seconds")
"""What every row of report.csv has; ``<measure>_<region>`` columns follow."""
DIGITS = 6
"""Significant digits of a fraction in every table; a case's state file and run.json keep all."""
LARGEST_TABLE, MOST_ROWS = 2**26, 2**17
"""Bytes and rows of a table that is read back, such as report.csv of 100,000 patients."""


def text_cell(text: str) -> str:
    """Return a text as a table's cell: whole, but harmless in a spreadsheet.

    Bytes of a file name that cannot be decoded (Python keeps them as surrogates) become U+FFFD. A ``'`` is set

    - before a text that starts with a tab, a line break or NUL;
    - before a ``=``, ``+``, ``-`` or ``@`` that a text starts with, also after blanks, quotes, combining marks and
      whatever shows nothing, which some spreadsheets drop, and in full width, which some take for the same;
    - likewise where a semicolon, a tab or a line break inside the text precedes it: where the semicolon separates
      columns, as in much of Europe, a spreadsheet starts a cell there, our quotes or not.

    An empty text stays empty; twice is as once. After OWASP, CSV Injection (2025), and ASVS 5.0, 1.2.10.
    """
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    pieces = re.split("([;\t\r\n])", text)
    pieces[::2] = [f"'{piece}" if _starts_formula(piece) else piece for piece in pieces[::2]]
    text = "".join(pieces)
    return f"'{text}" if text.startswith(("\t", "\r", "\n", "\0")) else text


def _starts_formula(text: str) -> bool:
    """Tell whether the first visible sign begins a formula.

    Controls, marks, blanks and unassigned signs are skipped.
    """
    for character in text:
        if not (character == '"' or character in INVISIBLE or unicodedata.category(character)[0] in "CMZ"):
            return unicodedata.normalize("NFKC", character)[0] in "=+-@"
    return False


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as CSV (UTF-8, comma, ``\\n``), whole or not at all.

    Parameters
    ----------
    path : Path
        Its folder exists. An older table of that name is replaced.
    frame : DataFrame
        Text cells and column names go through :func:`text_cell`; fractions are written with :data:`DIGITS` significant
        digits, whole numbers exactly; None, NaN and NA are empty cells. A table without rows is its header alone.

    Raises
    ------
    OSError
        Disk full, no permission: for the caller to report.
    """
    rows: Iterable[Sequence[Any]] = [list(frame.columns), *frame.astype(object).itertuples(index=False, name=None)]
    write_bytes_atomically(path, "".join(map(csv_line, rows)).encode("utf-8"))


def csv_line(values: Iterable[Any]) -> str:
    """Format one row as :func:`write_table` writes it, with its ``\\n``.

    It serves tables that are written row by row.

    Parameters
    ----------
    values : text, numbers (numpy's too), None, NaN or NA
        One a column.
    """
    # pandas leaves a lone carriage return without quotes, and then one row reads back as two.
    return ",".join(map(_csv_cell, values)) + "\n"


def read_columns(path: Path, columns: Sequence[str], more: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read some columns of a table; return `[]` where it lacks one.

    Another program may have written the table.

    Parameters
    ----------
    path : Path
        CSV in UTF-8; at most `MOST_ROWS` rows are read.
    columns, more : sequences of str
        Those that must be there, and those that may be. Cells that a row or the table lacks are empty texts.

    Raises
    ------
    OSError
        It is not there, or cannot be read.
    ValueError
        It is no regular file, too large, or no such table; the text is the reason, without the path.
    """
    rows = read_rows(path)
    header = next(rows, [])
    if not set(columns) <= set(header):
        return []
    places = {name: header.index(name) for name in (*columns, *more) if name in header}
    blank = dict.fromkeys(more, "")
    return [blank | {name: row[at] if at < len(row) else "" for name, at in places.items()} for row in rows if row]


def read_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV file, the header first.

    Bytes, cells and rows are bounded.

    Raises as :func:`read_columns` does, on the way.
    """
    text = read_regular_file(path, LARGEST_TABLE).decode("utf-8-sig")
    if sum(map(text.count, ",\r\n")) > MOST_VALUES:
        raise ValueError(f"has more than {MOST_VALUES} cells")
    try:
        for number, row in enumerate(csv.reader(io.StringIO(text, newline=""))):
            if number > MOST_ROWS:
                raise ValueError(f"has more than {MOST_ROWS} rows")
            yield row
    except csv.Error as error:
        raise ValueError(f"is no table ({error})") from None


def report_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make report.csv from its rows, with the columns in order.

    Fixed columns come first, then each measure for each region, then the rest.

    Parameters
    ----------
    rows : mappings from column to value
        A row needs no column; what it lacks is empty. No rows give a table of the fixed columns alone. A column
        ``system``, where there is one, stands after ``case``.
    """
    present = dict.fromkeys(column for row in rows for column in row)
    regions = _regions(present)
    measures = catalogue.shown_in(catalogue.Place.REPORT)
    measured = [f"{catalogue.report_name(measure)}_{region}" for measure in measures for region in regions]
    system = [column for column in ("system",) if column in present]
    ordered = [*REPORT_COLUMNS[:1], *system, *REPORT_COLUMNS[1:], *(column for column in measured if column in present)]
    ordered += [column for column in present if column not in ordered]
    frame = pd.DataFrame([dict(row) for row in rows], columns=ordered)
    counts = [catalogue.report_name(measure) for measure in measures if measure.is_count]
    for column in (f"{count}_{region}" for count in counts for region in regions):
        if column in frame:
            frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    return frame


def _regions(columns: Iterable[str]) -> list[str]:
    """Return the regions named by columns ``<measure>_<region>``.

    The usual ones come first, in their order.
    """
    prefixes = [f"{catalogue.report_name(measure)}_" for measure in catalogue.shown_in(catalogue.Place.REPORT)]
    return sort_regions(
        column.removeprefix(prefix) for column in columns for prefix in prefixes if column.startswith(prefix)
    )


def rounded(value: Any) -> Any:
    """Return a fraction with :data:`DIGITS` significant digits.

    Anything else, and a whole number, comes back as it is.
    """
    if not isinstance(value, float) or not math.isfinite(value) or value.is_integer():
        return value
    return float(f"{value:.{DIGITS}g}")


def _csv_cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    # numpy's scalars would be written as "np.float64(1.0)" by repr; item() gives Python's own.
    value = value.item() if hasattr(value, "item") else value
    text = text_cell(value) if isinstance(value, str) else str(rounded(value))
    # A spreadsheet that takes semicolons and tabs for separators too keeps its columns where quotes hold them.
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',;\t"\r\n') else text


LESION_COLUMNS = (
    "case", "region", "side", "lesion", "voxels", "volume_ml", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm",
    "diameter_mm", "perpendicular_mm", "bidimensional_mm2", "slice", "matches", "detected",
)  # fmt: skip
DETECTION_COLUMNS = ("region", "size_class", "n", "found", "sensitivity")
Row = Mapping[str, Any]
_TEXTS = ("system", "case", "region", "side", "matches", "size_class")


def metrics_frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Make metrics.csv: one row a case and region.

    Parameters
    ----------
    rows : mappings from column to value
        ``CaseScores.regions`` with their case.
    columns : sequence of str
        :func:`pipeline.score.case.metric_columns`, and ``system`` where several are compared.
    """
    return _frame(rows, columns)


def lesions_frame(rows: Sequence[Row], columns: Sequence[str] = LESION_COLUMNS) -> pd.DataFrame:
    """Make lesions.csv: one row a lesion of either side.

    ``rows`` are ``CaseScores.lesions`` with their case.
    """
    return _frame(rows, columns)


def pooled_detection(rows: Iterable[Row]) -> pd.DataFrame:
    """Make detection.csv from each patient's rows of lesions found by size.

    The rows are those of :func:`pipeline.score.lesions.sensitivity_by_size` with their region, one set a patient.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        total = counts.setdefault((row["region"], row["size_class"]), [0, 0])
        total[0] += row["n"]
        total[1] += row["found"]
    order = sort_regions(region for region, _ in counts)
    ordered = sorted(counts.items(), key=lambda item: order.index(item[0][0]))
    table = [(*key, n, found, found / n if n else math.nan) for key, (n, found) in ordered]
    return pd.DataFrame(table, columns=list(DETECTION_COLUMNS))


@contextmanager
def lesion_file(path: Path, columns: Sequence[str] = LESION_COLUMNS) -> Iterator[Callable[[Iterable[Row]], None]]:
    """Write lesions.csv patient by patient.

    A noisy prediction may hold a hundred thousand lesions, too many to keep in memory.

    Yields
    ------
    callable
        Writes rows. The file is there when the block is left, or not at all where that is by an exception.
    """
    with atomic_write(path) as file:
        file.write(_line(columns))

        def write(rows: Iterable[Row]) -> None:
            file.writelines(_line(row[name] for name in columns) for row in rows)

        yield write


def read_lesions(path: Path, cases: Iterable[str], largest: int = 100) -> pd.DataFrame:
    """Read some cases' rows of lesions.csv.

    Of each region and side no more than the ``largest`` lesions come.
    """
    wanted, numbers = set(cases), dict.fromkeys(LESION_COLUMNS[3:-2], "")
    columns = list(pd.read_csv(path, nrows=0).columns)
    parts: list[Row] = []
    with pd.read_csv(
        path, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=False, na_values={"detected": ""} | numbers,
        chunksize=10_000,
    ) as chunks:  # fmt: skip
        for chunk in chunks:
            part = chunk[chunk["case"].isin(wanted) & (chunk["lesion"] <= largest)]
            parts += part.astype(object).to_dict("records")
    return lesions_frame(parts, columns)


def _line(row: Iterable[Any]) -> bytes:
    return csv_line(row).encode()


def _frame(rows: Sequence[Row], columns: Sequence[str]) -> pd.DataFrame:
    """Make a table that keeps whole numbers whole.

    Such columns are Int64, also beside blanks, so that 3 is written as 3.
    """
    values = {name: [_known(row.get(name)) for row in rows] for name in columns}
    return pd.DataFrame({name: pd.Series(column, dtype=_dtype(name, column)) for name, column in values.items()})


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _dtype(name: str, column: Sequence[Any]) -> str:
    present = [value for value in column if value is not None]
    if name in _TEXTS:
        return "object"
    if present and all(isinstance(value, bool) for value in present):
        return "boolean"
    if present and all(isinstance(value, Integral) for value in present):
        return "Int64"
    return "float64"
