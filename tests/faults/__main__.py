"""The table of faults: what each breaks, what the pipeline made of it, and the counts.

    python -m tests.faults [--width N]

Every fault and three healthy patients lie in one folder that is segmented in one run with a network of random weights.
The exit status is 1 where an outcome is not the expected one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from data.find.discover import discover_cases
from pipeline.options import SegmentOptions
from pipeline.segment.run import segment_cases
from tests.faults import FAULTS, small_model, sow, sow_healthy
from tests.faults.trial import alike_everywhere


def main() -> int:
    """Run all faults and print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=200, help="characters of a sentence that are shown")
    width = parser.parse_args().width
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sow_healthy(folder / "in")
        sown = sow(folder / "in", folder / "outside", FAULTS)
        model = small_model(folder / "random.safetensors")
        with alike_everywhere():
            report = segment_cases(discover_cases(folder / "in"), folder / "out", SegmentOptions(models=(str(model),)))
    rows = {str(row["case"]): row for row in report.to_dict("records")}
    counts: Counter[tuple[str, str]] = Counter()
    unexpected = 0
    for name, fault in FAULTS.items():
        row = rows.get(sown.cases.get(name, ("",))[0])
        outcome = "not made here" if name in sown.unmade else str(row["status"]) if row else "LOST"
        sentence = sown.unmade.get(name) or (str(row["reason"]) if row else "")
        surprise = outcome != fault.status and name not in sown.unmade
        unexpected += surprise
        counts[fault.kind, outcome] += 1
        mark = f" (expected {fault.status})" if surprise else ""
        sentence = sentence.replace(scratch + "/", "")
        sys.stdout.write(f"{fault.kind}\t{name}\t{outcome}{mark}\t{ascii(sentence)[1:-1][:width]}\n")
    kinds, outcomes = (list(dict.fromkeys(pair[n] for pair in counts)) for n in (0, 1))
    sys.stdout.write("\n| kind | " + " | ".join(outcomes) + " | all |\n|" + "---|" * (len(outcomes) + 2) + "\n")
    for kind in [*kinds, "all"]:
        numbers = [
            sum(n for (k, o), n in counts.items() if kind in (k, "all") and o == outcome) for outcome in outcomes
        ]
        sys.stdout.write(f"| {kind} | " + " | ".join(map(str, [*numbers, sum(numbers)])) + " |\n")
    sys.stdout.write(f"\n{len(FAULTS)} faults, {unexpected} with an unexpected outcome; {len(report)} rows\n")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
