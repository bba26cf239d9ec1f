"""Does a browser give the same predictions as Python, how fast is it, and how much does it download?

One hundred crops of scikit-image's photographs, as PNG and as JPEG files, are classified by the live page's own
JavaScript in headless Chromium and by Python, with the model in float and in int8. Then the two take turns: in each
round the network runs 50 times on one image in WebAssembly and 50 times in ONNX Runtime's native build, with one
thread and with one thread per core. Nothing is trained if the cache holds the network of the full recipe. Writes
results/browser.json. About one minute on two cores.

    D2LCLS_SCALE=full python benchmarks/browser.py
"""

import gzip
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.book.notebook import example_model, scale
from d2lcls.deploy import load_model
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.onnx.quantize import quantize_onnx
from d2lcls.deploy.onnx_runtime import open_session
from d2lcls.machine.cores import usable_cores

import numpy as np
import skimage
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools/browser"))
import chromium  # noqa: E402
import live_page  # noqa: E402

FORMS = ("onnx", "onnx-int8")
PICTURES, ROUNDS, RUNS = 100, 15, 50


def main():
    if scale() != "full":
        raise SystemExit("The figures are of the fully trained network. Put D2LCLS_SCALE=full before the command.")
    with tempfile.TemporaryDirectory() as folder, chromium.open_page() as page, chromium.web_server(folder) as address:
        folder = Path(folder)
        make_forms(folder)
        make_pictures(folder)
        shutil.copytree(live_page.LIVE, folder / "live")
        live_page.fetch_runtime(ROOT / "_build/browser" / live_page.RUNTIME)
        shutil.copytree(ROOT / "_build/browser" / live_page.RUNTIME, folder / "runtime")
        (folder / "page.html").write_text("<!doctype html><title>Benchmark</title>")
        page.goto(f"{address}/page.html")
        start = {form: page.evaluate(LOAD, form) for form in FORMS}
        parity = {form: {kind: compare(page, folder, form, kind) for kind in ("png", "jpg")} for form in FORMS}
        ms, ratio = take_turns(page, folder)
        path = results.write(
            "browser",
            "D2LCLS_SCALE=full python benchmarks/browser.py",
            {
                "browser": f"Chromium {page.context.browser.version}",
                "onnxruntime_web": live_page.VERSION,
                "parity": parity,
                "ms": ms,
                "ratio": ratio,
                "start_ms": start,
                "bytes": sizes(folder),
                "pictures": PICTURES,
                "rounds": ROUNDS,
                "units": {
                    "ms": f"median of {RUNS} runs of the network on one picture; one value per round",
                    "ratio": "ms in the browser over ms native, same round",
                    "start_ms": "until the model is loaded from a local server and has run once",
                    "parity": "largest differences; levels of 255",
                },
            },
            data=["cifar10"],
        )
    print(path)


LOAD = """async (form) => {
    const { loadModel } = await import("/live/model.js");
    const begun = performance.now();
    (globalThis.models ??= {})[form] = await loadModel(`/models/${form}/`, location.origin + "/runtime/");
    return performance.now() - begun;
}"""

CLASSIFY = """async ([form, names]) => {
    const results = [];
    for (const name of names) {
        const blob = await (await fetch("/pictures/" + name)).blob();
        const { logits, seen } = await models[form].classify(blob);
        results.push([Array.from(logits), Array.from(seen.data)]);
    }
    return results;
}"""

TIME = """async ([form, runs]) => {
    const x = new Float32Array(3 * 32 * 32).map((_, index) => Math.sin(index));
    const times = [];
    for (let run = 0; run < runs; run++) {
        const begun = performance.now();
        await models[form].logits(x);
        times.push(performance.now() - begun);
    }
    return times;
}"""


def make_forms(folder):
    """Write the network in float and in int8, as tools/browser/make_model.py does."""
    trained = example_model()
    train = data.split_validation(data.load("cifar10", fallback=False), 0.1)[0]
    export_onnx(trained, folder / "models/onnx")
    steps = load_model(folder / "models/onnx").manifest.preprocess
    x = steps.batch(data.take_per_class(train, 100, seed=0).images)
    quantize_onnx(folder / "models/onnx", folder / "models/onnx-int8", x)


def make_pictures(folder):
    """Write random crops of photographs, each as PNG and as JPEG of quality 90."""
    (folder / "pictures").mkdir()
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    photographs = [Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB") for name in names]
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        picture = photographs[number % len(photographs)]
        width, height = (int(rng.integers(40, side)) for side in picture.size)
        left, top = int(rng.integers(picture.width - width)), int(rng.integers(picture.height - height))
        crop = picture.crop((left, top, left + width, top + height))
        crop.save(folder / f"pictures/{number:03d}.png")
        crop.save(folder / f"pictures/{number:03d}.jpg", quality=90)


def compare(page, folder, form, kind):
    """Classify all pictures in the browser and in Python, and return the largest differences."""
    paths = sorted((folder / "pictures").glob(f"*.{kind}"))
    answers = page.evaluate(CLASSIFY, [form, [path.name for path in paths]])
    logits = np.array([answer[0] for answer in answers])
    decoded = np.array([answer[1] for answer in answers]).reshape(len(paths), 32, 32, 3)
    model = load_model(folder / "models" / form)
    expected = model.logits(paths)
    pixels = np.stack([model.manifest.preprocess.image(path) for path in paths])
    return {
        "levels": int(np.abs(decoded - pixels).max()),
        "logit": float(np.abs(logits - expected).max()),
        "largest_logit": float(np.abs(expected).max()),
        "same_top1": float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        "same_top5": float((np.argsort(-logits, 1)[:, :5] == np.argsort(-expected, 1)[:, :5]).all(axis=1).mean()),
    }


def take_turns(page, folder):
    """Time both sides alternately; return ({form: {where: spread of ms}}, {form: {where: spread of ratios}})."""
    x = np.sin(np.arange(3 * 32 * 32, dtype=np.float32)).reshape(1, 3, 32, 32)
    ms = {form: {"browser": [], "native_one_thread": [], "native_all_cores": []} for form in FORMS}
    native = {
        form: {
            "native_one_thread": open_session(folder / f"models/{form}/model.onnx", 1),
            "native_all_cores": open_session(folder / f"models/{form}/model.onnx", usable_cores()),
        }
        for form in FORMS
    }
    for turn in range(ROUNDS + 1):
        for form in FORMS:
            times = {"browser": page.evaluate(TIME, [form, RUNS])}
            times |= {where: timed(compute, x) for where, compute in native[form].items()}
            if turn:  # the first warms up
                for where, values in times.items():
                    ms[form][where].append(statistics.median(values))
    ratio = {
        form: {
            where: results.spread([a / b for a, b in zip(ms[form]["browser"], ms[form][where])])
            for where in native[form]
        }
        for form in FORMS
    }
    return {form: {where: results.spread(times) for where, times in own.items()} for form, own in ms.items()}, ratio


def timed(compute, x):
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        compute(x)
        times.append(1000 * (time.perf_counter() - begun))
    return times


def sizes(folder):
    """Return {part: {"plain": bytes, "gzip": bytes}} of what a reader's browser fetches."""
    files = {
        "onnx": folder / "models/onnx/model.onnx",
        "onnx-int8": folder / "models/onnx-int8/model.onnx",
        "wasm": folder / "runtime" / live_page.FILES[1],
        "runtime_js": folder / "runtime" / live_page.FILES[0],
    }
    parts = {name: path.read_bytes() for name, path in files.items()}
    parts["page_js"] = b"".join(path.read_bytes() for path in sorted((folder / "live").glob("*.js")))
    return {name: {"plain": len(content), "gzip": len(gzip.compress(content, 6))} for name, content in parts.items()}


if __name__ == "__main__":
    main()
