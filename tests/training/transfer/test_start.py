"""Where a training starts: an earlier run, or a file of weights."""

import collections
import json
import pickle
import sys
import types
import zipfile

from d2lcls.data import Images
from d2lcls.models import get_model
from d2lcls.training import CheckpointError, Recipe, train
from d2lcls.training.checkpoints import parameters_to_arrays
from d2lcls.training.pipeline import cut_batches, resolve
from d2lcls.training.runs import load_run, read_run
from d2lcls.training.transfer.start import make_network
from d2lcls.weights import WeightsError, to_torch
from d2lcls.weights.tensors import write_safetensors

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

NAME = "mobilenet0.25"
TINY = {"size": 16, "batch_size": 8, "augment": (), "num_epochs": 1}


def folder_of(root, names, count=8, seed=0):
    """A folder with a class of coloured noise for each name."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(names):
        (root / "train" / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            image[..., channel % 3] += 120
            Image.fromarray(image).save(root / "train" / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("data") / "three", ("red", "green", "blue"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("data") / "two", ("day", "night"), seed=1)


@pytest.fixture(scope="module")
def earlier(three, tmp_path_factory):
    """A run of two epochs on three classes."""
    folder = tmp_path_factory.mktemp("work") / "earlier"
    recipe = Recipe(dataset=str(three), model="cnn", **{**TINY, "num_epochs": 2})
    train(recipe, folder, on_epoch=None)
    return folder


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(tmp_path / "empty-cache"))
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def best_of(folder):
    with np.load(folder / "best.npz") as arrays:
        return {name: arrays[name] for name in arrays if name.startswith("param/")}


def starting(recipe, images):
    """The network with which a recipe starts, its batches, and what is said about it."""
    recipe, said = resolve(recipe), []
    batches, _ = cut_batches(recipe, images, None)
    return make_network(recipe, batches, report=said.append), batches, " ".join(said)


def pictures(classes, size=16, channels=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2 * len(classes), size, size, channels), dtype=np.uint8)
    return Images(images, np.arange(2 * len(classes)) % len(classes), tuple(classes), "pictures")


def test_other_classes_get_a_new_last_layer_and_the_rest_is_the_earlier_run_s(earlier):
    net, batches, said = starting(Recipe(from_run=str(earlier)), pictures(("day", "night")))
    before, now, total = best_of(earlier), parameters_to_arrays(net), len(parameters_to_arrays(net))
    assert now["param/output.weight/0"].shape == (2, 256)
    for name in now:
        if "output" not in name:
            np.testing.assert_array_equal(now[name], before[name], err_msg=name)
    run = read_run(earlier)
    assert tuple(batches.mean) == run.mean and tuple(batches.std) == run.std and batches.size is None
    assert said == (
        f"Started from {earlier}: loaded {total - 2} of {total} parameters of cnn, not output.weight and output.bias: "
        "the last layer for 3 classes is replaced by a new one for 2."
    )


def test_the_same_classes_keep_the_last_layer(earlier, three):
    classes = read_run(earlier).classes
    net, _, said = starting(Recipe(from_run=str(earlier)), pictures(classes))
    now = parameters_to_arrays(net)
    for name, value in best_of(earlier).items():
        np.testing.assert_array_equal(now[name], value, err_msg=name)
    assert f"loaded all {len(now)} parameters of cnn." in said
    renamed, _, _ = starting(Recipe(from_run=str(earlier)), pictures(classes[::-1]))
    assert (parameters_to_arrays(renamed)["param/output.weight/0"] != now["param/output.weight/0"]).any()


def test_images_have_the_earlier_run_s_size_unless_one_is_given(earlier):
    _, batches, _ = starting(Recipe(from_run=str(earlier)), pictures(("day", "night"), size=24))
    assert batches.size == (16, 16)
    _, batches, _ = starting(Recipe(from_run=str(earlier), size=20), pictures(("day", "night"), size=24))
    assert batches.size == (20, 20)


def test_it_trains_as_pretrained_weights_do(earlier, two, tmp_path):
    recipe = Recipe(dataset=str(two), from_run=str(earlier), train_last=1, **TINY)
    trained = train(recipe, tmp_path / "run", on_epoch=None)
    assert (
        trained.run.recipe.lr == 0.01 and trained.run.recipe.model == "cnn" and trained.run.classes == ("day", "night")
    )
    assert (trained.run.mean, trained.run.std) == (read_run(earlier).mean, read_run(earlier).std)
    before, now = best_of(earlier), best_of(tmp_path / "run")
    for name in now:
        if "output" not in name:
            np.testing.assert_array_equal(now[name], before[name], err_msg=name)
    recipe = Recipe(
        dataset=str(two), from_run=str(earlier), unfreeze="gradual", layer_lr_decay=0.5, **{**TINY, "num_epochs": 3}
    )
    train(recipe, tmp_path / "thawed", on_epoch=None)
    now = best_of(tmp_path / "thawed")
    with np.load(tmp_path / "thawed/last.npz") as arrays:
        stored = json.loads(str(arrays["progress"]))["recipe"]
        last = {name: arrays[name] for name in before if "output" not in name}
    assert stored["lr_multipliers"]["features.0.weight"] == 0.5**4
    for name, value in last.items():  # statistics are held, weights of every depth have moved
        assert (value == before[name]).all() == ("running" in name), name


class Stop(Exception):
    pass


def test_a_stopped_run_goes_on_exactly_without_the_earlier_one(earlier, two, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in ("run.json", "network.json", "best.npz", "last.npz"):
        (copied / file).write_bytes((earlier / file).read_bytes())
    recipe = Recipe(dataset=str(two), from_run=str(copied), **{**TINY, "num_epochs": 3})

    def stop(record):
        raise Stop

    train(recipe, tmp_path / "whole", on_epoch=None)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "cut", on_epoch=stop)
    for file in copied.iterdir():
        file.unlink()
    train(read_run(tmp_path / "cut").recipe, tmp_path / "cut", resume=True, on_epoch=None)
    for file in ("best.npz", "last.npz"):
        with np.load(tmp_path / "whole" / file) as whole, np.load(tmp_path / "cut" / file) as cut:
            assert set(whole) == set(cut)
            for name in set(whole) - {"progress"}:
                np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)


def test_a_run_that_cannot_be_started_from_is_named(earlier, three, tmp_path):
    def start(folder, error, message, **fields):
        with pytest.raises(error, match=message):
            train(Recipe(dataset=str(three), from_run=str(folder), **TINY, **fields), tmp_path / "run", on_epoch=None)
        assert not (tmp_path / "run").exists()

    start(tmp_path / "nothing", FileNotFoundError, "nothing: holds no run.json, so it is not a training run")
    start(earlier, ValueError, "earlier: was trained with the model cnn, not fast94.", model="fast94")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "run.json").write_bytes((earlier / "run.json").read_bytes())
    start(damaged, FileNotFoundError, "damaged: no epoch of this run was finished yet")
    (damaged / "best.npz").write_bytes((earlier / "best.npz").read_bytes()[:5000])
    start(damaged, CheckpointError, "best.npz: damaged")
    (damaged / "run.json").write_text("{")
    start(damaged, ValueError, "run.json: damaged")


def test_images_in_grey_are_refused(earlier):
    with pytest.raises(ValueError, match="are for images with 3 channels; those of pictures have 1"):
        starting(Recipe(from_run=str(earlier)), pictures(("a", "b"), channels=1))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"from_run": "run", "pretrained": True}, "from_run and pretrained are two starting points"),
        ({"weights": "a.pth", "model": "cnn", "pretrained": True}, "weights and pretrained are two starting points"),
        ({"weights": "a.pth"}, "weights belong to a network: name it with model"),
    ],
)
def test_starting_points_that_do_not_go_together(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


@pytest.fixture(scope="module")
def network():
    """A network of five classes with parameters of its own."""
    mx.random.seed(3)
    net = get_model(NAME, classes=5)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 32, 32))).wait_to_read()
    return net


def write(net, path, form):
    values = {name: parameter.data().asnumpy() for name, parameter in net._collect_params_with_prefix().items()}
    if form == "params":
        net.save_parameters(str(path))
    elif form == "gluon.safetensors":
        write_safetensors(path, values)
    elif form == "timm.safetensors":
        write_safetensors(path, to_torch(net))
    else:
        write_pth(path, {name: value for name, value in to_torch(net).items() if value.dtype == np.float32})
    return path


def write_pth(path, arrays):
    """Write a state dict as torch.save does, without PyTorch."""

    def rebuild():
        raise NotImplementedError

    class Storage:
        pass

    class Tensor:
        def __init__(self, key, array):
            self.key, self.array = key, array

        def __reduce__(self):
            shape = self.array.shape
            strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
            return rebuild, (Stored(self.key, self.array.size), 0, shape, strides, False, collections.OrderedDict())

    class Stored:
        def __init__(self, key, length):
            self.key, self.length = key, length

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", Storage, value.key, "cpu", value.length) if isinstance(value, Stored) else None

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    Storage.__module__, Storage.__qualname__ = "torch", "FloatStorage"
    torch.FloatStorage, utils._rebuild_tensor_v2 = Storage, rebuild
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("net/data.pkl", "w") as file:
                state = {
                    name: Tensor(str(key), np.ascontiguousarray(a)) for key, (name, a) in enumerate(arrays.items())
                }
                Pickler(file, protocol=2).dump(collections.OrderedDict(state))
            for key, array in enumerate(arrays.values()):
                archive.writestr(f"net/data/{key}", np.ascontiguousarray(array).tobytes())
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]


@pytest.mark.parametrize("form", ["params", "gluon.safetensors", "timm.safetensors", "pth"])
def test_a_file_of_weights_is_loaded_but_for_a_head_of_another_size(network, tmp_path, form):
    path = write(network, tmp_path / f"mine.{form}", form)
    before = parameters_to_arrays(network)
    for classes in ("abcde", "ab"):
        net, batches, said = starting(Recipe(model=NAME, weights=str(path)), pictures(classes, 32))
        now = parameters_to_arrays(net)
        assert now["param/output.weight/0"].shape == (len(classes), 256)
        for name in now:
            if "output" not in name or len(classes) == 5:
                np.testing.assert_array_equal(now[name], before[name], err_msg=name)
        part = f"{len(now) - 2} of {len(now)} parameters of {NAME}, not output.weight and output.bias: the last layer"
        expected = {
            5: f"all {len(now)} parameters of {NAME}.",
            2: f"{part} for 5 classes is replaced by a new one for 2.",
        }
        assert said == f"Started from {path}: loaded {expected[len(classes)]}"
        assert tuple(batches.mean) == (0.485, 0.456, 0.406)  # as for ImageNet
        assert batches.size == (224, 224)


def test_statistics_are_computed_where_a_model_has_no_imagenet_weights(earlier, tmp_path):
    _, net = load_run(earlier)
    arrays = {name.split("/")[1]: value for name, value in best_of(earlier).items()}
    write_safetensors(tmp_path / "cnn.safetensors", arrays)
    images = pictures(("a", "b"))
    _, batches, _ = starting(Recipe(model="cnn", weights=str(tmp_path / "cnn.safetensors")), images)
    np.testing.assert_allclose(batches.mean, images.images.mean((0, 1, 2)) / 255, rtol=1e-6)
    assert batches.size is None


def test_training_from_a_file_is_resumed_without_it(network, two, tmp_path):
    path = write(network, tmp_path / "mine.params", "params")
    recipe = Recipe(dataset=str(two), model=NAME, weights="mine.params", **{**TINY, "size": 32})
    recipe = Recipe(**{**recipe.__dict__, "train_last": 1, "num_epochs": 2})

    def stop(record):
        raise Stop

    train(recipe, tmp_path / "whole", on_epoch=None)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "cut", on_epoch=stop)
    path.unlink()
    train(recipe, tmp_path / "cut", resume=True, on_epoch=None)
    whole, cut = best_of(tmp_path / "whole"), best_of(tmp_path / "cut")
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)


def test_a_file_that_does_not_fit_is_named(network, three, tmp_path):
    def start(path, error, message, model="cnn"):
        recipe = Recipe(dataset=str(three), model=model, weights=str(path), **TINY)
        with pytest.raises(error, match=message):
            train(recipe, tmp_path / "run", on_epoch=None)
        assert not (tmp_path / "run").exists()

    start(tmp_path / "nothing.params", FileNotFoundError, "nothing.params: no such file of weights")
    for form in ("params", "timm.safetensors", "pth"):
        path = write(network, tmp_path / f"mine.{form}", form)
        start(path, WeightsError, f"mine.{form}: does not fit")
        path.write_bytes(path.read_bytes()[:1000])
        start(path, WeightsError, f"mine.{form}: ", model=NAME)
