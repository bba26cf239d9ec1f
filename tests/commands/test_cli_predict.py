"""`d2lcls predict`: where pictures come from, and the forms of the answers."""

import csv
import io
import json
import os
import subprocess
import sys

from d2lcls.data.formats.imagenet import imagenet_classes
from d2lcls.models import get_model, preprocessing

import mxnet as mx
import numpy as np
import pytest
from PIL import Image
from test_cli import REPOSITORY, call, fails, nothing_outside, photos, process, trained  # noqa: F401  fixtures

NAME = "mobilenet0.25"


def answers(out):
    """The JSON lines as path -> [(class, probability)]."""
    lines = [json.loads(line) for line in out.splitlines()]
    return {line["path"]: [(p["class"], p["probability"]) for p in line["predictions"]] for line in lines}


def give(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))


def test_a_folder_a_pattern_a_list_and_files_give_the_same_answers(capsys, trained, photos, monkeypatch):
    folder = photos / "test"
    paths = [str(folder / name / f"{number}.png") for name in ("blue", "green", "red") for number in range(4)]
    code, expected, err = call(capsys, "predict", "--run", trained, *paths)
    assert code == 0 and err == "" and expected.count("\n") == 12 * 4
    assert call(capsys, "predict", "--run", trained, folder) == (0, expected, "")
    assert call(capsys, "predict", "--run", trained, f"{folder}/**/*.png") == (0, expected, "")
    give(monkeypatch, "\n".join(paths).encode())
    assert call(capsys, "predict", "--run", trained, "-") == (0, expected, "")
    for size in (1, 5):
        assert call(capsys, "predict", "--run", trained, folder, "--batch-size", size) == (0, expected, "")


def test_json_has_a_line_for_each_picture(capsys, trained, photos):
    code, out, err = call(capsys, "predict", "--run", trained, photos / "test", "--json", "--top", 2)
    assert code == 0 and err == ""
    found = answers(out)
    assert len(found) == 12 and all(len(likeliest) == 2 for likeliest in found.values())
    right = sum(likeliest[0][0] == path.split("/")[-2] for path, likeliest in found.items())
    assert right > 8
    for path, likeliest in found.items():
        text = call(capsys, "predict", "--run", trained, path, "--top", 2)[1]
        assert text.splitlines()[1:] == [f"  {probability:7.2%}  {name}" for name, probability in likeliest]


def test_csv_has_a_row_for_each_class(capsys, trained, photos):
    odd = photos / 'a "b", c.png'
    Image.new("RGB", (16, 16), "red").save(odd)
    code, out, err = call(capsys, "predict", "--run", trained, odd, "--csv")
    odd.unlink()
    rows = list(csv.reader(io.StringIO(out)))
    assert code == 0 and err == "" and rows[0] == ["path", "rank", "class", "probability"]
    assert [row[:2] for row in rows[1:]] == [[str(odd), "1"], [str(odd), "2"], [str(odd), "3"]]
    assert rows[1][2] == "red" and sum(float(row[3]) for row in rows[1:]) == pytest.approx(1, abs=1e-5)
    assert call(capsys, "predict", odd, "--csv", "--json")[0] == 2


def test_a_broken_picture_in_a_folder_does_not_stop_the_others(capsys, trained, photos, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes((photos / "test" / "red" / "0.png").read_bytes())
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("passed over")
    for form in ("--json", "--csv"):
        code, out, err = call(capsys, "predict", "--run", trained, tmp_path, form, "--batch-size", 2, "--top", 1)
        assert code == 1 and err.count("\n") == 1 and err.startswith(f"d2lcls: {tmp_path}/2.png: cannot be read")
        assert [number for number in range(5) if f"{tmp_path}/{number}.png" in out] == [0, 1, 3, 4]
    assert f"{tmp_path}/2.png: cannot be read as an image" in fails(
        capsys, "predict", "--run", trained, tmp_path / "2.png"
    )


def test_where_there_is_nothing_one_line_says_so(capsys, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "none.jpg: no such file or folder" in fails(capsys, "predict", "--run", trained, "none.jpg")
    assert "empty: no pictures in this folder" in fails(capsys, "predict", "--run", trained, "empty")
    assert "*.jpg: no picture matches this pattern" in fails(capsys, "predict", "--run", trained, "*.jpg")


def test_what_is_missing_does_not_stop_the_others(capsys, trained, photos):
    picture = photos / "test" / "red" / "0.png"
    code, out, err = call(capsys, "predict", "--run", trained, "none.jpg", picture)
    assert code == 1 and out == call(capsys, "predict", "--run", trained, picture)[1]
    assert err == "d2lcls: none.jpg: no such file or folder.\n"


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "webp", "tiff", "ppm"])
def test_standard_input_can_be_one_picture(capsys, trained, photos, tmp_path, monkeypatch, kind):
    path = tmp_path / f"1.{kind}"
    Image.open(photos / "test" / "red" / "0.png").save(path)
    expected = call(capsys, "predict", "--run", trained, path)[1]
    give(monkeypatch, path.read_bytes())
    assert call(capsys, "predict", "--run", trained, "-") == (0, expected.replace(str(path), "-"), "")
    give(monkeypatch, path.read_bytes()[:40])
    assert "standard input: cannot be read as an image" in fails(capsys, "predict", "--run", trained, "-")


def test_answers_come_while_more_pictures_are_on_their_way(trained, photos):
    path = photos / "test" / "red" / "0.png"
    command = ["predict", "--run", trained, "-", "--batch-size", 1, "--json"]
    with process(*command, stdin=subprocess.PIPE) as running:
        for _ in range(2):
            running.stdin.write(f"{path}\n")
            running.stdin.flush()
            assert list(answers(running.stdout.readline())) == [str(path)]
        running.stdin.close()
        assert running.stdout.read() == "" and running.wait(60) == 0


def test_a_name_of_any_bytes_is_printed_as_it_is(trained, photos, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:
        file.write((photos / "test" / "red" / "0.png").read_bytes())
    command = [sys.executable, "-m", "d2lcls", "predict", "--run", trained, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.startswith(name + b"\n")


def test_progress_is_shown_in_a_terminal_for_more_than_a_batch(capsys, trained, photos, monkeypatch):
    expected = call(capsys, "predict", "--run", trained, photos / "test")[1]
    monkeypatch.setenv("D2LCLS_PROGRESS", "terminal")
    code, out, err = call(capsys, "predict", "--run", trained, photos / "test", "--batch-size", 5)
    assert code == 0 and out == expected and "12/12" in err and err.endswith("\r")
    assert call(capsys, "predict", "--run", trained, photos / "test", "--batch-size", 12) == (0, expected, "")


@pytest.fixture
def network(tmp_path):
    """A network with made-up weights in the cache, in the place of pretrained ones."""
    mx.random.seed(0)
    net = get_model(NAME, classes=1000)
    net.initialize(mx.init.MSRAPrelu("in", slope=0))
    net(mx.nd.zeros((1, 3, 224, 224)))
    net.output.bias.set_data(mx.nd.random.normal(scale=3, shape=1000))
    weights = tmp_path / "empty-cache" / "weights" / f"{NAME}.params"
    weights.parent.mkdir(parents=True)
    net.save_parameters(str(weights))
    from d2lcls.weights.files import convert_weights

    convert_weights(weights, net, weights.with_suffix(".safetensors"))
    return net


def test_a_pretrained_network_answers_with_the_names_of_imagenet(capsys, network, photos):
    paths = [photos / "test" / name / "0.png" for name in ("red", "blue")]
    code, out, err = call(capsys, "predict", "--pretrained", NAME, *paths, "--json")
    assert code == 0 and err == ""
    logits = network(mx.nd.array(preprocessing(NAME)(paths)))
    expected = logits.softmax().asnumpy()
    for row, likeliest in zip(expected, answers(out).values()):
        best = row.argsort()[::-1][:5]
        assert [name for name, _ in likeliest] == [imagenet_classes()[1][k] for k in best]
        np.testing.assert_allclose([probability for _, probability in likeliest], row[best], rtol=1e-3)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4  # so that the pictures matter


def test_pretrained_networks_are_named_correctly(capsys, photos):
    picture = photos / "test" / "red" / "0.png"
    assert "No image classifier is called 'resnet5'. Did you mean resn" in fails(
        capsys, "predict", "--pretrained", "resnet5", picture
    )
    code, _, err = call(capsys, "predict", "--pretrained", NAME, "--run", "run", picture)
    assert code == 2 and "not allowed with argument" in err
    code, _, err = call(capsys, "predict", "--pretrained", NAME, "--form", "onnx", picture)
    assert code == 2 and "--form goes with --model" in err
