"""`d2lcls doctor`: check what commonly goes wrong."""

from __future__ import annotations

import argparse

from d2lcls.commands.parsers import Command


def add(command: Command) -> None:
    """Add the command to the parser."""
    doctor = command(
        "doctor", _examine, "Check what commonly goes wrong; exit code 1 on a problem.", "d2lcls doctor --json"
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")


def _examine(options: argparse.Namespace) -> int:
    from d2lcls.data.download import catalog
    from d2lcls.machine import doctor

    findings = doctor.examine(catalog.hosts())
    print(doctor.as_json(findings) if options.json else doctor.report(findings))
    return 1 if any(finding.status == "problem" for finding in findings) else 0
