"""The workflows run only actions that a commit pins, with the least permissions."""

import re
from pathlib import Path

import pytest
import yaml

WORKFLOWS = sorted((Path(__file__).parents[2] / ".github/workflows").glob("*.y*ml"))


def faults(text):
    """Return what is wrong with the text of a workflow: a list of sentences."""
    workflow = yaml.safe_load(text)
    found = []
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("the top level needs `permissions: contents: read`")
    for name, job in workflow["jobs"].items():
        steps = job.get("steps", [])
        for action in [job.get("uses"), *(step.get("uses") for step in steps)]:
            if action is None or action.startswith("./"):
                continue
            if not re.search(rf"uses: {re.escape(action)} # v\d+\.\d+\.\d+$", text, re.M):
                found.append(f"{name}: {action} needs its version as a comment")
            if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action):
                found.append(f"{name}: {action} is not pinned by a commit")
        permissions = job.get("permissions", {})
        if not isinstance(permissions, dict):
            found.append(f"{name}: permissions must be named one by one")
        elif "write" in permissions.values() and any("run" in step or "checkout" in step["uses"] for step in steps):
            found.append(f"{name}: a job that runs the repository's code must not have write permissions")
        for step in steps:
            checkout = step.get("uses", "").startswith("actions/checkout@")
            if checkout and step.get("with", {}).get("persist-credentials") is not False:
                found.append(f"{name}: checkout needs persist-credentials: false")
    if {"pull_request_target", "workflow_run"} & set(workflow[True]):  # YAML 1.1 reads `on` as true
        found.append("strangers' pull requests must not run with the repository's permissions")
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_and_permissions_are_few(path):
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (r"checkout@[0-9a-f]{40} # v\S+", "checkout@v4", "is not pinned by a commit"),
        (r"cache@[0-9a-f]{40}", "cache@main", "is not pinned by a commit"),
        (r"(setup-python@[0-9a-f]{39})[0-9a-f]", r"\1", "is not pinned by a commit"),
        (r" # v4\.2\.2", "", "needs its version as a comment"),
        (r"permissions:\n  contents: read\n", "", "the top level needs"),
        (r"contents: read", "contents: write", "the top level needs"),
        (r"persist-credentials: false", "fetch-depth: 0", "persist-credentials"),
        (r"    timeout-minutes", "    permissions: write-all\n    timeout-minutes", "one by one"),
        (r"    timeout-minutes", "    permissions: {contents: write}\n    timeout-minutes", "must not have write"),
        (r"  pull_request:", "  pull_request_target:", "strangers' pull requests"),
    ],
)
def test_a_fault_in_a_workflow_is_found(old, new, expected):
    text = WORKFLOWS[0].read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    assert any(expected in fault for fault in faults(changed)), faults(changed)
