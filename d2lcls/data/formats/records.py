"""RecordIO: many pictures in one file, the format of MXNet's own tools.

A record set consists of three files: the records in `name.rec`, the offset of each in `name.idx`, and the class names
in `name.classes`, one per line, which only this package writes.
"""

import os
import re
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from d2lcls.data.decode import BrokenImage, Size, check_interpolation, looks_complete, open_image, read_image
from d2lcls.data.formats.folders import check_on_broken, list_folder
from d2lcls.data.images import Images
from d2lcls.data.lazy import Decoded, LazyImages, check_classes_left
from d2lcls.machine.temporary import temporary_folder

import numpy as np

RECORD_MAGIC = struct.pack("<I", 0xCED7230A)  # begins every part of a record
_NOT_IN_LINES = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]")  # line breaks, and what is not Unicode
MAX_CLASSES = 1_000_000  # without a `.classes` file: a name is made for each, up to the highest label


def write_records(root: str | Path, prefix: str | Path, on_broken: str = "raise") -> int:
    """Pack a folder of pictures into a RecordIO file, without changing their bytes.

    Each picture is decoded once to find broken files. The record set gets its name only when it is complete.

    Args:
        root: a folder with one subfolder for each class, as for `list_folder`.
        prefix: where to write; "photos" makes `photos.rec`, `photos.idx` and `photos.classes`.
        on_broken: "raise", or "skip" to ignore unreadable files and print their number.

    Returns:
        the number of records.

    Raises:
        BrokenImage: a file is no readable image and `on_broken` is "raise".
        ValueError: a class has no readable picture, or a name that does not fit in one line; or as `list_folder`.
        FileNotFoundError: as `list_folder`.
        DiskFull: there is no room; nothing is left behind.
    """
    check_on_broken(on_broken)
    paths, labels, classes = list_folder(root)
    for name in filter(_NOT_IN_LINES.search, classes):
        raise ValueError(f"{root}: the class {name!a} has a line break or an invalid character in its name. Rename it.")
    files = [Path(f"{prefix}{suffix}") for suffix in (".rec", ".idx", ".classes")]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    broken: list[BrokenImage] = []
    written: list[int] = []  # the label of each record
    with temporary_folder(f"{files[0]}.new", files[0]) as folder:
        partial = [folder / file.name for file in files]
        with open(partial[0], "wb") as rec, open(partial[1], "w", encoding="ascii") as idx:
            for path, label in zip(paths, labels.tolist()):
                try:
                    open_image(path)
                except BrokenImage as error:
                    if on_broken == "raise":
                        raise
                    broken.append(error)
                    continue
                idx.write(f"{len(written)}\t{rec.tell()}\n")
                rec.write(_record(struct.pack("<IfQQ", 0, label, len(written), 0) + Path(path).read_bytes()))
                written.append(label)
        check_classes_left(str(root), classes, np.unique(labels), np.unique(written))
        partial[2].write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        for part, file in zip(partial, files):
            os.replace(part, file)
    if broken:
        print(f"{root}: left out {len(broken)} of {len(paths)} files; the first: {broken[0]}")
    return len(written)


def _record(content: bytes) -> bytes:
    """Return the bytes of a record, split as `_read_record` describes; MXNet's writer does not notice a full disk."""
    if len(content) >= 1 << 29:
        raise ValueError(
            f"Expected a picture of less than 512 MB, the most that a record holds, not of {len(content):,} bytes."
        )
    ends = [found.start() for found in re.finditer(re.escape(RECORD_MAGIC), content) if found.start() % 4 == 0]
    begins, ends = [0, *(end + 4 for end in ends)], [*ends, len(content)]
    kinds = [1, *[2] * (len(ends) - 2), 3] if len(ends) > 1 else [0]
    return b"".join(
        RECORD_MAGIC + struct.pack("<I", kind << 29 | end - begin) + content[begin:end] + bytes(-(end - begin) % 4)
        for kind, begin, end in zip(kinds, begins, ends)
    )


def open_records(
    prefix: str | Path, size: Size = 224, interpolation: str = "bilinear", draft: bool = False
) -> LazyImages:
    """Open a RecordIO file without reading its pictures: each is decoded when a batch needs it.

    Reads files written by `write_records`, MXNet's `im2rec.py` and GluonCV.

    Args:
        prefix: common name of the files, with or without `.rec`.
        size, interpolation, draft: as for `read_image`.

    Returns:
        the set; without a `.classes` file the classes are named "0", "1", ... Indexing its images
        raises `BrokenImage`, which names the record, if a picture cannot be read.

    Raises:
        FileNotFoundError: the `.rec` file is missing.
        BrokenImage: the file is damaged.
        ValueError: as `scan_records`, or for `size` and `interpolation` as `read_image`.
    """
    check_interpolation(interpolation)
    rec = Path(str(prefix) if str(prefix).endswith(".rec") else f"{prefix}.rec")
    if not rec.is_file():
        raise FileNotFoundError(f"{rec}: no such file.")
    offsets, labels, classes = scan_records(rec)
    content = record_reader(rec, offsets)

    def read(position: int, size: tuple[int, int], draft: bool) -> np.ndarray:
        with naming_record(rec, position):
            return read_image(content(position), size, interpolation, draft)

    return LazyImages(
        Decoded(read, np.arange(len(labels)), size, draft),
        labels,
        classes,
        rec.stem,
        lambda position: check_record(rec, offsets, position),
    )


def read_records(prefix: str | Path, size: Size = 32, interpolation: str = "bilinear", draft: bool = False) -> Images:
    """Load a RecordIO file into memory, all pictures cropped to one size.

    Args:
        prefix, size, interpolation, draft: as for `open_records`.

    Raises:
        BrokenImage: a record has no readable image; the message names the record.
        FileNotFoundError, BrokenImage, ValueError: as `open_records`.
    """
    opened = open_records(prefix, size, interpolation, draft)
    return Images(opened.images.load(), opened.labels, opened.classes, opened.name)


def scan_records(rec: Path, classes: Sequence[str] | None = None) -> tuple[Sequence[int], np.ndarray, tuple[str, ...]]:
    """Find the records of a file. Their labels are only in them, so the index would save nothing.

    Args:
        rec: the `.rec` file.
        classes: class names if there is no `.classes` file beside it; None for "0", "1", ...

    Returns:
        (offsets, labels, classes): where each of the N records begins, int64 (N,), class names.

    Raises:
        BrokenImage: the file is damaged, or its records are not those in the `.idx` file beside it.
        ValueError: a record has several labels, or one that is not the number of a class.
    """
    offsets, labels = array("q"), array("d")  # lists would take several times as much memory as short records
    end, size = 0, rec.stat().st_size
    try:
        with open(rec, "rb") as file:
            while end < size:
                offsets.append(end)
                content, end = _read_record(file, end, most=28)
                several, label = struct.unpack_from("<If", content)
                if several > 1:
                    raise ValueError(f"{rec}: record {len(labels)} has {several} labels; a classifier needs one.")
                labels.append(struct.unpack_from("<f", content, 24)[0] if several else label)
    except (struct.error, EOFError) as error:
        raise BrokenImage(f"{rec}: damaged after {len(labels)} records. Write the file again.") from error
    if end > size or not labels:
        raise BrokenImage(f"{rec}: " + ("cut short. Copy or write it again." if labels else "holds no record."))
    _check_index(rec, offsets)
    names = rec.with_suffix(".classes")
    if names.is_file():
        try:
            classes = names.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{names}: expected the name of a class in each line, in UTF-8 ({error}).") from error
    numbers = np.array(labels)
    limit = MAX_CLASSES if classes is None else len(classes)
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers < limit) & (numbers == np.floor(numbers))))
    if len(wrong):
        expected = f"without {names.name} " if classes is None else f"with {limit} classes "
        raise ValueError(
            f"{rec}: record {wrong[0]} has the label {numbers[wrong[0]]:g}; {expected}it must be a whole number from 0 "
            f"to {limit - 1}."
        )
    if classes is None:
        classes = [str(label) for label in range(int(numbers.max()) + 1)]
    return offsets, numbers.astype(np.int64), tuple(classes)


def _check_index(rec: Path, offsets: Sequence[int]) -> None:
    """Raise BrokenImage if the `.idx` file beside a record file, "NUMBER<tab>OFFSET" lines in any order, differs."""
    index = rec.with_suffix(".idx")
    if not index.is_file():
        return
    try:
        with open(index, "rb") as lines:
            listed = np.fromiter((int(line.rpartition(b"\t")[2]) for line in lines), dtype=np.int64)
    except (ValueError, OverflowError):
        raise BrokenImage(f"{rec}: {index.name} holds lines that are no index. Write both again.") from None
    if len(listed) != len(offsets):
        raise BrokenImage(
            f"{rec}: holds {len(offsets)} records, but {index.name} lists {len(listed)}. Write both again."
        )
    if not np.array_equal(np.sort(listed), np.sort(np.array(offsets))):
        raise BrokenImage(f"{rec}: {index.name} lists other records. Write both again.")


def record_reader(rec: Path, offsets: Sequence[int]) -> Callable[[int], bytes]:
    """Return a function from the number of a record to its image file, which several threads may call.

    Args:
        rec, offsets: a record file, and where its records begin.
    """

    def content(position: int) -> bytes:
        with open(rec, "rb") as file:  # not shared, as threads would move each other's position in it
            whole, _ = _read_record(file, offsets[position])
        (several,) = struct.unpack_from("<I", whole)
        return whole[24 + 4 * several :]

    return content


def check_record(rec: Path, offsets: Sequence[int], position: int) -> None:
    """Look at the beginning and the end of the picture in a record, as `check_complete` does of a file.

    Args:
        rec, offsets: a record file, and where its records begin.
        position: the number of the record.

    Raises:
        BrokenImage: the picture is incomplete.
    """
    with open(rec, "rb") as file:
        head, end = _read_record(file, offsets[position], most=36)
        file.seek(max(offsets[position], end - 15))
        tail = file.read(min(15, end - offsets[position])).rstrip(b"\0")  # up to three bytes fill a record
    (several,) = struct.unpack_from("<I", head)
    if not looks_complete(head[24 + 4 * several :], tail):
        with naming_record(rec, position):
            open_image(record_reader(rec, offsets)(position))


@contextmanager
def naming_record(rec: Path, position: int) -> Iterator[None]:
    """Name the record in a `BrokenImage`."""
    try:
        yield
    except BrokenImage as error:
        raise BrokenImage(f"{rec}: record {position}: {error}") from error


def _read_record(file: BinaryIO, offset: int, most: int | None = None) -> tuple[bytes, int]:
    """Return (content, offset of the next record), with at most the first `most` bytes of the content if given.

    A record is split where its content contains the magic number: the upper three bits of the second word
    are 0 for a whole record, and 1, 2 and 3 for the first, middle and last part of a split one.
    """
    parts: list[bytes] = []
    size = os.fstat(file.fileno()).st_size
    while True:
        file.seek(offset)
        head = file.read(8)
        kind, length = divmod(struct.unpack_from("<I", head, 4)[0], 1 << 29)
        if head[:4] != RECORD_MAGIC or kind not in ((2, 3) if parts else (0, 1)):
            raise EOFError("no record begins here")
        wanted = length if kind or most is None else min(length, most)
        if offset + 8 + wanted > size:  # read() would allocate up to 512 MB first
            raise EOFError("the file ends within a record")
        parts.append(file.read(wanted))
        offset += 8 + (length + 3) // 4 * 4
        if kind in (0, 3):
            return RECORD_MAGIC.join(parts), offset
