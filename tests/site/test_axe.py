"""tools/axe.py finds what makes a page hard to use, in light and in dark mode, and says when it cannot look."""

import sys
from pathlib import Path

import chromium
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import axe  # noqa: E402

PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light"><head><title>A page</title><style>
body {{ background: #fff; color: #000; }} [data-theme="dark"] body {{ background: #000; color: {dark}; }}
</style></head><body><main><h1>Heading</h1><p>Text</p>{more}</main></body></html>"""
FOLDED = '<details><summary>More</summary><p style="color: #eee; background: #fff">Pale text</p></details>'


@pytest.fixture(scope="module")
def script():
    if chromium.BROWSER is None:
        pytest.skip("Chromium is not installed")
    try:
        return axe.fetch_axe()
    except axe.AxeMissing as reason:
        pytest.skip(f"axe-core is missing: {reason}")


@pytest.fixture
def audit(script, tmp_path):
    """A function that returns the rules that a page breaks: HTML -> {theme: [rule, ...]}."""

    def rules(html):
        path = tmp_path / "page.html"
        path.write_text(html)
        return {theme: [each.rule for each in found] for _, theme, found in axe.audit(tmp_path, [path], script)}

    return rules


def test_a_good_page_has_no_findings(audit):
    assert audit(PAGE.format(dark="#fff", more="")) == {"light": [], "dark": []}


def test_pale_text_is_found_in_the_theme_where_it_is_pale(audit):
    assert audit(PAGE.format(dark="#333", more="")) == {"light": [], "dark": ["color-contrast"]}


def test_what_is_folded_is_examined_too(audit):
    assert audit(PAGE.format(dark="#fff", more=FOLDED)) == {"light": ["color-contrast"], "dark": ["color-contrast"]}


def test_a_picture_without_a_text_is_found(audit):
    assert audit(PAGE.format(dark="#fff", more='<img src="a.png">'))["light"] == ["image-alt"]


def test_the_report_names_page_rule_and_element(script, tmp_path, capsys):
    (tmp_path / "bad.html").write_text(PAGE.format(dark="#fff", more='<img id="this-one" src="a.png">'))
    (tmp_path / "good.html").write_text(PAGE.format(dark="#fff", more=""))
    (tmp_path / "index.html").write_text('<meta http-equiv="Refresh" content="0; url=good.html">')  # skipped
    assert axe.main(["--site", str(tmp_path)]) == 1
    report = capsys.readouterr().out
    assert "bad.html (light): 1\n  critical: image-alt: " in report and "    #this-one\n" in report
    assert "good.html (dark): nothing" in report and report.endswith("2 pages, 2 findings\n")
    assert axe.main(["--site", str(tmp_path), str(tmp_path / "good.html")]) == 0


def test_without_npm_the_reason_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(axe.shutil, "which", lambda name: None)
    monkeypatch.setattr(axe.chromium, "BROWSER", "chromium")
    with pytest.raises(axe.AxeMissing, match="npm is not installed"):
        axe.fetch_axe(tmp_path / "axe.js")
    monkeypatch.setattr(axe, "SCRIPT", tmp_path / "axe.js")
    assert axe.main(["--site", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "npm is not installed.\n"


def test_a_file_with_another_checksum_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.setattr(axe, "SHA512", "0" * 128)
    with pytest.raises(axe.AxeMissing, match="checksum|could not fetch"):
        axe.fetch_axe(tmp_path / "axe.js")
    assert not (tmp_path / "axe.js").exists()


def test_a_site_that_is_not_built(tmp_path, capsys):
    with pytest.raises(SystemExit):
        axe.main(["--site", str(tmp_path / "missing")])
    assert "Build the site first: make book" in capsys.readouterr().err
