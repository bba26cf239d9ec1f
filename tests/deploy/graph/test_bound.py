import threading

from d2lcls.deploy.graph import bound
from d2lcls.models.fusion.fused import assemble, quantize_graph, trace

import mxnet as mx
import numpy as np
import pytest

GRAPHS = [
    ("cnn", False),
    ("cnn", True),
    ("cifar_resnet20_v1", True),
    ("mobilenetv2_0.25", False),
    ("mobilenetv2_0.25", True),
]


@pytest.fixture(scope="module", params=GRAPHS, ids=str)
def graph(request, network, examples):
    name, int8 = request.param
    found = trace(network(name))
    return quantize_graph(*found, examples) if int8 else found


def test_every_batch_size_gets_the_answers_of_a_block(graph, examples):
    net, compute = assemble(*graph), bound.bind(*graph)
    for count in (3, 64, 1, 3, 64):
        for part in (examples[:count], examples[-count:]):
            expected = net(mx.nd.array(part)).asnumpy()
            np.testing.assert_allclose(compute(part), expected, atol=1e-5 * np.abs(expected).max())


def test_many_batch_sizes_keep_few_executors(graph, examples, monkeypatch):
    monkeypatch.setattr(bound, "MAX_EXECUTORS", 2)
    compute = bound.bind(*graph)
    expected = compute(examples)
    for count in (1, 2, 3, 4, 1, 64):
        np.testing.assert_allclose(compute(examples[:count]), expected[:count], atol=1e-5 * np.abs(expected).max())
    executors = compute.__closure__[compute.__code__.co_freevars.index("executors")].cell_contents
    assert [shape[0] for shape in executors] == [1, 64]


def test_threads_do_not_get_each_other_s_answers(graph, examples):
    compute, wrong = bound.bind(*graph), []
    expected = {place: compute(examples[place : place + 2]) for place in range(0, 8, 2)}

    def ask(place):
        for _ in range(50):
            if (compute(examples[place : place + 2]) != expected[place]).any():
                wrong.append(place)

    threads = [threading.Thread(target=ask, args=(place,)) for place in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
