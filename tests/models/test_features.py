import os
import subprocess
import sys

from d2lcls.data import Batches, flip, pad_crop
from d2lcls.models import SmallCNN
from d2lcls.models.features import FeatureBatches, Features, extract_features
from d2lcls.models.surgery import split
from d2lcls.training import evaluate, fit
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(tmp_path / "home"))


def network(seed=0):
    mx.random.seed(seed)
    net = SmallCNN(3, (4, 6, 8))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(nd.zeros((1, 3, 12, 12))).wait_to_read()
    return net


def batches(data, batch_size=32, **kwargs):
    return Batches(data, batch_size, **kwargs)


class Counting:
    """A front that counts the images it is shown."""

    def __init__(self, front):
        self.front, self.images = front, 0

    def __call__(self, x):
        self.images += len(x)
        return self.front(x)


def made(copies=2, images=10):
    values = np.arange(copies * images * 4, dtype=np.float16).reshape(copies, images, 4)
    return Features(values, np.arange(images, dtype=np.int64) % 3, ("a", "b", "c"), "made")


@pytest.mark.parametrize("groups, shape", [(1, (8,)), (2, (6, 6, 6))])
@pytest.mark.parametrize("batch_size", [32, 150, 7])
def test_features_are_what_the_front_returns(shapes, groups, shape, batch_size):
    net = network()
    front, tail = split(net, groups)
    found = extract_features(front, batches(shapes, batch_size))
    if groups == 1:
        assert found.values.shape == (1, 150, *shape)
    assert found.values.dtype == np.float16 and len(found) == 150
    assert found.classes == shapes.classes and found.name == "shapes"
    np.testing.assert_array_equal(found.labels, shapes.labels)
    x = next(iter(batches(shapes, 150)))[0]
    np.testing.assert_allclose(found.values[0], front(nd.array(x)).asnumpy(), rtol=2e-3, atol=1e-3)
    logits = tail(nd.array(found.values[0].astype(np.float32))).asnumpy()
    np.testing.assert_allclose(logits, net(nd.array(x)).asnumpy(), rtol=1e-2, atol=1e-2)


def test_each_copy_is_augmented_anew(shapes):
    front = split(network(), 1)[0]
    augmented = batches(shapes, augment=(pad_crop(2), flip()), seed=3)
    found = extract_features(front, augmented, copies=3)
    assert found.values.shape[0] == 3 and len(found) == 150
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert (found.values[first] != found.values[second]).any()
    x = np.concatenate([x for x, _ in augmented.epoch(2)])
    np.testing.assert_allclose(found.values[2], front(nd.array(x)).asnumpy(), rtol=2e-3, atol=1e-3)
    part = found.subset(np.array([5, 3]))
    np.testing.assert_array_equal(part.values, found.values[:, [5, 3]])
    np.testing.assert_array_equal(part.labels, shapes.labels[[5, 3]])


def test_the_cache_is_used_and_holds_the_same(shapes, tmp_path):
    front = Counting(split(network(), 1)[0])
    first = extract_features(front, batches(shapes), copies=2, cache="shapes")
    shown = front.images
    assert shown >= 300
    again = extract_features(front, batches(shapes), copies=2, cache="shapes")
    assert front.images - shown == 1  # the first image, to compare
    np.testing.assert_array_equal(first.values, again.values)
    assert again.values.dtype == np.float16
    assert [path.name for path in (tmp_path / "home/features").iterdir()] == ["shapes.npz"]
    extract_features(front, batches(shapes), cache=None)
    assert front.images - shown == 152


def test_other_features_under_the_same_name_are_refused(shapes):
    front = split(network(), 1)[0]
    extract_features(front, batches(shapes), cache="shapes")
    changed = shapes.images.copy()
    changed[0, 0, 0, 0] += 1
    other_images = type(shapes)(changed, shapes.labels, shapes.classes, "shapes")
    other_labels = type(shapes)(shapes.images, shapes.labels[::-1].copy(), shapes.classes, "shapes")
    deeper = split(network(), 2)[0]
    for case in (
        (split(network(1), 1)[0], batches(shapes)),
        (deeper, batches(shapes)),
        (front, batches(other_images)),
        (front, batches(other_labels)),
        (front, batches(shapes, mean=(0.5,) * 3)),
        (front, batches(shapes, std=(0.5,) * 3)),
        (front, batches(shapes, size=16)),
        (front, batches(shapes, seed=1)),
        (front, batches(shapes.subset(np.arange(100)))),
    ):
        with pytest.raises(ValueError, match="shapes.npz holds the features of other images or of another .*delete"):
            extract_features(*case, cache="shapes")
    with pytest.raises(ValueError, match="holds the features of other images"):
        extract_features(front, batches(shapes), copies=2, cache="shapes")
    assert len(extract_features(front, batches(shapes), cache="shapes")) == 150


def test_a_damaged_cache_is_named(shapes, tmp_path):
    front = split(network(), 1)[0]
    extract_features(front, batches(shapes), cache="shapes")
    path = tmp_path / "home/features/shapes.npz"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"text", content[:2000] + b"\0" * 500 + content[2500:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="shapes.npz.*elete it"):
            extract_features(front, batches(shapes), cache="shapes")


CHILD = """
import os, sys
sys.path.insert(0, {tests!r})
import d2lcls
import numpy as np
from test_features import network, batches, split, extract_features
from d2lcls.data import Images
def kill(*_, **__):
    file = _[0]
    file.write(b"half of it")
    file.flush()
    os.kill(os.getpid(), 9)
np.savez = kill
data = Images(np.zeros((10, 12, 12, 3), np.uint8), np.arange(10) % 3, ("a", "b", "c"), "zeros")
extract_features(split(network(), 1)[0], batches(data), cache="zeros")
"""


def test_a_killed_write_leaves_no_cache(shapes, tmp_path):
    code = CHILD.format(tests=os.path.dirname(__file__))
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert not (tmp_path / "home/features/zeros.npz").exists()
    data = type(shapes)(np.zeros((10, 12, 12, 3), np.uint8), np.arange(10) % 3, ("a", "b", "c"), "zeros")
    assert len(extract_features(split(network(), 1)[0], batches(data), cache="zeros")) == 10
    assert (tmp_path / "home/features/zeros.npz").exists()


def test_what_has_no_fixed_order_is_refused(shapes):
    front = split(network(), 1)[0]
    for options in ({"shuffle": True}, {"mixup": 0.2}, {"cutmix": 1.0}):
        with pytest.raises(ValueError, match="expected batches with shuffle=False, mixup=0 and cutmix=0"):
            extract_features(front, batches(shapes, **options))
    for copies in (0, -1):
        with pytest.raises(ValueError, match=f"copies must be 1 or more, not {copies}"):
            extract_features(front, batches(shapes), copies=copies)


def test_unshuffled_batches_are_the_first_copy_in_order():
    found = list(FeatureBatches(made(), 4))
    assert [len(x) for x, _ in found] == [4, 4, 2] and len(FeatureBatches(made(), 4)) == 3
    x, labels = (np.concatenate(part) for part in zip(*found))
    np.testing.assert_array_equal(x, made().values[0])
    np.testing.assert_array_equal(labels, made().labels)
    assert x.dtype == np.float32 and labels.dtype == np.int32
    np.testing.assert_array_equal(FeatureBatches(made(), 4).example(), made().values[0, :1])


def test_an_epoch_takes_every_image_once_and_copies_at_random():
    data = made(copies=5, images=60)
    epochs = []
    for number in range(3):
        x, labels = (np.concatenate(part) for part in zip(*FeatureBatches(data, 7, shuffle=True, seed=1).epoch(number)))
        places = (x[:, 0] / 4).astype(int)
        copies, image = places // 60, places % 60
        np.testing.assert_array_equal(np.sort(image), np.arange(60))
        np.testing.assert_array_equal(labels, data.labels[image])
        np.testing.assert_array_equal(x, data.values[copies, image])
        assert set(copies) == set(range(5))
        epochs.append(x)
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
    other = np.concatenate([x for x, _ in FeatureBatches(data, 7, shuffle=True, seed=2).epoch(0)])
    assert (other != epochs[0]).any()


def test_an_epoch_is_the_same_again_from_any_batch():
    data = FeatureBatches(made(3, 23), 4, shuffle=True, seed=5)
    whole = list(data.epoch(2))
    for start in range(len(data) + 1):
        rest = list(data.epoch(2, start))
        assert len(rest) == len(whole) - start
        for (a, b), (c, d) in zip(whole[start:], rest):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)


def test_nothing_to_batch_is_refused():
    with pytest.raises(ValueError, match="Expected images and a batch_size of 1 or more, not 10 and 0"):
        FeatureBatches(made(), 0)
    with pytest.raises(ValueError, match="not 0 and 4"):
        FeatureBatches(made(images=0), 4)


def test_training_on_features_repeats_bit_for_bit_and_resumes(shapes, tmp_path):
    def run(folder, num_epochs=4, stop_after=None):
        net = network()
        front, tail = split(net, 2)
        data = extract_features(front, batches(shapes, augment=(flip(),)), copies=2)
        train = FeatureBatches(data, 16, shuffle=True, seed=4)

        def stop(record):
            if record.epoch == stop_after:
                raise KeyboardInterrupt

        records = fit(
            tail,
            train,
            FeatureBatches(data),
            Recipe(num_epochs=num_epochs, lr=0.05),
            checkpoint_dir=folder,
            on_epoch=stop,
            resume=True,
        )
        nd.waitall()
        return [p.data().asnumpy() for p in net.collect_params().values()], [r.train_loss for r in records], net

    first, losses, net = run(tmp_path / "a")
    second, same, _ = run(tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", stop_after=2)
    third, also, _ = run(tmp_path / "c")
    assert losses == same == also and losses[-1] < losses[0]
    for a, b, c in zip(first, second, third):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert evaluate(net, batches(shapes)).accuracy > 0.5
