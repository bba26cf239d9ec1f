"""tools/advisories.py finds advisories that nobody has explained, and explanations of versions that are gone."""

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from advisories import EXPLANATIONS, LOCK, locked, outdated, unexplained  # noqa: E402

ROWS = json.loads(EXPLANATIONS.read_text())
PINS = locked(LOCK.read_text())


def test_each_row_is_about_a_version_in_the_lock():
    assert outdated(ROWS, PINS) == []


@pytest.mark.parametrize("identifier", ROWS)
def test_each_row_has_an_identifier_and_a_reason(identifier):
    assert re.fullmatch(r"CVE-\d{4}-\d{4,}|PYSEC-\d{4}-\d+|GHSA(-[0-9a-z]{4}){3}", identifier)
    assert set(ROWS[identifier]) == {"package", "version", "fixed_in", "reason"}
    assert len(ROWS[identifier]["reason"].split()) >= 5


def test_a_row_for_another_version_is_outdated():
    rows = {"CVE-2000-0001": {"package": "onnx", "version": "1.0", "fixed_in": "2", "reason": "none"}}
    assert "onnx 1.0, which is not in requirements.lock" in outdated(rows, PINS)[0]


@pytest.mark.parametrize(
    ("identifier", "version", "count"),
    [("CVE-2000-0001", "1.0", 0), ("PYSEC-2000-1", "1.0", 0), ("CVE-2000-0002", "1.0", 1), ("CVE-2000-0001", "1.1", 1)],
)
def test_an_advisory_is_matched_by_any_of_its_names_and_by_the_version(identifier, version, count):
    rows = {identifier: {"package": "a", "version": version, "fixed_in": "2", "reason": "none"}}
    entry = {"id": "PYSEC-2000-1", "aliases": ["CVE-2000-0001"], "fixed_in": ["2"], "summary": "text"}
    assert len(unexplained(rows, "a", "1.0", [entry])) == count


@pytest.fixture
def index():
    """An index that answers for some packages; `answers` maps paths to JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.server.answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(b"" if body is None else json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers = {}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(index, *packages):
    return subprocess.run(
        [sys.executable, ROOT / "tools/advisories.py", "--index", f"http://127.0.0.1:{index.server_port}", *packages],
        capture_output=True,
        text=True,
    )


def answer(name, vulnerabilities):
    version = next(version for pinned, version in PINS if pinned == name)
    return version, {"info": {"version": version}, "vulnerabilities": vulnerabilities}


def test_the_command_asks_for_the_locked_version(index):
    version, body = answer("yacs", [])
    index.answers[f"/pypi/yacs/{version}/json"] = body
    result = run(index, "yacs")
    assert result.returncode == 0, result.stderr


def test_the_command_reports_a_new_advisory(index):
    version, body = answer("yacs", [{"id": "PYSEC-2000-1", "aliases": [], "fixed_in": [], "summary": "text"}])
    index.answers["/pypi/yacs/json"] = body
    result = run(index, "yacs")
    assert result.returncode == 1
    assert f"yacs {version}: PYSEC-2000-1" in result.stderr


@pytest.mark.parametrize("body", [None, {"info": {"version": "0"}, "vulnerabilities": []}])
def test_no_information_is_not_taken_for_no_advisory(index, body):
    index.answers["/pypi/yacs/json"] = body
    result = run(index, "yacs")
    assert result.returncode == 3
    assert "unknown, http://127.0.0.1:" in result.stderr and "has no information about this version" in result.stderr


def test_no_answer_is_not_taken_for_no_advisory():
    result = run(SimpleNamespace(server_port=9), "yacs")  # where nothing listens
    assert result.returncode == 3 and "unknown, no answer from http://127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_wrong_counts_more_than_what_is_unknown(index):
    version, body = answer("yacs", [{"id": "PYSEC-2000-1", "aliases": [], "fixed_in": [], "summary": "text"}])
    index.answers[f"/pypi/yacs/{version}/json"] = body
    result = run(index, "yacs", "onnx")
    assert result.returncode == 1
    assert "PYSEC-2000-1" in result.stderr and "onnx 1.18.0: unknown" in result.stderr


def test_an_explained_advisory_passes_the_command(index):
    identifier = next(identifier for identifier, row in ROWS.items() if row["package"] == "onnx")
    entries = [
        {"id": "PYSEC-2000-1", "aliases": [identifier], "fixed_in": ["9"], "summary": None, "withdrawn": None},
        {"id": "PYSEC-2000-2", "aliases": [], "fixed_in": [], "summary": "text", "withdrawn": "2000-01-01T00:00:00Z"},
    ]
    version, body = answer("onnx", entries)
    index.answers[f"/pypi/onnx/{version}/json"] = body
    result = run(index, "onnx")
    assert (result.returncode, result.stdout) == (0, "Every advisory is explained.\n"), result.stderr


def test_a_lock_file_is_parsed_with_its_markers_hashes_and_two_versions_of_a_package():
    text = """# made by uv
a==1.0 \\
    --hash=sha256:00
B_c.d==2 ; python_version < "3.12" \\
    --hash=sha256:00
b-c-d==3 ; python_version >= "3.12" \\
    # via a
"""
    assert locked(text) == {("a", "1.0"), ("b-c-d", "2"), ("b-c-d", "3")}


def test_a_package_that_is_not_in_the_lock_is_refused(index):
    result = run(index, "no-such-package")
    assert result.returncode == 2
    assert "not in requirements.lock: no-such-package" in result.stderr


@pytest.mark.parametrize(
    "name", ["onnx.hub", "save_external_data", "VideoCapture", "imread(", "imdecode(", "unpack_img"]
)
def test_the_code_does_not_use_what_the_reasons_exclude(name):
    files = [*(ROOT / "d2lcls").rglob("*.py"), *(ROOT / "book").rglob("*.ipynb")]
    assert [path for path in files if name in path.read_text()] == []
