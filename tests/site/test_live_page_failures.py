"""The live page's messages when something is missing or damaged; the book without npm or a network."""

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


FAILED = ".live-failed"


def status(page):
    return " ".join(page.text_content("[data-part=status]").split())


@pytest.fixture
def broken(site, tmp_path, browser):
    """A function that damages a copy of the site, chooses a sample, and returns the message of the live page."""

    def message(damage, script="undefined"):
        copy = tmp_path / "html"
        shutil.copytree(site, copy)
        damage(copy / "_static")
        with chromium.web_server(copy) as address:
            browser.goto(f"{address}/chapter/live.html")
            browser.evaluate(script)
            browser.locator("[data-sample]").first.click()
            browser.wait_for_selector(FAILED)
            assert browser.is_hidden("[data-part=answer]")
            return status(browser)

    return message


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_model(broken):
    message = broken(lambda static: flip_a_byte(static / "live/model/model.onnx"))
    assert message.startswith("The model is damaged: model.onnx is not the file that its manifest names. Reload")


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
    message = broken(lambda static: (static / "live/model/manifest.json").write_text("{"))
    assert message.startswith("The model is damaged: manifest.json is no JSON (")


@pytest.mark.parametrize("name", live_page.FILES)
def test_a_part_of_the_runtime_is_missing(broken, name):
    message = broken(lambda static: (static / live_page.RUNTIME / name).unlink())
    assert message.startswith(
        f"{name} did not arrive (404 File not found)."
        if name.endswith(".wasm")
        else "ONNX Runtime Web could not be loaded ("
    )


def test_a_browser_without_webassembly(broken):
    message = broken(lambda static: None, "delete globalThis.WebAssembly")
    assert message.startswith("This browser does not run WebAssembly")


def test_a_missing_sample(broken):
    message = broken(lambda static: (static / "live/samples/cat.png").unlink())
    assert message == "The sample did not arrive (404 File not found)."


def test_a_text_file_instead_of_a_picture_and_then_a_picture(browser, server, tmp_path, pictures):
    path = tmp_path / "poem.txt"
    path.write_text("A poem is no picture.")
    browser.goto(f"{server}/chapter/live.html")
    browser.set_input_files("#live-file", path)
    browser.wait_for_selector(FAILED)
    assert status(browser) == (
        "poem.txt cannot be used: your browser cannot read it as a picture. Choose a PNG or a JPEG."
    )
    browser.set_input_files("#live-file", pictures[0])
    browser.wait_for_selector("[data-part=answer]")
    assert browser.locator(FAILED).count() == 0


def test_opened_as_a_file_the_page_says_how_to_start_a_server(browser, site):
    browser.goto((site / "chapter/live.html").as_uri())
    message = status(browser)
    assert "needs JavaScript and a web server" in message and "python3 -m http.server" in message
    assert message.endswith("http://localhost:8000/chapter/live.html")
    assert browser.is_hidden("[data-part=controls]")


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
