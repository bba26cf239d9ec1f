import dataclasses
import json
import shutil

from d2lcls.data import Images
from d2lcls.deploy import load_model, read_manifest
from d2lcls.deploy.comparison import Row, agreement, compare, measure_accuracy, table
from d2lcls.deploy.quantization import quantize_model

import numpy as np
import pytest

CLASSES = ("top", "middle", "bottom")


@pytest.fixture
def images(model):
    """Pictures whose labels are the model's answers, but for every fourth."""
    pictures = np.random.default_rng(3).integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    predictor = load_model(model)
    labels = predictor.logits(list(pictures)).argmax(axis=1)
    labels[::4] = (labels[::4] + 1) % 3
    return Images(pictures, labels, CLASSES, "pictures")


def test_accuracy_is_measured_and_written_down(model, images, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    assert measure_accuracy(copy, images).top1 == 0.75
    manifest = read_manifest(copy)
    assert dataclasses.asdict(manifest.accuracy) == {"top1": 0.75, "images": 40, "data": "pictures"}
    assert manifest.versions == read_manifest(model).versions
    assert measure_accuracy(copy, images, limit=7).images == 7
    other = dataclasses.replace(images, classes=("a", "b", "c"))
    with pytest.raises(ValueError, match="the model has the classes top, middle, bottom; this set has a, b, c"):
        measure_accuracy(copy, other)
    assert read_manifest(copy).accuracy.images == 7


def test_forms_side_by_side(model, images, examples, tmp_path):
    quantize_model(model, tmp_path / "small", examples)
    x = read_manifest(model).preprocess.batch(list(images.images))
    first, second = compare([model, tmp_path / "small"], x, images.labels, batch_sizes=(1, 8), rounds=1)
    assert (first.name, first.form, first.agreement, first.difference, first.top1) == ("cnn", "mxnet", 1, 0, 0.75)
    assert (second.name, second.form) == ("small", "mxnet-int8") and second.difference > 0
    expected, logits = (load_model(folder).compute(x) for folder in (model, tmp_path / "small"))
    assert second.difference == pytest.approx(np.abs(logits - expected).max(), rel=1e-3)
    assert second.agreement == pytest.approx((logits.argmax(1) == expected.argmax(1)).mean(), abs=0.051)
    assert set(first.ms) == {1, 8} and all(ms > 0 for row in (first, second) for ms in row.ms.values())
    assert first.megabytes == pytest.approx(sum(path.stat().st_size for path in model.iterdir()) / 1e6)
    assert compare([model], x, batch_sizes=(1,), rounds=1)[0].top1 is None


def test_ties_agree_either_way():
    first, second = np.array([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), np.array([[0.9, 1.1, 0.0], [1.0, 2.0, 0.0]])
    assert (agreement(first, first), agreement(first, second)) == (1, 0.5)


def test_the_table_lines_up():
    rows = [
        Row("cnn", "mxnet", 1.5, {1: 2.0, 64: 20.0}, 1.0, 0.0, 0.8),
        Row("cnn-int8", "mxnet-int8", 0.4, {1: 1.0, 64: 5.0}, 0.99, 0.1, None),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 3 and lines[2].startswith("cnn-int8  mxnet-int8") and lines[1].endswith("20.00   1.0x")
    assert "  2.0x" in lines[2] and lines[2].endswith("5.00   4.0x") and "80.00%" in lines[1] and "%" in lines[2]
    assert len({len(line) for line in lines[1:]}) == 1
    json.dumps([dataclasses.asdict(row) for row in rows])
