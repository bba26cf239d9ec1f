import csv
import dataclasses

from d2lcls.report import write_explanation
from d2lcls.report.examples import Explainer
from d2lcls.training import load_run

import numpy as np
from hostile import HOSTILE
from PIL import Image

FILES = {
    "gradcam.png",
    "confusion.png",
    "mistakes.png",
    "calibration.png",
    "confusion.csv",
    "mistakes.csv",
    "classes.csv",
}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_the_tables_hold_every_class_by_its_name(findings, tmp_path):
    written = write_explanation(tmp_path / "new" / "explain", findings)
    folder = tmp_path / "new" / "explain"
    assert {path.name for path in written} == FILES == {path.name for path in folder.iterdir()}
    classes = sorted(HOSTILE)
    matrix = rows(folder / "confusion.csv")
    assert matrix[0] == ["true class", *classes] and [row[0] for row in matrix[1:]] == classes
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == findings.analysis.matrix.tolist()
    accuracies = rows(folder / "classes.csv")
    assert [row[:3] for row in accuracies[1:]] == [[str(k), name, "6"] for k, name in enumerate(classes)]
    mistakes = rows(folder / "mistakes.csv")
    assert [row[1:4] for row in mistakes[1:]] == [[m.name, m.true, m.predicted] for m in findings.mistakes]
    assert float(mistakes[1][6]) == round(findings.mistakes[0].loss, 4)
    for name in FILES:
        if name.endswith(".png"):
            assert np.asarray(Image.open(folder / name)).std() > 3


def test_a_second_call_replaces_the_files_and_leaves_others(findings, tmp_path):
    write_explanation(tmp_path, findings)
    (tmp_path / "notes.txt").write_text("mine")
    before = (tmp_path / "confusion.csv").read_bytes()
    right = dataclasses.replace(findings, mistakes=[])
    written = write_explanation(tmp_path, right)
    assert {path.name for path in written} == FILES - {"gradcam.png", "mistakes.png"}
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"gradcam.png", "mistakes.png"} | {"notes.txt"}
    assert (tmp_path / "confusion.csv").read_bytes() == before


def test_pictures_take_the_place_of_the_mistakes(folder, source, findings, tmp_path):
    run, net = load_run(folder)
    pictures = Explainer(folder, run).pictures(net, [str(source.parent / "train <b>0-0.png")])
    assert [path.name for path in write_explanation(tmp_path / "a", None, pictures)] == ["gradcam.png"]
    write_explanation(tmp_path / "b", findings, pictures)
    write_explanation(tmp_path / "c", findings)
    alone, with_all, mistakes = ((tmp_path / name / "gradcam.png").read_bytes() for name in "abc")
    assert alone == with_all != mistakes
