import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools/browser"))
import chromium  # noqa: E402
import live_page  # noqa: E402

CONFIG = f"""
import sys
sys.path.insert(0, {str(ROOT / "tools/browser")!r})
extensions = ["myst_parser", "live_page"]
html_theme = "basic"
html_static_path = [{str(ROOT / "book/_static")!r}]
"""


@pytest.fixture(scope="session")
def build():
    """A function that builds a site of one chapter with the live page: (source folder, environment) -> HTML folder."""
    return _build


def _build(folder, environment=None):
    (folder / "chapter").mkdir(exist_ok=True)
    (folder / "conf.py").write_text(CONFIG)
    (folder / "index.md").write_text("# Book\n\n```{toctree}\nchapter/live\n```\n")
    (folder / "chapter/live.md").write_text("# Live\n\n```{live-classifier}\n```\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", folder, folder / "html"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / "html"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Folder of a built site of one chapter with the live page."""
    try:
        live_page.fetch_runtime(ROOT / "_build/browser" / live_page.RUNTIME)
    except live_page.RuntimeMissing as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("book")
    (folder / "_build").mkdir()
    (folder / "_build/browser").symlink_to(ROOT / "_build/browser")
    return _build(folder)


@pytest.fixture(scope="module")  # no longer: Playwright's event loop runs until the end, and other tests need their own
def browser():
    """A page in Chromium."""
    if chromium.BROWSER is None:
        pytest.skip("Chromium is not installed")
    with chromium.open_page() as page:
        yield page


@pytest.fixture(scope="session")
def server(site, pictures):
    """Address of a web server for the site, with the pictures in /pictures."""
    shutil.copytree(pictures[0].parent, site / "pictures")
    with chromium.web_server(site) as address:
        yield address


@pytest.fixture
def live(browser, server):
    """The live page, freshly opened in the browser."""
    browser.goto(f"{server}/chapter/live.html")
    return browser


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Ten PNG files of all sizes and kinds."""
    import skimage

    folder = tmp_path_factory.mktemp("png") / "pictures"
    folder.mkdir()
    photographs = Path(skimage.__file__).parent / "data"
    cat, coffee, rocket, woman = (
        Image.open(photographs / name).convert("RGB")
        for name in ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
    )
    rng = np.random.default_rng(0)
    alpha = Image.fromarray(rng.integers(0, 256, (woman.height, woman.width)).astype(np.uint8))
    cut_out = Image.fromarray((np.asarray(cat.convert("L")) > 100).astype(np.uint8) * 255)
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))  # linear light, which Pillow ignores

    def crop(picture, width, height):
        left, top = rng.integers(0, picture.width - width), rng.integers(0, picture.height - height)
        return picture.crop((left, top, left + width, top + height))

    def with_alpha(picture, alpha):
        return Image.merge("RGBA", (*picture.split(), alpha))

    made = {
        "landscape": cat,
        "portrait": crop(coffee, 97, 391),
        "tiny": crop(cat, 7, 5),
        "exact": crop(rocket, 32, 32),
        "grey": crop(woman, 200, 201).convert("L"),
        "palette": crop(coffee, 301, 200).quantize(64),
        "transparent": with_alpha(woman, alpha),
        "cut-out": with_alpha(cat, cut_out),
        "large": woman.resize((2111, 1407)),
        "gamma": crop(woman, 150, 140),
    }
    for name, picture in made.items():
        picture.save(folder / f"{name}.png", pnginfo=gamma if name == "gamma" else None)
    return [folder / f"{name}.png" for name in made]
