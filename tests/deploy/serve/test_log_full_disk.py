"""A log whose disk is full stops nothing and does not change the exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import os
from d2lcls.deploy.serve.logs import json_log, log
with json_log():
    for _ in range(int(os.environ["LINES"])):
        log.info("event", {"text": "x" * 100})
    os.write(2, b"printed by a library\\n")
print("stopped")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is part of Linux")
@pytest.mark.parametrize("lines", ["0", "1", "1000"])
def test_a_full_disk_under_the_log_is_no_failure(lines):
    with open("/dev/full", "wb") as full:
        child = subprocess.run(
            [sys.executable, "-c", CHILD],
            env={**os.environ, "LINES": lines},
            stderr=full,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert (child.stdout, child.returncode) == ("stopped\n", 0)
