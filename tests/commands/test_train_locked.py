"""Two trainings with one folder: the second is refused at once, in one line."""

import signal
import subprocess
import sys
import time

import pytest

TRAIN = [sys.executable, "-c", "import sys; from d2lcls.cli import main; sys.exit(main())", "train"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")  # trains on the sample


@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_the_second_training_is_refused(tmp_path, options):
    command = [*TRAIN, "--out", str(tmp_path / "run"), "--epochs", "50", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            deadline = time.monotonic() + 30
            while not (tmp_path / "run" / ".lock.pid").exists():
                assert first.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            second = subprocess.run(command, capture_output=True, text=True)
        finally:
            first.send_signal(signal.SIGKILL)
    assert second.returncode == 1 and second.stderr.count("\n") == 1
    assert f"{tmp_path / 'run'}: process {first.pid} is writing into this folder" in second.stderr
