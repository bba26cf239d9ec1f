"""Call a function in a separate process, for code that may crash, such as newly compiled machine code."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from d2lcls.machine.devices import child_failure, start_child
from d2lcls.machine.temporary import temporary_folder

T = TypeVar("T")

_CALL = """
import pickle, sys
from pathlib import Path
folder = Path(sys.argv[1])
function, arguments = pickle.loads((folder / "call").read_bytes())
try:
    result = function(*arguments), None
except Exception as error:
    result = None, error
(folder / "result").write_bytes(pickle.dumps(result))
"""


class ChildFailed(RuntimeError):
    """A child process ended without a result, as in "Tuning failed: killed by SIGILL (Illegal instruction)"."""


def in_child(function: Callable[..., T], *arguments: Any, what: str = "A child process", timeout: float = 600) -> T:
    """Call a function in a new process and return what it returns.

    Args:
        function: a function of a module; pickle must be able to store it, its arguments, its result and its exceptions.
        arguments: the function's arguments.
        what: the beginning of the message when the process fails.
        timeout: seconds.

    Raises:
        ChildFailed: the process crashed, or did not end in time.
        Exception: any exception of the function.
    """
    with temporary_folder() as work:
        Path(work, "call").write_bytes(pickle.dumps((function, arguments)))
        failure = child_failure(start_child(_CALL, str(work)), timeout)
        if failure:
            raise ChildFailed(f"{what} failed: {failure}")
        result, error = pickle.loads(Path(work, "result").read_bytes())
    if error:
        raise error
    return result
