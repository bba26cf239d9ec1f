import json
import shutil
from pathlib import Path

from d2lcls.data import Batches, Images
from d2lcls.explain import fit_temperature, grad_cam, overlay
from d2lcls.models import SmallCNN, get_model
from d2lcls.report import examine_run
from d2lcls.report.examples import Explainer
from d2lcls.report.findings import SAME
from d2lcls.training import Recipe, evaluate, fit, load_run, open_run_split, predict, rebuild_network

import mxnet as mx
import numpy as np
import pytest
from hostile import HOSTILE


def test_the_score_is_that_of_evaluate(folder, findings):
    run, net = load_run(folder)
    score = evaluate(net, run.batches(open_run_split(run, "test")))
    assert (findings.split, len(findings.analysis)) == ("test", 18) == ("test", score.images)
    assert findings.analysis.accuracy == score.accuracy > 0.6
    assert findings.analysis.losses.mean() == pytest.approx(score.loss, rel=1e-5)
    assert findings.analysis.classes == tuple(sorted(HOSTILE)) and not findings.sample


def test_the_run_is_described(findings):
    net = rebuild_network(findings.folder)
    assert findings.parameters == sum(np.prod(p.shape) for p in net.collect_params().values())
    assert [record.epoch for record in findings.epochs] == [1, 2, 3, 4]
    best = max(record.valid_accuracy for record in findings.epochs)
    assert findings.best_epoch == next(record for record in findings.epochs if record.valid_accuracy == best)
    assert findings.training_counts.tolist() == [12, 12, 12] and findings.not_opened == ""


def test_the_wrong_label_is_the_worst_mistake_and_has_its_map(source, folder, findings):
    worst = findings.mistakes[0]
    assert worst.name == str(source.parent / "test <b>0-0.png") and worst.true == HOSTILE[0] != worst.predicted
    assert worst.loss == pytest.approx(-np.log(worst.true_probability), rel=1e-3)
    assert worst.probability > worst.true_probability and worst.image.shape == worst.cam.shape == (16, 16, 3)
    losses = [mistake.loss for mistake in findings.mistakes]
    assert losses == sorted(losses, reverse=True)
    run, _ = load_run(folder)
    images = open_run_split(run, "test")
    index = next(i for i in range(len(images)) if images.path_of(i) == worst.name)
    [(x, _)] = run.batches(images.subset(np.array([index])))
    cam = grad_cam(rebuild_network(folder), x, classes=[run.classes.index(worst.predicted)])[0]
    np.testing.assert_allclose(worst.cam.astype(int), overlay(worst.image, cam), atol=2)


def test_the_temperature_is_fitted_on_the_validation_images(folder, findings):
    run, net = load_run(folder)
    validation = open_run_split(run, "validation")
    calibration = findings.calibration
    assert calibration.fitted_on == "the validation images"
    try:
        expected = fit_temperature(predict(net, run.batches(validation)), validation.labels)
    except ValueError as error:
        assert calibration.temperature is None and calibration.reason == str(error)
    else:
        assert calibration.temperature == pytest.approx(expected, rel=1e-6)


def test_on_the_validation_images_themselves_it_is_fitted_on_the_same(folder):
    found = examine_run(folder, "validation", mistakes=1)
    assert found.calibration.fitted_on == SAME and len(found.analysis) == 12 and len(found.mistakes) <= 1


def test_another_set_is_scored_though_the_training_images_are_gone(folder, source, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "run")
    described = json.loads((copy / "run.json").read_text())
    described["recipe"]["dataset"] = str(tmp_path / "gone.csv")
    (copy / "run.json").write_text(json.dumps(described))
    found = examine_run(copy, "test", str(source))
    assert found.training_counts is None and "gone.csv" in found.not_opened and len(found.analysis) == 18
    assert found.calibration.fitted_on == SAME and found.dataset == str(source)


def test_a_network_of_ones_own_has_no_maps_and_says_why(shapes, tmp_path):
    net = SmallCNN(classes=3, widths=(4, 5))
    net.initialize(mx.init.Xavier())
    batches = Batches(shapes, 50)
    net(mx.nd.array(batches.example()))
    fit(net, batches, recipe=Recipe(num_epochs=1), checkpoint_dir=tmp_path / "run", on_epoch=None)
    run, graph = load_run(tmp_path / "run")
    explainer = Explainer(tmp_path / "run", run)
    assert explainer.net is None and "No image classifier is called 'smallcnn'" in explainer.reason
    assert explainer.maps(shapes.images[:2], np.array([0, 1])) == [None, None]


def test_grey_images_are_explained_in_colour(shapes, tmp_path):
    grey = Images(shapes.images[..., :1], shapes.labels, shapes.classes, "grey")
    net = get_model("cnn", classes=3)
    net.initialize(mx.init.Xavier())
    batches = Batches(grey, 50, size=20)
    net(mx.nd.array(batches.example()))
    fit(net, batches, recipe=Recipe(num_epochs=1, model="cnn"), checkpoint_dir=tmp_path / "run", on_epoch=None)
    run, graph = load_run(tmp_path / "run")
    explainer = Explainer(tmp_path / "run", run)
    assert explainer.reason == ""
    assert [cam.shape for cam in explainer.maps(grey.images[:17], np.zeros(17, dtype=int))] == [(20, 20, 3)] * 17


def test_pictures_are_classified_with_their_maps(folder, source):
    run, net = load_run(folder)
    paths = sorted(map(str, Path(source).parent.glob("train*2-*.png")))
    found = Explainer(folder, run).pictures(net, paths)
    assert [each.name for each in found] == paths and all(each.true is None for each in found)
    assert sum(each.predicted == HOSTILE[2] for each in found) > 9 and found[0].cam.shape == (16, 16, 3)
