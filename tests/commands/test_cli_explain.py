"""`d2lcls explain` and `d2lcls report`."""

import csv
import json
import re

import pytest
from test_cli import call, fails, nothing_outside, photos, trained  # noqa: F401  its fixtures hold for this file too


def table(out):
    """The lines of the table by their first word."""
    return {line.split()[0]: line for line in out.splitlines()}


def test_explain_writes_into_the_run_and_prints_a_table(capsys, trained):
    code, out, err = call(capsys, "explain", trained)
    assert code == 0 and err == ""
    score = json.loads(call(capsys, "evaluate", trained, "--json")[1])
    lines = table(out)
    assert lines["test"].startswith(f"test         top-1 {score['accuracy']:.2%} (95 % interval ")
    assert lines["test"].endswith(" on 12 images") and "blue" in lines["weakest"]
    assert re.search(r"expected error [\d.]+% as trained[;,] ", lines["calibration"])
    paths = [line for line in out.splitlines() if line.startswith(str(trained / "explain"))]
    assert (
        set(paths) == set(map(str, (trained / "explain").iterdir())) and str(trained / "explain/classes.csv") in paths
    )
    call(capsys, "evaluate", trained, "--per-class", trained / "other.csv")
    assert (trained / "explain/classes.csv").read_text() == (trained / "other.csv").read_text()


def test_explain_draws_the_pictures_that_are_named(capsys, trained, photos, tmp_path):
    out_folder = tmp_path / "seen"
    command = ["explain", trained, "--split", "none", "--out", out_folder, "--images"]
    code, out, err = call(capsys, *command, photos / "test" / "red", photos / "test" / "blue" / "*0.png")
    assert code == 0 and err == "" and [path.name for path in out_folder.iterdir()] == ["gradcam.png"]
    lines = out.splitlines()
    assert len(lines) == 6 and lines[-1] == str(out_folder / "gradcam.png")
    assert re.fullmatch(rf"{photos}/test/red/0.png: (red|green|blue) [\d.]+%", lines[0])
    assert "none.png: no such file or folder" in fails(capsys, *command, "none.png")
    assert "not standard input" in fails(capsys, *command, "-")


def test_explain_scores_other_splits_and_sets(capsys, trained, photos, tmp_path):
    out = call(capsys, "explain", trained, "--split", "train", "--out", tmp_path / "a")[1]
    assert "on 32 images" in table(out)["train"]
    (tmp_path / "other").mkdir()
    for split in ("train", "test"):
        (tmp_path / "other" / split).symlink_to(photos / "train")
    out = call(capsys, "explain", trained, "--dataset", tmp_path / "other", "--out", tmp_path / "b")[1]
    assert "on 36 images" in table(out)["test"], out
    with open(tmp_path / "b" / "classes.csv", newline="") as file:
        assert [row["images"] for row in csv.DictReader(file)] == ["12", "12", "12"]


def test_report_writes_one_page(capsys, trained, tmp_path):
    code, out, err = call(capsys, "report", trained)
    assert code == 0 and err == "" and out.splitlines()[1].startswith(f"{trained}/report.html: ")
    assert (trained / "report.html").read_text().startswith("<!doctype html>")
    code, out, _ = call(capsys, "report", trained, "--split", "validation", "--out", tmp_path / "new" / "a.html")
    text = (tmp_path / "new" / "a.html").read_text()
    assert code == 0 and "on 4 images" in out and "scored on the validation images" in text
    assert "The best epoch was chosen by its accuracy on these images" in text


@pytest.mark.parametrize("command", ["explain", "report"])
def test_what_is_wrong_is_said_in_a_line(capsys, trained, tmp_path, command):
    assert "holds no run.json" in fails(capsys, command, tmp_path)
    (tmp_path / "file").write_text("x")
    line = fails(capsys, command, trained, "--out", tmp_path / "file" / "page.html")
    assert "cannot be written" in line
    code, _, err = call(capsys, command, trained, "--split", "val")
    assert code == 2 and "invalid choice: 'val'" in err
    assert call(capsys, "report", trained, "--out", "page.pdf")[0] == 2
    code, _, err = call(capsys, "explain", trained, "--split", "none")
    assert code == 2 and "--split none needs --images" in err
