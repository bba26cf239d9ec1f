"""Sphinx extension: the directive `live-classifier`, and ONNX Runtime Web, which it uses.

The runtime is downloaded once through npm, in the version of package-lock.json, into `_build/browser`. If that fails,
the page says why, and the rest of the book is built.
"""

import html
import json
import os
import posixpath
import shutil
import subprocess
import tempfile
from pathlib import Path
from string import Template

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).resolve().parent
LIVE = HERE.parents[1] / "book/_static/live"
VERSION = json.loads((HERE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
RUNTIME = f"onnxruntime-web-{VERSION}"  # with the version in the address, a browser never mixes files of two versions
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_MISSING = """<section class="live" id="live-classifier">
<p><strong>The live page is missing from this copy of the book:</strong> {reason}. With Node.js, which brings npm, and
a network, <code>make book</code> adds it.</p>
</section>"""


class RuntimeMissing(Exception):
    """ONNX Runtime Web could not be downloaded; the message is the reason."""


def fetch_runtime(folder: str | Path) -> None:
    """Download `FILES` of ONNX Runtime Web into a folder, unless that exists.

    Args:
        folder: is written completely or not at all.

    Raises:
        RuntimeMissing: npm is not installed, or could not fetch the package.
    """
    folder = Path(folder)
    if folder.is_dir():
        return
    npm = shutil.which("npm")
    if not npm:
        raise RuntimeMissing("npm is not installed on the machine that built it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, work)
        command = [
            npm,
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--fetch-retries=1",
            "--fetch-timeout=180000",
        ]
        try:
            run = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired as error:
            raise RuntimeMissing("npm could not fetch onnxruntime-web within ten minutes") from error
        if run.returncode:
            codes = [line.split()[-1] for line in run.stderr.splitlines() if line.startswith("npm error code ")]
            raise RuntimeMissing(f"npm could not fetch onnxruntime-web ({codes[0] if codes else 'no reason given'})")
        chosen = Path(work, "chosen")
        chosen.mkdir()
        for name in FILES:
            shutil.copy(Path(work, "node_modules/onnxruntime-web/dist", name), chosen)
        os.replace(chosen, folder)


class LiveClassifier(SphinxDirective):
    """The HTML of the live page; the directive's content is shown where the directive is unknown, such as on GitHub."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return one raw node."""
        self.env.note_reread()  # the page also depends on npm
        reason = self.config.live_classifier_missing
        text = _MISSING.format(reason=html.escape(reason)) if reason else self._page()
        return [nodes.raw("", text, format="html")]

    def _page(self):
        page = self.env.app.builder.get_target_uri(self.env.docname)
        static = posixpath.relpath("_static", posixpath.dirname(page) or ".")
        runtime = sum((_folder(self.env.app) / RUNTIME / name).stat().st_size for name in FILES)
        return Template((HERE / "live.html").read_text()).substitute(
            static=static,
            runtime=RUNTIME,
            page=page,
            samples="\n".join(_samples(static)),
            credits=_credits(),
            bytes=runtime + (LIVE / "model/model.onnx").stat().st_size,
        )


def _samples(static):
    for sample in _listed():
        source = html.escape(f"{static}/live/samples/{sample['file']}")
        yield (
            f'<li><button type="button" data-sample><img src="{source}" alt="{html.escape(sample["alt"])}">'
            "</button></li>"
        )


def _credits():
    return html.escape("; ".join(f"{s['alt']}: {s['credit']} ({s['licence']})" for s in _listed()))


def _listed():
    return json.loads((LIVE / "samples/samples.json").read_text(encoding="utf-8"))


def _folder(app):
    return Path(app.srcdir, "_build/browser")


def _prepare(app, config):
    try:
        fetch_runtime(_folder(app) / RUNTIME)
    except RuntimeMissing as reason:
        print(f'The page "In your browser" is built without its network: {reason}.')
        config.live_classifier_missing = str(reason)
    else:
        config.html_static_path.append(str(_folder(app)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_config_value("live_classifier_missing", "", "", str)
    app.add_directive("live-classifier", LiveClassifier)
    app.connect("config-inited", _prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
