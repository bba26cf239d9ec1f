"""RecordIO: many pictures in one file, the form that MXNet's own tools read and write.

A record set is three files: `name.rec` holds the records, `name.idx` says where each begins, and
`name.classes` (ours, a class name a line) says what the labels mean.
"""

import os
import struct
from pathlib import Path

from d2lcls.data.decode import BrokenImage, check_interpolation, height_and_width, open_image, read_image
from d2lcls.data.formats.folders import list_folder
from d2lcls.data.images import Images
from d2lcls.data.lazy import Decoded, LazyImages

import numpy as np

RECORD_MAGIC = struct.pack("<I", 0xCED7230A)  # begins every part of a record


def write_records(root, prefix, on_broken="raise"):
    """Pack a folder of pictures into a RecordIO file, each file's bytes unchanged.

    Every picture is decoded once, so that no broken file gets in. The record set appears under its
    name only when it is whole.

    Args:
        root: a folder with one subfolder a class, as for `list_folder`.
        prefix: where to write; "photos" makes `photos.rec`, `photos.idx` and `photos.classes`.
        on_broken: "raise", or "skip" to leave unreadable files out and print their number.

    Returns:
        int, the number of records written.

    Raises:
        BrokenImage: a file is no readable image and `on_broken` is "raise".
        ValueError: no picture of some class can be read; or as `list_folder`.
        FileNotFoundError: as `list_folder`.
    """
    from mxnet import recordio

    if on_broken not in ("raise", "skip"):
        raise ValueError(f"on_broken must be 'raise' or 'skip', not {on_broken!r}.")
    paths, labels, classes = list_folder(root)
    rec, idx, names = (Path(f"{prefix}{ending}") for ending in (".rec", ".idx", ".classes"))
    rec.parent.mkdir(parents=True, exist_ok=True)
    partial = [Path(f"{file}.part{os.getpid()}") for file in (rec, idx, names)]
    broken, written, kept = [], 0, set()
    try:
        writer = recordio.MXIndexedRecordIO(str(partial[1]), str(partial[0]), "w")
        try:
            for path, label in zip(paths, labels):
                try:
                    open_image(path)
                except BrokenImage as error:
                    if on_broken == "raise":
                        raise
                    broken.append(error)
                    continue
                kept.add(int(label))
                header = recordio.IRHeader(flag=0, label=float(label), id=written, id2=0)
                writer.write_idx(written, recordio.pack(header, path.read_bytes()))
                written += 1
        finally:
            writer.close()
        for label, name in enumerate(classes):
            if label not in kept:
                raise ValueError(f"{root}: not one readable picture of the class {name!r}.")
        partial[2].write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        for part, file in zip(partial, (rec, idx, names)):
            os.replace(part, file)
    finally:
        for part in partial:
            part.unlink(missing_ok=True)
    if broken:
        print(f"{root}: left out {len(broken)} of {len(paths)} files; the first: {broken[0]}")
    return written


def open_records(prefix, size=224, interpolation="bilinear", draft=False):
    """Open a RecordIO file without reading its pictures: each is decoded when a batch asks for it.

    Reads what `write_records`, MXNet's `im2rec.py` and GluonCV write.

    Args:
        prefix: the files' common name, with or without `.rec`.
        size, interpolation, draft: as for `read_image`.

    Returns:
        `LazyImages`; without a `.classes` file beside it the classes are named "0", "1", ... Indexing its images
        raises `BrokenImage`, which names the record, where a picture cannot be read.

    Raises:
        FileNotFoundError: the `.rec` file is missing.
        BrokenImage: the file is damaged.
        ValueError: a record has several labels, one that is no whole number, or one without a name in
            `.classes`; or an argument is one that `read_image` refuses.
    """
    check_interpolation(interpolation)
    rec = Path(str(prefix) if str(prefix).endswith(".rec") else f"{prefix}.rec")
    if not rec.is_file():
        raise FileNotFoundError(f"{rec}: no such file.")
    offsets, labels = scan_records(rec)
    wrong = np.flatnonzero(~((labels >= 0) & (labels < 2**24) & (labels == np.floor(labels))))  # float32: exact so far
    if len(wrong):
        raise ValueError(
            f"{rec}: record {wrong[0]} has the label {labels[wrong[0]]:g}; a class is a whole number from 0."
        )
    labels, names = labels.astype(np.int64), rec.with_suffix(".classes")
    if names.is_file():
        classes = tuple(names.read_text(encoding="utf-8").splitlines())
    else:
        classes = tuple(str(label) for label in range(labels.max() + 1))
    if labels.max() >= len(classes):
        wrong = np.flatnonzero(labels >= len(classes))[0]
        raise ValueError(
            f"{rec.stem}: label {wrong} is {labels[wrong]}; with {len(classes)} classes it must be 0 to "
            f"{len(classes) - 1}."
        )
    decode = record_decoder(rec, offsets, lambda content: read_image(content, size, interpolation, draft))
    return LazyImages(Decoded(decode, np.arange(len(labels)), height_and_width(size)), labels, classes, rec.stem)


def read_records(prefix, size=32, interpolation="bilinear", draft=False):
    """Load a RecordIO file into memory, all pictures cropped to one size.

    Args:
        prefix, size, interpolation, draft: as for `open_records`.

    Returns:
        `Images`.

    Raises:
        BrokenImage: a record holds no readable image; names the record.
        FileNotFoundError, BrokenImage, ValueError: as `open_records`.
    """
    opened = open_records(prefix, size, interpolation, draft)
    return Images(opened.images.load(), opened.labels, opened.classes, opened.name)


def scan_records(rec):
    """Find the records of a file. Their labels stand in them, so an index would save nothing.

    Args:
        rec: `Path` of the `.rec` file.

    Returns:
        (offsets, labels): list of N int, where each record begins; float array (N,).

    Raises:
        BrokenImage: the file is damaged, or has another number of records than the `.idx` file beside it.
        ValueError: a record has several labels.
    """
    offsets, labels, end, size = [], [], 0, rec.stat().st_size
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
        raise BrokenImage(f"{rec}: damaged after {len(labels)} records. Write the file anew.") from error
    if end > size or not labels:
        raise BrokenImage(f"{rec}: " + ("cut short. Copy or write it anew." if labels else "holds no record."))
    index = rec.with_suffix(".idx")
    if index.is_file() and (listed := len(index.read_text().splitlines())) != len(labels):
        raise BrokenImage(f"{rec}: holds {len(labels)} records, but {index.name} lists {listed}. Write both anew.")
    return offsets, np.array(labels)


def record_decoder(rec, offsets, picture):
    """Return a function from a record's number to its picture, which threads may call at once.

    Args:
        rec, offsets: a record file, and where its records begin.
        picture: function from the bytes of an image file to an array.
    """

    def decode(position):
        with open(rec, "rb") as file:  # opened anew: threads would share a file's position
            content, _ = _read_record(file, offsets[position])
        (several,) = struct.unpack_from("<I", content)
        try:
            return picture(content[24 + 4 * several :])
        except BrokenImage as error:
            raise BrokenImage(f"{rec}: record {position}: {error}") from error

    return decode


def _read_record(file, offset, most=None):
    """Return (content, offset of the next record); at most `most` bytes of the content where given.

    A record's bytes are cut where they hold the magic number themselves: the upper three bits of the second word
    are 0 for a whole record, 1, 2 and 3 for the first, middle and last part of a cut one.
    """
    parts = []
    while True:
        file.seek(offset)
        head = file.read(8)
        kind, length = divmod(struct.unpack_from("<I", head, 4)[0], 1 << 29)
        if head[:4] != RECORD_MAGIC or kind not in ((2, 3) if parts else (0, 1)):
            raise EOFError("no record begins here")
        wanted = length if kind or most is None else min(length, most)
        parts.append(file.read(wanted))
        if len(parts[-1]) < wanted:
            raise EOFError("the file ends within a record")
        offset += 8 + (length + 3) // 4 * 4
        if kind in (0, 3):
            return RECORD_MAGIC.join(parts), offset
