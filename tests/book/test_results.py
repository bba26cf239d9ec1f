import hashlib
import json

from d2lcls.book import results
from d2lcls.data import DATASETS

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def write(name="speed", **values):
    return results.write(name, f"python benchmarks/{name}.py", values)


def test_what_is_written_is_read(folder):
    path = write(images_per_second={"mean": 410.5}, note="two cores")
    assert path == folder / "speed.json" and path.read_text().endswith("}\n")
    found = results.read("speed")
    assert found == json.loads(path.read_text())
    assert found["command"] == "python benchmarks/speed.py" and found["note"] == "two cores"


def test_what_is_needed_to_measure_again_is_written_too():
    write()
    found = results.read("speed")
    assert set(found["versions"]) == {"python", "mxnet", "gluoncv", "numpy"}
    assert found["versions"]["numpy"] == np.__version__ and found["versions"]["mxnet"] == "1.9.1"
    assert found["machine"]["cores"] >= 1 and found["machine"]["processor"] and found["machine"]["system"]
    assert found["machine"]["instructions"] == results.instructions()
    assert found["data"] == {}


def test_checksums_of_the_data_are_written():
    results.write("speed", "command", {}, data=("fashion_mnist",))
    checksums = results.read("speed")["data"]["fashion_mnist"]
    assert checksums == {file.name: file.sha1 for file in DATASETS["fashion_mnist"].files}
    assert all(len(value) == len(hashlib.sha1().hexdigest()) for value in checksums.values())


def test_a_value_by_its_address():
    write(accuracy=results.spread([80, 82]), epochs=[{"loss": 1.5}, {"loss": 0.5}])
    assert results.value("speed.accuracy.mean") == 81
    assert results.value("speed.epochs.1.loss") == 0.5
    assert results.value("speed.accuracy.values") == [80, 82]


@pytest.mark.parametrize(
    "address, missing",
    [
        ("speed.acuracy.mean", "acuracy"),
        ("speed.accuracy.mode", "mode"),
        ("speed.epochs.7", "7"),
        ("speed.epochs.first", "first"),
        ("speed.accuracy.mean.more", "more"),
    ],
)
def test_a_missing_entry_is_named(address, missing):
    write(accuracy={"mean": 1.0}, epochs=[1])
    with pytest.raises(KeyError, match=f"results/speed.json has no entry .*'{missing}' is missing"):
        results.value(address)


def test_a_missing_result_lists_those_there_are(folder):
    with pytest.raises(FileNotFoundError, match="No result is called 'sped'.* There are: none"):
        results.read("sped")
    write("speed")
    write("accuracy")
    with pytest.raises(FileNotFoundError, match="There are: accuracy, speed"):
        results.value("sped.mean")


def test_without_the_repository_there_are_no_results(folder):
    folder.rmdir()
    for attempt in (write, lambda: results.value("speed.mean")):
        with pytest.raises(
            FileNotFoundError, match="part of the repository, not of the installed package. Run this in"
        ):
            attempt()


def test_spread():
    assert results.spread([3, 1, 2]) == {"mean": 2, "std": 1, "min": 1, "median": 2, "max": 3, "values": [3, 1, 2]}
    values = np.random.default_rng(0).normal(size=20).astype(np.float32)
    found = results.spread(values)
    assert found["std"] == pytest.approx(values.astype(float).std(ddof=1))
    assert found["mean"] == pytest.approx(values.astype(float).mean())
    json.dumps(found)  # numpy's numbers became Python's


def test_one_measurement_has_no_spread():
    assert results.spread([5])["std"] is None


def test_no_measurement_is_an_error():
    with pytest.raises(ValueError, match="mean requires at least one data point"):
        results.spread([])
