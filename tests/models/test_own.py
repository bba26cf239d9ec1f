"""Networks of one's own, by the name of a class in a module."""

import itertools
import subprocess
import sys
from pathlib import Path

from d2lcls.models import get_model
from d2lcls.models.own import check_logits
from d2lcls.models.zoo import model_name

import mxnet as mx
import pytest

NUMBERS = itertools.count()
NET = """
from mxnet import gluon
from mxnet.gluon import nn

class Net(gluon.HybridBlock):
    def __init__(self, {signature}):
        super().__init__()
        self.features = nn.HybridSequential()
        self.features.add(nn.Conv2D({width}, 3), nn.BatchNorm(), nn.Activation("relu"))
        self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())
        self.output = nn.Dense({outputs})

    def hybrid_forward(self, F, x):
        return {result}
"""


@pytest.fixture(autouse=True)
def own_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])


def module(text):
    """Write a module into the current folder and return its name, which no other test has."""
    name = f"own{next(NUMBERS)}"
    Path(f"{name}.py").write_text(text)
    return name


def net_module(signature="classes", width=4, outputs="classes", result="self.output(self.features(x))"):
    return module(NET.format(signature=signature, width=width, outputs=outputs, result=result))


@pytest.mark.parametrize(
    "signature, outputs",
    [
        ("classes", "classes"),
        ("width=3, classes=10", "classes"),
        ("width=3, *, classes", "classes"),
        ("num_classes", "num_classes"),
        ("n=10, width=3", "n"),
        ("n, /", "n"),
    ],
)
def test_the_number_of_classes_is_given_by_name_or_first(signature, outputs):
    name = f"{net_module(signature, outputs=outputs)}:Net"
    net = get_model(name, classes=7)
    net.initialize()
    assert net(mx.nd.zeros((2, 3, 8, 8))).shape == (2, 7)
    check_logits(net, name, (2, 3, 8, 8), 7)


def test_a_function_and_a_module_in_a_package_will_do():
    Path("package").mkdir()
    Path("package/nets.py").write_text(
        NET.format(signature="classes", width=4, outputs="classes", result="self.output(self.features(x))")
        + "\ndef make(classes, wide=False):\n    return Net(classes)\n"
    )
    assert type(get_model("package.nets:make", 3)).__name__ == "Net"
    assert type(get_model("package.nets:make", 3, wide=True)).__name__ == "Net"


def test_names_of_classes_keep_their_case():
    assert model_name("Package:Net") == "Package:Net" and model_name("CNN") == "cnn"


@pytest.mark.parametrize(
    "text, attribute, message",
    [
        (
            NET.format(signature="", width=4, outputs=3, result="x"),
            "Net",
            r"its parameters are \(\); expected one called",
        ),
        (
            NET.format(signature="prefix=None, params=None", width=4, outputs=3, result="x"),
            "Net",
            r"its parameters are \(prefix=None, params=None\); expected one called classes, or the number",
        ),
        (NET.format(signature="classes, width", width=4, outputs=3, result="x"), "Net", "missing.* 'width'"),
        ("def make(classes):\n    return 3", "make", "expected a gluon.HybridBlock, but it made an object of type int"),
        (
            "from mxnet import gluon\nclass Net(gluon.Block):\n  def __init__(self, classes):\n    super().__init__()",
            "Net",
            "expected a gluon.HybridBlock, but it made an object of type Net",
        ),
        (
            "def make(classes):\n    return 1 / 0",
            "make",
            r"making the network failed: ZeroDivisionError: .*py, line 2\)",
        ),
        ("import nowhere_at_all", "Net", "importing the module failed: ModuleNotFoundError: .*nowhere_at_all.*line 1"),
        ("def broken(:", "Net", "importing the module failed: SyntaxError"),
        ("Net = 3", "Net", "the module own[0-9]+ has no class Net"),
        ("", "Net", "the module own[0-9]+ has no class Net"),
        (
            NET.format(signature="classes", width=4, outputs=3, result="x.reshape((x.shape[0], 3))"),
            "Net",
            "cannot be traced as a graph, as every HybridBlock must: AttributeError",
        ),
        (
            NET.format(signature="classes", width=4, outputs=3, result="(x, x)"),
            "Net",
            "expected a network with one output",
        ),
        (
            NET.format(signature="classes", width=4, outputs=3, result="F.linalg.det(x)"),
            "Net",
            "a trained run of this network could not be loaded: node .*_linalg_det",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(text, attribute, message):
    name = module(text)
    with pytest.raises(ValueError, match=message) as caught:
        get_model(f"{name}:{attribute}", 3)
    assert str(caught.value).startswith(f"{name}:{attribute}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere_at_all:Net", "there is no module nowhere_at_all in the current folder or on Python's path"),
        ("nowhere_at_all.nets:Net", "there is no module nowhere_at_all in the current folder"),
        ("os.path.nowhere:Net", "there is no module os.path.nowhere"),
        ("../nets:Net", "is not of the form package.module:Class"),
        ("nets:", "is not of the form package.module:Class"),
        (":Net", "is not of the form package.module:Class"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(ValueError, match=message):
        get_model(name, 3)


def test_other_outputs_than_asked_for_are_named():
    name = f"{net_module(outputs='5')}:Net"
    with pytest.raises(ValueError, match=r"expected logits of shape \(2, 3\) for images .* got \(2, 5\)"):
        check_logits(get_model(name, 3), name, (2, 3, 8, 8), 3)


def test_the_current_folder_is_searched_by_the_command_too():
    """`python -m d2lcls` has it on its path, the command `d2lcls` has not."""
    name = net_module()
    code = (
        f"import sys; sys.path.remove(''); import d2lcls; from d2lcls.models import get_model; get_model('{name}:Net')"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
