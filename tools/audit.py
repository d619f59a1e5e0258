"""Known vulnerabilities of everything that is pinned, by pip-audit.

Its end cannot be mistaken.

    python -m tools.audit constraints.txt constraints-audit.txt      (in an environment with pip-audit; `make audit`)

Exit status 0: none known, or "skipped: ..." where the service could not be asked; 1: some; 2: the audit itself failed.
A service that answers but knows none of the packages (a mirror without that data) counts as not asked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

NONE_KNOWN, VULNERABLE, FAILED = 0, 1, 2
UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|NameResolution|ServiceError|HTTPError|SSLError|ProxyError"
)


def judge(output: str, complaints: str) -> tuple[int, list[str]]:
    """Return exit status and lines to print, from the output of pip-audit.

    JSON (or nothing) and its log.

    A vulnerability decides, whatever else was skipped.
    """
    try:
        dependencies = json.loads(output)["dependencies"]
    except (ValueError, KeyError):
        last = (complaints.strip().splitlines() or ["pip-audit said nothing"])[-1]
        if UNREACHABLE.search(complaints):
            return NONE_KNOWN, [f"skipped: the vulnerability service cannot be reached: {last}"]
        return FAILED, [f"the audit failed: {last}"]
    known = [
        f"{item['name']} {item['version']}: {vulnerability['id']}, "
        + (
            f"mended in {', '.join(vulnerability['fix_versions'])}"
            if vulnerability["fix_versions"]
            else "not mended yet"
        )
        for item in dependencies
        for vulnerability in item.get("vulns", [])
    ]
    skipped = [item["skip_reason"] for item in dependencies if "skip_reason" in item]
    asked = len(dependencies) - len(skipped)
    if known:
        return VULNERABLE, [*known, f"{len(known)} known vulnerabilities in {asked} packages; move the pins"]
    if not asked:
        reason = skipped[0] if skipped else "nothing is pinned"
        return NONE_KNOWN, [f"skipped: the service knows none of the {len(dependencies)} packages ({reason})"]
    return NONE_KNOWN, [f"{asked} packages, no known vulnerability", *(f"not audited: {reason}" for reason in skipped)]


def ask(files: Sequence[str]) -> tuple[str, str]:
    """Return the output of pip-audit about these files of pins.

    It is standard output and standard error.
    """
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "15"]
    for file in files:
        command += ["--requirement", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr


def main() -> int:
    """See the module's docstring."""
    status, lines = judge(*ask(sys.argv[1:]))
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
