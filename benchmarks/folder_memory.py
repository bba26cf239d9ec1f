"""How much memory does training on photographs need, with 1,000 and with 100,000 of them?

`d2lcls train` runs for one epoch on a folder, on a CSV list and on a RecordIO file of 1,000 and of 100,000 entries,
each time in a process of its own, whose peak of resident memory is measured. The entries are the same 347 photographs
over and over: hard links in the folder, repeated lines in the list, copies in the record file. Only their number
matters, because no picture is kept in memory. They are decoded at 16 pixels, to keep it short; decoded and in memory,
100,000 pictures of that size would take 77 MB. Writes results/folder_memory.json. About five minutes on two cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls.book import results
from d2lcls.data.download.sample import FOLDER
from d2lcls.data.formats.records import record_reader, scan_records

from mxnet import recordio

FEW, MANY, CLASSES, SIDE = 1_000, 100_000, 100, 16
TRAIN = ("--size", SIDE, "--epochs", 1, "--batch-size", 250, "--augment", "none", "--lr", 0.01, "--ctx", "cpu")


def main():
    """Measure each kind of source with few and with many entries, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    peaks = {kind: {FEW: [], MANY: []} for kind in ("folder", "list", "records")}
    with tempfile.TemporaryDirectory() as work:
        for entries in (FEW, MANY):
            write_sources(Path(work, str(entries)), entries)
        for _ in range(rounds):
            for kind, name in (("folder", "folder"), ("list", "list.csv"), ("records", "packed.rec")):
                for entries in (FEW, MANY):
                    peaks[kind][entries].append(peak_memory(Path(work, str(entries), name)))
                    print(f"{kind}, {entries:,} entries: {peaks[kind][entries][-1]:.1f} MB", flush=True)
    print(
        results.write(
            "folder_memory",
            "python benchmarks/folder_memory.py",
            {
                "peak_mb": {
                    kind: {str(entries): results.spread(values) for entries, values in found.items()}
                    for kind, found in peaks.items()
                },
                "growth_mb": {kind: max(found[MANY]) - min(found[FEW]) for kind, found in peaks.items()},
                "in_memory_mb": MANY * SIDE * SIDE * 3 / 1e6,
                "rounds": rounds,
                "units": {
                    "peak_mb": "MB, the most that `d2lcls train` ever had resident in an epoch, by number of entries",
                    "growth_mb": f"MB, the highest peak with {MANY:,} entries less the lowest with {FEW:,}",
                    "in_memory_mb": f"MB of {MANY:,} decoded pictures of {SIDE} x {SIDE} pixels",
                },
            },
        )
    )


def write_sources(folder, entries):
    """Write a folder of hard links, a CSV list and a RecordIO file with so many entries."""
    rec = FOLDER / "grocery" / "train.rec"
    offsets, _, _ = scan_records(rec)
    content, originals = record_reader(rec, offsets), []
    (folder / "originals").mkdir(parents=True)
    for position in range(len(offsets)):
        originals.append(folder / "originals" / f"{position}.jpg")
        originals[-1].write_bytes(content(position))
    lines, records = [], recordio.MXIndexedRecordIO(str(folder / "packed.idx"), str(folder / "packed.rec"), "w")
    for number in range(entries):
        original, name = originals[number % len(originals)], f"class{number % CLASSES:03d}"
        link = folder / "folder" / name / f"photograph_{number:08d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, link)
        lines.append(f"originals/{original.name},{name}\n")
        header = recordio.IRHeader(0, float(number % CLASSES), number, 0)
        records.write_idx(number, recordio.pack(header, content(number % len(originals))))
    records.close()
    (folder / "list.csv").write_text("".join(lines))


def peak_memory(source):
    """Train on a source for an epoch, in a process of its own, and return its peak of resident memory in MB."""
    with tempfile.TemporaryDirectory() as run:
        command = [sys.executable, "-m", "d2lcls", "train", "--dataset", source, *TRAIN, "--out", Path(run, "run")]
        child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"training on {source} failed: {' '.join(map(str, command))}")
    return usage.ru_maxrss * 1024 / 1e6  # Linux counts in KiB


if __name__ == "__main__":
    main()
