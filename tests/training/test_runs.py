import json

from d2lcls.data import Batches, Images, channel_statistics
from d2lcls.models import SmallCNN
from d2lcls.training import CheckpointError, Recipe, classify, evaluate, fit, load_run, predict, softmax
from d2lcls.training.pipeline import cut_batches, make_network
from d2lcls.training.runs import read_run

import mxnet as mx
import numpy as np
import pytest
from PIL import Image


def fit_into(folder, shapes, size=None, valid=True):
    mean, std = channel_statistics(shapes.images)
    net = SmallCNN(3)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    held_out = Batches(shapes, 256, mean, std, size=size)
    train = Batches(shapes, 32, mean, std, shuffle=True, size=size)
    fit(net, train, held_out if valid else None, Recipe(num_epochs=3, lr=0.05), checkpoint_dir=folder, on_epoch=None)
    return folder, net, held_out


@pytest.fixture
def trained(shapes, tmp_path):
    return fit_into(tmp_path / "run", shapes)


def test_a_run_made_by_fit_is_loaded_as_it_was_trained(trained, shapes):
    folder, net, batches = trained
    run, loaded = load_run(folder)
    assert run.recipe == Recipe(num_epochs=3, lr=0.05, dataset="shapes", model="smallcnn")
    assert run.classes == shapes.classes and run.validation_images == 150
    assert evaluate(loaded, run.batches(shapes)) == evaluate(net, batches)


def test_without_validation_the_last_parameters_are_loaded(shapes, tmp_path):
    folder, net, batches = fit_into(tmp_path / "run", shapes, valid=False)
    assert evaluate(load_run(folder)[1], batches) == evaluate(net, batches)


def test_pictures_are_classified_like_the_arrays_they_hold(trained, shapes, tmp_path):
    run, net = load_run(trained[0])
    paths = []
    for index in range(4):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(shapes.images[index]).save(paths[-1])
    probabilities = classify(run, net, paths)
    assert probabilities.shape == (4, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    expected = softmax(predict(net, run.batches(shapes.subset(np.arange(4)))))
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_what_does_not_fit_is_named(trained, shapes, tmp_path):
    folder, *_ = trained
    run = read_run(folder)
    with pytest.raises(ValueError, match="trained on the classes top, middle, bottom; this set has a, b, c"):
        run.batches(Images(shapes.images, shapes.labels, ("a", "b", "c"), "other"))
    with pytest.raises(ValueError, match=r"images of shape \(12, 12, 3\), these are \(11, 12, 3\)"):
        run.batches(Images(shapes.images[:, 1:], shapes.labels, shapes.classes, "other"))
    with pytest.raises(FileNotFoundError, match="holds no run.json"):
        load_run(tmp_path / "nothing")
    network = (folder / "network.json").read_text()
    for damaged in ("{", "{}", json.dumps({"graph": {}, "parameters": {}})):
        (folder / "network.json").write_text(damaged)
        with pytest.raises(CheckpointError, match="network.json: damaged"):
            load_run(folder)
    (folder / "network.json").write_text(network.replace('"output.bias"', '"output.bios"'))
    with pytest.raises(CheckpointError, match="best.npz: holds the parameters of another network"):
        load_run(folder)
    (folder / "best.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no epoch of this run was finished"):
        load_run(folder)
    for damaged in ("{", "{}", '{"recipe": {"lr": -1}}', "[]"):
        (folder / "run.json").write_text(damaged)
        with pytest.raises(ValueError, match="run.json: damaged"):
            load_run(folder)


def test_a_size_is_remembered_and_pictures_are_scaled_to_it(shapes, tmp_path):
    folder, *_ = fit_into(tmp_path / "run", shapes, size=(20, 24))
    run, net = load_run(folder)
    x, _ = next(iter(run.batches(shapes)))
    assert run.size == (20, 24) and x.shape == (150, 3, 20, 24)
    Image.fromarray(shapes.images[0]).save(tmp_path / "0.png")
    expected = softmax(net(mx.nd.array(x[:1])).asnumpy())
    np.testing.assert_allclose(classify(run, net, [tmp_path / "0.png"]), expected, rtol=1e-4)


def test_a_run_is_resumed_on_the_same_images_only(trained, shapes):
    folder, *_ = trained
    moved = Batches(shapes, 32, (0.5,) * 3, (0.25,) * 3, shuffle=True)
    net = SmallCNN(3)
    net.initialize()
    with pytest.raises(ValueError, match="was started with mean="):
        fit(net, moved, moved, Recipe(num_epochs=3, lr=0.05), checkpoint_dir=folder, resume=True, on_epoch=None)


def test_a_network_that_depends_on_the_data_sees_them(shapes):
    large = Images(shapes.images.repeat(3, 1).repeat(3, 2)[:, :32, :32].copy(), shapes.labels, shapes.classes, "large")
    recipe = Recipe(dataset="large", model="fast94", batch_size=50)
    batches, _ = cut_batches(recipe, large, None)
    filters = make_network(recipe, batches).whitening.weight.data().asnumpy()
    assert np.abs(filters[:16] + filters[16:32]).max() < 1e-6  # whitening's filters come in pairs of both signs


def test_a_new_run_in_the_folder_of_an_old_one_is_described_anew(trained, shapes):
    folder, *_ = trained
    (folder / "last.npz").unlink()
    net = SmallCNN(3, widths=(8,))
    net.initialize()
    batches = Batches(shapes, 32, (0.5,) * 3, (0.25,) * 3)
    fit(net, batches, batches, Recipe(num_epochs=1, loss="focal"), checkpoint_dir=folder, on_epoch=None)
    run, loaded = load_run(folder)
    assert run.recipe.loss == "focal" and run.mean == (0.5,) * 3
    assert evaluate(loaded, batches) == evaluate(net, batches)


def test_a_checkpoint_without_a_field_had_its_default(trained, shapes):
    folder, net, _ = trained
    with np.load(folder / "last.npz") as file:
        arrays = dict(file)
    state = json.loads(str(arrays["progress"]))
    del state["recipe"]["lookahead"]
    np.savez(folder / "last.npz", **{**arrays, "progress": np.array(json.dumps(state))})
    mean, std = channel_statistics(shapes.images)
    train, valid = Batches(shapes, 32, mean, std, shuffle=True), Batches(shapes, 256, mean, std)
    recipe = Recipe(num_epochs=3, lr=0.05)
    assert len(fit(net, train, valid, recipe, checkpoint_dir=folder, resume=True, on_epoch=None)) == 3
    for field, value, stored in (("lookahead", 5, 0), ("bias_lr", 8.0, 1.0)):
        other = Recipe(num_epochs=3, lr=0.05, **{field: value})
        with pytest.raises(CheckpointError, match=f"{field} is {stored} there and {value} here"):
            fit(net, train, valid, other, checkpoint_dir=folder, resume=True, on_epoch=None)
    assert {parameter.lr_mult for parameter in net.collect_params().values()} == {1.0}  # refused before it was changed
