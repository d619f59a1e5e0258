"""Bill of materials: a CycloneDX file of an environment.

It adds the facts about us that cyclonedx-py cannot know.

    python -m tools.sbom ENVIRONMENT.json --reports .venv/installed-*.json --output SBOM.json
    python -m tools.sbom --validate SBOM.json      (in an environment with cyclonedx-python-lib)

ENVIRONMENT.json is what `cyclonedx-py environment --output-reproducible` wrote; `make sbom` does both. Added are: us as
the root, the shipped models with their SHA-256, SPDX licences where the metadata are loose, the SHA-256 of the wheels
(from the reports that pip wrote when it installed them), and which packages only develop or test (scope "excluded"). No
time and no random number goes in: the same environment gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from tools.dependencies import OPTIONAL, OURS, ROOT, UNKNOWN, installed, licence, needed_by

MODELS = ROOT / "pipeline" / "models"
NIIVUE = {
    "type": "library",
    "bom-ref": "niivue",
    "name": "@niivue/niivue",
    "version": "0.68.1",
    "purl": "pkg:npm/%40niivue/niivue@0.68.1",
    "licenses": [{"license": {"id": "BSD-2-Clause"}}],
}
"""The viewer inside nilearn's wheel."""
TEMPLATE = {
    "type": "data",
    "bom-ref": "mni152",
    "name": "MNI ICBM 152 non-linear symmetric template",
    "version": "2009a",
    "licenses": [{"license": {"name": "ICBM 152, McConnell Brain Imaging Centre"}}],
}
"""The template inside nilearn's wheel."""


def describe_model(path: Path) -> dict[str, Any]:
    """Describe one .safetensors file as a component.

    It has name, SHA-256 of the file, and licence and training data from its header.
    """
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    card = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["card"])
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{path.stem}",
        "name": path.stem,
        "description": f"trained on {card['trained_on']}",
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(content).hexdigest()}],
        "licenses": [{"license": {"name": card["licence"]}}],
    }


def wheel_hashes(reports: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """(normalised name, version) -> SHA-256 of the archive, from `pip install --report` documents; later ones win."""
    found: dict[tuple[str, str], str] = {}
    for report in reports:
        for item in report["install"]:
            digest = item.get("download_info", {}).get("archive_info", {}).get("hashes", {}).get("sha256")
            if digest:
                found[canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"]] = digest
    return found


def complete(
    document: Mapping[str, Any],
    *,
    models: Sequence[Mapping[str, Any]],
    hashes: Mapping[tuple[str, str], str],
    licences: Mapping[str, str],
    needed: set[str],
) -> dict[str, Any]:
    """Complete the environment's document with all that this module adds.

    Parameters
    ----------
    document : mapping
        CycloneDX JSON of an environment; not changed.
    models : sequence of mapping
        See :func:`describe_model`.
    hashes : mapping
        See :func:`wheel_hashes`.
    licences : mapping
        Normalised name -> SPDX expression.
    needed : set of str
        Normalised names of what a run needs; every other package gets the scope "excluded".
    """
    packages, root = [], None
    for component in document["components"]:
        name = canonicalize_name(component["name"])
        new = {**component, "scope": "required" if name in needed else "excluded"}
        if name in licences and not _has_spdx(component):
            new["licenses"] = [{"expression": licences[name]}]
        if digest := hashes.get((name, component.get("version", ""))):
            new["hashes"] = [{"alg": "SHA-256", "content": digest}]
        if name == "nilearn":
            new["components"] = [NIIVUE, TEMPLATE]
        if name == OURS:  # its own reference is the folder in which it happens to lie
            root = {key: value for key, value in new.items() if key not in ("scope", "externalReferences")}
        else:
            packages.append(new)
    if root is None:
        raise ValueError(f"the environment has no {OURS}; run 'make .venv' first")
    references = [model["bom-ref"] for model in models]
    links = [
        {**link, "dependsOn": sorted([*link.get("dependsOn", []), *references])}
        if link["ref"] == root["bom-ref"]
        else link
        for link in document["dependencies"]
    ]
    return {
        **document,
        "metadata": {**document["metadata"], "component": {**root, "type": "application"}},
        "components": [*packages, *models],
        "dependencies": [*links, *({"ref": reference} for reference in references)],
    }


def validate(path: Path) -> str | None:
    """Return the faults of the file by CycloneDX's own schema, or None.

    Needs cyclonedx-python-lib.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = path.read_text(encoding="utf-8")
    version = SchemaVersion.from_version(json.loads(text)["specVersion"])
    error = JsonStrictValidator(version).validate_str(text)
    return None if error is None else str(error)


def _has_spdx(component: Mapping[str, Any]) -> bool:
    return any("expression" in item or "id" in item.get("license", {}) for item in component.get("licenses", []))


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", type=Path, nargs="?")
    parser.add_argument("--reports", type=Path, nargs="*", default=[], help="of pip install --report, oldest first")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--validate", type=Path)
    arguments = parser.parse_args()
    if arguments.validate:
        if error := validate(arguments.validate):
            print(f"{arguments.validate} is not valid: {error}")
            return 1
        return 0
    if not (arguments.environment and arguments.output):
        parser.error("give ENVIRONMENT.json and --output, or --validate")
    environment = installed()
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.reports)]
    licences = {name: licence(distribution) for name, distribution in environment.items()}
    document = complete(
        json.loads(arguments.environment.read_text(encoding="utf-8")),
        models=[describe_model(path) for path in sorted(MODELS.glob("*.safetensors"))],
        hashes=wheel_hashes(reports),
        licences={name: expression for name, expression in licences.items() if expression != UNKNOWN},
        needed=set(needed_by(OURS, OPTIONAL, environment)),
    )
    arguments.output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    hashed = sum("hashes" in component for component in document["components"])
    print(f"{arguments.output}: {len(document['components'])} components, {hashed} with SHA-256")
    return 0


if __name__ == "__main__":
    sys.exit(main())
