"""Every chapter has the same parts, fits the page, and can be used without seeing its figures."""

import re
from pathlib import Path

from d2lcls.book import results

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
CHAPTERS = [
    BOOK / f"{name}.ipynb"
    for name in (
        "start/ten-minutes",
        "foundations/images-as-numbers",
        "foundations/first-classifier",
        "networks/convolutional-networks",
        "networks/training-loop",
        "networks/augmentation",
        "networks/optimisation",
        "networks/deeper-networks",
        "networks/making-it-fast",
    )
]
WITHOUT_SCOREBOARD = {"ten-minutes"}  # it comes before the first row
WITH_PROJECT = {"ten-minutes", "first-classifier", "making-it-fast"}  # the last chapter of a part
PARTS = ("The idea", "Common mistakes", "Exercises", "Summary", "Further reading")
LINES, COLUMNS = 20, 80
NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
MINUTES = {"half a": 0.5, **{word: number for number, word in enumerate(NUMBERS.split(), 1)}}


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tags(cell):
    return cell.metadata.get("tags", [])


def name(path):
    return path.stem


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_every_chapter_has_the_same_parts(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    headings = re.findall(r"(?m)^## (.+)$", text)
    assert [heading for heading in headings if heading in PARTS] == list(PARTS), headings
    assert re.findall(r"(?m)^### (Recall|Code|Experiments)$", text) == ["Recall", "Code", "Experiments"]
    for start in ("**After this chapter you can**", "**You need**", "**Run time**"):
        assert start in text
    code = "\n".join(cell.source for cell in cells(path, "code"))
    assert (f'scoreboard("{path.stem}")' in code) == (path.stem not in WITHOUT_SCOREBOARD)
    projects = [heading for heading in headings if heading.startswith("Project: ")]
    assert len(projects) == (path.stem in WITH_PROJECT)


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_visible_code_fits_a_screen(path):
    for cell in cells(path, "code"):
        if not {"hide-input", "hide-cell", "remove-input"} & set(tags(cell)):
            lines = cell.source.splitlines()
            assert len(lines) <= LINES, f"{len(lines)} lines: {lines[0]}"
            assert max(map(len, lines), default=0) <= COLUMNS


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_printed_output_fits_the_page(path):
    for cell in cells(path, "code"):
        for output in cell.outputs:
            text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
            if output.output_type == "stream" or set(output.get("data", {})) == {"text/plain"}:
                # A sentence is wrapped by the page (book.css); a table, whose columns are apart, must fit.
                wide = [line for line in text.splitlines() if len(line) > COLUMNS and re.search(r"\S {2,}\S", line)]
                assert not wide, f"{len(wide[0])} columns: {wide[0]}"


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_figures_have_alternative_texts_and_captions(path):
    for cell in cells(path, "code"):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            assert len(shown.get("image", {}).get("alt", "")) > 20, cell.source[:200]
            assert len(shown.get("figure", {}).get("caption", "")) > 20, cell.source[:200]
    for cell in cells(path, "markdown"):
        for figure in re.findall(r"(?ms)^(`{3,}|:{3,})\{figure\}(.+?)^\1", cell.source):
            assert ":alt:" in figure[1], figure[1]


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_every_exercise_is_unsolved_and_has_a_solution(path):
    """That solutions pass their checks is asserted in the notebook itself."""
    code = cells(path, "code")
    exercises = [index for index, cell in enumerate(code) if "exercise" in tags(cell)]
    assert exercises, "no cell is tagged exercise"
    for index in exercises:
        checked, solution = code[index + 1], code[index + 2]
        printed = "".join(output.get("text", "") for output in checked.outputs)
        assert "check(" in checked.source and printed == "Not answered yet.\n", checked.source
        assert "solution" in tags(solution) and "hide-cell" in tags(solution) and "assert check(" in solution.source


@pytest.mark.parametrize("path", CHAPTERS, ids=name)
def test_the_stated_run_time_was_measured(path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    (stated,) = re.findall(r"(?m)^\*\*Run time\*\* about (.+?) minutes? on two cores", text)
    assert results.read("run_times")["minutes"][path.stem] <= 1.1 * MINUTES[stated]
