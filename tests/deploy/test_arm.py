import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tvm", reason="apache-tvm is not installed: pip install 'd2lcls[deploy]'")

from d2lcls.data import Preprocess  # noqa: E402
from d2lcls.deploy import ModelError, load_model  # noqa: E402
from d2lcls.deploy import arm as module  # noqa: E402
from d2lcls.deploy.arm import COMPILER, EMULATOR, compile_arm, plan_source  # noqa: E402
from d2lcls.deploy.export import export  # noqa: E402
from d2lcls.deploy.manifest import Manifest  # noqa: E402
from d2lcls.deploy.to_onnx import export_onnx  # noqa: E402

needs_arm = pytest.mark.skipif(not shutil.which(COMPILER) or not shutil.which(EMULATOR), reason=(
    f"{COMPILER} or {EMULATOR} is not installed: apt install g++-aarch64-linux-gnu qemu-user"))
CLASSES = ("plain", 'with "quotes" and \\', "Katze ??/ ü")


def make(folder, network, look, name="cnn"):
    """Make a model folder m, its ONNX form o and its Arm form a; return the folder of the program."""
    export(network(name), folder / "m", name, CLASSES, look)
    export_onnx(folder / "m", folder / "o")
    compile_arm(folder / "o", folder / "a")
    return folder / "a"


@pytest.fixture(scope="module")
def bicubic(network, tmp_path_factory):
    """A folder with a program that scales with a bicubic filter to 20 pixels and crops 16."""
    folder = tmp_path_factory.mktemp("arm")
    make(folder, network, Preprocess(20, 16, (0.5, 0.45, 0.4), (0.25, 0.25, 0.3), "bicubic"))
    return folder


def classify(folder, *arguments):
    command = [EMULATOR, str(folder / "a" / "classify"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def logits_of(done):
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = re.findall(r"^  logits (.*)$", done.stdout, re.M)
    return np.array([[float(text) for text in line.split()] for line in lines], dtype=np.float32)


def same(found, expected, near=1e-4):
    np.testing.assert_allclose(found, expected, atol=near * np.abs(expected).max())
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


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
def test_it_is_one_static_file_for_64_bit_arm(bicubic):
    content = (bicubic / "a" / "classify").read_bytes()
    assert content[:5] == b"\x7fELF\x02" and content[18:20] == b"\xb7\x00"  # 64 bits, AArch64
    offset, size, count = struct.unpack_from("<Q", content, 32)[0], *struct.unpack_from("<HH", content, 54)
    kinds = {struct.unpack_from("<I", content, offset + place * size)[0] for place in range(count)}
    assert 1 in kinds and not kinds & {2, 3}  # PT_LOAD; neither PT_DYNAMIC nor PT_INTERP: it asks for no library
    with pytest.raises(ModelError, match="compiled for another machine, run it there: its program is called classify"):
        load_model(bicubic / "a")


@needs_arm
@pytest.mark.parametrize("size", [(16, 16), (20, 20), (57, 31), (31, 90), (7, 11), (300, 200)])
def test_pictures_are_scaled_cropped_and_named_as_by_preprocess(bicubic, tmp_path, size):
    y, x = np.mgrid[:size[1], :size[0]]
    noise = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
    picture = (noise + 95 + 95 * np.sin(x / 5 + y / 7)[..., None]).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.ppm")
    done = classify(bicubic, "--logits", tmp_path / "picture.ppm")
    model = load_model(bicubic / "m")
    near = 1e-2 if size[1] > size[0] else 1e-4  # some tall pictures are scaled downwards first since Pillow 13
    same(logits_of(done), model.logits([tmp_path / "picture.ppm"]), near)
    found = re.findall(r"^ +([\d.]+)%  (.*)$", done.stdout, re.M)
    expected = model.predict(tmp_path / "picture.ppm")
    assert [name for _, name in found] == [name for name, _ in expected]
    np.testing.assert_allclose([float(share) for share, _ in found], [100 * share for _, share in expected],
                               atol=0.02 + 100 * near)


@needs_arm
@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet20_v1", "mobilenetv2_0.25", "efficientnet_lite0"])
def test_other_networks_answer_the_same(network, preprocess, examples, tmp_path, name):
    make(tmp_path, network, preprocess, name)
    examples[0].tofile(tmp_path / "x.f32")
    done = classify(tmp_path, "--logits", tmp_path / "x.f32")
    same(logits_of(done), load_model(tmp_path / "m").compute(examples[:1]))


@needs_arm
@pytest.mark.parametrize("content, message", [
    (None, "picture.ppm: there is no such file"),
    (b"P6\n9 9\n255\n" + b"x" * 9, "picture.ppm: the picture is cut short"),
    (b"P6\n9 9\n65535\n" + b"x" * 999, "expected a PPM picture of 8 bits"),
    (b"P6\n999999999 999999999\n255\n", "expected a PPM picture of 8 bits"),
    (b"P6\n", "expected a PPM picture of 8 bits"),
    (b"P6\n1 9999999\n255\n" + b"x" * 29999997, "too narrow"),
    (b"\xff\xd8\xff\xe0 a JPEG", "neither a binary PPM .P6. nor 768 float32.*magick"),
    (b"", "neither a binary PPM")])
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
    source = plan_source(module.Plan(), Manifest("cnn", "tvm", CLASSES, preprocess))
    assert r'"with \042quotes\042 and \134"' in source and r'"Katze \077\077/ \303\274"' in source
    assert source.isascii() and "kBicubic = false" in source
