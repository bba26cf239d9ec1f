"""What the book's notebooks need besides the subject: their scale, source code shown, exercises checked."""

import inspect
import os
import textwrap

SCALES = ("smoke", "lesson", "full")


def scale():
    """Return how much work a notebook should do, from the environment variable `D2LCLS_SCALE`.

    "smoke" takes seconds and only shows that the code runs; "lesson", the default, takes minutes on two cores;
    "full" is the recipe at its real length.

    Raises:
        ValueError: the variable holds something else.
    """
    found = os.environ.get("D2LCLS_SCALE", "lesson")
    if found not in SCALES:
        raise ValueError(f"D2LCLS_SCALE must be one of {', '.join(SCALES)}, not {found!r}.")
    return found


def by_scale(smoke, lesson, full):
    """Return the argument that is named like the present `scale`."""
    return {"smoke": smoke, "lesson": lesson, "full": full}[scale()]


class Source:
    """Source code that a notebook displays as such."""

    def __init__(self, code):
        self.code = code

    def __repr__(self):
        return self.code

    def _repr_markdown_(self):
        return f"```python\n{self.code}\n```"


def show_source(thing):
    """Return the source of a function or class of the package, to be displayed: what you read is what runs."""
    return Source(textwrap.dedent(inspect.getsource(thing)).rstrip())


def check(answer, test, hint):
    """Check an answer to an exercise and print the verdict.

    Args:
        answer: what the reader made: a value or a function; None or ... while it is not there.
        test: function that gets the answer and returns whether it is right; may raise, which counts as wrong.
        hint: a sentence for those who are not there yet.

    Returns:
        bool, whether the answer is right.
    """
    if answer is None or answer is ...:
        print("Not answered yet.")
        return False
    try:
        right = bool(test(answer))
    except Exception as error:  # whatever the reader's code raises is part of the verdict
        print(f"Not yet: it raises {type(error).__name__}: {error}. {hint}")
        return False
    print("Right." if right else f"Not yet. {hint}")
    return right
