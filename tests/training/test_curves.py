import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from d2lcls.data import Batches
from d2lcls.machine import compat
from d2lcls.models import SmallCNN
from d2lcls.training import Curves, fit
from d2lcls.training.recipe import Recipe

import mxnet as mx
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture
def run(shapes, tmp_path):
    """The folder of a short training, and what `fit` returned."""
    net = SmallCNN(3, widths=(8,))
    net.initialize()
    return tmp_path, fit(
        net, Batches(shapes), Batches(shapes), Recipe(num_epochs=3, lr=0.01), on_epoch=Curves(tmp_path).write
    )


def test_tensorboard_reads_back_what_fit_returned(run):
    folder, records = run
    events = EventAccumulator(str(folder)).Reload()
    curves = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert set(curves) == {"loss/train", "loss/valid", "accuracy/train", "accuracy/valid", "lr", "images_per_second"}
    assert [point.step for point in curves["accuracy/valid"]] == [1, 2, 3]
    for tag, name in (("accuracy/valid", "valid_accuracy"), ("loss/train", "train_loss"), ("lr", "lr")):
        assert [point.value for point in curves[tag]] == pytest.approx([getattr(r, name) for r in records])


def test_tensorboard_starts_and_shows_the_curves(run):
    folder, records = run
    program = Path(sys.executable).with_name("tensorboard")
    command = [program, "--logdir", folder, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = []
            for line in server.stderr:  # ends with the program
                said.append(line)
                if address := re.search(r"http://localhost:\d+", line):
                    break
            else:
                pytest.fail("".join(said))
            scalars = f"{address.group()}/data/plugin/scalars/scalars?run=.&tag=accuracy/valid"
            for _ in range(100):  # it answers before it has read the folder
                try:
                    with urlopen(scalars, timeout=30) as answer:
                        points = json.load(answer)
                    break
                except HTTPError as error:
                    error.close()
                    time.sleep(0.1)
        finally:
            server.kill()
    assert [step for _, step, _ in points] == [1, 2, 3]
    assert [value for _, _, value in points] == pytest.approx([r.valid_accuracy for r in records])


def test_mxboard_writes_every_kind_of_summary(tmp_path):
    """Its messages are built by `d2lcls.machine.compat`, so each of its protobuf files has to work."""
    net = mx.gluon.nn.Dense(3)
    net.initialize()
    net.hybridize()
    net(mx.nd.ones((1, 4)))
    writer = compat.import_mxboard().SummaryWriter(logdir=str(tmp_path), verbose=False)
    writer.add_graph(net)
    writer.add_text(tag="text", text="hello")
    writer.add_scalar(tag="scalar", value=1.5)
    writer.add_histogram(tag="histogram", values=mx.nd.arange(10), bins=5)
    writer.add_image(tag="image", image=mx.nd.ones((3, 8, 8)))
    writer.add_audio(tag="audio", audio=mx.nd.zeros(100), sample_rate=8000)
    writer.add_pr_curve(tag="curve", labels=mx.nd.array([0, 1]), predictions=mx.nd.array([0.2, 0.8]), num_thresholds=9)
    writer.close()
    tags = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert {kind: names for kind, names in tags.items() if names} == {
        "graph": True,
        "tensors": ["text", "curve"],
        "scalars": ["scalar"],
        "histograms": ["histogram"],
        "distributions": ["histogram"],
        "images": ["image"],
        "audio": ["audio"],
    }
