"""Calling a function in a process of its own, for what may crash the process that runs it, such as new machine code."""

import pickle
import tempfile
from pathlib import Path

from d2lcls.machine.devices import child_failure, start_child

_CALL = """
import pickle, sys
from pathlib import Path
folder = Path(sys.argv[1])
function, arguments = pickle.loads((folder / "call").read_bytes())
try:
    answer = function(*arguments), None
except Exception as error:
    answer = None, error
(folder / "answer").write_bytes(pickle.dumps(answer))
"""


class ChildFailed(RuntimeError):
    """A child process ended without an answer: "Tuning failed: killed by SIGILL (Illegal instruction)"."""


def in_child(function, *arguments, what="A child process", timeout=600):
    """Call a function in a new process and return what it returns.

    Args:
        function: of a module; it and its arguments, and what it returns or raises, must be such that pickle takes them.
        arguments: its arguments.
        what: the beginning of the message if it fails.
        timeout: seconds to wait for it.

    Raises:
        ChildFailed: the process crashed, or gave no answer in time.
        Exception: what the function raises.
    """
    with tempfile.TemporaryDirectory() as work:
        Path(work, "call").write_bytes(pickle.dumps((function, arguments)))
        failure = child_failure(start_child(_CALL, work), timeout)
        if failure:
            raise ChildFailed(f"{what} failed: {failure}")
        answer, error = pickle.loads(Path(work, "answer").read_bytes())
    if error:
        raise error
    return answer
