"""Write what the package holds of Grocery Store, from a folder with its files: their list, and a sample of ten classes.

    python tools/make_grocery.py FOLDER

FOLDER holds the contents of `dataset/` in https://github.com/marcusklasson/GroceryStoreDataset, and its LICENSE. The
list depends on these files alone; the sample's JPEG files are identical with the same version of Pillow.
"""

import gzip
import hashlib
import sys
from pathlib import Path

import d2lcls

LIST = Path(d2lcls.__file__).parent / "data" / "download" / "grocery.txt.gz"
LISTS = [f"{split}.txt" for split in ("train", "val", "test")]


def write_list(origin: Path, target: Path) -> None:
    """Write the sha1 of the git blob, size and path of each photograph in the three lists, then of the other files."""
    names = [line.split(",")[0] for name in LISTS for line in (origin / name).read_text().splitlines()]
    lines = []
    for name in (*names, *LISTS, "LICENSE"):
        content = (origin / name).read_bytes()
        sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lines.append(f"{sha1} {len(content)} {name}\n")
    target.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    origin = Path(sys.argv[1])
    write_list(origin, LIST)
    from d2lcls.data.download.sample import FOLDER, write_grocery_sample  # reads the list

    write_grocery_sample(origin, FOLDER / "grocery")
    for path in (LIST, *sorted((FOLDER / "grocery").iterdir())):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
