import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tvm", reason="apache-tvm is not installed: pip install 'd2lcls[deploy]'")

from d2lcls.commands import compile as command  # noqa: E402
from d2lcls.commands.parsers import commands_of  # noqa: E402
from d2lcls.deploy import ModelError, load_model, tvm_graph  # noqa: E402
from d2lcls.deploy.export import export  # noqa: E402
from d2lcls.deploy.manifest import derive, read_manifest, write_manifest  # noqa: E402
from d2lcls.deploy.to_onnx import export_onnx  # noqa: E402
from d2lcls.deploy.tvm import compile_host, open_library  # noqa: E402
from d2lcls.deploy.tvm_tune import Records, gain, tune  # noqa: E402


@pytest.fixture(scope="module")
def onnx_model(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "cnn"
    export_onnx(model, folder)
    return folder


@pytest.fixture(scope="module")
def compiled(onnx_model, tmp_path_factory):
    """The model compiled for batches of four."""
    folder = tmp_path_factory.mktemp("tvm") / "cnn"
    compile_host(onnx_model, folder, batch=4)
    return folder


def same(found, expected):
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_any_number_of_pictures_is_answered_as_by_mxnet(model, compiled, examples, count):
    assert load_model(compiled).manifest.batch == 4
    same(load_model(compiled).compute(examples[:count]), load_model(model).compute(examples[:count]))


@pytest.mark.parametrize("name", ["cifar_resnet20_v1", *(pytest.param(name, marks=pytest.mark.slow) for name in (
    "mobilenetv2_0.25", "efficientnet_lite0", "cifar_resnet20_v2", "resnet18_v1"))])
def test_networks_answer_as_in_mxnet(network, tmp_path, preprocess, examples, name):
    export(network(name), tmp_path / "m", name, ("a", "b", "c"), preprocess)
    export_onnx(tmp_path / "m", tmp_path / "o")
    manifest, difference = compile_host(tmp_path / "o", tmp_path / "t")
    assert manifest.form == "tvm" and manifest.batch == 1 and manifest.made_from["form"] == "onnx" and difference < 1e-4
    same(load_model(tmp_path / "t").compute(examples[:8]), load_model(tmp_path / "m").compute(examples[:8]))


def test_another_process_reads_it_back(model, compiled, examples, tmp_path):
    np.save(tmp_path / "x.npy", examples[:3])
    code = (f"import numpy; from d2lcls.deploy import load_model; x = numpy.load({str(tmp_path / 'x.npy')!r}); "
            f"numpy.save({str(tmp_path / 'y.npy')!r}, load_model({str(compiled)!r}).compute(x)); "
            "import sys; assert 'mxnet' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)
    same(np.load(tmp_path / "y.npy"), load_model(model).compute(examples[:3]))


def test_waiting_threads_fall_asleep(compiled):
    code = (f"import time, numpy; from d2lcls.deploy import load_model; run = load_model({str(compiled)!r}).compute; "
            "run(numpy.zeros((4, 3, 16, 16))); begun = time.process_time(); time.sleep(0.3); "
            "assert time.process_time() - begun < 0.05")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_shapes_are_named(compiled, examples):
    compute = load_model(compiled).compute
    for wrong in (examples[0], examples[:, :, :8]):
        with pytest.raises(ValueError, match=r"shape \(N, 3, 16, 16\), for which the model was compiled, got"):
            compute(wrong)
    assert compute(examples[:0]).shape == (0, 3)


def test_a_damaged_library_is_no_crash(compiled, tmp_path):
    shutil.copytree(compiled, tmp_path / "cut")
    (tmp_path / "cut" / "model.so").write_bytes((compiled / "model.so").read_bytes()[:5000])
    with pytest.raises(ModelError, match="model.so: not the file that was written"):
        load_model(tmp_path / "cut")  # the loader itself would end the process with a bus error
    (tmp_path / "model.so").write_text("no library")
    with pytest.raises(ModelError, match="model.so: cannot be loaded.*Compile it anew"):
        open_library(tmp_path, read_manifest(compiled))
    (tmp_path / "model.so").unlink()
    with pytest.raises(ModelError, match="holds no model.so.*another machine.*classify"):
        open_library(tmp_path, read_manifest(compiled))


def test_another_processor_is_refused_before_it_stops_the_process(compiled, monkeypatch):
    manifest = read_manifest(compiled)
    monkeypatch.setattr("d2lcls.deploy.tvm.this_processor", lambda: "x86-64")
    for name, reason in (("sapphirerapids", "and this is x86-64, which lacks adx, aes, amx-bf16. Compile it here"),
                         ("no-such-processor", "which LLVM does not know here"), (None, "which LLVM does not know")):
        with pytest.raises(ModelError, match=f"compiled for the processor {name}, {reason}"):
            open_library(compiled, replace(manifest, made_from={"processor": name}))
    open_library(compiled, replace(manifest, made_from={"processor": "x86-64"}))
    monkeypatch.setattr("d2lcls.deploy.tvm.this_processor", lambda: "skylake")
    for name in ("x86-64", "haswell", "broadwell"):  # for which LLVM has other hints on what is quick
        open_library(compiled, replace(manifest, made_from={"processor": name}))


def test_what_cannot_be_compiled_is_said_in_one_sentence(model, onnx_model, compiled, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="form mxnet; TVM compiles one of form onnx"):
        compile_host(model, tmp_path / "a")
    with pytest.raises(ValueError, match="there is something already"):
        compile_host(onnx_model, compiled)
    with pytest.raises(ValueError, match="batch must be 1 or more, not 0"):
        compile_host(onnx_model, tmp_path / "a", batch=0)
    with pytest.raises(FileNotFoundError, match="holds no manifest.json"):
        compile_host(tmp_path, tmp_path / "a")
    with pytest.raises(ModelError, match="compiled, the model's logits differ by up to .*more than -1. Please report"):
        compile_host(onnx_model, tmp_path / "b", tolerance=-1)
    assert not list((tmp_path / "b").iterdir())
    monkeypatch.setitem(sys.modules, "tvm", None)
    with pytest.raises(ImportError, match=r'apache-tvm is not installed: pip install "d2lcls\[deploy\]"'):
        tvm_graph.import_tvm()


def test_an_operator_unknown_to_tvm_is_named(onnx_model, tmp_path):
    import onnx

    nodes = [onnx.helper.make_node("Det", ["data"], ["y"])]
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
             for name, shape in (("data", ["N", 3, 16, 16]), ("y", ["N", 3]))]
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7),
              str(tmp_path / "model.onnx"))
    manifest = write_manifest(tmp_path, derive(read_manifest(onnx_model), "onnx"))
    with pytest.raises(ModelError, match="cannot read this model.*Det"):
        tvm_graph.read_relax(tmp_path, manifest)


def test_tuning_changes_the_schedule_and_not_the_answer(model, onnx_model, examples, tmp_path):
    records = tune(onnx_model, seconds=0.1)
    assert records.trials >= len(records.choices) > 5  # each loop by rule, at the least
    assert all(len(pair) == 2 and min(pair) > 0 for pair in records.seconds.values())
    forced = Records({text: (2, 8) for text in records.choices})
    manifest, _ = compile_host(onnx_model, tmp_path / "t", records=forced)
    assert manifest.made_from["tuned"] is True
    same(load_model(tmp_path / "t").compute(examples[:2]), load_model(model).compute(examples[:2]))
    with pytest.raises(ValueError, match="seconds must be above 0, not 0"):
        tune(onnx_model, 0)


@pytest.mark.slow
def test_tuning_is_not_slower_than_the_rule_by_its_own_measure(onnx_model):
    records = tune(onnx_model, seconds=30)
    before, after = (sum(pair[place] for pair in records.seconds.values()) for place in (0, 1))
    assert records.trials > len(records.choices) and after < 1.2 * before
    ratios = gain(onnx_model, records, rounds=3)
    assert len(ratios) == 3 and min(ratios) > 0


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="d2lcls")
    command.add(commands_of(parser))
    return parser.parse_args([str(argument) for argument in arguments])


def test_the_command_compiles_and_tunes(capsys, onnx_model, examples, model, tmp_path, monkeypatch):
    monkeypatch.setattr("d2lcls.deploy.tvm_tune.tune", lambda folder, seconds, batch: Records(trials=9))
    monkeypatch.setattr("d2lcls.deploy.tvm_tune.gain", lambda folder, records, batch: [1.0, 1.5, 9.0])
    options = parse("compile", onnx_model, "--out", tmp_path / "t", "--tune", 0.5, "--batch", 2)
    assert not options.run(options)
    out = capsys.readouterr().out
    assert "9 schedules tried; tuned, the model runs 1.50 times as fast as scheduled by rule\n" in out
    assert re.search(r"model.so: [\d.]+ MB for \S+, batch 2\n", out)
    assert re.search(r"\nloaded, checked and run once in [\d,]+ ms; logits differ from ONNX Runtime's by ", out)
    same(load_model(tmp_path / "t").compute(examples[:3]), load_model(model).compute(examples[:3]))
    assert json.loads((tmp_path / "t/manifest.json").read_text())["versions"]["apache-tvm"]


def test_options_that_exclude_each_other_exit_with_2(capsys, onnx_model, tmp_path):
    options = parse("compile", onnx_model, "--out", tmp_path / "t", "--target", "arm64", "--tune", 5)
    with pytest.raises(SystemExit, match="2"):
        options.run(options)
    assert "--tune and --batch go with --target host" in capsys.readouterr().err
