"""Damaged files of every kind: each is opened or refused in one line, within five seconds and bounded memory."""

import copy
import json
import random
import select
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from readers import READERS
from valid import write_valid

OPENER = Path(__file__).with_name("opener.py")
SECONDS = 5


class Opener:
    """The process of opener.py, started again when it ends or hangs."""

    def __init__(self):
        self.process = None

    def open(self, kind, path):
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", OPENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self.process.stdin.write(json.dumps([kind, str(path)]) + "\n")
        self.process.stdin.flush()
        limit = SECONDS if self.started else 60  # the first one imports MXNet
        self.started = True
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.stop()
            return f"more than {limit} s"
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.stop()
            return f"the process ended with {code}"
        return json.loads(line)

    started = False

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process, self.started = None, False


@pytest.fixture(scope="module")
def opener():
    opener = Opener()
    yield opener
    opener.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_valid(tmp_path_factory.mktemp("files"))


VALUES = [None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e300, 0.5, "", "a", "\0", "\ud800", "(1,)", "9" * 400]
VALUES += [[], {}, [[]], [1, 2], {"a": 1}, ["a"] * 50]


def mutate_json(content, generator):
    """Return JSON that differs: values that are replaced, missing, or there under another name."""
    holder = [json.loads(content)]
    for _ in range(generator.randint(1, 3)):
        node, key = holder, 0
        while isinstance(node[key], (dict, list)) and node[key] and generator.random() < 0.9:
            node = node[key]
            key = generator.choice(list(node) if isinstance(node, dict) else range(len(node)))
        kind = generator.randrange(6) if node is not holder else 0
        if kind == 1:
            del node[key]
        elif kind == 2 and isinstance(node, dict):
            node[str(generator.choice(VALUES))] = node.pop(key)
        elif kind == 3 and isinstance(node, list):
            node.insert(key, copy.deepcopy(generator.choice(node)))
        else:
            node[key] = copy.deepcopy(generator.choice(VALUES))
    return json.dumps(holder[0]).encode()


def mutate(content, generator):
    """Return a file that differs: flipped bits, a cut, a splice, an extreme number, or a part that comes twice."""
    if content[:1] == b"{" and generator.random() < 0.7:
        return mutate_json(content, generator)
    data = bytearray(content)
    for _ in range(generator.randint(1, 3)):
        kind, at = generator.randrange(6), generator.randrange(len(data) or 1)
        if kind == 0:
            for _ in range(generator.randint(1, 8)):
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            to = generator.randrange(len(data) or 1)
            data[at:at] = data[to : to + generator.randint(1, 64)]
        elif kind == 3:
            number = generator.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10_000_000))
            data[at : at + 8] = struct.pack("<Q", number)
        elif kind == 4:
            number = generator.choice((0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 24))
            data[at : at + 4] = struct.pack(generator.choice(("<I", ">I")), number)
        else:
            data[at : at + 1] = generator.choice((b"[", b"{", b'"', b"-1", b"1e999", b"9" * 30, b"null", b"\xff"))
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_damaged_files_are_opened_or_refused(opener, files, tmp_path, kind, count):
    target = shutil.copytree(files[kind].parent, tmp_path / "files") / files[kind].name
    content, generator, outcomes = files[kind].read_bytes(), random.Random(kind), Counter()
    assert opener.open(kind, target) == "opened"
    for _ in range(count):
        target.write_bytes(mutate(content, generator))
        outcomes[opener.open(kind, target)[:300]] += 1
    print(f"{kind}: {dict(outcomes)}")
    assert outcomes.keys() <= {"opened", "refused"}
