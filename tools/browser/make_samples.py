"""Write book/_static/live/samples/: photographs from scikit-image and two drawings, as small PNG files.

    python tools/browser/make_samples.py

They are PNG files because browsers and Pillow decode these to the same pixels, unlike JPEG files.
"""

import json
from pathlib import Path

import skimage
from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parents[2] / "book/_static/live/samples"
PHOTOGRAPHS = (
    ("cat", "chelsea.png", (75, 0, 375, 300), "Photograph of a cat", "Stéfan van der Walt, from scikit-image", "CC0"),
    (
        "rocket",
        "rocket.jpg",
        (140, 0, 567, 427),
        "Photograph of a rocket",
        "SpaceX, from scikit-image",
        "public domain",
    ),
    (
        "coffee",
        "coffee.png",
        (80, 0, 480, 400),
        "Photograph of a cup of coffee",
        "Rachel Michetti, from scikit-image",
        "CC0",
    ),
)
SIDE = 160
BLUE, SEA, GREY, DARK, RED = (150, 190, 225), (40, 80, 110), (120, 125, 130), (60, 60, 70), (150, 40, 40)


def ship() -> Image.Image:
    """Draw a cargo ship at sea, four times as large as needed."""
    picture = Image.new("RGB", (640, 640), BLUE)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 420, 640, 640), SEA)
    draw.polygon([(60, 350), (590, 350), (540, 460), (110, 460)], RED)
    draw.rectangle((110, 250, 230, 350), (235, 235, 235))
    draw.rectangle((140, 180, 190, 250), DARK)
    for index, colour in enumerate((GREY, DARK, RED, GREY)):
        draw.rectangle((260 + 75 * index, 280, 325 + 75 * index, 350), colour)
    return picture


def truck() -> Image.Image:
    """Draw a truck on transparent background, four times as large as needed."""
    picture = Image.new("RGBA", (640, 640), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((40, 180, 410, 430), (200, 205, 210))
    draw.polygon([(420, 430), (420, 240), (520, 240), (600, 330), (600, 430)], RED)
    draw.polygon([(440, 330), (440, 260), (510, 260), (570, 330)], (170, 210, 230))
    draw.rectangle((40, 430, 600, 465), DARK)
    for x in (140, 300, 510):
        draw.ellipse((x - 55, 400, x + 55, 510), (30, 30, 30))
        draw.ellipse((x - 22, 433, x + 22, 477), GREY)
    return picture


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    photographs = Path(skimage.__file__).parent / "data"
    samples = [
        (name, Image.open(photographs / file).convert("RGB").crop(box), alt, credit, licence)
        for name, file, box, alt, credit, licence in PHOTOGRAPHS
    ]
    samples += [
        (drawing.__name__, drawing(), alt, "drawn for this book", "Apache License 2.0")
        for drawing, alt in ((ship, "Drawing of a ship"), (truck, "Drawing of a truck on transparent ground"))
    ]
    entries = []
    for name, picture, alt, credit, licence in samples:
        path = FOLDER / f"{name}.png"
        picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(path, optimize=True)
        entries.append({"file": path.name, "alt": alt, "credit": credit, "licence": licence})
        print(f"{path}: {path.stat().st_size:,} bytes")
    (FOLDER / "samples.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
