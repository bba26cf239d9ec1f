"""A run.json with values of other types gives one documented exception that names the file."""

import json

from d2lcls.training.recipe import Recipe
from d2lcls.training.runs import read_run

import pytest

GOOD = {
    "recipe": Recipe().to_json(),
    "classes": ["a", "b"],
    "image_shape": [8, 8, 3],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "size": None,
    "validation_images": 10,
}
OTHERS = [None, True, -1, 1e999, "", "text", [], [[]], [None], {}, {"a": 1}, "missing"]


def write(folder, content):
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_the_description_itself_is_accepted(tmp_path):
    assert read_run(write(tmp_path, GOOD)).classes == ("a", "b")


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", OTHERS, ids=repr)
def test_other_types_are_refused(tmp_path, name, value):
    if (name, value) == ("size", None):
        return
    changed = {**GOOD, name: value}
    if value == "missing":
        del changed[name]
    if name == "recipe" and value == {}:
        return  # the default recipe
    with pytest.raises(ValueError, match=r"run\.json: damaged.*Train the run again"):
        read_run(write(tmp_path, changed))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b"1", b'"run"'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json: damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize("value", [[], {}, "text", True], ids=repr)
def test_recipe_fields_of_other_types_never_give_a_bare_error(tmp_path, value):
    for name in GOOD["recipe"]:
        try:
            read_run(write(tmp_path, {**GOOD, "recipe": {**GOOD["recipe"], name: value}}))
        except ValueError as error:
            assert "run.json: damaged" in str(error)
