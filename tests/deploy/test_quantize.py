import shutil
from dataclasses import replace

from d2lcls.deploy import ModelError, load_model, read_manifest
from d2lcls.deploy.exporting import export, load_graph
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.onnx.quantize import quantize_onnx
from d2lcls.deploy.quantization import float_layers, quantizable, quantize_model, sensitivity
from d2lcls.models.fusion.folding import fold_batch_norm

import mxnet as mx
import numpy as np
import pytest


def error(actual, expected):
    return np.sqrt(((actual - expected) ** 2).mean()) / expected.std()


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    "name, mode",
    [
        *((name, "naive") for name in ("cnn", "cifar_resnet20_v1", "mobilenetv2_0.25")),
        ("cnn", "entropy"),
        *(pytest.param(name, "entropy", marks=pytest.mark.slow) for name in ("cifar_resnet20_v1", "mobilenetv2_0.25")),
    ],
)
def test_int8_is_near_and_small(network, tmp_path, preprocess, examples, name, mode):
    export(network(name), tmp_path / "m", name, ("a", "b", "c"), preprocess)
    manifest, in_float = quantize_model(tmp_path / "m", tmp_path / "q", examples, mode)
    expected = load_model(tmp_path / "m").compute(examples)
    predictor = load_model(tmp_path / "q")
    actual = predictor.compute(examples)
    assert 0 < error(actual, expected) < 0.25
    assert manifest.form == "mxnet-int8" and manifest.made_from["mode"] == mode and manifest.made_from["images"] == 64
    assert in_float == float_layers(mx.sym.load(str(tmp_path / "q/model-symbol.json")))
    if name != "mobilenetv2_0.25":  # whose few weights weigh less than its graph
        assert size(tmp_path / "q") < 0.35 * size(tmp_path / "m")
    for count in (1, 5, 64):  # another batch is not answered with the first one's logits
        np.testing.assert_array_equal(predictor.compute(examples[-count:]), actual[-count:])


def test_excluded_layers_stay_in_float_and_cost_nothing(model, tmp_path, examples):
    layers = list(quantizable(fold_batch_norm(*load_graph(model))[0]))
    expected = load_model(model).compute(examples)
    _, in_float = quantize_model(model, tmp_path / "none", examples, exclude=layers)
    assert len(in_float) == len(layers)
    assert error(load_model(tmp_path / "none").compute(examples), expected) < 1e-5
    assert read_manifest(tmp_path / "none").made_from["excluded"] == layers
    _, in_float = quantize_model(model, tmp_path / "one", examples, exclude=layers[:1])
    assert len(in_float) == 1


def test_sensitivity_sorts_layers_by_error(model, tmp_path, examples):
    results = sensitivity(model, examples)
    layers = quantizable(fold_batch_norm(*load_graph(model))[0])
    assert {layer.name for layer in results} == set(layers)
    assert [layer.error for layer in results] == sorted((layer.error for layer in results), reverse=True)
    assert all(layer.error > 0 for layer in results)
    expected = load_model(model).compute(examples)
    others = [layer.name for layer in results[1:]]
    quantize_model(model, tmp_path / "worst", examples, exclude=others)  # only the worst one is quantised
    assert error(load_model(tmp_path / "worst").compute(examples), expected) == pytest.approx(
        results[0].error, rel=0.05
    )


def test_what_cannot_be_quantised(model, tmp_path, examples):
    with pytest.raises(ValueError, match="mode must be one of naive, entropy, not 'best'"):
        quantize_model(model, tmp_path / "q", examples, "best")
    with pytest.raises(ValueError, match="There is no layer head to exclude. There are: sg_mkldnn_conv_act_0, "):
        quantize_model(model, tmp_path / "q", examples, exclude=["head"])
    quantize_model(model, tmp_path / "q", examples)
    with pytest.raises(ModelError, match="a model of form mxnet-int8"):
        quantize_model(tmp_path / "q", tmp_path / "again", examples)
    with pytest.raises(ModelError, match="a model of form mxnet-int8; this step takes one of form mxnet"):
        export_onnx(tmp_path / "q", tmp_path / "o")
    with pytest.raises(ModelError, match="this step takes one of form onnx"):
        quantize_onnx(model, tmp_path / "o", examples)


def test_onnx_in_int8(network, tmp_path, preprocess, examples):
    export(network("cifar_resnet20_v1"), tmp_path / "m", "r", ("a", "b", "c"), preprocess)
    export_onnx(tmp_path / "m", tmp_path / "o")
    manifest = quantize_onnx(tmp_path / "o", tmp_path / "q", examples)
    assert manifest.form == "onnx-int8" and manifest.made_from["images"] == 64
    expected = load_model(tmp_path / "m").compute(examples)
    actual = load_model(tmp_path / "q").compute(examples)
    assert 0 < error(actual, expected) < 0.25
    np.testing.assert_array_equal(load_model(tmp_path / "q").compute(examples[-1:]), actual[-1:])
    assert size(tmp_path / "q") < 0.45 * size(tmp_path / "m")


@pytest.mark.parametrize("vnni", [False, True])
def test_the_manifest_says_whether_a_model_needs_vnni(model, tmp_path, examples, vnni):
    export_onnx(model, tmp_path / "onnx")
    assert not read_manifest(model).needs_vnni() and not read_manifest(tmp_path / "onnx").needs_vnni()
    quantize_model(model, tmp_path / "q", examples, vnni=vnni)
    quantize_onnx(tmp_path / "onnx", tmp_path / "o", examples, vnni=vnni)
    for folder in ("q", "o"):
        manifest = read_manifest(tmp_path / folder)
        assert manifest.made_from["vnni"] is vnni and manifest.needs_vnni() is vnni
        old = replace(manifest, made_from={key: value for key, value in manifest.made_from.items() if key != "vnni"})
        assert old.needs_vnni() and replace(manifest, made_from=None).needs_vnni()


def test_copies_work_elsewhere(model, tmp_path, examples):
    quantize_model(model, tmp_path / "q", examples)
    actual = load_model(tmp_path / "q").compute(examples)
    moved = shutil.move(tmp_path / "q", tmp_path / "moved")
    np.testing.assert_array_equal(load_model(moved).compute(examples), actual)
