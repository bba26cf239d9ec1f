"""The interactive figures in Chromium: they compute what Python computes, with mouse, keyboard and touch."""

import base64
import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

from d2lcls.data.transforms import augment

import chromium
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from PIL import Image

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "book/_static/figures"
sys.path.insert(0, str(ROOT / "tools"))
import axe  # noqa: E402
import figures  # noqa: E402

NAMES = tuple(figures.STILLS)
CONFIG = f"""
extensions = ["myst_parser"]
html_theme = "sphinx_book_theme"
html_context = {{"default_mode": "light"}}
html_static_path = [{str(ROOT / "book/_static")!r}]
html_css_files = ["book.css", "figures/interactive.css"]
html_js_files = [["figures/interactive.js", {{"type": "module"}}], ["tables.js", {{"type": "module"}}]]
"""
TABLE = """
| a wide table | with columns | that are | too many | for a phone |
|---|---|---|---|---|
| acceleration | acceleration | acceleration | acceleration | acceleration |
"""
FIGURE = """
## {name}

```{{figure}} figures/{name}.png
:name: {name}
:figclass: interactive
:alt: The still picture of {name}

A caption.
```
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Address of a page with all figures, each below a heading of the same name, as in the book's theme."""
    folder = tmp_path_factory.mktemp("figures")
    (folder / "conf.py").write_text(CONFIG)
    (folder / "index.md").write_text("# Figures\n" + "".join(FIGURE.format(name=name) for name in NAMES) + TABLE)
    (folder / "figures").symlink_to(FOLDER)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", folder, folder / "html"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with chromium.web_server(folder / "html") as address:
        yield f"{address}/index.html"


@pytest.fixture
def opened(browser, address):
    """A function that opens the page, with options of the context. Errors and foreign requests fail the test."""
    contexts, problems = [], []

    def check_request(request):
        if not request.url.startswith((address.removesuffix("index.html"), "data:", "blob:")):
            problems.append(request.url)

    def check_message(message):
        if message.type in ("error", "warning") and "favicon" not in message.location["url"]:
            problems.append(message.text)

    def open_page(**options):
        context = browser.context.browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", check_request)
        page.on("console", check_message)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.wait_for_function(f"document.querySelectorAll('[data-ready]').length === {len(NAMES)}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="module")
def shared(browser, address):
    """The page, for tests that only call its modules."""
    browser.goto(address)
    browser.wait_for_function(f"document.querySelectorAll('[data-ready]').length === {len(NAMES)}")
    return browser


def figure(page, name):
    return page.locator(f"[data-ready={name}]")


def result(page, name):
    """The text of the figure's result, with hyphens for minus signs."""
    return figure(page, name).get_by_role("status").text_content().replace("−", "-")


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text.replace("−", "-"))]


def call(page, name, code, values=None):
    """Run JavaScript that uses the figure's `module`, the `pictures` and `values`."""
    return page.evaluate(
        f"async (values) => {{ const module = await import('/_static/figures/{name}.js');"
        f"const pictures = await import('/_static/figures/pictures.js'); {code} }}",
        values,
    )


def pixels(page, name, index, cell):
    """The picture on a figure's canvas of 256 x 256, read in the centre of every cell: (rows, columns, 3)."""
    canvas = figure(page, name).locator("canvas").nth(index)
    address = canvas.evaluate("(canvas) => canvas.toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")
    return np.asarray(picture).astype(int)[cell // 2 :: cell, cell // 2 :: cell]


# Form


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_a_module_is_short_and_loads_nothing_from_elsewhere(path):
    text = path.read_text()
    assert len(text.splitlines()) < 200
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_pictures_are_those_of_the_tool():
    assert (FOLDER / "pictures.js").read_text(encoding="utf-8") == figures.pictures_js()


@pytest.mark.parametrize("width", [1280, 390])
def test_each_figure_replaces_its_still_picture_and_fits_the_page(opened, width):
    page = opened(viewport={"width": width, "height": 900})
    assert page.locator("figure.interactive img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for name in NAMES:
        box, inside = figure(page, name).bounding_box(), figure(page, name).locator(".playground").bounding_box()
        assert inside["width"] <= box["width"] <= width and inside["height"] > 150
        wide = (
            figure(page, name)
            .locator(".playground *")
            .evaluate_all(
                "(all) => all.map((each) => each.getBoundingClientRect().right).filter((right) => right > innerWidth)"
            )
        )
        assert wide == []


def test_without_scripts_the_still_pictures_stay(opened):
    page = opened(java_script_enabled=False)
    assert page.locator(".playground").count() == 0
    for name in NAMES:
        picture = page.get_by_alt_text(f"The still picture of {name}")
        assert picture.is_visible() and picture.bounding_box()["width"] > 300


def test_if_a_module_is_missing_the_still_picture_stays(browser, address):
    with browser.context.browser.new_context() as context:
        page = context.new_page()
        page.route("**/softmax.js", lambda route: route.abort())
        page.goto(address)
        page.wait_for_function(f"document.querySelectorAll('[data-ready]').length === {len(NAMES) - 1}")
        assert page.get_by_alt_text("The still picture of softmax").is_visible()


def test_every_control_has_a_name_and_shows_its_focus(opened):
    page = opened()
    controls = page.locator(".playground").locator("button, select, input, [tabindex='0']")
    names = controls.evaluate_all(
        "(all) => all.map((each) => each.ariaLabel || each.textContent || each.closest('label').textContent)"
    )
    assert len(names) > 50 and all(name.strip() for name in names)
    for name in NAMES:
        first = figure(page, name).locator("button, select, input, [tabindex='0']").first
        first.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        assert first.evaluate("(each) => each === document.activeElement")
        assert first.evaluate("(each) => getComputedStyle(each).outlineStyle") == "solid"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_dark_on_white_in_both_themes(opened, theme):
    page = opened(color_scheme=theme)
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    for name in NAMES:
        colours = (
            figure(page, name)
            .locator(".playground")
            .evaluate(
                "(each) => [getComputedStyle(each).backgroundColor, getComputedStyle(each.querySelector('p')).color]"
            )
        )
        assert colours == ["rgb(255, 255, 255)", "rgb(27, 27, 27)"]


def test_a_table_can_be_reached_with_the_keyboard_if_it_scrolls(opened):
    for width, tab_index in ((390, "0"), (1280, None)):
        page = opened(viewport={"width": width, "height": 900})
        page.wait_for_function(
            "(index) => document.querySelector('table').getAttribute('tabindex') === index", arg=tab_index
        )
        scrolls = page.locator("table").evaluate("(table) => table.scrollWidth > table.clientWidth")
        assert scrolls == (tab_index is not None)


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(opened, width):
    try:
        script = axe.fetch_axe()
    except axe.AxeMissing as reason:
        pytest.skip(f"axe-core is missing: {reason}")
    page = opened(viewport={"width": width, "height": 900})
    axe.unfold(page)
    for theme in axe.THEMES:
        axe.set_theme(page, theme)
        assert axe.findings(page, script) == []


# Kernel editor

PRESETS = {
    "identity": [[0, 0, 0], [0, 1, 0], [0, 0, 0]],
    "blur": np.outer([1, 2, 1], [1, 2, 1]) / 16,
    "vertical edges": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "horizontal edges": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
}


def convolution(kernel):
    """MXNet's convolution of the cup with a 3 x 3 kernel: (30, 30)."""
    picture, kernel = (mx.nd.array(array, dtype="float64")[None, None] for array in (figures.cup(), kernel))
    return mx.nd.Convolution(picture, kernel, kernel=(3, 3), num_filter=1, no_bias=True)[0, 0].asnumpy()


def test_the_output_is_mxnet_s_convolution(shared):
    rng = np.random.default_rng(0)
    for kernel in rng.normal(size=(5, 3, 3)):
        output = call(shared, "kernel-editor", "return module.convolve(pictures.CUP, values)", kernel.ravel().tolist())
        np.testing.assert_allclose(np.reshape(output, (30, 30)), convolution(kernel), rtol=1e-4, atol=1e-3)


def test_each_preset_shows_its_output_and_nine_products(opened):
    page = opened()
    for preset, kernel in PRESETS.items():
        check_preset(page, preset, np.array(kernel, dtype=float))


def check_preset(page, preset, kernel):
    editor = figure(page, "kernel-editor")
    button = editor.get_by_role("button", name=preset, exact=True)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    expected = convolution(kernel)
    assert [float(each.input_value()) for each in editor.locator("input").all()] == kernel.ravel().tolist()
    shown = pixels(page, "kernel-editor", 1, 8)[1:31, 1:31, 0]
    if preset in ("vertical edges", "horizontal edges"):
        levels = 127.5 + 127.5 * expected / np.abs(expected).max()
    else:
        levels = np.clip(expected, 0, 255)
    assert np.abs(shown - levels).max() <= 0.51
    window = figures.cup()[9:12, 6:9]
    for text, value, weight in zip(editor.locator(".products > span").all_text_contents(), window.flat, kernel.flat):
        assert numbers(text) == pytest.approx([value, weight, value * weight], abs=0.006)
    assert numbers(result(page, "kernel-editor"))[-1] == pytest.approx(expected[9, 6], abs=0.006)


def test_the_arrow_keys_move_the_kernel_and_stop_at_the_border(opened):
    page = opened()
    picture = figure(page, "kernel-editor").locator("canvas[tabindex='0']")
    picture.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    expected = convolution(PRESETS["vertical edges"])
    assert numbers(result(page, "kernel-editor")) == [10, 7, 0, expected[10, 7]]
    for _ in range(40):
        page.keyboard.press("ArrowUp")
    assert numbers(result(page, "kernel-editor")) == [0, 7, 0, expected[0, 7]]


def test_a_typed_number_changes_the_output(opened):
    page = opened()
    editor = figure(page, "kernel-editor")
    editor.get_by_label("Kernel, row 1, column 2").fill("3.5")
    kernel = np.array(PRESETS["vertical edges"], dtype=float)
    kernel[1, 2] = 3.5
    expected = convolution(kernel)
    assert numbers(result(page, "kernel-editor"))[-1] == pytest.approx(expected[9, 6])
    assert editor.get_by_role("button", name="vertical edges").get_attribute("aria-pressed") == "false"
    editor.get_by_label("Kernel, row 1, column 2").fill("")
    kernel[1, 2] = 0
    assert numbers(result(page, "kernel-editor"))[-1] == pytest.approx(convolution(kernel)[9, 6])


def test_a_tap_moves_the_kernel(opened):
    page = opened(has_touch=True, viewport={"width": 390, "height": 800})
    for index in (0, 1):  # picture and output
        picture = figure(page, "kernel-editor").locator("canvas").nth(index)
        picture.scroll_into_view_if_needed()
        box, row, column = picture.bounding_box(), 20 - index, 13 + index  # the centre of the kernel
        page.touchscreen.tap(box["x"] + (column + 0.5) * box["width"] / 32, box["y"] + (row + 0.5) * box["height"] / 32)
        assert numbers(result(page, "kernel-editor"))[:2] == [row - 1, column - 1]


# Receptive field

KINDS = {"conv3": (3, 1), "conv5": (5, 2), "pool2": (2, 0)}  # kernel and padding


def mxnet_field(layers, row, column):
    """Shape of each layer, and where the picture influences one number of the last: a mask (32, 32)."""
    x = mx.nd.ones((1, 1, 32, 32))
    x.attach_grad()
    shapes = [32]
    with autograd.record():
        y = x
        for kind, stride in layers:
            kernel, padding = KINDS[kind]
            window = dict(kernel=(kernel, kernel), stride=(stride, stride), pad=(padding, padding))
            if kind == "pool2":
                y = mx.nd.Pooling(y, pool_type="avg", **window)  # max has no gradient for numbers that are not largest
            else:
                y = mx.nd.Convolution(y, mx.nd.ones((1, 1, kernel, kernel)), num_filter=1, no_bias=True, **window)
            shapes.append(y.shape[2])
        y = y[0, 0, row, column]
    y.backward()
    return shapes, x.grad[0, 0].asnumpy() != 0


def test_sizes_and_fields_are_mxnet_s(shared):
    rng = np.random.default_rng(0)
    for _ in range(25):
        layers = [(str(rng.choice(list(KINDS))), int(rng.integers(1, 3))) for _ in range(4)]
        objects = [{"kind": kind, "stride": stride} for kind, stride in layers]
        size = call(shared, "receptive-field", "return module.sizes(values)", objects)
        row, column = (int(number) for number in rng.integers(0, size[-1], 2))
        shapes, mask = mxnet_field(layers, row, column)
        assert size == shapes
        (top, bottom), (left, right) = call(
            shared,
            "receptive-field",
            "return values[1].map((place) => module.sources(values[0], 4, place)[0])",
            [objects, [row, column]],
        )
        expected = np.zeros_like(mask)
        expected[top : bottom + 1, left : right + 1] = True
        assert np.array_equal(mask, expected), (layers, row, column)
        full = call(shared, "receptive-field", "return module.fields(values)", objects)[-1]
        assert bottom - top + 1 <= full and right - left + 1 <= full
        if top > 0 and bottom < 31:
            assert bottom - top + 1 == full


def test_the_field_follows_keys_and_choices(opened):
    page = opened()
    name = "receptive-field"
    assert result(page, name) == (
        "The number of layer 4 in row 8, column 8 (counted from 0) depends on 3 × 3 numbers of layer 3, "
        "on 6 × 6 numbers of layer 2, on 8 × 8 numbers of layer 1, on 10 × 10 pixels of the picture."
    )
    figure(page, name).get_by_label("Kind of layer 1").select_option("conv 5 × 5")
    assert numbers(result(page, name))[-2:] == [12, 12]
    figure(page, name).get_by_label("Stride of layer 1").select_option("2")
    assert [text for text in figure(page, name).locator(".panel > span").all_text_contents() if "×" in text] == [
        "32 × 32",
        "16 × 16field 5 × 5",
        "16 × 16field 9 × 9",
        "8 × 8field 11 × 11",
        "8 × 8field 19 × 19",
    ]
    figure(page, name).locator("canvas[data-layer='4']").focus()
    for _ in range(9):
        page.keyboard.press("ArrowLeft")
    assert "row 4, column 0" in result(page, name)
    _, mask = mxnet_field([("conv5", 2), ("conv3", 1), ("pool2", 2), ("conv3", 1)], 4, 0)
    height, width = mask.any(1).sum(), mask.any(0).sum()
    assert f"{height} × {width} pixels of the picture (the field of 19 × 19 is cut off at the border)" in result(
        page, name
    )
    colour = pixels(page, name, 0, 8)
    dark = np.abs(colour - figures.cat().astype(int)).max(2) == 0  # outside, the photograph is paler
    frame = slice(1, -1)  # the frame lies on the outermost cells
    rows, columns = np.where(mask.any(1))[0][frame], np.where(mask.any(0))[0][frame]
    assert dark[np.ix_(rows, columns)].all() and not dark[~mask].any()


def test_a_tap_selects_a_number_of_any_layer(opened):
    page = opened(has_touch=True, viewport={"width": 390, "height": 800})
    picture = figure(page, "receptive-field").locator("canvas[data-layer='3']")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.touchscreen.tap(box["x"] + 5.5 * box["width"] / 16, box["y"] + 3.5 * box["height"] / 16)
    assert result(page, "receptive-field").startswith("The number of layer 3 in row 3, column 5 ")


# Loss valley

SURFACES = {
    "long": (lambda x, y: (x**2 + 20 * y**2) / 2, (-2.6, 1.2)),
    "curved": (lambda x, y: ((1 - x) ** 2 + 10 * (y - x**2) ** 2) / 2, (-1.4, 1.4)),
}


def mxnet_path(surface, rate, momentum, steps):
    """Path and losses of MXNet's SGD: (steps + 1, 2) and (steps + 1,)."""
    function, start = SURFACES[surface]
    weights = [gluon.Parameter(name, shape=(1,), dtype="float64") for name in ("x", "y")]
    for weight, value in zip(weights, start):
        weight.initialize(mx.init.Constant(value))
    trainer = gluon.Trainer(weights, "sgd", {"learning_rate": rate, "momentum": momentum})
    path, losses = [], []
    for _ in range(steps + 1):
        path.append([weight.data().asscalar() for weight in weights])
        with autograd.record():
            loss = function(*(weight.data() for weight in weights))
        losses.append(loss.asscalar())
        loss.backward()
        trainer.step(1)
    return np.array(path), np.array(losses)


@pytest.mark.parametrize("surface", SURFACES)
def test_the_path_is_that_of_mxnet_s_sgd(shared, surface):
    for rate, momentum in ((0.01, 0.0), (0.015, 0.5), (0.005, 0.9)):
        path = call(
            shared,
            "loss-valley",
            "const [name, rate, momentum] = values; const surface = module.SURFACES[name];"
            "let state = { point: surface.start, velocity: [0, 0] }; const path = [state.point];"
            "while (path.length <= 30) {"
            "  state = module.step(state, surface, rate, momentum);"
            "  path.push(state.point);"
            "} return path;",
            [surface, rate, momentum],
        )
        np.testing.assert_allclose(path, mxnet_path(surface, rate, momentum, 30)[0], rtol=1e-4, atol=1e-5)


def set_slider(page, label, position):
    page.get_by_role("slider", name=label).evaluate(
        "(slider, position) => { slider.value = position; slider.dispatchEvent(new Event('input')); }", position
    )


def test_steps_and_sliders_show_mxnet_s_numbers(opened):
    page = opened()
    valley = figure(page, "loss-valley")
    page.get_by_role("slider", name="Learning rate").focus()
    page.keyboard.press("ArrowLeft")  # from 0.09 to 0.08
    page.get_by_role("slider", name="Momentum").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert valley.locator(".value").all_text_contents() == ["0.08", "0.03"]
    set_slider(page, "Momentum", 0.5)
    path, losses = mxnet_path("long", 0.08, 0.5, 3)
    for number in (1, 2, 3):
        valley.get_by_role("button", name="Step", exact=True).press("Enter")
        shown = numbers(result(page, "loss-valley").replace("w₁", "").replace("w₂", ""))
        assert shown == pytest.approx([number, *path[number], losses[number]], rel=1e-3, abs=1e-4)
    valley.get_by_role("button", name="Reset").click()
    assert result(page, "loss-valley") == "Start: w₁ = -2.6000, w₂ = 1.2000, loss 17.78."


def test_it_says_when_a_path_diverges(opened):
    """In the long valley SGD converges if the rate is below 2/20, and with momentum m if it is below 2(1 + m)/20."""
    page = opened(reduced_motion="reduce")
    valley = figure(page, "loss-valley")
    run = valley.get_by_role("button", name="Run 100 steps")
    positions = {0.09: 15, 0.11: 17, 0.2: 20}
    for rate, momentum in itertools.product(positions, (0, 0.5)):
        set_slider(page, "Learning rate", positions[rate])
        assert valley.locator(".value").first.text_content() == str(rate)
        set_slider(page, "Momentum", momentum)
        run.click()  # finished at once, because nothing may move
        assert ("diverges" in result(page, "loss-valley")) == (rate > 2 * (1 + momentum) / 20), (rate, momentum)
    valley.get_by_label("Loss", exact=True).select_option("curved valley")
    set_slider(page, "Learning rate", 20)
    run.click()
    assert "diverges" in result(page, "loss-valley")


def test_a_run_can_be_stopped_and_ends_where_mxnet_does(opened):
    page = opened(reduced_motion="no-preference")
    page.clock.install()
    valley = figure(page, "loss-valley")
    path, losses = mxnet_path("long", 0.09, 0, 100)
    valley.get_by_role("button", name="Run 100 steps").click()
    page.clock.run_for(400)  # ms, a step each 40
    valley.get_by_role("button", name="Stop").click()
    shown = numbers(result(page, "loss-valley").replace("w₁", "").replace("w₂", ""))
    assert 5 <= shown[0] <= 100 and shown[1:3] == pytest.approx(path[int(shown[0])], abs=1e-4)
    valley.get_by_role("button", name="Reset").click()
    valley.get_by_role("button", name="Run 100 steps").click()
    page.clock.run_for(4100)
    valley.get_by_role("button", name="Run 100 steps").wait_for()
    shown = numbers(result(page, "loss-valley").replace("w₁", "").replace("w₂", ""))
    assert shown == pytest.approx([100, *path[100], losses[100]], rel=1e-3, abs=1e-4)


def test_tap_and_arrow_keys_move_the_start(opened):
    page = opened(has_touch=True, viewport={"width": 390, "height": 800})
    picture = figure(page, "loss-valley").locator("canvas")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    x, y = numbers(result(page, "loss-valley").replace("w₁", "").replace("w₂", ""))[:2]
    assert (x, y) == pytest.approx((1.5, 1.0), abs=0.02)
    picture.focus()
    page.keyboard.press("ArrowDown")
    assert numbers(result(page, "loss-valley").replace("w₁", "").replace("w₂", ""))[:2] == pytest.approx([x, y - 0.1])


# Augmentation picker


class Fixed:
    """A generator of random numbers for d2lcls that returns given ones."""

    def __init__(self, *values):
        self.values = list(values)

    def take(self, *arguments, **named):
        return np.array(self.values.pop(0))

    integers = random = uniform = take


def python_change(image, name, numbers):
    """A change of an image uint8 (32, 32, 3) by d2lcls or OpenCV."""
    import cv2

    batch = image[None]
    if name == "flip":
        return augment.mirror(batch, np.array([numbers["mirrored"]]))[0]
    if name == "shift":
        place = [4 - numbers["down"]], [4 - numbers["right"]]
        return augment.pad_crop(4)(batch, Fixed(*place))[0]
    if name == "cutout":
        return augment.cutout(8)(batch, Fixed([numbers["row"]], [numbers["column"]]))[0]
    if name == "jitter":
        factors = [(numbers[key] - 1) / 0.2 for key in ("brightness", "contrast", "saturation")]
        return augment.colour_jitter()(batch, Fixed(np.reshape(factors, (3, 1, 1, 1, 1))))[0]
    if name == "crop":
        top, left, side = (numbers[key] for key in ("top", "left", "side"))
        return cv2.resize(image[top : top + side, left : left + side], (32, 32), interpolation=cv2.INTER_LINEAR)
    padded = np.pad(image.astype(np.float32), ((16, 16), (16, 16), (0, 0)))
    matrix = cv2.getRotationMatrix2D((31.5, 31.5), numbers["degrees"], 1)
    return np.rint(cv2.warpAffine(padded, matrix, (64, 64), flags=cv2.INTER_LINEAR)[16:48, 16:48])


TOLERANCE = {"flip": 0, "shift": 0, "cutout": 0, "jitter": 1, "crop": 1, "rotation": 6}  # levels


@pytest.mark.parametrize("name", TOLERANCE)
def test_each_change_is_that_of_python(shared, name):
    """OpenCV's rotation rounds places to 1/32 pixel, so that levels differ a little there."""
    for seed in range(8):
        drawn, changed = call(
            shared,
            "augmentation-picker",
            "const [seed, name] = values; const drawn = module.drawn(seed)[name];"
            "return [drawn, Array.from(module.CHANGES[name].apply(Array.from(pictures.CAT), drawn))];",
            [seed, name],
        )
        expected = python_change(figures.cat(), name, drawn).astype(int)
        difference = np.abs(np.reshape(changed, (32, 32, 3)) - expected)
        assert difference.max() <= TOLERANCE[name], drawn
        assert difference.mean() < 0.5


def test_random_numbers_stay_in_their_ranges_and_reach_their_ends(shared):
    drawn = call(shared, "augmentation-picker", "return [...Array(1000).keys()].map(module.drawn)")
    shifts = [draw["shift"]["right"] for draw in drawn]
    assert (min(shifts), max(shifts)) == (-4, 4)
    assert 0.45 < np.mean([draw["flip"]["mirrored"] for draw in drawn]) < 0.55
    degrees = [draw["rotation"]["degrees"] for draw in drawn]
    assert -15 <= min(degrees) < -14.5 and 14.5 < max(degrees) <= 15
    brightness = [draw["jitter"]["brightness"] for draw in drawn]
    assert 0.8 <= min(brightness) < 0.81 and 1.19 < max(brightness) <= 1.2
    rows = [draw["cutout"]["row"] for draw in drawn]
    assert (min(rows), max(rows)) == (0, 31)
    for crop in (draw["crop"] for draw in drawn):
        assert (
            20 <= crop["side"] <= 30
            and 0 <= crop["top"] <= 32 - crop["side"]
            and 0 <= crop["left"] <= 32 - crop["side"]
        )
    assert len({draw["crop"]["top"] for draw in drawn}) == 13


def test_the_same_seed_gives_the_same_picture_and_choices_keep_their_numbers(opened):
    page = opened()
    name = "augmentation-picker"
    picker = figure(page, name)
    first = result(page, name)
    assert first.startswith("Seed 1: ")
    picker.get_by_role("button", name="New random draw").press("Enter")
    assert result(page, name).startswith("Seed 2: ") and picker.get_by_label("Seed").input_value() == "2"
    picker.get_by_label("Seed").fill("1")
    assert result(page, name) == first
    picker.get_by_label("flip").press("Space")
    assert f"Seed 1: {first.split('; ')[1]}" == result(page, name)
    for label in ("shift", "cutout"):
        picker.get_by_label(label).press("Space")
    drawn = call(page, name, "return module.drawn(1).cutout")
    assert result(page, name) == f"Seed 1: cutout of 8 × 8 around row {drawn['row']}, column {drawn['column']}."
    expected = python_change(figures.cat(), "cutout", drawn)
    assert np.array_equal(pixels(page, name, 1, 8), expected)
    assert np.array_equal(pixels(page, name, 0, 8), figures.cat())
    picker.get_by_label("cutout").press("Space")
    assert result(page, name) == "Seed 1: no change chosen."
    assert np.array_equal(pixels(page, name, 1, 8), figures.cat())


def test_taps_draw_anew_and_choose(opened):
    page = opened(has_touch=True, viewport={"width": 390, "height": 800})
    picker = figure(page, "augmentation-picker")
    picker.get_by_role("button", name="New random draw").tap()
    picker.get_by_label("colour jitter").tap()
    assert re.fullmatch(r"Seed 2: .*; brightness × [01]\.\d\d, .*", result(page, "augmentation-picker"))


# Softmax


def mxnet_softmax(logits, label):
    """Probabilities, cross-entropy and its gradient."""
    z = mx.nd.array([logits], dtype="float64")
    z.attach_grad()
    with autograd.record():
        loss = gluon.loss.SoftmaxCrossEntropyLoss()(z, mx.nd.array([label]))
    loss.backward()
    return mx.nd.softmax(z)[0].asnumpy(), loss.asscalar(), z.grad[0].asnumpy()


def test_probabilities_loss_and_gradient_are_mxnet_s(shared):
    rng = np.random.default_rng(0)
    for logits in [*rng.normal(0, 3, (10, 4)), np.array([800.0, 0, 3, -5])]:
        label = int(rng.integers(4))
        probabilities, loss, gradient = mxnet_softmax(logits, label)
        p, shown = call(
            shared,
            "softmax",
            "return [module.softmax(values[0]), module.crossEntropy(...values)]",
            [logits.tolist(), label],
        )
        np.testing.assert_allclose(p, probabilities, atol=1e-6)
        np.testing.assert_allclose(shown["gradient"], gradient, atol=1e-6)
        assert shown["loss"] == pytest.approx(loss, rel=1e-5)


def shown_softmax(page):
    rows = (
        figure(page, "softmax")
        .locator(".class")
        .evaluate_all(
            "(rows) => rows.map((row) => [row.querySelector('.value'), ...row.querySelectorAll('.bar > span')]"
            ".map((each) => each.textContent))"
        )
    )
    return np.array([[numbers(text)[0] for text in row] for row in rows])  # logit, probability, gradient


def check_softmax(page, logits, label):
    probabilities, loss, gradient = mxnet_softmax(logits, label)
    shown = shown_softmax(page)
    np.testing.assert_allclose(shown[:, 0], logits, atol=0.0051)
    np.testing.assert_allclose(shown[:, 1], probabilities, atol=0.00051)
    np.testing.assert_allclose(shown[:, 2], gradient, atol=0.00051)
    assert numbers(result(page, "softmax")) == pytest.approx([probabilities[label], loss], abs=0.00051)
    bars = figure(page, "softmax").locator(".class svg rect:nth-of-type(2)")
    widths = bars.evaluate_all("(bars) => bars.map((bar) => Number(bar.getAttribute('width')))")
    np.testing.assert_allclose(np.reshape(widths, (4, 2)), 100 * np.abs([probabilities, gradient]).T, atol=1e-3)


def test_the_page_shows_mxnet_s_softmax(opened):
    page = opened()
    panel = figure(page, "softmax")
    logits, label = np.array([2, 1, 0.1, -1]), 0
    check_softmax(page, logits, label)
    panel.get_by_role("slider", name="Logit of ship").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    logits[2] = 0.6
    check_softmax(page, logits, label)
    panel.get_by_role("radio").nth(0).focus()
    page.keyboard.press("ArrowDown")  # the next class
    check_softmax(page, logits, 1)
    assert result(page, "softmax").startswith("True class dog: ")
    for _ in range(3):
        panel.get_by_role("button", name="Subtract the gradient").press("Enter")
        logits = logits - mxnet_softmax(logits, 1)[2]
        check_softmax(page, logits, 1)
    panel.get_by_role("button", name="Reset").click()
    check_softmax(page, [2, 1, 0.1, -1], 1)


def test_taps_choose_the_true_class_and_move_a_logit(opened):
    page = opened(has_touch=True, viewport={"width": 390, "height": 800})
    panel = figure(page, "softmax")
    panel.get_by_role("radio", name="truck").tap()
    assert result(page, "softmax").startswith("True class truck: p = 0.032, ")
    slider = panel.get_by_role("slider", name="Logit of truck")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    logits = [2, 1, 0.1, shown_softmax(page)[3, 0]]
    assert logits[3] > 4
    check_softmax(page, logits, 3)
