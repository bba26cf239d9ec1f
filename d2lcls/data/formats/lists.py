"""Lists of pictures: a CSV file with the path and the class of each, and perhaps its split."""

from __future__ import annotations

import csv
from pathlib import Path
from sys import intern
from unicodedata import normalize

from d2lcls.data.decode import Size
from d2lcls.data.formats.folders import open_files
from d2lcls.data.lazy import LazyImages

import numpy as np

SPLITS = ("train", "val", "test")
HEADS = {"path", "file", "filename", "image"}  # of the first column; then the first line names the columns


def read_list(file: Path) -> list[tuple[str, str, str | None]]:
    """Read a list of pictures.

    Args:
        file: a CSV file in UTF-8. Each line has the path of a picture, relative to the folder of the list, the name of
            its class and, in all lines or in none, its split: train, val or test. The first line may name the columns.

    Returns:
        (path, class, split) of each picture; split is None if the list has no third column.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has another form; the message gives its number.
    """
    rows: list[tuple[str, str, str | None]] = []
    with open(file, encoding="utf-8-sig", newline="") as text:
        try:
            for number, row in enumerate(csv.reader(text), 1):
                cells = [cell.strip() for cell in row]
                if not any(cells) or (number == 1 and cells[0].lower() in HEADS):
                    continue
                if len(cells) not in (2, 3) or not all(cells) or (len(cells) == 3 and cells[2] not in SPLITS):
                    raise ValueError(
                        f"{file}, line {number}: expected PATH,CLASS or PATH,CLASS,SPLIT with a split of "
                        f"{', '.join(SPLITS)}, not {','.join(row)!r}."
                    )
                name, split = intern(normalize("NFC", cells[1])), intern(cells[2]) if len(cells) == 3 else None
                rows.append((cells[0], name, split))  # of names and splits, equal ones are kept once
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{file}: expected a CSV file in UTF-8 ({error}).") from error
    if not rows:
        raise ValueError(f"{file}: lists no picture. Expected lines such as photos/1.jpg,cat.")
    if len({split is None for _, _, split in rows}) > 1:
        raise ValueError(f"{file}: some lines have a split and others have none. Give one for all lines, or for none.")
    return rows


def open_list(file: str | Path, split: str | None = None, size: Size = 224, draft: bool = False) -> LazyImages:
    """Open a list of pictures without reading them.

    Args:
        file: as for `read_list`.
        split: only the pictures of this split; None is all.
        size, draft: as for `open_folder`.

    Returns:
        the set, named after the file. Its classes are those of the whole list, in alphabetical order, so that the
        splits agree.

    Raises:
        FileNotFoundError, ValueError: as `read_list`; ValueError also if no picture is of this split.
    """
    file = Path(file)
    rows = read_list(file)
    classes = tuple(sorted({name for _, name, _ in rows}))
    positions = {name: label for label, name in enumerate(classes)}
    chosen = [(path, name) for path, name, of in rows if split is None or of == split]
    if not chosen:
        raise ValueError(f"{file}: lists no picture of the split {split!r}.")
    labels = np.array([positions[name] for _, name in chosen], dtype=np.int64)
    return open_files([str(file.parent / path) for path, _ in chosen], labels, classes, file.stem, size, draft=draft)
