"""Time limits for every test and every notebook cell: nothing hangs, and a crash is reported with the test's name.

pytest-timeout makes a test fail after `timeout` seconds (pyproject.toml, or its marker). This file handles what that
cannot: C code that never returns, a teardown that hangs, a kernel that died, processes left behind.
"""

import faulthandler
import os
import queue
import shutil
import time

import psutil
import pytest

STDERR, LIMIT = pytest.StashKey[int](), pytest.StashKey[float]()


def pytest_configure(config):
    config.stash[STDERR] = os.dup(2)  # a copy, because 2 is captured while a test runs
    nbval = config.pluginmanager.get_plugin("nbval")
    if nbval:
        nbval.RunningKernel.get_message = _noticing_death(nbval.RunningKernel.get_message)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item, settings):
    """Let faulthandler print the stack of a test's process and end it after 1.5 times the test's limit."""
    item.stash[LIMIT] = 1.5 * settings.timeout
    _end_process_later(item)
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node):
    """Limit the teardown of a test that failed: pytest and pytest-timeout have cancelled their limits by then."""
    if LIMIT in node.stash:
        _end_process_later(node)


def pytest_runtest_logfinish():
    faulthandler.cancel_dump_traceback_later()


def _end_process_later(item):
    faulthandler.dump_traceback_later(item.stash[LIMIT], exit=True, file=item.config.stash[STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Kill the processes that a failed test has started and left behind. (Fixtures stop their own.)"""
    try:
        return (yield)
    except BaseException:
        name = "PYTEST_CURRENT_TEST"  # pytest sets another value for the setup, call and teardown of every test
        _kill(psutil.Process().children(recursive=True), {name: os.environ[name]})
        raise


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Kill the processes that the tests of a crashed worker have started."""
    if error:
        _kill(
            psutil.process_iter(),
            {
                "PYTEST_XDIST_TESTRUNUID": node.workerinput["testrunuid"],
                "PYTEST_XDIST_WORKER": node.workerinput["workerid"],
            },
        )


def _kill(processes, started_with):
    for process in processes:
        try:
            if started_with.items() <= process.environ().items():
                process.kill()
        except psutil.Error:
            pass  # it has ended, or belongs to another user


def pytest_runtest_setup(item):
    if item.path.name == "phones-and-edge.ipynb" and not shutil.which("g++"):
        pytest.skip("g++ is not installed: apt install g++")
    if getattr(item.parent, "timed_out", False):  # a notebook
        pytest.skip("An earlier cell of this notebook exceeded its time limit.")


def _noticing_death(get_message):
    """Wrap nbval's method that waits for a message of the kernel."""

    def wait(kernel, stream, timeout):
        end = time.monotonic() + timeout
        while True:
            try:
                return get_message(kernel, stream, min(timeout, 1))
            except queue.Empty:
                if not kernel.is_alive():
                    code = kernel.km.provisioner.process.returncode
                    raise RuntimeError(f"The kernel died in this cell, with exit status {code}.") from None
                if time.monotonic() >= end:
                    raise

    return wait
