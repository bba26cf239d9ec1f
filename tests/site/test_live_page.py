"""The live page in headless Chromium says what Python says."""

import base64
import json

from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy import load_model

import numpy as np
import pytest
from live_page import LIVE
from PIL import Image

EXACT = 0  # levels of 255 by which the page's pixels may differ from Pillow's
BLENDED = 1  # where a pixel is half transparent, the browser rounds twice


@pytest.fixture(scope="module")
def model():
    return load_model(LIVE / "model")


def status(page):
    return page.evaluate("document.querySelector('[data-part=status]').textContent.replace(/\\s+/g, ' ')")


def answer(page):
    """The top five as shown: list of (class, percentage)."""
    page.wait(
        "!document.querySelector('[data-part=answer]').hidden && !document.querySelector('[data-part=run]').disabled"
    )
    rows = page.evaluate(
        "[...document.querySelectorAll('[data-part=top] li')].map((row) =>"
        " [row.children[0].textContent, row.children[2].textContent])"
    )
    return [(name, float(number.removesuffix(" %"))) for name, number in rows]


def modules(page, code):
    """Evaluate code that uses the page's modules `model` and `preprocess`."""
    return page.evaluate(
        "(async () => {"
        "const model = await import('/_static/live/model.js');"
        "const preprocess = await import('/_static/live/preprocess.js');"
        "const section = document.getElementById('live-classifier').dataset;"
        "const address = (name) => new URL(section[name], document.baseURI).href;"
        f"{code} }})()"
    )


def choose(page, path):
    page.choose_file("#live-file", path)
    page.wait(f"document.querySelector('[data-part=status]').textContent.startsWith({json.dumps(path.name)})")


def test_ten_pictures_chosen_on_the_page_get_python_s_top_five(live, pictures, model):
    assert len(pictures) == 10
    for path in pictures:
        choose(live, path)
        shown, expected = answer(live), model.predict(path)
        assert [name for name, _ in shown] == [name for name, _ in expected], path.name
        np.testing.assert_allclose(
            [share for _, share in shown], [100 * share for _, share in expected], atol=0.06, err_msg=path.name
        )
        assert status(live).startswith(f"{path.name}: {expected[0][0]}, ") and " ms" in status(live)


def test_ten_pictures_get_python_s_logits(live, pictures, model, record_property):
    found = modules(
        live,
        "const loaded = await model.loadModel(address('model'), address('runtime'));"
        "const all = [];"
        f"for (const name of {json.dumps([path.name for path in pictures])}) {{"
        "  const blob = await (await fetch(`/pictures/${name}`)).blob();"
        "  const { logits, seen } = await loaded.classify(blob);"
        "  all.push([Array.from(logits), Array.from(seen.data)]);"
        "} return all;",
    )
    largest = 0
    for path, (logits, seen) in zip(pictures, found):
        expected = model.manifest.preprocess.image(path)
        levels = np.abs(np.reshape(seen, expected.shape) - expected.astype(int)).max()
        assert levels <= (BLENDED if path.stem == "transparent" else EXACT), path.name
        wanted = model.logits([path])[0]
        largest = max(largest, float(np.abs(logits - wanted).max()))
        np.testing.assert_allclose(logits, wanted, atol=1e-4, err_msg=path.name)
    record_property("largest difference of a logit", largest)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pictures_are_scaled_as_pillow_does(live, interpolation):
    rng = np.random.default_rng(1)
    for _ in range(12):
        height, width, new_height, new_width = (int(side) for side in rng.integers(1, 90, 4))
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        text = base64.b64encode(pixels.tobytes()).decode()
        found = modules(
            live,
            f"const data = Uint8Array.from(atob('{text}'), (letter) => letter.charCodeAt(0));"
            f"return Array.from(preprocess.resize({{ data, width: {width}, height: {height} }},"
            f" {new_width}, {new_height}, '{interpolation}').data);",
        )
        expected = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling[interpolation.upper()])
        assert np.array_equal(np.reshape(found, (new_height, new_width, 3)), np.asarray(expected)), pixels.shape


@pytest.mark.parametrize("size", [(50, 75), (75, 50), (33, 34), (61, 240)])
def test_the_crop_is_python_s_to_the_pixel(live, size):
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3)).astype(np.uint8)
    steps = Preprocess(37, 32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic")
    manifest = json.dumps({"resize": 37, "crop": 32, "mean": steps.mean, "std": steps.std, "interpolation": "bicubic"})
    text = base64.b64encode(pixels.tobytes()).decode()
    found = modules(
        live,
        f"const data = Uint8Array.from(atob('{text}'), (letter) => letter.charCodeAt(0));"
        f"const steps = {manifest}, picture = {{ data, width: {size[1]}, height: {size[0]} }};"
        "return Array.from(preprocess.normalise(preprocess.scaleAndCrop(picture, steps), steps));",
    )
    assert np.array_equal(np.float32(found).reshape(1, 3, 32, 32), steps.batch([pixels]))


def test_a_turned_photograph_is_shown_upright(live, pictures, model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "turned.jpg"
    with Image.open(pictures[1]) as picture:
        picture.save(path, quality=95, exif=exif)
    choose(live, path)
    (best, share), expected = answer(live)[0], model.predict(path)[0]
    assert best == expected[0] and abs(share - 100 * expected[1]) < 5  # JPEG decoders differ by a level or two


def test_samples_by_keyboard_and_fifty_runs(live, model):
    samples = json.loads((LIVE / "samples/samples.json").read_text())
    assert live.evaluate("document.querySelectorAll('[data-sample]').length") == len(samples) >= 4
    live.evaluate("document.querySelector('[data-sample]').focus()")
    for kind in ("keyDown", "keyUp"):
        live.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert answer(live)[0][0] == model.predict(LIVE / "samples" / samples[0]["file"])[0][0]
    assert status(live).startswith(samples[0]["alt"])
    live.evaluate("document.querySelector('[data-part=run]').click()")
    live.wait("document.querySelector('[data-part=runs]').textContent.startsWith('50 runs: median ')")


def test_a_dropped_picture_is_taken(live, model):
    live.evaluate("""(async () => {
        const blob = await (await fetch('/pictures/portrait.png')).blob();
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([blob], 'dropped.png'));
        document.querySelector('[data-part=drop]').dispatchEvent(
            new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
    })()""")
    answer(live)
    assert status(live).startswith("dropped.png: ")


def test_nothing_comes_from_another_host_and_nothing_large_before_it_is_wanted(live, server, pictures):
    def fetched():
        return live.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")

    assert not [name for name in fetched() if name.endswith((".wasm", ".mjs"))]
    choose(live, pictures[0])
    assert [name for name in fetched() if name.endswith(".wasm")]
    assert all(name.startswith((server, "blob:", "data:")) for name in fetched())
