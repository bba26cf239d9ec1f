"""The live page in Chromium gives the same results as Python."""

import base64
import json
import re

from d2lcls import cli
from d2lcls.data import load, take_per_class
from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy import load_model
from d2lcls.training import Recipe, train

import numpy as np
import pytest
from live_page import FILES, LIVE
from PIL import Image

EXACT = 0  # levels of 255 by which the page's pixels may differ from Pillow's
BLENDED = 1  # where a pixel is half transparent, the browser rounds twice


@pytest.fixture(scope="module")
def model():
    return load_model(LIVE / "model")


def status(page):
    return " ".join(page.text_content("[data-part=status]").split())


def top_five(page):
    """The classes and percentages on the page, once it shows a result: list of (class, percentage)."""
    page.wait_for_selector("[data-part=answer] [data-part=run]:enabled")
    rows = page.locator("[data-part=top] li").evaluate_all(
        "(rows) => rows.map((row) => [row.children[0].textContent, row.children[2].textContent])"
    )
    return [(name, float(number.removesuffix(" %"))) for name, number in rows]


def call_modules(page, code, *arguments):
    """Run JavaScript that uses the page's modules `model` and `preprocess` and the array `values`."""
    return page.evaluate(
        "async (values) => {"
        "const model = await import('/_static/live/model.js');"
        "const preprocess = await import('/_static/live/preprocess.js');"
        f"{code} }}",
        arguments,
    )


def picture(pixels):
    """A picture as an argument of `call_modules`, which `PICTURE` makes a picture of the page's modules again."""
    height, width, _ = pixels.shape
    return {"text": base64.b64encode(pixels.tobytes()).decode(), "width": width, "height": height}


PICTURE = (
    "const [{ text, width, height }, ...rest] = values;"
    "const picture = { data: Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)), width, height };"
)


def choose(page, path):
    page.set_input_files("#live-file", path)
    page.wait_for_function(
        "(name) => document.querySelector('[data-part=status]').textContent.startsWith(name)", arg=path.name
    )


def test_ten_pictures_chosen_on_the_page_get_python_s_top_five(live, pictures, model):
    assert len(pictures) == 10
    for path in pictures:
        choose(live, path)
        shown, expected = top_five(live), model.predict(path)
        assert [name for name, _ in shown] == [name for name, _ in expected], path.name
        np.testing.assert_allclose(
            [share for _, share in shown], [100 * share for _, share in expected], atol=0.06, err_msg=path.name
        )
        assert status(live).startswith(f"{path.name}: {expected[0][0]}, ") and " ms" in status(live)


def test_ten_pictures_get_python_s_logits(live, pictures, model, record_property):
    results = call_modules(
        live,
        "const section = document.getElementById('live-classifier').dataset;"
        "const address = (name) => new URL(section[name], document.baseURI).href;"
        "const loaded = await model.loadModel(address('model'), address('runtime'));"
        "const results = [];"
        "for (const name of values) {"
        "  const blob = await (await fetch(`/pictures/${name}`)).blob();"
        "  const { logits, seen } = await loaded.classify(blob);"
        "  results.push([Array.from(logits), Array.from(seen.data)]);"
        "} return results;",
        *(path.name for path in pictures),
    )
    largest = 0
    for path, (logits, seen) in zip(pictures, results):
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
        resized = call_modules(
            live,
            PICTURE + "return Array.from(preprocess.resize(picture, ...rest).data);",
            picture(pixels),
            new_width,
            new_height,
            interpolation,
        )
        expected = Image.fromarray(pixels).resize((new_width, new_height), Image.Resampling[interpolation.upper()])
        assert np.array_equal(np.reshape(resized, (new_height, new_width, 3)), np.asarray(expected)), pixels.shape


@pytest.mark.parametrize("size", [(50, 75), (75, 50), (33, 34), (61, 240)])
def test_the_crop_is_python_s_to_the_pixel(live, size):
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3)).astype(np.uint8)
    steps = Preprocess(37, 32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bicubic")
    manifest = {"resize": 37, "crop": 32, "mean": steps.mean, "std": steps.std, "interpolation": "bicubic"}
    normalised = call_modules(
        live,
        PICTURE + "const [steps] = rest;"
        "return Array.from(preprocess.normalise(preprocess.scaleAndCrop(picture, steps), steps));",
        picture(pixels),
        manifest,
    )
    assert np.array_equal(np.float32(normalised).reshape(1, 3, 32, 32), steps.batch([pixels]))


def test_a_turned_photograph_is_shown_upright(live, pictures, model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "turned.jpg"
    with Image.open(pictures[1]) as picture:
        picture.save(path, quality=95, exif=exif)
    choose(live, path)
    (best, share), expected = top_five(live)[0], model.predict(path)[0]
    assert best == expected[0] and abs(share - 100 * expected[1]) < 5  # JPEG decoders differ by a level or two


def test_samples_by_keyboard_and_fifty_runs(live, model):
    samples = json.loads((LIVE / "samples/samples.json").read_text())
    assert live.locator("[data-sample]").count() == len(samples) >= 4
    live.locator("[data-sample]").first.press("Enter")
    assert top_five(live)[0][0] == model.predict(LIVE / "samples" / samples[0]["file"])[0][0]
    assert status(live).startswith(samples[0]["alt"])
    live.click("[data-part=run]")
    live.wait_for_function("document.querySelector('[data-part=runs]').textContent.startsWith('50 runs: median ')")


def test_a_dropped_picture_is_classified(live):
    live.evaluate("""(async () => {
        const blob = await (await fetch('/pictures/portrait.png')).blob();
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([blob], 'dropped.png'));
        document.querySelector('[data-part=drop]').dispatchEvent(
            new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
    })()""")
    top_five(live)
    assert status(live).startswith("dropped.png: ")


def test_every_request_goes_to_the_server_and_the_runtime_is_fetched_with_the_first_picture(browser, server, pictures):
    requests = []
    browser.on("request", lambda request: requests.append(request.url))
    browser.goto(f"{server}/chapter/live.html", wait_until="networkidle")
    assert requests and not [url for url in requests if re.search(r"\.(wasm|mjs|onnx)\b", url)]
    choose(browser, pictures[0])
    for name in ("model.onnx?", *FILES):
        assert [url for url in requests if f"/{name}" in url], name
    assert all(url.startswith((f"{server}/", f"blob:{server}/", "data:")) for url in requests)


def test_a_model_of_the_reader_is_named_in_the_address(browser, server, site, pictures, tmp_path):
    """The commands of the chapter *Ten minutes*, for a network trained on a few images."""
    images = take_per_class(load("cifar10"), 4)
    for number, (image, label) in enumerate(zip(images.images, images.labels)):
        place = tmp_path / "images/train" / images.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.broadcast_to(image, (*image.shape[:2], 3))  # the sample that replaces CIFAR-10 offline is grey
        Image.fromarray(pixels).save(place / f"{number}.png")
    trained = train(
        Recipe(dataset=str(tmp_path / "images"), num_epochs=1, batch_size=8), tmp_path / "run", on_epoch=None
    )
    cli.main(["export", str(trained.folder), "--out", str(tmp_path / "model")])
    cli.main(["onnx", str(tmp_path / "model"), "--out", str(site / "_static/live/first")])

    browser.goto(f"{server}/chapter/live.html?model=first")
    choose(browser, pictures[0])
    expected = load_model(site / "_static/live/first").predict(pictures[0])
    np.testing.assert_allclose(
        [share for _, share in top_five(browser)], [100 * share for _, share in expected], atol=0.06
    )
    assert expected != load_model(LIVE / "model").predict(pictures[0])


def test_an_address_cannot_name_a_model_elsewhere(browser, server, pictures):
    browser.goto(f"{server}/chapter/live.html?model=../model")
    browser.set_input_files("#live-file", pictures[0])
    browser.wait_for_selector(".live-failed")
    assert status(browser).startswith("../model is not the name of a model folder: use letters, digits, - and _.")
