"""Write d2lcls/data/sample/ from the real Fashion-MNIST: the first images of each class.

    python tools/make_sample.py

The pixels are always identical; the PNG files are identical with the same version of Pillow.
"""

from d2lcls.data import load
from d2lcls.data.download.sample import FOLDER, SIZES, write_sample


def main() -> None:
    for split in SIZES:
        data = load("fashion_mnist", split, fallback=False)
        write_sample(FOLDER, split, data.images, data.labels)
        print(f"{FOLDER / split}.png: {(FOLDER / f'{split}.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
