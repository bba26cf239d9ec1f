import sys

from d2lcls.deploy.timing import Sleeper, command_of, in_turn

import numpy as np
import pytest

SLOW = """
import sys, time
from d2lcls.deploy.timing import answer
import numpy
def run(x):
    time.sleep(float(sys.argv[1]) * len(x))
    open(sys.argv[2], "a").write(sys.argv[1] + " ")
answer(run, numpy.zeros((2, 3, 4, 4)))
"""


def test_turns_and_times(tmp_path):
    commands = {name: [sys.executable, "-c", SLOW, name, tmp_path / "log"] for name in ("0.01", "0.03")}
    times = in_turn(commands, batch_sizes=(1, 4), rounds=3, starts=2)
    for size in (1, 4):
        for name in commands:
            assert len(times[size][name]) == 3
            assert all(1000 * float(name) * size <= ms < 1000 * float(name) * size + 30 for ms in times[size][name])
    log = (tmp_path / "log").read_text().split()
    turns = [name for index, name in enumerate(log) if not index or log[index - 1] != name]
    assert len(turns) >= 9  # one after the other, again and again


def test_no_more_starts_than_rounds(tmp_path):
    started = f"open({str(tmp_path / 'log')!r}, 'a').write('x')\n{SLOW}"
    in_turn({"a": [sys.executable, "-c", started, "0", tmp_path / "turns"]}, batch_sizes=(1,), rounds=1)
    assert (tmp_path / "log").read_text() == "x"


def test_a_model_is_timed(model, examples, tmp_path):
    np.save(tmp_path / "x.npy", examples[:4])
    sleeper = Sleeper(command_of(model, tmp_path / "x.npy"))
    assert 0 < sleeper.milliseconds(1) < 1000 and 0 < sleeper.milliseconds(64) < 5000
    sleeper.close()


def test_a_process_that_ends_says_why(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 16, 16), np.float32))
    with pytest.raises(RuntimeError, match="holds no manifest.json"):
        Sleeper(command_of(tmp_path, tmp_path / "x.npy"))
