import os
import signal
import subprocess
import sys
import time

from d2lcls.machine.child import ChildFailed, in_child

import psutil
import pytest


def test_a_child_returns_what_the_function_returns():
    assert in_child(divmod, 7, 3) == (2, 1) and in_child(os.getpid) != os.getpid()


def test_a_child_raises_what_the_function_raises():
    with pytest.raises(ZeroDivisionError, match="by zero"):
        in_child(divmod, 1, 0)


def test_a_crash_is_one_sentence_and_a_hang_has_an_end():
    with pytest.raises(ChildFailed, match=r"^Aborting failed: killed by SIGABRT \(Aborted\)$"):
        in_child(os.abort, what="Aborting")
    with pytest.raises(ChildFailed, match="^A child process failed: no answer in 0.1 seconds$"):
        in_child(time.sleep, 60, timeout=0.1)


def test_ctrl_c_ends_the_child_too(tmp_path):
    (tmp_path / "child.py").write_text("import os, time; open('started', 'w').write(str(os.getpid())); time.sleep(60)")
    code = "import runpy; from d2lcls.machine.child import in_child; in_child(runpy.run_path, 'child.py')"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists() or not (tmp_path / "started").read_text():
        time.sleep(0.05)
        assert parent.poll() is None
    parent.send_signal(signal.SIGINT)  # to the parent alone, as Jupyter does it
    assert "KeyboardInterrupt" in parent.communicate(timeout=60)[1]
    assert not psutil.pid_exists(int((tmp_path / "started").read_text()))
