"""Book, package and results say the same."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import d2lcls
from d2lcls.book import results
from d2lcls.book.notebook import Source, show_source

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import execute  # noqa: E402
import toc  # noqa: E402

NOTEBOOKS = toc.notebooks()
PAGES = [*toc.pages(), Path("README.md"), Path("CHANGELOG.md")]


def read(path):
    return nbformat.read(ROOT / path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code" and cell.source.strip()]


def prose(path):
    if path.suffix == ".md":
        return (ROOT / path).read_text()
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def test_every_notebook_is_in_the_table_of_contents_and_run():
    there = {p.relative_to(ROOT) for p in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert there == set(NOTEBOOKS)
    printed = subprocess.run([sys.executable, ROOT / "tools/toc.py"], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(path) for path in NOTEBOOKS]
    commands = subprocess.run(
        ["make", "-n", "test", "NOTEBOOKS=all.ipynb"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"pytest .*--nbval .*all\.ipynb", commands)
    assert "NOTEBOOKS = $(shell $(BIN)/python tools/toc.py)" in (ROOT / "Makefile").read_text()


def test_every_page_is_in_the_table_of_contents():
    there = {p.relative_to(ROOT) for p in (ROOT / "book").rglob("*.md") if ".ipynb_checkpoints" not in p.parts}
    assert there <= set(toc.pages())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_notebooks_were_executed_whole_and_hold_no_error(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run: make execute"
    for cell in cells:
        if "raises-exception" not in cell.metadata.get("tags", []):
            assert not [o.evalue for o in cell.outputs if o.output_type == "error"], cell.source
        assert not [o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"], cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_notebook_metadata_is_minimal(path):
    notebook = read(path)
    before = nbformat.writes(notebook)
    assert nbformat.writes(execute.tidy(notebook)) == before, "run: make execute"
    assert str(ROOT.parent) + "/" not in before, "holds a path of the machine that ran it"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_displayed_source_is_the_package_s(path):
    package = dict(public_things())
    for cell in code_cells(path):
        for name in re.findall(r"^show_source\((\w+)\)$", cell.source, re.M):
            shown = [o.data["text/plain"] for o in cell.outputs if "text/markdown" in o.get("data", {})]
            assert shown == [repr(show_source(package[name]))], f"{name} changed; run: make execute ONLY={path}"


def test_a_changed_source_would_be_noticed():
    assert repr(Source("def fit(): pass")) != repr(show_source(d2lcls.book.notebook.check))


def test_the_readme_shows_the_chapter_s_picture():
    pictures = [png for path in NOTEBOOKS for png in execute.readme_picture(read(path))]
    assert pictures == [execute.PICTURE.read_bytes()], "run: make execute"
    assert str(execute.PICTURE.relative_to(ROOT)) in (ROOT / "README.md").read_text()


MEASURED = re.compile(
    r"(?<![\w.,/-])(\d[\d,]*(?:\.\d+)?)(\s*<!--[\w.]+-->)?\s*"
    r"(%|percent|points|images/s|requests/s|seconds?|minutes?|hours?|ms|MB|GB|GiB|"
    r"times (?:as|fewer|more|faster|slower))(?!\w)"
)


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_measured_numbers_in_prose_come_from_results(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", prose(path), flags=re.S)
    for number, comment, unit in MEASURED.findall(text):
        assert comment, (
            f"{path}: {number} {unit} has no source. Write {number}<!--file.entry--> with an entry of "
            f"results/, or {number}<!--given--> for a definition or a cited fact."
        )
    for number, address in re.findall(r"(\d[\d,]*(?:\.\d+)?)\s*<!--([\w.]+)-->", text):
        if address != "given":
            digits = len(number.partition(".")[2])
            value = abs(results.value(address))  # "3.1 points lower" has its sign in words
            assert f"{value:,.{digits}f}" == f"{float(number.replace(',', '')):,.{digits}f}", (
                f"{path}: {number} is not what {address} says"
            )


def test_an_unsourced_number_would_be_noticed():
    assert MEASURED.findall("it reaches 83.9 % in 7 minutes")[0][1] == ""
    assert MEASURED.findall("it reaches 83.9<!--a.b--> %")[0][1] == "<!--a.b-->"
    assert not MEASURED.findall("a 3 x 3 kernel over 32 channels, Python 3.11, chapter 2")


def public_things():
    """Every public function and class of the package, by the name its module gives it."""
    for info in pkgutil.walk_packages(d2lcls.__path__, "d2lcls."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if (
                not name.startswith("_")
                and getattr(thing, "__module__", None) == info.name
                and (inspect.isfunction(thing) or inspect.isclass(thing))
            ):
                yield name, thing


def test_every_public_name_is_in_a_chapter_or_on_the_api_page():
    api = (ROOT / "book/appendix/api.md").read_text()
    documented = set()
    for name in re.findall(r"automodule:: ([\w.]+)", api):
        module = importlib.import_module(name)
        documented |= set(getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]))
    chapters = " ".join(cell.source for path in NOTEBOOKS for cell in code_cells(path))
    for name, thing in public_things():
        if not thing.__module__.startswith(("d2lcls.cli", "d2lcls.commands")):  # documented by --help
            assert name in documented or re.search(rf"\b{name}\b", chapters), (
                f"{thing.__module__}.{name} stands neither in a chapter nor on the API page"
            )


def test_the_site_shows_defaults_as_they_are_written():
    """Otherwise the API page would hold the value of os.environ on the machine that built it."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["sphinx"]["config"]["autodoc_preserve_defaults"] is True


def test_every_public_name_has_a_docstring():
    for name, thing in public_things():
        assert inspect.getdoc(thing), f"{thing.__module__}.{name} has no docstring"
