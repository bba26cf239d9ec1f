"""What the live page says when something is missing or damaged, and that the book is built without npm."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

from d2lcls.data.download.transfer import file_checksum
from d2lcls.deploy import read_manifest

import chromium
import live_page
import pytest

ROOT = Path(__file__).parents[2]


def status(page):
    return page.evaluate("document.querySelector('[data-part=status]').textContent.replace(/\\s+/g, ' ')")


@pytest.fixture
def broken(site, tmp_path, browser):
    """A function that damages a copy of the site, asks the live page, and returns what it says."""

    def ask(damage, picture="document.querySelector('[data-sample]').click()"):
        copy = tmp_path / "html"
        shutil.copytree(site, copy)
        damage(copy / "_static")
        with chromium.web_server(copy) as address:
            browser.open(f"{address}/chapter/live.html")
            browser.evaluate(picture)
            browser.wait("document.querySelector('.live-failed')")
            assert browser.evaluate("document.querySelector('[data-part=answer]').hidden")
            return status(browser)

    return ask


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_model(broken):
    said = broken(lambda static: flip_a_byte(static / "live/model/model.onnx"))
    assert said.startswith("The model is damaged: model.onnx is not the file that its manifest names. Reload")


def test_a_model_that_is_no_graph_at_all(broken):
    def damage(static):
        path = static / "live/model/model.onnx"
        path.write_bytes(b"<html>Not found</html>")
        manifest = static / "live/model/manifest.json"
        content = json.loads(manifest.read_text())
        content["files"]["model.onnx"] = file_checksum(path, "sha256")
        manifest.write_text(json.dumps(content))

    assert broken(damage).startswith("ONNX Runtime Web could not start the model (")


def test_a_damaged_manifest(broken):
    said = broken(lambda static: (static / "live/model/manifest.json").write_text("{"))
    assert said.startswith("The model is damaged: manifest.json is no JSON (")


@pytest.mark.parametrize("name", live_page.FILES)
def test_a_part_of_the_runtime_is_missing(broken, name):
    said = broken(lambda static: (static / live_page.RUNTIME / name).unlink())
    assert said.startswith(
        f"{name} did not arrive (404 File not found)."
        if name.endswith(".wasm")
        else "ONNX Runtime Web could not be loaded ("
    )


def test_a_browser_without_webassembly(broken):
    said = broken(lambda static: None, "delete globalThis.WebAssembly; document.querySelector('[data-sample]').click()")
    assert said.startswith("This browser does not run WebAssembly")


def test_a_missing_sample(broken):
    said = broken(lambda static: (static / "live/samples/cat.png").unlink())
    assert said == "The sample did not arrive (404 File not found)."


def test_a_text_file_instead_of_a_picture_and_then_a_picture(browser, server, tmp_path, pictures):
    path = tmp_path / "poem.txt"
    path.write_text("A poem is no picture.")
    browser.open(f"{server}/chapter/live.html")
    browser.choose_file("#live-file", path)
    browser.wait("document.querySelector('.live-failed')")
    assert status(browser) == (
        "poem.txt cannot be used: your browser cannot read it as a picture. Choose a PNG or a JPEG."
    )
    browser.choose_file("#live-file", pictures[0])
    browser.wait("!document.querySelector('[data-part=answer]').hidden")
    assert not browser.evaluate("document.querySelector('.live-failed')")


def test_opened_as_a_file_the_page_says_how_to_start_a_server(browser, site):
    browser.open((site / "chapter/live.html").as_uri())
    said = status(browser)
    assert "needs JavaScript and a web server" in said and "python3 -m http.server" in said
    assert said.endswith("http://localhost:8000/chapter/live.html")
    assert browser.evaluate("document.querySelector('[data-part=controls]').hidden")


def sentence(html):
    text = (html / "chapter/live.html").read_text()
    assert "live.js" not in text and not list((html / "_static").glob("onnxruntime-web*"))
    section = re.search(r'<section class="live".*?</section>', text, re.S).group()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", section))


def test_without_npm_the_book_is_built_and_the_page_says_so(build, tmp_path):
    html = build(tmp_path, {**os.environ, "PATH": str(Path(sys.executable).parent)})
    assert "missing from this copy of the book: npm is not installed on the machine that built it." in sentence(html)


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_without_a_network_the_book_is_built_and_the_page_says_so(build, tmp_path):
    nowhere = {
        "npm_config_registry": "http://127.0.0.1:9/",
        "npm_config_cache": str(tmp_path / "cache"),
        "npm_config_fetch_retry_mintimeout": "10",
        "npm_config_fetch_retry_maxtimeout": "10",
    }
    html = build(tmp_path, {**os.environ, **nowhere})
    assert "npm could not fetch onnxruntime-web (ECONNREFUSED)." in sentence(html)
    assert not list((tmp_path / "_build/browser").iterdir())


def test_browser_and_python_run_the_same_version():
    assert f"\nonnxruntime=={live_page.VERSION} \\\n" in (ROOT / "requirements.lock").read_text()
    packages = json.loads((live_page.HERE / "package-lock.json").read_text())["packages"]
    assert packages["node_modules/onnxruntime-web"]["version"] == live_page.VERSION
    assert not [name for name, package in packages.items() if "resolved" in package], "names a host"


def test_the_model_on_the_page_is_the_full_recipe_s():
    manifest = read_manifest(live_page.LIVE / "model")
    assert manifest.form.startswith("onnx") and manifest.accuracy.images == 10_000
    assert manifest.accuracy.top1 > 0.82


def test_every_sample_names_its_source_and_licence():
    samples = json.loads((live_page.LIVE / "samples/samples.json").read_text())
    assert {sample["file"] for sample in samples} == {path.name for path in (live_page.LIVE / "samples").glob("*.png")}
    assert all(sample["alt"] and sample["credit"] and sample["licence"] for sample in samples)
