import argparse
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tvm", reason="apache-tvm is not installed: pip install 'd2lcls[deploy]'")

from d2lcls.commands import compile as command
from d2lcls.commands.parsers import commands_of
from d2lcls.deploy import ModelError, load_model
from d2lcls.deploy.edge import graph as tvm_graph
from d2lcls.deploy.edge.host import compile_host, open_library
from d2lcls.deploy.edge.schedule import TILE
from d2lcls.deploy.edge.target import host_target, host_tile, needs
from d2lcls.deploy.edge.tuning import Records, gain, tune
from d2lcls.deploy.exporting import export
from d2lcls.deploy.manifest import derive, read_manifest, write_manifest
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.machine.cores import cpu_flags

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="about the instruction sets of x86-64")


@pytest.fixture(scope="module")
def onnx_model(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "cnn"
    export_onnx(model, folder)
    return folder


@pytest.fixture(scope="module")
def compiled(onnx_model, compiler, tmp_path_factory):
    """The model compiled for batches of four."""
    folder = tmp_path_factory.mktemp("tvm") / "cnn"
    compile_host(onnx_model, folder, batch=4)
    return folder


def same(actual, expected):
    assert actual.shape == expected.shape and actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(actual.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_any_number_of_pictures_is_answered_as_by_mxnet(model, compiled, examples, count):
    assert load_model(compiled, trust=True).manifest.batch == 4
    same(load_model(compiled, trust=True).compute(examples[:count]), load_model(model).compute(examples[:count]))


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet20_v1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mobilenetv2_0.25", "efficientnet_lite0", "cifar_resnet20_v2", "resnet18_v1")
        ),
    ],
)
@pytest.mark.usefixtures("compiler")
def test_networks_answer_as_in_mxnet(network, tmp_path, preprocess, examples, name):
    export(network(name), tmp_path / "m", name, ("a", "b", "c"), preprocess)
    export_onnx(tmp_path / "m", tmp_path / "o")
    manifest, difference = compile_host(tmp_path / "o", tmp_path / "t")
    assert manifest.form == "tvm" and manifest.batch == 1 and manifest.made_from["form"] == "onnx" and difference < 1e-4
    same(load_model(tmp_path / "t", trust=True).compute(examples[:8]), load_model(tmp_path / "m").compute(examples[:8]))


def test_another_process_reads_it_back(model, compiled, examples, tmp_path):
    np.save(tmp_path / "x.npy", examples[:3])
    code = (
        f"import numpy; from d2lcls.deploy import load_model; x = numpy.load({str(tmp_path / 'x.npy')!r}); "
        f"numpy.save({str(tmp_path / 'y.npy')!r}, load_model({str(compiled)!r}, trust=True).compute(x)); "
        "import sys; assert 'mxnet' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    same(np.load(tmp_path / "y.npy"), load_model(model).compute(examples[:3]))


def test_waiting_threads_fall_asleep(compiled):
    code = (
        f"import time, numpy; from d2lcls.deploy import load_model; "
        f"run = load_model({str(compiled)!r}, trust=True).compute; "
        "run(numpy.zeros((4, 3, 16, 16))); begun = time.process_time(); time.sleep(0.3); "
        "assert time.process_time() - begun < 0.05"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_shapes_are_named(compiled, examples):
    compute = load_model(compiled, trust=True).compute
    for wrong in (examples[0], examples[:, :, :8]):
        with pytest.raises(ValueError, match=r"shape \(N, 3, 16, 16\), for which the model was compiled, got"):
            compute(wrong)
    assert compute(examples[:0]).shape == (0, 3)


def test_a_damaged_library_is_no_crash(compiled, tmp_path):
    shutil.copytree(compiled, tmp_path / "cut")
    (tmp_path / "cut" / "model.so").write_bytes((compiled / "model.so").read_bytes()[:5000])
    with pytest.raises(ModelError, match="model.so: not the file that was written"):
        load_model(tmp_path / "cut", trust=True)  # the loader itself would end the process with a bus error
    (tmp_path / "model.so").write_text("no library")
    with pytest.raises(ModelError, match="model.so: cannot be loaded.*Compile it anew"):
        open_library(tmp_path, read_manifest(compiled))
    (tmp_path / "model.so").unlink()
    with pytest.raises(ModelError, match="holds no model.so.*another machine.*classify"):
        open_library(tmp_path, read_manifest(compiled))


HASWELL = {"pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "abm", "bmi1", "bmi2", "movbe", "f16c", "fma", "avx", "avx2"}


def cpu_with(monkeypatch, flags):
    monkeypatch.setattr("d2lcls.deploy.edge.target.cpu_flags", lambda: flags)


def features(target):
    from tvm.target.codegen import llvm_get_cpu_features

    return {str(name) for name in llvm_get_cpu_features(target)}


@on_x86
def test_the_target_has_the_instructions_that_linux_reports_and_no_others(monkeypatch):
    cpu_with(monkeypatch, HASWELL | {"fpu", "hypervisor", "sha_ni"})
    assert {"sse3", "sse4.2", "lzcnt", "bmi", "fma", "avx2"} <= features(host_target())
    assert not [name for name in features(host_target()) if name.startswith("avx512")]
    assert host_tile() == TILE and needs() == {"machine": "x86_64", "instructions": sorted(HASWELL)}
    cpu_with(monkeypatch, HASWELL | {"avx512f", "avx512bw"})
    assert {"avx512f", "avx512bw"} <= features(host_target()) and "avx512vl" not in features(host_target())
    assert host_tile() == 4 * TILE
    cpu_with(monkeypatch, HASWELL - {"fma"} | {"avx512f"})  # LLVM takes fma to be a part of avx512f
    assert "avx2" in features(host_target()) and "fma" not in features(host_target())
    cpu_with(monkeypatch, set())
    assert not {"sse3", "avx"} & features(host_target()) and needs()["instructions"] == []


def test_arm_needs_nothing_but_neon_and_others_are_named(monkeypatch):
    monkeypatch.setattr("d2lcls.deploy.edge.target.platform.machine", lambda: "aarch64")
    assert str(host_target().attrs["mcpu"]) == "generic" and needs() == {"machine": "aarch64", "instructions": []}
    monkeypatch.setattr("d2lcls.deploy.edge.target.platform.machine", lambda: "riscv64")
    with pytest.raises(ModelError, match="for x86-64 and 64-bit Arm, not for riscv64. Use the ONNX model instead"):
        host_target()


@on_x86
def test_a_library_that_this_processor_would_stop_at_is_refused(compiled, monkeypatch):
    manifest = read_manifest(compiled)
    needed = set(manifest.made_from["instructions"])
    assert needed == cpu_flags() & needed and {"pni", "sse4_2"} <= needed
    cpu_with(monkeypatch, needed - {"sse4_2", "pni"})
    with pytest.raises(
        ModelError,
        match="compiled for a processor with pni, sse4_2, which this one does not have, or which "
        "its host hides. Compile it here with: d2lcls compile",
    ):
        load_model(compiled, trust=True)
    cpu_with(monkeypatch, needed | {"something_new"})
    load_model(compiled, trust=True)
    monkeypatch.setattr("d2lcls.deploy.edge.target.platform.machine", lambda: "aarch64")
    with pytest.raises(ModelError, match="compiled for x86_64, and this machine is aarch64"):
        load_model(compiled, trust=True)
    for made_from in ({"processor": "znver4"}, None):
        with pytest.raises(ModelError, match="does not list the instructions it needs.*Compile it again with"):
            open_library(compiled, replace(manifest, made_from=made_from))


@on_x86
@pytest.mark.usefixtures("compiler")
def test_code_that_is_killed_is_one_sentence_and_leaves_no_folder(onnx_model, tmp_path, monkeypatch):
    import tvm

    if "apx" in cpu_flags():
        pytest.skip("this processor has APX, the instructions that the test takes for missing")
    bad = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64", "mattr": ["+egpr", "+ndd"]})  # Intel APX
    with monkeypatch.context() as patch:
        patch.setattr("d2lcls.deploy.edge.host.host_target", lambda: bad)
        with pytest.raises(ModelError, match=r"the first run of the compiled model failed: killed by SIGILL \("):
            compile_host(onnx_model, tmp_path / "models" / "t")
    assert not list(tmp_path.iterdir())
    compile_host(onnx_model, tmp_path / "models" / "t")  # a second try is not refused


def test_ctrl_c_leaves_no_folder(onnx_model, tmp_path, monkeypatch):
    def interrupt(module, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr("d2lcls.deploy.edge.host.build", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compile_host(onnx_model, tmp_path / "t")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable, value", [("CXX", "no-such-compiler"), ("PATH", "/no/such/folder")])
def test_a_missing_compiler_is_named_and_leaves_no_folder(onnx_model, tmp_path, monkeypatch, variable, value):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, value)
    options = parse("compile", onnx_model, "--out", tmp_path / "t", "--tune", 60)
    for compile_it in (lambda: compile_host(onnx_model, tmp_path / "t"), lambda: options.run(options)):
        with pytest.raises(RuntimeError, match=r"No C\+\+ compiler was found.*sudo apt install g\+\+"):
            compile_it()
    assert not list(tmp_path.iterdir())


@on_x86
@pytest.mark.slow  # Python and TVM start under an emulator
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="qemu-x86_64 is not installed: apt install qemu-user")
@pytest.mark.usefixtures("compiler")
def test_code_for_a_smaller_processor_runs_on_one(onnx_model, examples, tmp_path, monkeypatch):
    if not HASWELL | {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= cpu_flags():
        pytest.skip("this processor has no AVX-512, so that Haswell is no smaller one")
    compile_host(onnx_model, tmp_path / "own")
    cpu_with(monkeypatch, HASWELL)
    compile_host(onnx_model, tmp_path / "small")
    with pytest.raises(ModelError, match="compiled for a processor with avx512bw, avx512dq, avx512f, avx512vl, which"):
        load_model(tmp_path / "own", trust=True)
    np.save(tmp_path / "x.npy", examples[:1])
    code = (
        "import sys, numpy; from d2lcls.deploy.edge.host import run_library; "
        "numpy.save(sys.argv[3], run_library(sys.argv[1], numpy.load(sys.argv[2])))"
    )

    def on_haswell(name):
        return subprocess.run(
            [
                "qemu-x86_64",
                "-cpu",
                "Haswell",
                sys.executable,
                "-c",
                code,
                tmp_path / name / "model.so",
                tmp_path / "x.npy",
                tmp_path / f"{name}.npy",
            ],
            capture_output=True,
            text=True,
        ).returncode

    assert on_haswell("small") == 0
    same(np.load(tmp_path / "small.npy"), load_model(tmp_path / "small", trust=True).compute(examples[:1]))
    assert on_haswell("own") in (-signal.SIGILL, 128 + signal.SIGILL)  # this is what the refusal prevents


def test_what_cannot_be_compiled(model, onnx_model, compiled, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="form mxnet; this step takes one of form onnx. Make one with: d2lcls onnx"):
        compile_host(model, tmp_path / "a")
    with pytest.raises(ValueError, match="already exists and is not an empty folder"):
        compile_host(onnx_model, compiled)
    with pytest.raises(ValueError, match="batch must be 1 or more, not 0"):
        compile_host(onnx_model, tmp_path / "a", batch=0)
    with pytest.raises(FileNotFoundError, match="holds no manifest.json"):
        compile_host(tmp_path, tmp_path / "a")
    with pytest.raises(
        ModelError, match="in form tvm, the model's logits differ by up to .*more than -1. Please report"
    ):
        compile_host(onnx_model, tmp_path / "b", tolerance=-1)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "tvm", None)
    with pytest.raises(ImportError, match=r'apache-tvm is not installed: pip install "d2lcls\[deploy\]"'):
        tvm_graph.import_tvm()


def test_an_operator_unknown_to_tvm_is_named(onnx_model, tmp_path):
    import onnx

    nodes = [onnx.helper.make_node("Det", ["data"], ["y"])]
    value = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("data", ["N", 3, 16, 16]), ("y", ["N", 3]))
    ]
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7),
        str(tmp_path / "model.onnx"),
    )
    manifest = write_manifest(tmp_path, derive(read_manifest(onnx_model), "onnx"))
    with pytest.raises(ModelError, match="reading it with TVM failed .*Det"):
        tvm_graph.read_relax(tmp_path, manifest)


@pytest.mark.usefixtures("compiler")
def test_tuning_changes_the_schedule_and_not_the_answer(model, onnx_model, examples, tmp_path):
    records = tune(onnx_model, seconds=0.1)
    assert records.trials >= len(records.choices) > 5  # each loop by rule, at the least
    assert all(len(pair) == 2 and min(pair) > 0 for pair in records.seconds.values())
    forced = Records(dict.fromkeys(records.choices, (2, 8)))
    manifest, _ = compile_host(onnx_model, tmp_path / "t", records=forced)
    assert manifest.made_from["tuned"] is True
    same(load_model(tmp_path / "t", trust=True).compute(examples[:2]), load_model(model).compute(examples[:2]))
    with pytest.raises(ValueError, match="seconds must be above 0, not 0"):
        tune(onnx_model, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_tuning_is_not_slower_than_the_rule_by_its_own_measure(onnx_model):
    records = tune(onnx_model, seconds=30)
    before, after = (sum(pair[index] for pair in records.seconds.values()) for index in (0, 1))
    assert records.trials > len(records.choices) and after < 1.2 * before
    ratios = gain(onnx_model, records, rounds=3)
    assert len(ratios) == 3 and min(ratios) > 0


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="d2lcls")
    command.add(commands_of(parser))
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.mark.usefixtures("compiler")
def test_the_command_compiles_and_tunes(capsys, onnx_model, examples, model, tmp_path, monkeypatch):
    monkeypatch.setattr("d2lcls.deploy.edge.tuning.tune", lambda folder, seconds, batch: Records(trials=9))
    monkeypatch.setattr("d2lcls.deploy.edge.tuning.gain", lambda folder, records, batch: [1.0, 1.5, 9.0])
    options = parse("compile", onnx_model, "--out", tmp_path / "t", "--tune", 0.5, "--batch", 2)
    assert not options.run(options)
    out = capsys.readouterr().out
    assert "9 schedules tried; tuned, the model runs 1.50 times as fast as scheduled by rule\n" in out
    assert re.search(r"model.so: [\d.]+ MB for \S+, batch 2\ninstruction sets it uses: \S", out)
    assert re.search(r"\nloaded, checked and run once in [\d,]+ ms; logits differ from ONNX Runtime's by ", out)
    same(load_model(tmp_path / "t", trust=True).compute(examples[:3]), load_model(model).compute(examples[:3]))
    assert json.loads((tmp_path / "t/manifest.json").read_text())["versions"]["apache-tvm"]


def test_options_that_exclude_each_other_exit_with_2(capsys, onnx_model, tmp_path):
    options = parse("compile", onnx_model, "--out", tmp_path / "t", "--target", "arm64", "--tune", 5)
    with pytest.raises(SystemExit, match="2"):
        options.run(options)
    assert "--tune and --batch go with --target host" in capsys.readouterr().err
