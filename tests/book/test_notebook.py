from d2lcls.book import notebook
from d2lcls.data import cutout
from d2lcls.models import GlobalMean

import numpy as np
import pytest


@pytest.mark.parametrize("value, expected", [("smoke", 1), ("lesson", 2), ("full", 3)])
def test_the_environment_decides_the_scale(monkeypatch, value, expected):
    monkeypatch.setenv("D2LCLS_SCALE", value)
    assert notebook.scale() == value and notebook.by_scale(smoke=1, lesson=2, full=3) == expected


def test_the_scale_is_lesson_by_itself(monkeypatch):
    monkeypatch.delenv("D2LCLS_SCALE", raising=False)
    assert notebook.scale() == "lesson" and notebook.by_scale(1, 2, 3) == 2


def test_an_unknown_scale_is_named(monkeypatch):
    monkeypatch.setenv("D2LCLS_SCALE", "tiny")
    with pytest.raises(ValueError, match="D2LCLS_SCALE must be one of smoke, lesson, full, not 'tiny'"):
        notebook.by_scale(1, 2, 3)


def test_source_of_functions_and_classes_is_shown():
    shown = notebook.show_source(cutout)
    assert repr(shown).startswith("def cutout(size: int = 8, fill: int = 128) -> Transform:\n") and repr(
        shown
    ).endswith("return transform")
    assert shown._repr_markdown_() == f"```python\n{shown!r}\n```"
    assert repr(notebook.show_source(GlobalMean)).startswith("class GlobalMean(")


def test_source_of_methods_is_moved_to_the_margin():
    code = repr(notebook.show_source(GlobalMean.hybrid_forward))
    assert code.startswith("def hybrid_forward(self, F: Any, x: Any) -> Any:\n    ")
    compile(code, "shown", "exec")


def test_answers_are_checked(capsys):
    assert notebook.check(6 * 7, lambda answer: answer == 42, "Think.") is True
    assert notebook.check(41, lambda answer: answer == 42, "Think again.") is False
    assert notebook.check(0, lambda answer: answer == 0, "Nought is an answer.") is True
    assert capsys.readouterr().out.splitlines() == ["Right.", "Not yet. Think again.", "Right."]


@pytest.mark.parametrize("missing", [None, ...])
def test_a_missing_answer_is_not_wrong(capsys, missing):
    assert notebook.check(missing, lambda answer: 1 / 0, "Think.") is False
    assert capsys.readouterr().out == "Not answered yet.\n"


def test_a_function_that_is_not_written_yet_is_not_wrong(capsys):
    def unwritten(x):
        return ...

    assert notebook.check(unwritten, lambda answer: answer(1) == 1, "Think.") is False
    assert capsys.readouterr().out == "Not answered yet.\n"


def test_a_block_that_is_not_written_yet_is_not_wrong(capsys):
    from mxnet import gluon, nd

    class Unwritten(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return ...

    class Twice(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return 2 * x

    def doubles(block_class):
        return block_class()(nd.ones(1)).asscalar() == 2

    assert notebook.check(Unwritten, doubles, "Think.") is False
    assert notebook.check(Twice, doubles, "Think.") is True
    assert capsys.readouterr().out.splitlines() == ["Not answered yet.", "Right."]


def test_what_the_answer_raises_is_told(capsys):
    assert notebook.check(lambda x: x / 0, lambda answer: answer(1) == 1, "Mind zero.") is False
    assert capsys.readouterr().out == "Not yet: it raises ZeroDivisionError: division by zero. Mind zero.\n"


def test_arrays_are_answers(capsys):
    import numpy as np

    assert notebook.check(np.zeros(3), lambda answer: (answer == 0).all(), "Zeros.") is True
    assert notebook.check(np.ones(3), lambda answer: (answer == 0).all(), "Zeros.") is False


def test_the_example_is_trained_once_for_each_scale(monkeypatch, tmp_path, capsys):
    from d2lcls.deploy import load_model, read_manifest

    monkeypatch.setenv("D2LCLS_HOME", str(tmp_path))
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    monkeypatch.setenv("D2LCLS_SCALE", "smoke")
    folder = notebook.example_model()
    assert folder == tmp_path / "models/cnn-sample-smoke" and "sample" in capsys.readouterr().out
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.form, manifest.dataset, manifest.accuracy.images) == (
        "cnn",
        "mxnet",
        "cifar10",
        300,
    )
    assert load_model(folder).logits([np.zeros((40, 30, 3), np.uint8)]).shape == (1, 10)
    written = (folder / "manifest.json").stat().st_mtime_ns
    assert notebook.example_model() == folder and (folder / "manifest.json").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing half made is left
