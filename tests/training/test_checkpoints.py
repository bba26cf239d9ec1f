import json
import os
import signal
import subprocess
import sys
import time

from d2lcls.data import Batches, flip, pad_crop
from d2lcls.machine.cores import has_bfloat16
from d2lcls.models import SmallCNN
from d2lcls.training import CheckpointError, fit, load_checkpoint, save_checkpoint
from d2lcls.training.checkpoints import parameters_to_arrays
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn

needs_bf16 = pytest.mark.skipif(not has_bfloat16(), reason="this processor has no instructions for bfloat16")


class Net(gluon.HybridBlock):
    """With BatchNorm and dropout: running statistics and random states must survive too."""

    def __init__(self, width=8):
        super().__init__()
        self.layers = nn.HybridSequential()
        self.layers.add(nn.Conv2D(width, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Dropout(0.3), nn.Dense(3))

    def hybrid_forward(self, F, x):
        return self.layers(x)


def train(data, folder=None, devices=1, optimizer="nag", batches=None, resume=False, on_epoch=None, **kwargs):
    net = Net()
    net.initialize()
    batches = Batches(
        data, **{"batch_size": 16, "shuffle": True, "augment": (pad_crop(1), flip()), "seed": 3, **(batches or {})}
    )
    options = {"num_epochs": 3, "lr": 0.02, "seed": 5, **kwargs}
    records = fit(
        net,
        batches,
        Batches(data, 64),
        Recipe(optimizer=optimizer, **options),
        ctx=[mx.cpu(i) for i in range(devices)],
        checkpoint_dir=folder,
        resume=resume,
        on_epoch=on_epoch,
    )
    return parameters_to_arrays(net), records


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def assert_same_run(first, second):
    """Compare every bit of what two finished runs saved, and all of their records but what the clock decides."""
    for file in ("last.npz", "best.npz"):
        one, other = (dict(np.load(folder / file)) for folder in (first, second))
        del one["progress"], other["progress"]
        assert_same(one, other)
    assert progress(first / "last.npz") == progress(second / "last.npz")


def progress(path):
    """Where the run of a checkpoint stands, without the fields of its records that measure time."""
    found = json.loads(str(np.load(path)["progress"]))
    for record in found["records"]:
        for name in ("images_per_second", "seconds", "waiting"):
            del record[name]
    return found


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "optimizer, devices, options",
    [
        ("sgd", 1, {}),
        ("sgd", 2, {}),
        ("nag", 1, {}),
        ("nag", 2, {}),
        ("adam", 1, {}),
        ("adam", 2, {}),
        ("nadam", 1, {}),
        ("rmsprop", 1, {}),
        ("adamw", 1, {}),
        ("adamw", 2, {}),
        ("lamb", 1, {"lr": 0.05}),
        ("lamb", 2, {"lr": 0.05}),
        ("nag", 1, {"ema": 0.8}),
        ("adamw", 2, {"ema": 0.95}),
        ("nag", 1, {"lookahead": 5}),
        ("nag", 2, {"lookahead": 7}),
        pytest.param("nag", 1, {"precision": "bfloat16"}, marks=needs_bf16),
    ],
)
def test_resume_ends_with_the_same_bits(shapes, tmp_path, monkeypatch, optimizer, devices, options):
    whole, records = train(shapes, tmp_path / "whole", devices, optimizer, **options)
    update, steps = gluon.Trainer.update, []

    def update_until_killed(trainer, batch_size):
        steps.append(batch_size)
        if len(steps) == 18:  # an epoch has 10 steps: in the middle of the second
            raise Killed
        update(trainer, batch_size)

    monkeypatch.setattr(gluon.Trainer, "update", update_until_killed)
    with pytest.raises(Killed):
        train(shapes, tmp_path / "cut", devices, optimizer, checkpoint_steps=4, **options)
    monkeypatch.setattr(gluon.Trainer, "update", update)
    assert json.loads(str(np.load(tmp_path / "cut/last.npz")["progress"]))["step"] == 16
    resumed, again = train(shapes, tmp_path / "cut", devices, optimizer, checkpoint_steps=4, resume=True, **options)
    assert_same(whole, resumed)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert len(records) == len(again) == 3 and records[0].valid_accuracy == records[2].valid_accuracy == 1
    best, last = (dict(np.load(tmp_path / f"cut/{name}.npz")) for name in ("best", "last"))
    assert_same(resumed, {name: best[name] for name in resumed})  # of the first epoch, not of the last
    assert any((best[name] != last[name]).any() for name in resumed)


HALF = """
import os, signal, sys
from pathlib import Path
import numpy as np
import d2lcls
import mxnet as mx
from mxnet import gluon
from d2lcls.data import Batches, Images
from d2lcls.training import Recipe, fit, session
from d2lcls.training.steps import LossScale


class Half(gluon.HybridBlock):
    # MXNet's CPU build has no product of matrices in float16, so this dense layer is multiplications and a sum.
    def __init__(self):
        super().__init__()
        self.weight = self.params.get("weight", shape=(3, 432), init=mx.init.Normal(0.01))

    def hybrid_forward(self, F, x, weight):
        x, weight = (F.cast(array, "float16") for array in (F.flatten(F.Dropout(x, 0.3)), weight))
        return F.cast(F.broadcast_mul(F.expand_dims(x, 1), F.expand_dims(weight, 0)).sum(axis=2), "float32")


def train(folder, kill_at=None, checkpoint_steps=None, resume=False):
    update, steps = LossScale.update, []

    def update_until_killed(self, finite):
        steps.append(finite)
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        update(self, finite)

    LossScale.update = update_until_killed
    net, batches = Half(), Batches(data, 16, shuffle=True, seed=3)
    mx.random.seed(0)
    net.initialize()
    recipe = Recipe(num_epochs=3, lr=0.02, seed=5, precision="float16", checkpoint_steps=checkpoint_steps)
    fit(net, batches, Batches(data, 64), recipe, checkpoint_dir=folder, resume=resume, on_epoch=None)
    LossScale.update = update
    return steps


session.check_precision = lambda precision, ctx: None  # it refuses float16 on CPUs, for its slowness
LossScale.__init__.__defaults__ = (2.0 ** 16, 0, 7)  # so that the scale doubles, too
file, resume, folder = np.load(sys.argv[1]), sys.argv[2] == "resume", Path(sys.argv[3])
data = Images(file["images"], file["labels"], ("a", "b", "c"), "shapes")
if not resume:
    steps = train(folder / "whole")
    assert not all(steps) and sum(steps) > 20, steps  # some overflowed, most did not
train(folder / "cut", None if resume else 18, checkpoint_steps=4, resume=resume)
"""


def test_float16_resumes_in_the_middle_with_the_same_bits(shapes, tmp_path):
    np.savez(tmp_path / "data.npz", images=shapes.images, labels=shapes.labels)

    def run(how):
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", HALF, tmp_path / "data.npz", how, tmp_path],
            env={**os.environ, "MXNET_MKLDNN_ENABLED": "0", "MXNET_STORAGE_FALLBACK_LOG_VERBOSE": "0"},
            timeout=120,
        ).returncode

    assert run("begin") == -signal.SIGKILL
    standing = progress(tmp_path / "cut/last.npz")
    scale, good = standing["loss_scale"]
    assert standing["step"] == 16 and scale != 2**16 and good > 0
    assert run("resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert progress(tmp_path / "cut/last.npz")["loss_scale"][0] != scale  # it went on changing


CHILD = """
import sys
import numpy as np
sys.path.insert(0, {tests!r})
import d2lcls
from d2lcls.data import Images
from test_checkpoints import train
data = Images(np.load({images!r}), np.load({labels!r}), ("top", "middle", "bottom"), "shapes")
train(data, {folder!r}, checkpoint_steps=1, resume=True)
"""


def test_kill_9_in_the_middle_and_resume(shapes, tmp_path):
    np.save(tmp_path / "images.npy", shapes.images)
    np.save(tmp_path / "labels.npy", shapes.labels)
    code = CHILD.format(
        tests=os.path.dirname(__file__),
        images=str(tmp_path / "images.npy"),
        labels=str(tmp_path / "labels.npy"),
        folder=str(tmp_path / "cut"),
    )
    last = tmp_path / "cut/last.npz"
    for wanted in (3, 14):  # once in the first epoch, once in the second
        with subprocess.Popen([sys.executable, "-c", code]) as child:
            while not (last.exists() and load_step(last) >= wanted):
                assert child.poll() is None
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL and load_step(last) < 30
    train(shapes, tmp_path / "cut", checkpoint_steps=1, resume=True)
    train(shapes, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert sorted(p.name for p in (tmp_path / "cut").glob("*.npz")) == ["best.npz", "last.npz"]


def load_step(path):
    return json.loads(str(np.load(path)["progress"]))["step"]


def test_ctrl_c_finishes_the_step_and_saves_it(shapes, tmp_path, monkeypatch):
    train(shapes, tmp_path / "whole")
    update, steps = gluon.Trainer.update, []

    def update_and_interrupt(trainer, batch_size):
        steps.append(batch_size)
        if len(steps) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        update(trainer, batch_size)

    monkeypatch.setattr(gluon.Trainer, "update", update_and_interrupt)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 13.*last.npz.*resume=True"):
        train(shapes, tmp_path / "cut")
    monkeypatch.setattr(gluon.Trainer, "update", update)
    assert load_step(tmp_path / "cut/last.npz") == 13
    train(shapes, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_patience_goes_on_where_it_was(shapes, tmp_path):
    def stop(record):
        if record.epoch == 2:
            raise Killed

    options = {"num_epochs": 30, "patience": 2}
    train(shapes, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(shapes, tmp_path / "cut", on_epoch=stop, **options)
    train(shapes, tmp_path / "cut", resume=True, **options)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert progress(tmp_path / "cut/last.npz")["step"] < 300


def test_a_finished_run_resumes_to_itself(shapes, tmp_path):
    done, records = train(shapes, tmp_path, num_epochs=1)
    again, same = train(shapes, tmp_path, num_epochs=1, resume=True)
    assert_same(done, again)
    assert records == same


def test_an_old_run_is_not_overwritten(shapes, tmp_path):
    train(shapes, tmp_path, num_epochs=1)
    with pytest.raises(FileExistsError, match="already holds a training run.*resume=True"):
        train(shapes, tmp_path, num_epochs=1)


def test_another_recipe_is_named(shapes, tmp_path):
    train(shapes, tmp_path / "plain", num_epochs=1)
    with pytest.raises(CheckpointError, match="another recipe: wd is 0.0005 there and 0.1 here"):
        train(shapes, tmp_path / "plain", num_epochs=1, resume=True, wd=0.1)
    changes = {
        "seed": 6,
        "lr": 0.03,
        "num_epochs": 2,
        "schedule": "linear",
        "warmup_epochs": 0.5,
        "clip_norm": 1.0,
        "optimizer": "sgd",
        "optimizer_params": {"momentum": 0.8},
        "lookahead": 5,
        "ema": 0.9,
        "decay_biases": True,
        "devices": 2,
    }
    of_batches = {"batch_size": 15, "mixup": 0.2, "cutmix": 1.0, "seed": 4, "balanced": True, "alternating_flip": True}
    for name, options in [
        *((name, {name: value}) for name, value in changes.items()),
        *(("data_seed" if name == "seed" else name, {"batches": {name: value}}) for name, value in of_batches.items()),
    ]:
        with pytest.raises(CheckpointError, match=f"another recipe: {name} is .* there and .* here"):
            train(shapes, tmp_path / "plain", resume=True, **{"num_epochs": 1, **options})
    with pytest.raises(CheckpointError, match="another recipe: images is 150 there and 149 here"):
        train(shapes.subset(np.arange(149)), tmp_path / "plain", num_epochs=1, resume=True)
    train(shapes, tmp_path / "other", num_epochs=1, lookahead=5)
    with pytest.raises(CheckpointError, match="another recipe: lookahead is 5 there and 0 here"):
        train(shapes, tmp_path / "other", num_epochs=1, resume=True)


def test_another_size_is_another_recipe(shapes, tmp_path):
    def run(**options):
        net = SmallCNN(3, (4,))
        net.initialize()
        fit(
            net,
            Batches(shapes, 50, **options),
            recipe=Recipe(num_epochs=1),
            checkpoint_dir=tmp_path,
            resume=True,
            on_epoch=None,
        )

    run()
    for name, value in {"size": 14, "small_first": (8, 1)}.items():
        field = "image_size" if name == "size" else name
        with pytest.raises(CheckpointError, match=f"another recipe: {field} is not set there and .* here"):
            run(**{name: value})


def initialised(net):
    net.initialize()
    net(mx.nd.zeros((1, 3, 12, 12)))
    return net


def test_another_network_is_named_and_left_alone(tmp_path):
    path = tmp_path / "net.npz"
    save_checkpoint(path, initialised(Net(8)))
    other = initialised(Net(9))
    before = parameters_to_arrays(other)
    with pytest.raises(
        CheckpointError, match=r"another network: 'layers.0.bias' has the shape \(8,\) there and \(9,\)"
    ):
        load_checkpoint(path, other)
    assert_same(before, parameters_to_arrays(other))
    dense = nn.HybridSequential()
    dense.add(nn.Dense(3))
    with pytest.raises(CheckpointError, match="no parameter '0.bias'"):
        load_checkpoint(path, initialised(dense))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "net.npz"
    save_checkpoint(path, initialised(Net()))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"empty": b"", "text": b"not a checkpoint"}.get(damage, bytes(content)))
    with pytest.raises(CheckpointError, match=f"{path}: damaged, or not a checkpoint"):
        load_checkpoint(path, initialised(Net()))


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "net.npz"
    np.savez(path, progress=np.array([Harmful()], dtype=object))
    with pytest.raises(CheckpointError):
        load_checkpoint(path, initialised(Net()))
    assert not (tmp_path / "harm").exists()


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "net.npz").mkdir()  # reading modes mean nothing to root; a folder cannot be read by anybody
    with pytest.raises(IsADirectoryError):
        load_checkpoint(tmp_path / "net.npz", initialised(Net()))


def test_any_flipped_bit_is_found_or_harmless(tmp_path):
    path = tmp_path / "net.npz"
    save_checkpoint(path, initialised(Net()))
    content = path.read_bytes()
    net = initialised(Net())
    for place in np.random.default_rng(0).integers(0, len(content), size=150):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        try:
            load_checkpoint(path, net)
        except CheckpointError:
            pass  # the only exception there may be
