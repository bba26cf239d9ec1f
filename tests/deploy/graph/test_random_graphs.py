"""Small random graphs whose layers have several readers: every way to compute one gives what its operators give."""

from typing import NamedTuple

from d2lcls.data import Preprocess
from d2lcls.deploy.exporting import read_graph, save_graph
from d2lcls.deploy.graph.bound import bind
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.deploy.manifest import Manifest, write_manifest
from d2lcls.deploy.rescue.load import build_old_model
from d2lcls.models.fusion.folding import fold_batch_norm, fold_constants
from d2lcls.models.fusion.fused import assemble, fuse_graph, quantize_graph
from d2lcls.models.fusion.unfused import run

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd

CHANNELS, SIDE, CLASSES = 4, 6, 5
ACTIVATIONS = [
    *(("Activation", {"act_type": name}) for name in ("relu", "relu", "relu", "sigmoid", "tanh", "softrelu")),
    *(("LeakyReLU", {"act_type": name}) for name in ("leaky", "prelu", "elu", "gelu")),
    ("clip", {"a_min": 0, "a_max": 1}),
    ("clip", {"a_min": -1, "a_max": 1}),
    ("abs", {}),
    ("square", {}),
]


class Step(NamedTuple):
    """An operator, or a variable (`op` is "var"); `inputs` are places of earlier steps."""

    op: str
    inputs: tuple
    attributes: dict


class Program(NamedTuple):
    """Steps and the places of the outputs, the first of them logits (N, 5); arrays by the names of variables."""

    steps: list
    heads: list
    x: np.ndarray  # (2, 3, 6, 6)
    arguments: dict
    statistics: dict

    def truth(self):
        """Return the outputs, computed one operator at a time."""
        arrays = {"data": self.x, **self.arguments, **self.statistics}
        values = {name: nd.array(array) for name, array in arrays.items()}
        return [array.asnumpy() for array in self._made(nd, values.get)]

    def graph(self):
        """Return (symbol, arguments, statistics); several outputs are a group."""
        symbol = mx.sym.Group(self._made(mx.sym, mx.sym.var))
        return (
            symbol,
            {name: nd.array(self.arguments[name]) for name in symbol.list_arguments() if name != "data"},
            {name: nd.array(self.statistics[name]) for name in symbol.list_auxiliary_states()},
        )

    def _made(self, package, variable):
        made = []
        for place, step in enumerate(self.steps):
            inputs = [made[before] for before in step.inputs]
            made.append(
                variable(step.attributes["name"])
                if step.op == "var"
                else getattr(package, step.op)(*inputs, **step.attributes, name=f"{step.op.lower()}{place}")
            )
        return [made[place] for place in self.heads]


class Drawing:
    """A program in the making."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.steps, self.arguments, self.statistics = [Step("var", (), {"name": "data"})], {}, {}
        self.channels = {0: 3}  # place -> channels, of all that is as wide and high as the input

    def variable(self, kind, shape, low=None, high=None, statistic=False):
        arrays = self.statistics if statistic else self.arguments
        names = [step.attributes["name"] if step.op == "var" else "" for step in self.steps]
        same = [place for place, name in enumerate(names) if name.startswith(kind) and arrays[name].shape == shape]
        if same and kind != "gamma" and self.rng.random() < 0.05:  # two layers share it; MXNet writes some gammas
            return same[-1]
        name = f"{kind}{len(self.steps)}"
        arrays[name] = (
            self.rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
            if low is None
            else self.rng.uniform(low, high, shape)
        ).astype(np.float32)
        return self.add("var", name=name)

    def add(self, op, *inputs, channels=None, **attributes):
        self.steps.append(Step(op, inputs, attributes))
        if channels:
            self.channels[len(self.steps) - 1] = channels
        return len(self.steps) - 1

    def convolution(self, source):
        channels, side = self.channels[source], self.rng.choice([1, 3])
        depthwise = self.rng.random() < 0.3
        filters, bias = channels if depthwise else CHANNELS, self.rng.random() < 0.5
        inputs = [source, self.variable("weight", (filters, 1 if depthwise else channels, side, side))]
        if bias:
            inputs.append(self.variable("bias", (filters,), -0.5, 0.5))
        self.add(
            "Convolution",
            *inputs,
            channels=filters,
            kernel=(side, side),
            pad=(side // 2,) * 2,
            no_bias=not bias,
            num_filter=filters,
            num_group=channels if depthwise else 1,
        )

    def normalisation(self, source):
        shape = (self.channels[source],)
        self.add(
            "BatchNorm",
            source,
            self.variable("gamma", shape, 0.5, 1.5),
            self.variable("beta", shape, -0.5, 0.5),
            self.variable("mean", shape, -0.5, 0.5, True),
            self.variable("variance", shape, 0.5, 1.5, True),
            channels=shape[0],
            fix_gamma=bool(self.rng.random() < 0.3),
            eps=1e-3,
        )

    def activation(self, source, count):
        """Add one after maps or a dense layer of so many channels; its place."""
        op, attributes = ACTIVATIONS[self.rng.integers(len(ACTIVATIONS))]
        slope = [self.variable("slope", (count,), 0.1, 0.4)] if attributes.get("act_type") == "prelu" else []
        return self.add(op, source, *slope, channels=count if source in self.channels else None, **attributes)

    def pick(self, channels=None):
        """Choose an operand, rather a late one."""
        places = [place for place in self.channels if channels in (None, self.channels[place])]
        return places[max(self.rng.integers(len(places), size=2))]

    def layer(self):
        source, kind = self.pick(), self.rng.random()
        channels = self.channels[source]
        pair = [source, self.pick(channels)][:: self.rng.choice([-1, 1])]
        if kind < 0.28:
            self.convolution(source)
        elif kind < 0.40:
            self.normalisation(source)
        elif kind < 0.58:
            self.activation(source, channels)
        elif kind < 0.80:
            sums = ("elemwise_add",) * 5 + ("broadcast_add", "add_n")
            self.add(sums[self.rng.integers(7)], *pair, channels=channels)
        elif kind < 0.86:
            self.add("elemwise_mul", *pair, channels=channels)
        elif kind < 0.90:
            self.add("Concat", *pair, channels=2 * channels, dim=1)
        elif kind < 0.95:
            self.add(
                "Pooling",
                source,
                channels=channels,
                kernel=(3, 3),
                pad=(1, 1),
                pool_type=("max", "avg")[self.rng.integers(2)],
            )
        else:
            self.add(("identity", "Dropout")[self.rng.integers(2)], source, channels=channels)

    def classifier(self, source):
        pooled = self.add("Pooling", source, global_pool=True, pool_type="avg", kernel=(1, 1))
        row, width = self.add("Flatten", pooled), self.channels[source]
        for _ in range(self.rng.integers(1, 3)):
            row = self.add(
                "FullyConnected",
                row,
                self.variable("weight", (CLASSES, width)),
                self.variable("bias", (CLASSES,), -0.5, 0.5),
                num_hidden=CLASSES,
            )
            width, branches = CLASSES, [row]
            branches += [self.activation(row, CLASSES) for _ in range(self.rng.integers(3))]
            row = branches[-1] if len(branches) < 3 else self.add("elemwise_add", *branches[-2:])
        return row


def draw(seed):
    """Draw a `Program` of 4 to 12 layers and a classifier, two in five with one or two more outputs."""
    drawing = Drawing(seed)
    drawing.convolution(0)
    for _ in range(drawing.rng.integers(3, 12)):
        drawing.layer()
    row = drawing.classifier(max(drawing.channels))
    others = [place for place, step in enumerate(drawing.steps) if step.op != "var" and place != row]
    count = drawing.rng.integers(1, 3) if drawing.rng.random() < 0.4 else 0
    heads = [row, *drawing.rng.choice(others, count, replace=False).tolist()]
    x = drawing.rng.normal(size=(2, 3, SIDE, SIDE)).astype(np.float32)
    return Program(drawing.steps, heads, x, drawing.arguments, drawing.statistics)


def outputs(found):
    return [array.asnumpy() for array in found] if isinstance(found, (list, tuple)) else [found.asnumpy()]


def fused_and_bound(program, folder):
    graph = program.graph()
    return [bind(fuse_graph(graph[0]), *graph[1:])(program.x)]


def fused_and_assembled(program, folder):
    symbol, arguments, statistics = program.graph()
    return outputs(assemble(fuse_graph(symbol), arguments, statistics)(nd.array(program.x)))


def folded(program, folder):
    symbol, arguments, statistics = program.graph()
    symbol, arguments, statistics = fold_batch_norm(*fold_constants(symbol, arguments), statistics)
    return run(symbol, {"data": program.x, **arguments, **statistics})


def exported_and_loaded(program, folder):
    symbol, arguments, statistics = program.graph()
    save_graph(
        folder,
        symbol,
        {f"arg:{name}": value for name, value in arguments.items()},
        {f"aux:{name}": value for name, value in statistics.items()},
    )
    preprocess = Preprocess(SIDE, SIDE, (0.5,) * 3, (0.25,) * 3, "bilinear")
    manifest = Manifest("drawn", "mxnet", tuple("abcde"), preprocess)
    return [read_graph(folder, write_manifest(folder, manifest, ["mxnet"]))(program.x)]


def rescued(program, folder):
    symbol, arguments, statistics = program.graph()
    arrays = {name: value.asnumpy() for name, value in {**arguments, **statistics}.items()}
    model = build_old_model(parse_symbol(symbol.tojson()), arrays, (3, SIDE, SIDE))
    return list(model.run(program.x).values())


def difference(found, expected):
    """Return the largest difference in any output, as a share of its largest value."""
    return max(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6) for a, b in zip(found, expected))


# A warning is an error here, so what `read_graph` gives is fused.
@pytest.mark.parametrize("way", [fused_and_bound, fused_and_assembled, folded, exported_and_loaded, rescued])
@pytest.mark.parametrize(
    "first, count",
    [(0, 200), pytest.param(200, 1800, marks=pytest.mark.slow), pytest.param(10**6, 1000, marks=pytest.mark.slow)],
)
def test_a_graph_computes_what_its_operators_compute(way, first, count, tmp_path):
    wrong = {}
    for seed in range(first, first + count):
        program = draw(seed)
        try:
            largest = difference(way(program, tmp_path), program.truth())
        except mx.MXNetError as error:
            largest = str(error)
        if isinstance(largest, str) or not largest < 1e-5:
            wrong[seed] = largest
    assert not wrong


@pytest.mark.parametrize("first, count", [(0, 60), pytest.param(60, 540, marks=pytest.mark.slow)])
def test_a_graph_in_int8_computes_nearly_the_same(first, count):
    wrong = {}
    for seed in range(first, first + count):
        symbol, arguments, statistics = draw(seed).graph()
        x = np.random.default_rng(seed).normal(size=(32, 3, SIDE, SIDE)).astype(np.float32)
        expected = run(symbol, {"data": x, **arguments, **statistics})
        try:
            quantised, *values = quantize_graph(symbol, arguments, statistics, x)
            found = run(quantised, {"data": x, **values[0], **values[1]})
            largest = max(
                np.linalg.norm(a - b) / np.linalg.norm(np.maximum(np.abs(b), 0.1)) for a, b in zip(found, expected)
            )
        except mx.MXNetError as error:
            largest = str(error)
        if isinstance(largest, str) or not largest < 0.4:
            wrong[seed] = largest
    assert not wrong
