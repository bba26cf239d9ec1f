import json

from d2lcls.data import Images, channel_statistics
from d2lcls.models import SmallCNN
from d2lcls.training import evaluate, fit
from d2lcls.training.runs import Run, classify, load_run, make_network, read_run

import mxnet as mx
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def trained(shapes, tmp_path):
    mean, std = channel_statistics(shapes.images)
    run = Run("cnn", "shapes", shapes.classes, shapes.images.shape[1:], tuple(mean), tuple(std), 0.1, 0)
    run.save(tmp_path / "run")
    net = SmallCNN(3)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    fit(
        net,
        run.batches(shapes, 32, shuffle=True),
        run.batches(shapes),
        num_epochs=3,
        lr=0.05,
        verbose=False,
        checkpoint_dir=tmp_path / "run",
    )
    return tmp_path / "run", run, net


def test_a_loaded_run_is_the_trained_one(trained, shapes):
    folder, run, net = trained
    loaded, again = load_run(folder)
    assert loaded == run
    assert evaluate(again, loaded.batches(shapes)) == evaluate(net, run.batches(shapes))


def test_pictures_are_classified_like_the_arrays_they_hold(trained, shapes, tmp_path):
    folder, run, net = trained
    paths = []
    for index in range(4):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(shapes.images[index]).save(paths[-1])
    probabilities = classify(run, net, paths)
    assert probabilities.shape == (4, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    from d2lcls.training import predict, softmax

    np.testing.assert_allclose(
        probabilities, softmax(predict(net, run.batches(shapes.subset(np.arange(4))))), rtol=1e-5
    )


def test_what_does_not_fit_is_named(trained, shapes, tmp_path):
    folder, run, _ = trained
    with pytest.raises(ValueError, match="trained on the classes top, middle, bottom; this set has a, b, c"):
        run.batches(Images(shapes.images, shapes.labels, ("a", "b", "c"), "other"))
    with pytest.raises(ValueError, match=r"images of shape \(12, 12, 3\), these are \(11, 12, 3\)"):
        run.batches(Images(shapes.images[:, 1:], shapes.labels, shapes.classes, "other"))
    with pytest.raises(FileNotFoundError, match="holds no run.json"):
        load_run(tmp_path / "nothing")
    (folder / "best.npz").unlink()
    with pytest.raises(FileNotFoundError, match="no epoch of this run was finished"):
        load_run(folder)
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json: damaged"):
        load_run(folder)


def test_runs_of_before_there_was_a_size_still_load(trained, shapes):
    folder, run, net = trained
    fields = json.loads((folder / "run.json").read_text())
    for name in ("size", "pretrained", "loss"):
        del fields[name]
    (folder / "run.json").write_text(json.dumps(fields))
    loaded, again = load_run(folder)
    assert loaded == run and evaluate(again, loaded.batches(shapes)) == evaluate(net, run.batches(shapes))


def test_a_size_is_remembered_and_pictures_are_scaled_to_it(shapes, tmp_path):
    run = Run("cnn", "shapes", shapes.classes, (12, 12, 3), (0.5,) * 3, (0.25,) * 3, 0.0, 0, size=(20, 24))
    run.save(tmp_path)
    assert read_run(tmp_path) == run
    x, _ = next(iter(run.batches(shapes)))
    assert x.shape == (150, 3, 20, 24)
    net = make_network(run)
    Image.fromarray(shapes.images[0]).save(tmp_path / "0.png")
    from d2lcls.training import softmax

    np.testing.assert_allclose(
        classify(run, net, [tmp_path / "0.png"]), softmax(net(mx.nd.array(x[:1])).asnumpy()), rtol=1e-4
    )


def test_a_pretrained_network_is_rebuilt_with_its_new_head(shapes):
    run = Run("mobilenet0.25", "shapes", shapes.classes, (32, 32, 3), (0.5,) * 3, (0.25,) * 3, 0.0, 0, pretrained=True)
    assert make_network(run)(mx.nd.zeros((2, 3, 32, 32))).shape == (2, 3)
