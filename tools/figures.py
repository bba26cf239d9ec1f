"""Make what the interactive figures need: their two small pictures, and a still picture of each figure.

    python tools/figures.py

Writes pictures.js and the PNG files in book/_static/figures/. The photographs are those of the live page.
"""

import base64
from pathlib import Path

from d2lcls.book import plots
from d2lcls.data.transforms import augment

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "book/_static/figures"
SAMPLES = ROOT / "book/_static/live/samples"
SIDE = 32  # pixels, as in CIFAR-10
DARK, ACCENT, LIGHT = plots.DARK, plots.ACCENT, plots.LIGHT
EDGES = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])

HEADER = """\
// Written by tools/figures.py. Two photographs from scikit-image (CC0), of 32 x 32 pixels, levels from 0 to 255, row by
// row: a cup of coffee by Rachel Michetti, in grey, and a cat by Stéfan van der Walt, in red, green and blue.

const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
"""


def photograph(name: str) -> Image.Image:
    """Return a sample of the live page, 32 x 32."""
    picture = Image.open(SAMPLES / f"{name}.png").convert("RGB")
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def cup() -> np.ndarray:
    """Return the cup of coffee: uint8 (32, 32)."""
    return np.asarray(photograph("coffee").convert("L"))


def cat() -> np.ndarray:
    """Return the cat: uint8 (32, 32, 3)."""
    return np.asarray(photograph("cat"))


def pictures_js() -> str:
    """Return the text of pictures.js."""
    lines = [HEADER]
    for name, pixels in (("CUP", cup()), ("CAT", cat())):
        text = base64.b64encode(pixels.tobytes()).decode()
        rows = "\n".join(text[start : start + 116] for start in range(0, len(text), 116))
        lines.append(f"export const {name} = decode(`\n{rows}`);\n")
    return "\n".join(lines)


def bare(axis: Axes, title: str, image: np.ndarray | None = None, **options: object) -> None:
    """Show an image without ticks, with a title."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=9, fontweight="normal")
    if image is not None:
        axis.imshow(image, interpolation="nearest", **options)


def kernel_editor() -> Figure:
    """A picture, nine of its numbers with a kernel and their products, and the output."""
    row, column = 9, 6
    picture = cup().astype(int)
    output = sum(
        EDGES[i, j] * picture[i : i + SIDE - 2, j : j + SIDE - 2] for i in range(3) for j in range(3)
    )  # (30, 30)
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    bare(left, "Picture, 32 × 32", picture, cmap="gray", vmin=0, vmax=255)
    left.add_patch(Rectangle((column - 0.5, row - 0.5), 3, 3, fill=False, edgecolor=ACCENT, linewidth=2))
    bare(middle, f"Nine products, sum {output[row, column]}".replace("-", "−"))
    middle.set(xlim=(0, 3), ylim=(3, 0), aspect=1)
    for i in range(3):
        for j in range(3):
            value, weight = picture[row + i, column + j], EDGES[i, j]
            middle.add_patch(Rectangle((j, i), 1, 1, facecolor="#eef3f8", edgecolor="white"))
            text = f"{value} × {weight}\n= {value * weight}".replace("-", "−")
            middle.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8)
    size = np.abs(output).max()
    bare(right, f"Output: {output.min()} to {output.max()}".replace("-", "−"))
    right.imshow(output, cmap="gray", vmin=-size, vmax=size, interpolation="nearest")
    right.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=ACCENT, linewidth=2))
    return figure


def receptive_field() -> Figure:
    """A photograph and four layers with the field of one number of the last."""
    layers = (
        ("picture", 32, None),
        ("conv 3 × 3", 32, 3),
        ("conv 3 × 3", 32, 5),
        ("pool 2 × 2", 16, 6),
        ("conv 3 × 3", 16, 10),
    )
    ranges = ((12, 21), (13, 20), (14, 19), (7, 9), (8, 8))  # rows, and columns too
    figure = Figure(figsize=(6.4, 1.85), layout="constrained")
    for axis, (name, size, field), (first, last) in zip(figure.subplots(1, 5), layers, ranges):
        if field is None:
            bare(axis, f"{name}\n{size} × {size}", cat())
        else:
            bare(axis, f"{name}\n{size} × {size}", np.full((size, size, 3), 235, np.uint8))
            for line in range(size + 1):
                axis.axhline(line - 0.5, color="white", linewidth=0.4)
                axis.axvline(line - 0.5, color="white", linewidth=0.4)
        length = last - first + 1
        face = "none" if field is None else "#eba880"
        axis.add_patch(
            Rectangle((first - 0.5,) * 2, length, length, facecolor=face, edgecolor=ACCENT, linewidth=2, zorder=3)
        )
        axis.set_xlabel(f"{length} × {length}", fontsize=9)
    return figure


def loss_valley() -> Figure:
    """Contours of a long valley with two paths of gradient descent, without and with momentum."""
    x, y = np.meshgrid(np.linspace(-3, 3, 300), np.linspace(-2, 2, 200))
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    for axis, momentum in zip(figure.subplots(1, 2, sharey=True), (0.0, 0.5)):
        axis.contourf(x, y, np.log2((x**2 + 20 * y**2) / 2 + 1e-3), levels=16, cmap="Blues_r")
        point, velocity = np.array([-2.6, 1.2]), np.zeros(2)
        path = [point]
        for _ in range(40):
            velocity = momentum * velocity - 0.09 * point * (1, 20)
            point = point + velocity
            path.append(point)
        axis.plot(*np.transpose(path), color=ACCENT, marker="o", markersize=3, linewidth=1.5)
        axis.plot(*path[0], color=DARK, marker="o", markersize=8)
        axis.plot(0, 0, color=DARK, marker="s", markersize=9, fillstyle="none")
        axis.set(xlabel="weight $w_1$", xlim=(-3, 3), ylim=(-2, 2))
        axis.set_title(f"Learning rate 0.09, momentum {momentum:g}", fontsize=9, fontweight="normal")
        axis.grid(False)
    figure.axes[0].set_ylabel("weight $w_2$")
    return figure


def augmentation_picker() -> Figure:
    """The photograph and six changed versions of it."""
    image = cat()[None]
    rng = np.random.default_rng(4)
    turned = np.asarray(photograph("cat").rotate(12, Image.Resampling.BILINEAR))[None]
    cropped = np.asarray(photograph("cat").crop((6, 2, 30, 26)).resize((SIDE, SIDE), Image.Resampling.BILINEAR))[None]
    versions = (
        ("original", image),
        ("flip", image[:, :, ::-1]),
        ("shift", augment.pad_crop(4)(image, rng)),
        ("crop", cropped),
        ("cutout", augment.cutout(8)(image, rng)),
        ("jitter", augment.colour_jitter(0.4, 0.4, 0.4)(image, rng)),
        ("rotation", turned),
    )
    figure = Figure(figsize=(6.4, 1.2), layout="constrained")
    for axis, (title, pixels) in zip(figure.subplots(1, len(versions)), versions):
        bare(axis, title, pixels[0])
    return figure


def softmax() -> Figure:
    """Logits of four classes, their probabilities and the gradient of the cross-entropy."""
    logits, classes = np.array([2, 1, 0.1, -1]), ("cat", "dog", "ship", "truck")
    probabilities = np.exp(logits) / np.exp(logits).sum()
    gradient = probabilities - (1, 0, 0, 0)
    figure = Figure(figsize=(6.4, 2.2), layout="constrained")
    loss = -np.log(probabilities[0])
    panels = (
        ("logits $z$", logits, (-1.9, 3.3)),
        ("probabilities $p$", probabilities, (0, 0.95)),
        (f"gradient $p - y$, true class cat\n(cross-entropy {loss:.3f} nats)", gradient, (-0.8, 0.6)),
    )
    for axis, (label, values, limits) in zip(figure.subplots(1, 3, sharey=True), panels):
        bars = axis.barh(classes, values, color=[ACCENT if value < 0 else DARK for value in values])
        digits = "g" if values is logits else ".3f"
        texts = [f"{value:{digits}}".replace("-", "−") for value in values]
        axis.bar_label(bars, texts, padding=2, fontsize=8)
        axis.set_xlabel(label, fontsize=9)
        axis.tick_params(labelsize=9)
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.set_xlim(limits)
        axis.grid(False)
    figure.axes[0].invert_yaxis()
    return figure


STILLS = {
    "kernel-editor": kernel_editor,
    "receptive-field": receptive_field,
    "loss-valley": loss_valley,
    "augmentation-picker": augmentation_picker,
    "softmax": softmax,
}


def main() -> None:
    (FOLDER / "pictures.js").write_text(pictures_js(), encoding="utf-8")
    plt.style.use(plots.STYLE)
    for name, make in STILLS.items():
        path = FOLDER / f"{name}.png"
        make().savefig(path, dpi=200, metadata={"Software": None})
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
