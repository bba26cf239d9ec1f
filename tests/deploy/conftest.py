import shutil

from d2lcls.data import Preprocess
from d2lcls.deploy.exporting import export
from d2lcls.models import get_model, set_image_size

import mxnet as mx
import numpy as np
import pytest

SIZE = 16


@pytest.fixture(scope="session")
def preprocess():
    return Preprocess(SIZE, SIZE, (0.5, 0.45, 0.4), (0.25, 0.25, 0.3), "bilinear")


@pytest.fixture(scope="session")
def examples(preprocess):
    """Inputs (64, 3, 16, 16) made of pictures, not of noise: waves of all directions."""
    y, x = np.mgrid[:SIZE, :SIZE]
    rng = np.random.default_rng(0)
    waves = [
        np.sin(a * x + b * y + c)[..., None] * colour
        for a, b, c, colour in zip(
            *rng.uniform(-1, 1, (2, 64)), rng.uniform(0, 6, 64), rng.uniform(0, 1, (64, 1, 1, 3))
        )
    ]
    return preprocess.normalise((127 + 127 * np.stack(waves)).astype(np.uint8))


@pytest.fixture(scope="session")
def network():
    """A function from a name to a network whose weights and running statistics are all drawn."""
    return _network


def _network(name="cnn", classes=3):
    mx.random.seed(1)
    net = get_model(name, classes=classes)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    set_image_size(net, SIZE, SIZE)
    net(mx.nd.zeros((1, 3, SIZE, SIZE)))
    rng = np.random.default_rng(2)
    for parameter in net.collect_params().values():
        if len(parameter.shape) == 1:
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
    return net


@pytest.fixture(scope="session")
def model(tmp_path_factory, preprocess):
    """A model folder of form mxnet; tests must not write into it."""
    folder = tmp_path_factory.mktemp("models") / "cnn"
    export(_network(), folder, "cnn", ("top", "middle", "bottom"), preprocess, "shapes")
    return folder


@pytest.fixture(scope="session")
def compiler():
    """Skip tests that link what TVM has compiled where there is nothing to link with."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed: apt install g++")
