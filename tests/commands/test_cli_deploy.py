"""`d2lcls export`, `quantize`, `onnx`, `compare`, `compile`, and `predict` with what they write."""

import json
import re
import shutil
import warnings

from d2lcls.deploy import read_manifest
from d2lcls.machine.cores import int8_saturates

import numpy as np
import pytest
from PIL import Image
from test_cli import call, fails, nothing_outside, photos, trained  # noqa: F401  fixtures that hold for this file too

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'd2lcls[deploy]'")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    from d2lcls import cli

    folder = tmp_path_factory.mktemp("models") / "mine"
    assert cli.main(["export", str(trained), "--out", str(folder)]) == 0
    return folder


def test_export_says_where_what_and_how_good(capsys, trained, tmp_path):
    code, out, err = call(capsys, "export", trained, "--out", tmp_path / "m")
    assert code == 0 and err == ""
    assert re.fullmatch(rf"top-1 100.00% on 12 images of .*\n{tmp_path}/m: cnn as mxnet, [\d.]+ MB\n", out)
    manifest = json.loads((tmp_path / "m/manifest.json").read_text())
    assert manifest["classes"] == ["blue", "green", "red"] and manifest["accuracy"]["images"] == 12
    assert "already exists and is not an empty folder" in fails(capsys, "export", trained, "--out", tmp_path / "m")


def test_every_form_classifies_a_picture_alike(capsys, exported, photos, tmp_path):
    forms = {"int8": ("quantize", exported), "onnx": ("onnx", exported), "onnx-int8": ("quantize", tmp_path / "onnx")}
    if shutil.which("g++"):
        forms["tvm"] = ("compile", tmp_path / "onnx")
    for name, (command, source) in forms.items():
        more = ("--images", 24) if command == "quantize" else ()
        code, out, err = call(capsys, command, source, "--out", tmp_path / name, *more)
        assert code == 0 and err == "", err
        assert str(tmp_path / name) in out
        assert name != "int8" or "in float: " in out
        assert ("calibrated on 24 training images, 8 per class\n" in out) == (command == "quantize")
    picture, answers = photos / "test/green/0.png", {}
    for folder in (exported, *(tmp_path / name for name in forms)):
        trust = ["--trust"] if folder.name == "tvm" else []
        if trust:
            assert "machine code" in fails(capsys, "predict", "--model", folder, picture)
        code, out, err = call(capsys, "predict", "--model", folder, picture, *trust)
        assert code == 0 and err == ""
        answers[folder.name] = out.splitlines()
    assert all(
        lines[0] == str(picture) and lines[1].endswith("  green") and len(lines) == 4 for lines in answers.values()
    )
    assert all(answers[name] == answers["mine"] for name in ("onnx", "tvm") if name in answers)
    code, out, err = call(capsys, "predict", "--model", tmp_path, picture)
    assert code == 0 and out.splitlines()[1].endswith("  green") and err.startswith(f"{tmp_path}/") and "onnx " in err
    assert call(capsys, "predict", "--model", tmp_path, "--form", "onnx", picture) == (
        0,
        "\n".join([*answers["onnx"], ""]),
        "",
    )
    message = f"{tmp_path}: holds no model of form mxnet. Choose from: auto, mxnet-int8, onnx, "
    assert message in fails(capsys, "predict", "--model", tmp_path, "--form", "mxnet", picture)
    code, out, err = call(
        capsys,
        "compare",
        "--trust",
        exported,
        *(tmp_path / name for name in reversed(forms)),
        "--images",
        12,
        "--rounds",
        1,
    )
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("model") and lines[1].startswith("mine")
    assert [line.split()[1] for line in lines[1:]] == ["mxnet", "mxnet-int8", *list(forms)[1:]]


def test_a_run_predicts_as_its_model_does(capsys, exported, trained, photos):
    pictures = [photos / "test" / name / "1.png" for name in ("red", "blue")]
    assert (
        call(capsys, "predict", "--run", trained, *pictures)[1]
        == call(capsys, "predict", "--model", exported, *pictures)[1]
    )


def test_the_scan_lists_layers_by_what_they_cost(capsys, exported):
    code, out, err = call(capsys, "quantize", exported, "--scan", "--images", 24)
    header, *lines = out.splitlines()
    shares = [float(re.fullmatch(r" *([\d.]+)%  sg_mkldnn_\w+", line)[1]) for line in lines]
    assert header == "calibrated on 24 training images, 8 per class"
    assert code == 0 and err == "" and len(shares) == 5 and shares == sorted(shares, reverse=True)


def test_few_images_and_uneven_classes_are_enough_to_quantise(capsys, tmp_path):
    """A hundred photographs of one class and thirty of another, which are fewer than the 256 wanted."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", (100, 30)), ("test", (4, 4))):
        for channel, (name, count) in enumerate(zip(("ants", "bees"), counts)):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(0, 60, (36, 40, 3), dtype=np.uint8)
                picture[..., channel] += 150
                Image.fromarray(picture).save(tmp_path / f"photos/{split}/{name}/{number}.jpg")
    for line in (
        "train --dataset photos --epochs 1 --size 16 --batch-size 32 --out run",
        "export run --out m",
        "onnx m --out o",
    ):
        assert call(capsys, *line.split())[0] == 0
    for source, more in (("m", ()), ("o", ()), ("m", ("--vnni",)), ("o", ("--vnni",))):
        target = f"{source}-int8{''.join(more)}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            code, out, err = call(capsys, "quantize", source, "--out", target, *more)
        assert code == 0 and err == "" and "calibrated on all 130 training images, 30 to 100 per class\n" in out
        assert any("for processors with VNNI" in str(each.message) for each in caught) == (
            bool(more) and int8_saturates()
        )
        made_from = read_manifest(target).made_from
        assert made_from["images"] == 130 and made_from["vnni"] == bool(more)


def test_without_test_images_nothing_is_scored(capsys, photos, tmp_path):
    shutil.copytree(photos / "train", tmp_path / "kept/train")
    call(
        capsys, "train", "--dataset", tmp_path / "kept", "--epochs", 1, "--size", 16, "--batch-size", 8, "--out", "run"
    )
    code, out, err = call(capsys, "export", "run", "--out", "m")
    assert (code, err) == (0, "") and out.startswith("m: cnn as mxnet")
    assert json.loads((tmp_path / "m/manifest.json").read_text())["accuracy"] is None
    assert "kept: has no test images. Expected" in fails(capsys, "compare", "m")
    shutil.rmtree(tmp_path / "kept")
    assert "no such folder" in fails(capsys, "quantize", "m", "--out", "q")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["export"], "give either RUN or --pretrained NAME"),
        (["export", "run", "--pretrained", "x"], "give either RUN"),
        (["export", "run"], "required: --out"),
        (["onnx", "m"], "required: --out"),
        (["quantize"], "required: MODEL"),
        (["quantize", "m", "--mode", "best"], "invalid choice: 'best'"),
        (["compare"], "required: MODEL"),
        (["predict", "--run", "r", "--model", "m", "a.png"], "not allowed with argument"),
        (["predict", "--run", "r", "--form", "onnx", "a.png"], "--form goes with --model"),
        (["compile", "m"], "required: --out"),
        (["serve"], "required: MODEL"),
        (["rescue"], "required: FILE"),
    ],
)
def test_wrong_arguments_exit_with_2(capsys, arguments, message):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and message in err and err.startswith("d2lcls")


def test_an_int8_model_needs_somewhere_to_go(capsys, exported):
    code, _, err = call(capsys, "quantize", exported)
    assert code == 2 and "one of the arguments --out --scan is required" in err


def test_folders_without_a_model_are_named(capsys, exported, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for command in (
        ["quantize", "nothing", "--out", "q"],
        ["onnx", "nothing", "--out", "o"],
        ["compare", "nothing"],
        ["compile", "nothing", "--out", "c"],
        ["predict", "--model", "nothing", "a.png"],
        ["serve", "nothing"],
    ):
        assert "nothing: holds no manifest.json, so it is no model folder" in fails(capsys, *command)
    broken = shutil.copytree(exported, tmp_path / "broken")
    (broken / "model-0000.params").write_bytes(b"cut")
    assert "its sha256 differs" in fails(capsys, "predict", "--model", broken, "a.png")
    Image.new("RGB", (4, 4)).save("a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert "b.png" in fails(capsys, "predict", "--model", exported, "a.png", "b.png")
