import argparse
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tvm", reason="apache-tvm is not installed: pip install 'd2lcls[deploy]'")

from d2lcls.commands import compile as command
from d2lcls.commands.parsers import commands_of
from d2lcls.data import Preprocess
from d2lcls.deploy import ModelError, load_model
from d2lcls.deploy.edge import arm as module
from d2lcls.deploy.edge.arm import COMPILER, EMULATOR, compile_arm, run_program, runs_here
from d2lcls.deploy.edge.arm_plan import Plan, plan_source
from d2lcls.deploy.exporting import export
from d2lcls.deploy.manifest import Manifest
from d2lcls.deploy.onnx.export import export_onnx

needs_arm = pytest.mark.skipif(
    not shutil.which(COMPILER) or not shutil.which(EMULATOR),
    reason=(f"{COMPILER} or {EMULATOR} is not installed: apt install g++-aarch64-linux-gnu qemu-user"),
)
CLASSES = ("plain", 'with "quotes" and \\', "Katze ??/ ü")


def make(folder, network, look, name="cnn"):
    """Make a model folder m, its ONNX form o and its Arm form a; return the folder of the program."""
    export(network(name), folder / "m", name, CLASSES, look)
    export_onnx(folder / "m", folder / "o")
    manifest, difference = compile_arm(folder / "o", folder / "a")
    assert manifest.form == "tvm" and manifest.batch == 1 and difference < 1e-4
    return folder / "a"


@pytest.fixture(scope="module")
def bicubic(network, tmp_path_factory):
    """A folder with a program that scales with a bicubic filter to 20 pixels and crops 16."""
    folder = tmp_path_factory.mktemp("arm")
    make(folder, network, Preprocess(20, 16, (0.5, 0.45, 0.4), (0.25, 0.25, 0.3), "bicubic"))
    return folder


@pytest.fixture(scope="module")
def bilinear(network, preprocess, tmp_path_factory):
    """A folder with a program that scales with a bilinear filter to 16 pixels."""
    folder = tmp_path_factory.mktemp("arm")
    make(folder, network, preprocess)
    return folder


def classify(folder, *arguments):
    command = [EMULATOR, str(folder / "a" / "classify"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def logits_of(done):
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = re.findall(r"^  logits (.*)$", done.stdout, re.M)
    return np.array([[float(text) for text in line.split()] for line in lines], dtype=np.float32)


def same(actual, expected, near=1e-4):
    np.testing.assert_allclose(actual, expected, atol=near * np.abs(expected).max())
    np.testing.assert_array_equal(actual.argmax(axis=1), expected.argmax(axis=1))


@needs_arm
def test_the_program_answers_as_mxnet_does(bicubic, examples, tmp_path):
    paths = [tmp_path / f"{number}.f32" for number in range(4)]
    for path, x in zip(paths, examples):
        x.tofile(path)
    done = classify(bicubic, "--logits", "--runs", 2, *paths)
    expected = load_model(bicubic / "m").compute(examples[:4])
    same(logits_of(done), expected)
    assert re.search(r"load [\d.]+ ms, prepare [\d.]+ ms, run [\d.]+ ms \(median of 2, \d threads\)", done.stdout)
    same(logits_of(classify(bicubic, "--logits", "--threads", 1, *paths)), expected)
    same(logits_of(classify(bicubic, "--logits", "--threads", 3, *paths)), expected)


@needs_arm
def test_its_answers_are_read_and_its_times(bicubic, examples):
    answer = run_program(bicubic / "a", examples[:3], runs=2)
    same(answer.logits, load_model(bicubic / "m").compute(examples[:3]))
    assert answer.load_ms > 0 and answer.run_ms > 0
    with pytest.raises(RuntimeError, match="classify failed: .*neither a binary PPM .P6. nor 768 float32"):
        run_program(bicubic / "a", examples[:1, :, :8])
    with pytest.raises(FileNotFoundError, match="holds no classify. Make one with: d2lcls compile --target arm64"):
        run_program(bicubic / "o", examples[:1])


@needs_arm
def test_a_program_that_computes_something_else_is_not_kept(bicubic, tmp_path):
    with pytest.raises(ModelError, match="in form tvm, the model's logits differ by up to"):
        compile_arm(bicubic / "o", tmp_path / "a", tolerance=-1)
    assert not (tmp_path / "a" / "classify").exists()


@needs_arm
def test_the_command_reports_size_load_time_and_difference(bicubic, tmp_path, capsys, monkeypatch):
    parser = argparse.ArgumentParser(prog="d2lcls")
    command.add(commands_of(parser))

    def run(name):
        options = parser.parse_args(["compile", str(bicubic / "o"), "--target", "arm64", "--out", str(tmp_path / name)])
        assert not options.run(options)
        return capsys.readouterr().out

    out = run("a")
    assert re.search(r"a/classify: [\d.]+ MB, static, for 64-bit Arm, 16 x 16 pixels\n", out)
    assert re.search(r"\nrun here, loaded in [\d.]+ ms; logits differ from ONNX Runtime's by \S+ of the largest\n", out)
    assert "scp" in out and "adb push" in out and "magick photo.jpg -auto-orient picture.ppm" in out
    which = shutil.which
    monkeypatch.setattr(module.shutil, "which", lambda name: None if name == EMULATOR else which(name))
    monkeypatch.setattr(module, "_is_arm", lambda: False)
    assert not runs_here() and "not run: qemu-aarch64 is not installed (Debian" in run("b")
    with pytest.raises(RuntimeError, match="qemu-aarch64 is not installed, which runs programs.*apt install qemu-user"):
        run_program(tmp_path / "b", np.zeros((1, 3, 16, 16)))


@needs_arm
def test_it_is_one_static_file_for_64_bit_arm(bicubic):
    content = (bicubic / "a" / "classify").read_bytes()
    assert content[:5] == b"\x7fELF\x02" and content[18:20] == b"\xb7\x00"  # 64 bits, AArch64
    offset, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    kinds = {struct.unpack_from("<I", content, offset + index * size)[0] for index in range(count)}
    assert 1 in kinds and not kinds & {2, 3}  # PT_LOAD; neither PT_DYNAMIC nor PT_INTERP: it asks for no library
    with pytest.raises(ModelError, match="compiled for another machine, run it there: its program is called classify"):
        load_model(bicubic / "a", trust=True)


@needs_arm
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear"])
def test_pictures_are_scaled_and_cropped_to_the_pixels_of_preprocess(request, tmp_path, filter_):
    """All kinds of sizes: some tall ones Pillow scales downwards first, which rounds otherwise."""
    folder = request.getfixturevalue(filter_)
    rng, paths = np.random.default_rng(0), []
    for width, height in ((16, 16), (20, 20), (57, 31), (31, 90), (47, 66), (7, 11), (300, 200), (40, 500), (1, 3)):
        paths.append(tmp_path / f"{width}x{height}.ppm")
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(paths[-1])
    same(logits_of(classify(folder, "--logits", *paths)), load_model(folder / "m").logits(paths), 1e-5)


@needs_arm
@pytest.mark.parametrize("size", [(57, 31), (31, 90)])
def test_pictures_are_named_as_by_predict(bicubic, tmp_path, size):
    y, x = np.mgrid[: size[1], : size[0]]
    noise = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
    picture = (noise + 95 + 95 * np.sin(x / 5 + y / 7)[..., None]).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.ppm")
    actual = re.findall(r"^ +([\d.]+)%  (.*)$", classify(bicubic, tmp_path / "picture.ppm").stdout, re.M)
    expected = load_model(bicubic / "m").predict(tmp_path / "picture.ppm")
    assert [name for _, name in actual] == [name for name, _ in expected]
    np.testing.assert_allclose([float(share) for share, _ in actual], [100 * share for _, share in expected], atol=0.02)


@needs_arm
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet20_v1", "mobilenetv2_0.25", "efficientnet_lite0"])
def test_other_networks_answer_the_same(network, preprocess, examples, tmp_path, name):
    make(tmp_path, network, preprocess, name)
    examples[0].tofile(tmp_path / "x.f32")
    done = classify(tmp_path, "--logits", tmp_path / "x.f32")
    same(logits_of(done), load_model(tmp_path / "m").compute(examples[:1]))


@needs_arm
@pytest.mark.parametrize(
    "content, message",
    [
        (None, "picture.ppm: there is no such file"),
        (b"P6\n9 9\n255\n" + b"x" * 9, "picture.ppm: the picture is cut short"),
        (b"P6\n9 9\n65535\n" + b"x" * 999, "expected a PPM picture of 8 bits"),
        (b"P6\n999999999 999999999\n255\n", "expected a PPM picture of 8 bits"),
        (b"P6\n", "expected a PPM picture of 8 bits"),
        (b"P5\n2 2\n255\nabcd", "neither a binary PPM"),
        (b"\x89PNG\r\n\x1a\n", "neither a binary PPM .P6. nor 768 float32.*-auto-orient"),
        (b"\0" * 767 * 4, "neither a binary PPM"),
        (b"P6\n1 9999999\n255\n" + b"x" * 29999997, "too narrow"),
        (b"\xff\xd8\xff\xe0 a JPEG", "neither a binary PPM .P6. nor 768 float32.*magick"),
        (b"", "neither a binary PPM"),
    ],
)
def test_bad_pictures_are_one_sentence(bicubic, tmp_path, content, message):
    if content is not None:
        (tmp_path / "picture.ppm").write_bytes(content)
    done = classify(bicubic, tmp_path / "picture.ppm")
    assert done.returncode == 1 and re.search(message, done.stderr) and done.stderr.count("\n") == 1


@needs_arm
def test_wrong_options_are_one_sentence(bicubic):
    assert classify(bicubic).returncode == 2 and "PICTURE.ppm" in classify(bicubic).stdout
    assert "there are --logits, --runs N and --threads N" in classify(bicubic, "--top").stderr
    assert "--runs needs a whole number of 1 or more" in classify(bicubic, "--runs").stderr


def test_a_missing_compiler_is_named(model, tmp_path, monkeypatch):
    export_onnx(model, tmp_path / "o")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="aarch64-linux-gnu-g.. is not installed.*apt install g..-aarch64"):
        compile_arm(tmp_path / "o", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(module.shutil, "which", lambda name: name)
    with pytest.raises(ValueError, match="such as cortex-a72 or cortex-a53, not 'pentium'"):
        compile_arm(tmp_path / "o", tmp_path / "a", processor="pentium")


def test_names_are_written_as_plain_literals(preprocess):
    source = plan_source(Plan(), Manifest("cnn", "tvm", CLASSES, preprocess))
    assert r'"with \042quotes\042 and \134"' in source and r'"Katze \077\077/ \303\274"' in source
    assert source.isascii() and "kBicubic = false" in source
