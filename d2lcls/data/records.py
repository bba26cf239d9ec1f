"""RecordIO: many pictures in one file, the form that MXNet's own tools read and write.

A record set is three files: `name.rec` holds the records, `name.idx` says where each begins, and
`name.classes` (ours, a class name a line) says what the labels mean.
"""

import os
import struct
from pathlib import Path

import numpy as np

from d2lcls.data.datasets import Images
from d2lcls.data.folders import list_folder
from d2lcls.data.images import BrokenImage, open_image, read_image


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


def read_records(prefix, size=32, interpolation="bilinear"):
    """Load a RecordIO file into memory, all pictures cropped to one size.

    Reads what `write_records`, MXNet's `im2rec.py` and GluonCV write.

    Args:
        prefix: the files' common name, with or without `.rec`.
        size: int or (height, width), as for `read_image`.
        interpolation: "nearest", "bilinear" or "bicubic".

    Returns:
        `Images`; without a `.classes` file beside it the classes are named "0", "1", ...

    Raises:
        FileNotFoundError: the `.rec` file is missing.
        BrokenImage: the file is damaged or a record holds no readable image; names the record.
        ValueError: a record has several labels, one that is no whole number, or one without a name in
            `.classes`.
    """
    import mxnet as mx
    from mxnet import recordio

    prefix = str(prefix)[:-4] if str(prefix).endswith(".rec") else str(prefix)
    rec = Path(f"{prefix}.rec")
    if not rec.is_file():
        raise FileNotFoundError(f"{rec}: no such file.")
    images, labels = [], []
    reader = recordio.MXRecordIO(str(rec), "r")
    try:
        while (record := reader.read()) is not None:
            try:
                header, content = recordio.unpack(record)
            except (ValueError, struct.error) as error:
                raise BrokenImage(f"{rec}: record {len(images)} is damaged ({error}). "
                                  "Write the file anew.") from error
            if np.size(header.label) != 1:
                raise ValueError(f"{rec}: record {len(images)} has {np.size(header.label)} labels; "
                                 "a classifier needs one a picture.")
            try:
                images.append(read_image(content, size, interpolation))
            except BrokenImage as error:
                raise BrokenImage(f"{rec}: record {len(images)}: {error}") from error
            labels.append(_class_of(np.ravel(header.label)[0], rec, len(images) - 1))
    except mx.base.MXNetError as error:
        raise BrokenImage(f"{rec}: damaged after {len(images)} records. Write the file anew.") from error
    finally:
        reader.close()
    if not images:
        raise BrokenImage(f"{rec}: holds no record.")
    index = Path(f"{prefix}.idx")
    if index.is_file() and (listed := len(index.read_text().splitlines())) != len(images):
        raise BrokenImage(f"{rec}: holds {len(images)} records, but {index.name} lists {listed}. "
                          "Write both anew.")
    names = Path(f"{prefix}.classes")
    if names.is_file():
        classes = tuple(names.read_text(encoding="utf-8").splitlines())
    else:
        classes = tuple(str(label) for label in range(max(labels) + 1))
    return Images(np.stack(images), np.array(labels, dtype=np.int64), classes, rec.stem)


def _class_of(label, rec, record):
    if not 0 <= label < 2**24 or label != int(label):  # labels are float32, exact up to 2**24
        raise ValueError(f"{rec}: record {record} has the label {label}; a class is a whole number from 0.")
    return int(label)
