"""Compare PyPI's known vulnerabilities of the packages in requirements.lock with the explanations in advisories.json.

    python tools/advisories.py [PACKAGE ...]

Without names, it checks every package. It ends with

- 0 if every advisory is explained;
- 1 for an advisory that advisories.json does not explain, or an explanation of a version that is not in the lock;
- 3 if nothing is wrong as far as is known, but the index said nothing about some versions, which it names: a mirror
  may answer for the newest version of a package only.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
EXPLANATIONS = Path(__file__).with_name("advisories.json")
INDEX = "https://pypi.org"


def locked(text: str) -> set[tuple[str, str]]:
    """Return the names and versions in the text of a lock file; a package can have two versions."""
    pins = [Requirement(line.rstrip("\\ ")) for line in text.splitlines() if line[:1].isalnum()]
    return {(canonicalize_name(pin.name), str(pin.specifier).removeprefix("==")) for pin in pins}


def vulnerabilities(index: str, name: str, version: str) -> list[dict[str, Any]] | None:
    """Return what an index reports about one version of a package, or None if it says nothing about that version.

    Args:
        index: address of an index with PyPI's JSON interface. Some mirrors answer for the newest version only.
        name: of the package.
        version: in the lock.

    Raises:
        requests.RequestException: there was no answer, or one that is not JSON.
    """
    for path in (f"{name}/{version}", name):
        answer = requests.get(f"{index}/pypi/{path}/json", timeout=30)
        if answer.status_code == 404:
            continue
        answer.raise_for_status()
        package = answer.json()
        if package["info"]["version"] == version and "vulnerabilities" in package:
            return [entry for entry in package["vulnerabilities"] if not entry.get("withdrawn")]
    return None


def outdated(explanations: dict[str, dict[str, str]], pins: Iterable[tuple[str, str]]) -> list[str]:
    """Return a sentence for each explanation whose package and version are not in the lock."""
    return [
        f"{identifier}: explained for {row['package']} {row['version']}, which is not in requirements.lock. "
        "Check the new version, then change or remove the row."
        for identifier, row in explanations.items()
        if (row["package"], row["version"]) not in pins
    ]


def unexplained(
    explanations: dict[str, dict[str, str]], name: str, version: str, found: list[dict[str, Any]]
) -> list[str]:
    """Return a sentence for each advisory about a version of a package that no explanation covers."""
    known = {
        identifier for identifier, row in explanations.items() if (row["package"], row["version"]) == (name, version)
    }
    return [
        f"{name} {version}: {entry['id']} ({', '.join(entry['aliases'])}) is not explained; fixed in "
        f"{', '.join(entry['fixed_in']) or 'no version'}. {entry.get('summary') or entry.get('details') or ''}"[:300]
        for entry in found
        if not known & {entry["id"], *entry["aliases"]}
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="names in requirements.lock; default: all")
    parser.add_argument("--index", default=INDEX, help="address of an index with PyPI's JSON interface (%(default)s)")
    arguments = parser.parse_args()
    pins = locked(LOCK.read_text())
    names = {canonicalize_name(name) for name in arguments.packages}
    if strange := names - {name for name, _ in pins}:
        parser.error(f"not in requirements.lock: {', '.join(sorted(strange))}")
    explanations = json.loads(EXPLANATIONS.read_text())
    faults, unknown = outdated(explanations, pins), []
    for name, version in sorted(pins):
        if names and name not in names:
            continue
        try:
            found = vulnerabilities(arguments.index, name, version)
        except requests.RequestException as error:
            unknown.append(f"{name} {version}: unknown, no answer from {arguments.index}: {error}")
            continue
        if found is None:
            unknown.append(f"{name} {version}: unknown, {arguments.index} has no information about this version.")
        else:
            faults += unexplained(explanations, name, version, found)
    lines = faults + unknown
    print("\n".join(lines) or "Every advisory is explained.", file=sys.stderr if lines else sys.stdout)
    return 1 if faults else 3 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
