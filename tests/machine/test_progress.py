import io
import sys
import time

from d2lcls.machine.progress import Progress, Stopwatch, display_mode

import pytest


def test_terminal_line_shows_time_left_text_and_memory_and_is_cleared(monkeypatch, capsys):
    monkeypatch.setenv("D2LCLS_PROGRESS", "terminal")
    with Progress(10) as progress:
        progress.update(10, "loss 1.500, 900 images/s")
        progress.clear()
        print("epoch 1", flush=True)
    out, err = capsys.readouterr()
    assert out == "epoch 1\n"
    assert "10/10" in err and "<00:00" in err and "loss 1.500, 900 images/s" in err and "GiB" in err
    assert err.rstrip(" ").endswith("\r")


def test_a_resumed_run_is_timed_from_where_it_resumed(monkeypatch, capsys):
    monkeypatch.setenv("D2LCLS_PROGRESS", "terminal")
    with Progress(100, done=90) as progress:
        progress.begun -= 10  # ten seconds for one step
        progress.shown = 0
        progress.update(91, "")
    assert "<01:" in capsys.readouterr().err  # nine steps are left: a minute and a half


@pytest.mark.parametrize("mode", ["off", "terminal"])
def test_not_verbose_shows_nothing(monkeypatch, capsys, mode):
    monkeypatch.setenv("D2LCLS_PROGRESS", mode)
    with Progress(10, verbose=False) as progress:
        progress.update(10, "loss")
        progress.clear()
    assert capsys.readouterr() == ("", "")


def test_off_still_prints_lines_that_stay(capsys):
    with Progress(10) as progress:
        progress.update(10, "loss")
        progress.clear()
        print("epoch 1", flush=True)
    assert capsys.readouterr() == ("epoch 1\n", "")


def test_where_progress_can_be_shown(monkeypatch):
    monkeypatch.delenv("D2LCLS_PROGRESS")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert display_mode() == "off"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert display_mode() == "terminal"
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert display_mode() == "notebook"
    monkeypatch.setenv("D2LCLS_PROGRESS", "loud")
    with pytest.raises(ValueError, match="off, terminal or notebook, not 'loud'"):
        display_mode()


def test_a_notebook_shows_the_line_and_clears_it():
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source)
            for source in (
                "import os; os.environ['D2LCLS_PROGRESS'] = 'notebook'\n"
                "from d2lcls.machine.progress import Progress\n"
                "progress = Progress(10)\nprogress.update(9, 'loss 1.500')\nprogress.shown = 0\n"
                "progress.update(10, 'loss 1.400')",
                "progress.__exit__()",
            )
        ]
    )
    client = NotebookClient(notebook, kernel_name="python3")
    with client.setup_kernel():
        client.execute_cell(notebook.cells[0], 0)
        (shown,) = notebook.cells[0].outputs
        assert "10/10" in shown.data["text/plain"] and "loss 1.400" in shown.data["text/plain"]
        client.execute_cell(notebook.cells[1], 1)
    assert [o.data["text/plain"] for o in notebook.cells[0].outputs] == [""]


def test_the_watch_runs_while_items_are_awaited():
    def slow():
        for number in range(3):
            time.sleep(0.05)
            yield number

    watch, items = Stopwatch(), slow()
    for _ in watch.over(items):
        time.sleep(0.2)
    assert 0.15 <= watch.seconds < 0.5 and next(items, None) is None
