"""Every command that writes, with wrong input: one line, and nothing left behind."""

from d2lcls import cli
from d2lcls.data import Preprocess
from d2lcls.deploy.exporting import export
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.models import get_model

import numpy as np
import pytest
from PIL import Image

SIZES = ["--size", "16", "--batch-size", "4", "--epochs", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with pictures, a finished run, and model folders m (mxnet) and o (onnx)."""
    root, rng = tmp_path_factory.mktemp("checks"), np.random.default_rng(0)
    for split in ("train", "test"):
        for channel, name in enumerate(("red", "green")):
            (root / "photos" / split / name).mkdir(parents=True)
            for number in range(6):
                image = rng.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                image[..., channel] += 120
                Image.fromarray(image).save(root / "photos" / split / name / f"{number}.png")
    (root / "others" / "test" / "blue").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(root / "others" / "test" / "blue" / "1.png")
    (root / "empty").mkdir()
    (root / "used").mkdir()
    (root / "used" / "file").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert cli.main(["train", "--dataset", "photos", *SIZES, "--out", "run"]) == 0
    net = get_model("cnn", classes=2)
    net.initialize()
    export(net, root / "m", "cnn", ("green", "red"), Preprocess(16, 16, (0.5,) * 3, (0.25,) * 3, "bilinear"))
    export_onnx(root / "m", root / "o")
    return root


def times(root):
    """When each path was written; of a folder whether it exists, as a lock comes and goes in it."""
    return {path: path.is_dir() or path.stat().st_mtime_ns for path in root.rglob("*")}


def wrong(root, capsys, monkeypatch, line):
    """Run a command line that must fail; return what it says, after a check that nothing was written."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    monkeypatch.setenv("D2LCLS_HOME", str(root / "cache"))
    before = times(root)
    code = cli.main(line.split())
    out, err = capsys.readouterr()
    assert code == 1 and err.startswith("d2lcls: ") and err.count("\n") == 1 and len(err) < 500, (code, err)
    assert times(root) == before
    return err


@pytest.mark.parametrize(
    "options, message",
    [
        ("--ctx gpu", "device 'gpu' is not available"),
        ("--ctx tpu", "unknown device 'tpu'"),
        ("--optimizer sdg", "Cannot find optimizer sdg"),
        ("--optimizer nadam --ctx cpu*2", "nadam keeps one schedule for all devices"),
        ("--model nope", "No image classifier is called 'nope'"),
        ("--dataset nope", "Unknown data set 'nope'"),
        ("--dataset empty", "empty: has no train images. Expected"),
        ("--size 5000", "Training on batches of 4 images of 3 x 5000 x 5000 needs at least"),
        (
            "--dataset cifar10 --size 20000 --batch-size 64",
            "Training on batches of 64 images of 3 x 20000 x 20000 needs",
        ),
        ("--precision float16", "cannot train in float16 on a CPU"),
        ("--precision bfloat16", "cannot train in bfloat16 here"),
        ("--validation 0.01", "both sets need at least one"),
        ("--validation 0 --patience 2", "patience needs a validation set"),
        ("--small-first 40:1", "windows of 40 pixels"),
        ("--pretrained", "pretrained weights of cnn could not be fetched"),
        ("--tensorboard used/file", "used/file is not a folder"),
        ("--out used/file", "used/file is not a folder"),
        ("--out run", "run already holds a training run"),
        ("--out run --resume --lr 0.01", "belongs to another recipe: lr is 0.1 there and 0.01 here"),
        ("--out run --resume --optimizer adam", "belongs to another recipe: optimizer is 'sgd' there and 'adam' here"),
        ("--out run --resume --model cifar_resnet20_v1", "model is 'cnn' there and 'cifar_resnet20_v1' here"),
        ("--out run --resume --validation 0.3", "validation is not set there and 0.3 here"),
    ],
)
def test_train(root, capsys, monkeypatch, options, message):
    monkeypatch.setattr("d2lcls.machine.cores.cpu_flags", lambda: {"avx2"})
    monkeypatch.setattr("d2lcls.machine.memory.available_memory", lambda: 2e9)
    assert message in wrong(
        root, capsys, monkeypatch, f"train --dataset photos {' '.join(SIZES)} --out new/run {options}"
    )


@pytest.mark.parametrize(
    "line, message",
    [
        ("tune --dataset photos --model nope", "No image classifier is called 'nope'"),
        ("tune --dataset photos --ctx gpu", "device 'gpu' is not available"),
        ("tune --dataset photos --size 5000", "Training on batches of 12 images of 3 x 5000 x 5000 needs at least"),
        ("tune --dataset photos --pictures used/file", "used/file is not a folder"),
        ("tune --dataset photos --share 0.01", "both sets need at least one"),
        ("export m --out new", "m: holds no run.json"),
        ("export run --out used", "used: already exists and is not an empty folder"),
        ("export run --out used/file/new", "used/file is not a folder"),
        ("export run --out new --dataset nope", "Unknown data set 'nope'"),
        ("export run --out new --dataset others", "has the classes green, red; test has blue"),
        ("export --pretrained nope --out new", "No image classifier is called 'nope'"),
        ("quantize run --out new", "run: holds no manifest.json"),
        ("quantize m --out used --dataset photos", "used: already exists and is not an empty folder"),
        ("quantize m --out new --dataset others", "has the classes green, red; test has blue"),
        ("quantize m --out new --dataset photos --images 8 --exclude nope", "There is no layer nope to exclude"),
        ("onnx o --out new", "o: a model of form onnx; this step takes one of form mxnet"),
        ("onnx m --out used", "used: already exists and is not an empty folder"),
        ("onnx m --out new --dataset nope", "Unknown data set 'nope'"),
        ("torch run --out new", "run: holds no manifest.json"),
        ("torch m --out used", "used: already exists and is not an empty folder"),
        ("torch m --out new --dataset nope", "Unknown data set 'nope'"),
        ("compile m --out new", "m: a model of form mxnet; this step takes one of form onnx"),
        ("compile m --out new --tune 5", "m: a model of form mxnet; this step takes one of form onnx"),
        ("compile m --out new --target arm64", "m: a model of form mxnet; this step takes one of form onnx"),
        ("compile o --out used --tune 5", "used: already exists and is not an empty folder"),
        ("compile o --out used --target arm64", "used: already exists and is not an empty folder"),
        ("archive run --out new/x.mar", "run: holds no manifest.json"),
        ("serve run --port 0", "run: holds no manifest.json"),
        ("evaluate run --per-class used/file/x.csv", "used/file is not a folder"),
        (
            "evaluate run --dataset others --per-class x.csv",
            "'blue' is not one of the classes. They are 'green', 'red'",
        ),
        (
            "rescue m/model-symbol.json m/model-0000.params --shape 3,16,16 --save new/x --torch used",
            "already exists and is not an empty folder",
        ),
        (
            "rescue m/model-symbol.json m/model-0000.params --shape 3,16,16 --save new/x --onnx used/file/x",
            "is not a folder",
        ),
        (
            "rescue m/model-symbol.json m/model-0000.params --shape 3,16,16 --save used/file/x",
            "used/file is not a folder",
        ),
        ("weights convert used/file --model nope --out new/x.params", "No image classifier is called 'nope'"),
    ],
)
def test_others(root, capsys, monkeypatch, line, message):
    for package in {"compile": ["tvm"], "tune": ["optuna"]}.get(line.split()[0], []):
        pytest.importorskip(package)
    monkeypatch.setattr("d2lcls.machine.memory.available_memory", lambda: 2e9)
    assert message in wrong(root, capsys, monkeypatch, line)


def test_loading_images_that_cannot_fit_is_refused(root, monkeypatch):
    from d2lcls.data import load

    monkeypatch.setattr("d2lcls.machine.memory.available_memory", lambda: 1e6)
    with pytest.raises(MemoryError, match="Loading 12 pictures of 500 x 500 pixels needs at least 0.0 GB"):
        load(root / "photos", "train", size=500)
    assert len(load(root / "photos", "train")) == 12
