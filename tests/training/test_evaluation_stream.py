"""Scoring sets that do not fit into memory, class by class."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from d2lcls.data import Batches, Images
from d2lcls.data.download.sample import read_sample
from d2lcls.data.formats.imagenet import open_imagenet
from d2lcls.data.preprocess import Preprocess
from d2lcls.models import SmallCNN
from d2lcls.training.evaluation import evaluate, evaluate_classes, predict

import mxnet as mx
import numpy as np
import pytest
from mxnet import recordio
from mxnet.gluon import nn
from PIL import Image

SMALL = Preprocess(32, 28, (0.45, 0.45, 0.45), (0.25, 0.25, 0.25), "bicubic")
PHOTOGRAPHS = os.environ.get("D2LCLS_PHOTOGRAPHS", "")  # a folder of ImageNet photographs with a labels.csv


def garments(root):
    images, labels = read_sample("test", (28, 28, 3))
    wnids = [
        f"n{wnid}"
        for wnid in (
            "01440764",
            "01443537",
            "01484850",
            "01491361",
            "01494475",
            "01496331",
            "01498041",
            "01514668",
            "01514859",
            "15075141",
        )
    ]  # positions 0 to 8 and 999
    for k, wnid in enumerate(wnids):
        (root / "val" / wnid).mkdir(parents=True)
        for i in np.flatnonzero(labels == k)[: 7 + k]:
            Image.fromarray(images[i]).resize((33 + k, 40)).save(root / "val" / wnid / f"{i:04d}.png")


def photographs(root):
    with open(Path(PHOTOGRAPHS, "labels.csv"), newline="") as file:
        for row in csv.DictReader(file):
            (root / "val" / row["wnid"]).mkdir(parents=True)
            (root / "val" / row["wnid"] / "1.jpg").symlink_to(Path(PHOTOGRAPHS, row["file"]).resolve())


@pytest.fixture(
    params=[
        garments,
        pytest.param(
            photographs,
            marks=pytest.mark.skipif(
                not PHOTOGRAPHS, reason="D2LCLS_PHOTOGRAPHS names no folder of ImageNet photographs"
            ),
        ),
    ]
)
def root(tmp_path, request):
    request.param(tmp_path)
    return tmp_path


def network(classes=1000, seed=1):
    """A random network that is right now and then by chance: it prefers a few classes."""
    mx.random.seed(seed)
    net = SmallCNN(classes=classes)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 28, 28)))
    bias = [p for name, p in net.collect_params().items() if name.endswith("bias")][-1]
    bias.set_data(mx.nd.one_hot(mx.nd.array([0, 1, 3, 5, 10, 15]), classes).sum(axis=0) * 3)
    net.hybridize(static_alloc=True, static_shape=True)
    return net


def batches(data, size=16):
    return Batches(data, size, SMALL.mean, SMALL.std)


def test_streamed_scores_are_those_of_a_naive_loop(root):
    data, net = open_imagenet(root, SMALL), network()
    loss, hits, hits5, per_class = 0.0, 0, 0, {}
    for path, label in zip(sorted((root / "val").glob("*/*")), data.labels):
        logits = net(mx.nd.array(SMALL([path]))).asnumpy()[0].astype(np.float64)
        order = list(np.argsort(-logits, kind="stable"))
        hits, hits5 = hits + (order[0] == label), hits5 + (label in order[:5])
        loss += np.log(np.exp(logits).sum()) - logits[label]
        per_class.setdefault(label, []).append(order[0] == label)
    score, accuracies = evaluate_classes(net, batches(data))
    assert score.images == len(data) == sum(map(len, per_class.values()))
    assert 0 < hits5 < len(data)  # or the comparison would say little
    assert score.accuracy == pytest.approx(hits / len(data)) and score.top5 == pytest.approx(hits5 / len(data))
    assert score.loss == pytest.approx(loss / len(data), rel=1e-4)
    assert accuracies.shape == (1000,) and accuracies.dtype == np.float64
    expected = [np.mean(per_class[k]) if k in per_class else np.nan for k in range(1000)]
    np.testing.assert_allclose(accuracies, expected)
    assert np.average(accuracies[data.counts() > 0], weights=data.counts()[data.counts() > 0]) == pytest.approx(
        score.accuracy
    )


def test_folder_records_and_memory_score_the_same(root):
    folder, net = open_imagenet(root, SMALL), network()
    writer = recordio.MXRecordIO(str(root / "val.rec"), "w")
    for path, label in zip(sorted((root / "val").glob("*/*")), folder.labels):
        writer.write(recordio.pack(recordio.IRHeader(0, float(label), 0, 0), path.read_bytes()))
    writer.close()
    memory = Images(folder.images[:], folder.labels, folder.classes, "memory")
    score = evaluate(net, batches(folder))
    assert evaluate(net, batches(open_imagenet(root / "val.rec", SMALL))) == score == evaluate(net, batches(memory))


def test_batch_size_devices_and_order_do_not_matter(root):
    data, net = open_imagenet(root, SMALL), network()
    score = evaluate(net, batches(data))
    turned = data.subset(np.arange(len(data))[::-1])
    both = [mx.cpu(0), mx.cpu(1)]
    copy = network()
    copy.collect_params().reset_ctx(both)
    for other in (evaluate(net, batches(data, 7)), evaluate(net, batches(turned)), evaluate(copy, batches(data), both)):
        assert asdict(other) == pytest.approx(asdict(score), rel=1e-5)


def test_predictions_of_a_fused_network_do_not_run_into_each_other(root):
    """While a batch is read the one before is being computed, in buffers that a static network uses again."""
    data, net = open_imagenet(root, SMALL), network()
    memory = Images(data.images[:], data.labels, data.classes, "memory")
    alone = []
    for x, _ in batches(memory):
        alone.append(net(mx.nd.array(x)).asnumpy())
        mx.nd.waitall()
    np.testing.assert_allclose(predict(net, batches(data)), np.concatenate(alone), rtol=1e-4, atol=1e-5)


def test_a_score_stays_plain_json(shapes):
    net = network(3)
    score = evaluate(net, Batches(shapes, 64))
    assert json.loads(json.dumps(asdict(score))) == asdict(score)
    assert set(asdict(score)) == {"loss", "accuracy", "top5", "images"}


def test_a_network_may_have_more_outputs_than_the_set_has_classes(shapes):
    score, accuracies = evaluate_classes(network(9), Batches(shapes, 64))
    assert score.images == 150 and accuracies.shape == (3,) and not np.isnan(accuracies).any()


def test_labels_are_checked_once_and_before_anything_is_counted(shapes, monkeypatch):
    from d2lcls.training import evaluation

    calls = []
    monkeypatch.setattr(evaluation, "check_labels", lambda data, outputs: calls.append(outputs))
    evaluate(network(3), Batches(shapes, 10))
    assert calls == [3]
    monkeypatch.undo()
    last = Images(shapes.images, np.where(np.arange(150) == 149, 2, 0), shapes.classes, "shapes")
    with pytest.raises(ValueError, match="label 2, but the network has only 2 outputs.*classes=3"):
        evaluate(network(2), Batches(last, 10))


def test_nan_is_never_a_hit(shapes):
    net = nn.HybridLambda(lambda F, x: F.zeros_like(F.flatten(x).slice_axis(axis=1, begin=0, end=9)) / 0)
    score, accuracies = evaluate_classes(net, Batches(shapes, 64), mx.cpu())
    assert np.isnan(score.loss) and score.accuracy == score.top5 == 0 and (accuracies == 0).all()


def test_progress_shows_the_score_so_far(shapes, monkeypatch, capsys):
    monkeypatch.setenv("D2LCLS_PROGRESS", "terminal")
    score = evaluate(network(3), Batches(shapes, 50), verbose=True)
    assert "3/3" in (shown := capsys.readouterr().err) and f"top-1 {score.accuracy:.2%}" in shown
    evaluate(network(3), Batches(shapes, 50))
    assert capsys.readouterr() == ("", "")


PEAK = """
import sys
import psutil
from d2lcls.data import Batches  # before MXNet
from mxnet.gluon import nn
from d2lcls.data.formats.imagenet import open_imagenet
from d2lcls.data.preprocess import Preprocess
from d2lcls.training import evaluate

peaks = [0]

class Watched(Batches):
    def __iter__(self):
        for batch in super().__iter__():
            peaks.append(psutil.Process().memory_info().rss)
            yield batch
        peaks.append(psutil.Process().memory_info().rss)

net = nn.HybridSequential()
net.add(nn.Conv2D(4, 3, strides=4), nn.GlobalAvgPool2D(), nn.Dense(1000))
net.initialize()
preprocess = Preprocess(128, 112, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
score = evaluate(net, Watched(open_imagenet(sys.argv[1], preprocess), 25))
print(score.images, max(peaks))
"""


@pytest.mark.parametrize("layout", ["folder", "records"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, layout):
    """N and 4N images, of which 37 kB (uint8) or 147 kB (float32) each would stay, were one kept."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (150, 180, 3), dtype=np.uint8)).save(tmp_path / "one.jpg")
    peaks = []
    for number in (300, 1200):
        folder = tmp_path / str(number) / "n01440764"
        folder.mkdir(parents=True)
        writer = recordio.MXRecordIO(str(tmp_path / f"{number}.rec"), "w")
        for i in range(number):
            (folder / f"{i}.jpg").symlink_to(tmp_path / "one.jpg")
            writer.write(recordio.pack(recordio.IRHeader(0, 0.0, i, 0), (tmp_path / "one.jpg").read_bytes()))
        writer.close()
        place = folder.parent if layout == "folder" else tmp_path / f"{number}.rec"
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PEAK, place], capture_output=True, text=True, timeout=120
        )
        assert child.returncode == 0, child.stderr
        images, peak = map(int, child.stdout.split())
        assert images == number
        peaks.append(peak / 2**20)
    assert peaks[1] - peaks[0] < 20, peaks  # 900 images as uint8 would be 32 MiB; freed memory varies by half of that
