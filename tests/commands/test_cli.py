import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import d2lcls
from d2lcls import cli
from d2lcls.commands.parsers import recipe_of
from d2lcls.training import RECIPES, fields, recipe

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
COMMANDS = [
    [],
    ["doctor"],
    ["data"],
    ["data", "list"],
    ["data", "get"],
    ["data", "check"],
    ["weights"],
    ["weights", "list"],
    ["weights", "get"],
    ["weights", "convert"],
    ["weights", "verify"],
    ["train"],
    ["lr-find"],
    ["tune"],
    ["evaluate"],
    ["predict"],
    ["explain"],
    ["report"],
    ["export"],
    ["quantize"],
    ["onnx"],
    ["compare"],
    ["compile"],
    ["serve"],
    ["rescue"],
    ["archive"],
    ["torch"],
]
TINY = ["--size", "16", "--batch-size", "8", "--lr", "0.05", "--augment", "none"]


def process(*arguments, cwd=None, **options):
    """Start `python -m d2lcls` as a user would."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "d2lcls", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def call(capsys, *arguments):
    """Run a command line in this process; return exit code, output, errors."""
    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's way out
        code = stop.code
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def fails(capsys, *arguments):
    """Run a command line that must fail with exit code 1 and a single line; return that line."""
    code, _, err = call(capsys, *arguments)
    assert code == 1 and err.startswith("d2lcls: ") and err.count("\n") == 1, (code, err)
    return err


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path, monkeypatch):
    """An empty cache, no network, and a folder of its own to run in."""
    monkeypatch.setenv("D2LCLS_HOME", str(tmp_path / "empty-cache"))
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three classes of coloured noise: 12 pictures a class to train, 4 to test."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                image[..., channel] += 120
                Image.fromarray(image).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """The folder of a run of four epochs."""
    folder = tmp_path_factory.mktemp("work") / "run"
    assert cli.main(["train", "--dataset", str(photos), "--epochs", "4", "--out", str(folder), *TINY]) == 0
    return folder


# help and wrong arguments


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_shows_an_example(capsys, command):
    code, out, _ = call(capsys, *command, "--help")
    assert code == 0 and re.search(r"(Example|Start with): d2lcls ", out) and "%%" not in out


def test_the_example_of_every_command_is_understood(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # so that no example is broken into lines
    for command in COMMANDS:
        _, out, _ = call(capsys, *command, "--help")
        example = re.search(r"Example: d2lcls (.*?)( \(|\n|$)", out)
        if example:
            assert callable(cli.make_parser().parse_args(example[1].split()).run)


def test_help_does_not_wait_for_mxnet():
    code = "import sys; from d2lcls.cli import main\ntry: main(['--help'])\nfinally: assert 'mxnet' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0 and "train" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data"], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--epochs", "0"], "argument --epochs: must be above 0, not 0"),
        (["train", "--validation", "1.5"], "argument --validation: must be at most 1, not 1.5"),
        (["train", "--warmup-epochs", "-1"], "argument --warmup-epochs: must be at least 0, not -1.0"),
        (["train", "--mixup", "-1"], "argument --mixup: must be at least 0, not -1.0"),
        (["train", "--epochs", "many"], "argument --epochs: must be a whole number, not 'many'"),
        (["train", "--lr", "-1"], "argument --lr: must be above 0"),
        (["train", "--size", "0"], "argument --size: must be above 0"),
        (["train", "--seed", "-1"], "argument --seed: must be at least 0, not -1"),
        (["train", "--schedule", "cosin"], "argument --schedule: invalid choice: 'cosin'"),
        (["train", "--cutmix", "x"], "argument --cutmix: must be a number, not 'x'"),
        (["train", "--augment", "flip", "rotate:x"], "After rotate: a number of degrees is needed, as in 'rotate:15'"),
        (["train", "--augment", "blur"], "Unknown transform 'blur': choose one of pad_crop"),
        (
            ["train", "--optimizer", "adam", "--momentum", "0.9"],
            "--momentum goes with the optimizers sgd and nag only, not adam",
        ),
        (["evaluate"], "required: RUN"),
        (["predict"], "required: IMAGE"),
        (["predict", "a.jpg", "--top", "0"], "argument --top: must be above 0"),
    ],
)
def test_wrong_arguments_exit_with_2(capsys, arguments, message):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and message in err and err.startswith("d2lcls")


# data


def test_data_list_says_what_there_is_and_where(capsys, tmp_path):
    code, out, _ = call(capsys, "data", "list")
    assert code == 0
    assert re.search(
        r"cifar10 +CIFAR-10: 50,000 train, 10,000 test; 10 classes; 32 x 32 x 3; .*; not in the cache", out
    )
    assert "fashion_mnist" in out and out.endswith(f"cache: {tmp_path / 'empty-cache'}\n")
    assert not (tmp_path / "empty-cache").exists()  # looking writes nothing


def test_data_check_names_every_file_and_fails(capsys, tmp_path):
    code, out, err = call(capsys, "data", "check")
    assert code == 1 and err == "" and out.count(": missing") == 20  # 6 files, 4, and the first 10 of thousands
    assert "grocery: 5,415 more files are missing or wrong\n" in out
    code, out, _ = call(capsys, "data", "check", "fashion_mnist")
    assert code == 1 and out.count("\n") == 4
    assert f"fashion_mnist: {tmp_path}/empty-cache/fashion_mnist/train-images-idx3-ubyte: missing" in out


def test_data_get_without_a_network_says_what_to_do(capsys):
    line = fails(capsys, "data", "get", "cifar10")
    assert "CIFAR-10 could not be fetched from any of its sources" in line and "D2LCLS_OFFLINE=1" in line
    assert "University of Toronto" in line and "data_batch_1.bin" in line


@pytest.mark.parametrize("command", ["get", "check"])
def test_unknown_data_sets_get_the_nearest_suggested(capsys, command):
    assert "Unknown data set 'cifar-10'. Did you mean 'cifar10'?" in fails(capsys, "data", command, "cifar-10")


# train, evaluate, predict


def test_the_whole_path(capsys, photos, tmp_path):
    run = tmp_path / "run"
    code, out, err = call(
        capsys, "train", "--dataset", photos, "--epochs", 2, "--out", run, *TINY, "--warmup-epochs", 0.5
    )
    assert code == 0 and err == ""
    assert f"32 training images, 4 for validation, 3 classes; writing to {run}" in out
    assert len(re.findall(r"^epoch +\d+ .*valid", out, re.M)) == 2 and f"d2lcls evaluate {run}" in out
    assert {"run.json", "network.json", "last.npz", "best.npz"} == {path.name for path in run.iterdir()}

    code, out, err = call(capsys, "evaluate", run, "--json")
    score = json.loads(out)
    assert code == 0 and err == "" and score["split"] == "test" and score["images"] == 12 and score["top5"] == 1.0
    assert 0 <= score["accuracy"] <= 1 and score["loss"] > 0

    again = "already holds a training run. Pass --resume to continue it, or choose another folder."
    line = fails(capsys, "train", "--dataset", photos, "--epochs", 2, "--out", run, *TINY, "--warmup-epochs", 0.5)
    assert f"{run} {again}" in line

    code, out, _ = call(
        capsys, "train", "--dataset", photos, "--epochs", 2, "--out", run, *TINY, "--warmup-epochs", 0.5, "--resume"
    )
    assert code == 0 and "Done." in out
    line = fails(
        capsys, "train", "--dataset", photos, "--epochs", 3, "--out", run, *TINY, "--resume", "--warmup-epochs", 0.5
    )
    assert "belongs to another recipe: num_epochs is 2 there and 3 here" in line


def test_a_trained_run_is_good_and_every_split_can_be_scored(capsys, trained):
    code, out, _ = call(capsys, "evaluate", trained)
    assert code == 0 and re.match(r"test: loss [\d.]+, top-1 [\d.]+%, top-5 100.00% on 12 images\n$", out)
    for split, images in (("train", 32), ("validation", 4), ("test", 12)):
        score = json.loads(call(capsys, "evaluate", trained, "--split", split, "--json")[1])
        assert score["split"] == split and score["images"] == images and score["accuracy"] > 0.6


def test_another_folder_with_the_same_classes_can_be_scored(capsys, trained, photos, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "test").symlink_to(photos / "train")
    score = json.loads(call(capsys, "evaluate", trained, "--dataset", tmp_path / "other", "--json")[1])
    assert score["images"] == 36
    (tmp_path / "wrong" / "test" / "yellow").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "wrong" / "test" / "yellow" / "1.png")
    line = fails(capsys, "evaluate", trained, "--dataset", tmp_path / "wrong")
    assert "test: 'yellow' is not one of the classes. They are 'blue', 'green', 'red'." in line
    for color in ("blue", "green", "red"):
        (tmp_path / "flat" / color).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (16, 16), color).save(tmp_path / "flat" / color / f"{number}.png")
    code, out, err = call(capsys, "evaluate", trained, "--dataset", tmp_path / "flat", "--json")
    assert code == 0 and json.loads(out)["images"] == 3  # the announcement is not part of the JSON
    assert (
        err.startswith("flat is not divided into training and test images: 3 of its 15 images") and err.count("\n") == 1
    )


def test_predict_names_the_classes_most_likely_first(capsys, trained, photos):
    pictures = [photos / "test" / name / "0.png" for name in ("red", "blue")]
    code, out, err = call(capsys, "predict", "--run", trained, "--top", 2, *pictures)
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert len(lines) == 6 and lines[0] == str(pictures[0]) and lines[3] == str(pictures[1])
    for first in (1, 4):
        shares = [re.fullmatch(r" +([\d.]+)%  (red|green|blue)", line) for line in lines[first : first + 2]]
        assert float(shares[0][1]) >= float(shares[1][1]) and shares[0][2] != shares[1][2]
    assert len(call(capsys, "predict", "--run", trained, pictures[0])[1].splitlines()) == 4  # all three by default


def test_predict_takes_the_newest_run(capsys, trained, photos, tmp_path):
    picture = photos / "test" / "red" / "0.png"
    assert "no trained run in ./runs. Train one with: d2lcls train" in fails(capsys, "predict", picture)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(trained)
    code, out, _ = call(capsys, "predict", picture)
    assert code == 0 and out == call(capsys, "predict", picture, "--run", trained)[1]


def test_a_folder_called_val_stands_in_for_test(capsys, trained, photos, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "val").symlink_to(photos / "test")
    score = call(capsys, "evaluate", trained, "--dataset", tmp_path / "kept", "--json")[1]
    assert score == call(capsys, "evaluate", trained, "--json")[1]
    (tmp_path / "kept" / "test").symlink_to(photos / "train")  # which goes before it
    assert json.loads(call(capsys, "evaluate", trained, "--dataset", tmp_path / "kept", "--json")[1])["images"] == 36
    (tmp_path / "none").mkdir()
    line = fails(capsys, "evaluate", trained, "--dataset", tmp_path / "none")
    assert "none: has no test images. Expected" in line and "none/test/CLASS/*.jpg or" in line


def test_each_class_can_be_scored_by_itself(capsys, trained, tmp_path):
    code, out, _ = call(capsys, "evaluate", trained, "--per-class", tmp_path / "classes.csv")
    rows = [line.split(",") for line in (tmp_path / "classes.csv").read_text().splitlines()]
    assert code == 0 and rows[0] == ["label", "class", "images", "accuracy"] and "Weakest classes: " in out
    assert [row[:3] for row in rows[1:]] == [["0", "blue", "4"], ["1", "green", "4"], ["2", "red", "4"]]
    score = json.loads(call(capsys, "evaluate", trained, "--json")[1])
    assert np.mean([float(row[3]) for row in rows[1:]]) == pytest.approx(score["accuracy"], abs=1e-6)


def test_training_without_validation_can_be_used(capsys, photos, tmp_path):
    run = tmp_path / "run"
    code, out, _ = call(capsys, "train", "--dataset", photos, "--epochs", 1, "--validation", 0, "--out", run, *TINY)
    assert code == 0 and "36 training images, 0 for validation" in out
    assert json.loads(call(capsys, "evaluate", run, "--json")[1])["images"] == 12
    assert call(capsys, "predict", "--run", run, photos / "test" / "red" / "0.png")[0] == 0
    assert "trained without a validation set" in fails(capsys, "evaluate", run, "--split", "validation")


def test_a_recipe_sets_the_options_and_those_after_it_change_it(capsys, photos, tmp_path):
    run = tmp_path / "run"
    code, out, _ = call(
        capsys,
        "train",
        "--recipe",
        "fast94",
        "--dataset",
        photos,
        "--size",
        32,
        "--epochs",
        2,
        "--batch-size",
        12,
        "--warmup-epochs",
        0.5,
        "--precision",
        "float32",
        "--out",
        run,
    )
    assert code == 0 and "0 for validation" in out and f"d2lcls evaluate {run} --tta" in out
    recipe = json.loads(str(np.load(run / "last.npz")["progress"]))["recipe"]
    assert recipe["lookahead"] == 5 and recipe["momentum"] == 0.85 and recipe["alternating_flip"]
    assert (recipe["num_epochs"], recipe["batch_size"]) == (2, 12)  # of the options after it
    assert recipe["warmup_epochs"] == 0.5 and recipe["small_first"] == [28, 1]  # given, and in its share of 2 epochs
    scores = [json.loads(call(capsys, "evaluate", run, "--json", *views)[1]) for views in ([], ["--tta"])]
    assert scores[0]["images"] == scores[1]["images"] == 12 and scores[0]["loss"] != scores[1]["loss"]


def test_phases_of_a_recipe_that_are_given_stay(capsys, photos, tmp_path):
    code, *_ = call(
        capsys,
        "train",
        "--recipe",
        "fast94",
        "--dataset",
        photos,
        "--size",
        32,
        "--epochs",
        1,
        "--batch-size",
        12,
        "--small-first",
        "28:10",
        "--precision",
        "float32",
        "--out",
        tmp_path,
    )
    recipe = json.loads(str(np.load(tmp_path / "last.npz")["progress"]))["recipe"]
    assert code == 0 and recipe["small_first"] == [28, 10] and recipe["warmup_epochs"] == pytest.approx(3 / 13)


def test_record_files_are_data_sets(capsys, photos, tmp_path):
    from d2lcls.data import write_records

    write_records(photos / "train", tmp_path / "train")
    write_records(photos / "test", tmp_path / "test")
    code, out, _ = call(
        capsys, "train", "--dataset", tmp_path / "train.rec", "--epochs", 1, "--out", tmp_path / "run", *TINY
    )
    assert code == 0 and "32 training images, 4 for validation, 3 classes" in out
    line = fails(capsys, "evaluate", tmp_path / "run")  # never the training images under the name of a test
    assert "train.rec holds the training images. Name the test images with --dataset" in line
    score = json.loads(call(capsys, "evaluate", tmp_path / "run", "--dataset", tmp_path / "test.rec", "--json")[1])
    assert score["images"] == 12


def test_the_default_folder_is_named_after_data_and_model(capsys, photos, tmp_path):
    code, _, _ = call(capsys, "train", "--dataset", photos, "--epochs", 1, *TINY)
    assert code == 0 and (tmp_path / "runs" / "photos-cnn" / "best.npz").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--dataset", "cifar-10"], "Unknown data set 'cifar-10'. Did you mean 'cifar10'?"),
        (["--dataset", "no/where"], "no/where: no such folder"),
        (["--dataset", "nowhere.rec"], "nowhere.rec: no such file"),
        (
            ["--model", "cifar_resnet20"],
            "No image classifier is called 'cifar_resnet20'. Did you mean cifar_resnet20_v",
        ),
        (["--model", "ssd_512_vgg16_atrous_voc"], "No image classifier is called"),
        (["--size", "4"], "at least 8 x 8 pixels, got 4 x 4"),
        (["--optimizer", "sdg"], "Cannot find optimizer sdg"),
        (["--ctx", "tpu"], "tpu"),
    ],
)
def test_bad_input_to_train_is_one_readable_line(capsys, photos, tmp_path, arguments, message):
    line = fails(capsys, "train", "--dataset", photos, "--epochs", 1, "--out", tmp_path / "run", *TINY, *arguments)
    assert message in line and len(line) < 400
    assert not (tmp_path / "run" / "last.npz").exists()


def test_damaged_pictures_are_named(capsys, trained, photos, tmp_path):
    (tmp_path / "cut.png").write_bytes((photos / "test" / "red" / "0.png").read_bytes()[:60])
    assert "cut.png: cannot be read as an image" in fails(capsys, "predict", "--run", trained, tmp_path / "cut.png")
    assert "nowhere.png: no such file or folder" in fails(capsys, "predict", "--run", trained, "nowhere.png")
    for name in ("a", "b"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "set" / "train" / name / "1.png")
    (tmp_path / "set" / "train" / "b" / "2.jpg").write_text("not a picture")
    assert "b/2.jpg: cannot be read as an image" in fails(
        capsys, "train", "--dataset", tmp_path / "set", "--out", "run"
    )


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "x.png", "--run"]])
def test_missing_and_damaged_runs_are_named(capsys, tmp_path, command):
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    assert "nowhere: holds no run.json, so it is not a training run" in fails(capsys, *command, "nowhere")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{}")
    assert "run.json: damaged" in fails(capsys, *command, "bad")


def test_without_data_and_network_the_sample_stands_in(capsys, tmp_path):
    """The first command of the README works on a plane, and says what it works on."""
    code, out, _ = call(
        capsys,
        "train",
        "--dataset",
        "cifar10",
        "--model",
        "cnn",
        "--epochs",
        1,
        "--validation",
        0.98,
        "--batch-size",
        100,
        "--out",
        tmp_path / "run",
    )
    assert code == 0 and "CIFAR-10 cannot be reached: a sample of Fashion-MNIST" in out and "100 training images" in out


# processes


def test_a_run_goes_on_only_as_it_was_begun(capsys, photos, tmp_path):
    arguments = ["train", "--dataset", photos, "--epochs", 1, "--out", tmp_path / "run", *TINY]
    code, out, _ = call(capsys, *arguments, "--resume")
    assert code == 0 and f"{tmp_path / 'run'} holds no checkpoint: starting from the beginning" in out
    line = fails(capsys, *arguments, "--resume", "--validation", 0.2)
    assert "belongs to another recipe: validation is" in line


def test_ctrl_c_says_where_it_stands_and_resume_completes(photos, tmp_path, capsys):
    arguments = ["train", "--dataset", photos, "--epochs", 10, "--out", tmp_path / "run", *TINY, "--batch-size", 2]
    child = process(*arguments, cwd=tmp_path)
    for line in child.stdout:
        if line.startswith("epoch   2"):
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err, err
    stopped = re.search(r"d2lcls: stopped after step (\d+), saved in \S+/run/last\.npz; continue with --resume", err)
    assert stopped and 32 <= int(stopped[1]) < 160, err

    code, out, _ = call(capsys, *arguments, "--resume")
    assert code == 0 and "Done." in out and "epoch   1 " not in out and "epoch  10 " in out
    progress = json.loads(str(np.load(tmp_path / "run" / "last.npz")["progress"]))
    assert progress["step"] == 160 and [r["epoch"] for r in progress["records"]] == list(range(1, 11))
    assert call(capsys, "evaluate", tmp_path / "run")[0] == 0


def test_an_interrupt_without_a_message_is_told(capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("d2lcls.commands.data._list", interrupted)
    code, out, err = call(capsys, "data", "list")
    assert (code, out, err) == (130, "", "\nd2lcls: stopped\n")


def test_a_closed_pipe_is_no_traceback(tmp_path):
    child = process("data", "list", cwd=tmp_path, env={"D2LCLS_HOME": str(tmp_path), "PYTHONUNBUFFERED": ""})
    child.stdout.close()  # what `| head -0` does, before a word is written
    assert (child.wait(timeout=60), child.stderr.read()) == (1, "")
    child.stderr.close()


def test_the_module_is_the_command(tmp_path):
    child = process("evaluate", "nowhere", cwd=tmp_path)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1 and out == "" and err.startswith("d2lcls: nowhere: holds no run.json")


def test_the_command_alone_prints_help(capsys):
    code, out, err = call(capsys)
    assert code == 0 and err == "" and out.startswith("usage: d2lcls") and "Start with: d2lcls doctor" in out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"d2lcls {d2lcls.__version__}\n"


@pytest.mark.parametrize(
    "words, nearest",
    [
        (["trian"], "train"),
        (["data", "lst"], "list"),
        (["train", "--loss", "focl"], "focal"),
        (["train", "--recipe", "fats94"], "fast94"),
        (["train", "--precison", "auto"], "--precision"),
    ],
)
def test_the_nearest_name_is_suggested(capsys, words, nearest):
    code, _, err = call(capsys, *words)
    assert code == 2 and f"did you mean {nearest!r}?" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts_know_commands_and_options(capsys, shell):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--print-completion", shell])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "quantize" in out and "label-smoothing" in out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_every_field_of_the_recipe_is_an_option_of_train(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in recipe.options():
        assert f" {fields.option_name(field)} " in text
    first = [text.index(f" {option} ", text.index("options:")) for option in ("--dataset", "--lr", "--seed")]
    assert max(first) < text.index("optimisation:")  # the most used ones come first


@pytest.mark.parametrize("size, names", [(16, ["pad_crop", "flip"]), (64, ["random_resized_crop:0.35", "flip"])])
def test_run_json_says_what_the_standard_augmentation_was(capsys, photos, tmp_path, size, names):
    arguments = ["train", "--dataset", photos, "--size", size, "--batch-size", 8, "--out", tmp_path / "run"]
    assert call(capsys, *arguments, "--epochs", 1)[0] == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["recipe"]["augment"] == names
    for again in (arguments, ["train", "--out", tmp_path / "run"]):  # the names and "standard" are the same
        code, out, err = call(capsys, *again, "--epochs", 1, "--resume")
        assert code == 0, err


def test_help_says_what_the_standard_augmentation_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    _, out, _ = call(capsys, "train", "--help")
    assert "pad_crop flip for images of less than 64 pixels on a side, random_resized_crop:0.35 flip for others" in out
    assert "rotate[:DEGREES]" in out and "autoaugment" in out and "(default: standard)" in out and "--cutmix" in out


def test_a_run_with_everything_for_photographs(capsys, photos, tmp_path):
    names = ["random_resized_crop:0.5", "flip", "rotate:10", "colour_jitter:0.4", "autoaugment", "random_erasing:0.25"]
    arguments = ["train", "--dataset", photos, *TINY[:-1], *names, "--mixup", 0.2, "--cutmix", 1, "--epochs", 2]
    assert call(capsys, *arguments, "--out", tmp_path / "run")[0] == 0
    made = json.loads((tmp_path / "run/run.json").read_text())["recipe"]
    assert made["augment"] == names and (made["mixup"], made["cutmix"]) == (0.2, 1.0)


def test_resume_needs_nothing_but_the_folder(capsys, photos, tmp_path):
    run = tmp_path / "run"
    assert call(capsys, "train", "--dataset", photos, "--epochs", 1, "--out", run, *TINY, "--loss", "focal")[0] == 0
    code, out, _ = call(capsys, "train", "--resume", "--out", run)
    assert code == 0 and "Done." in out
    assert "loss is 'focal' there and 'cross_entropy'" in fails(
        capsys, "train", "--resume", "--out", run, "--loss", "cross_entropy"
    )


def test_what_belongs_to_a_recipe_s_optimizer_and_loss_goes_with_them():
    options = cli.make_parser().parse_args(
        ["train", "--recipe", "fast94", "--optimizer", "adam", "--loss", "focal", "--epochs", "26"]
    )
    chosen = recipe_of(options, RECIPES["fast94"], scale=True)
    assert (chosen.momentum, chosen.label_smoothing, chosen.warmup_epochs) == (None, 0.0, 6.0)
