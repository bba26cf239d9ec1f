"""Fetching a data set: once, whole, and with a clear word where it cannot be done."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from d2lcls.data.download.cache import DataUnavailable, fetch, verify
from d2lcls.data.download.dataset import Download, Source
from d2lcls.machine.files import cache_folder

import pytest
from local_server import ARCHIVE, CONTENTS, holds, sha1

CHILD = """
import os, pickle, sys
from d2lcls.data.download import catalog
from d2lcls.data.download.cache import fetch
dataset = pickle.loads(bytes.fromhex(sys.argv[1]))
catalog.DATASETS[dataset.name] = dataset
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
print("ready", flush=True)
print(fetch(dataset.name))
"""


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(dataset, *arguments, **environment):
    """Fetch the data set in another process, as this user or the one given."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, pickle.dumps(dataset).hex(), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_home_is_what_the_variable_says_or_in_the_users_cache(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "home"
    monkeypatch.delenv("D2LCLS_HOME")
    assert cache_folder() == Path.home() / ".cache" / "d2lcls"


def test_the_first_source_that_answers_is_used_and_nothing_is_left_over(server, offer):
    offer(server.source("/gone.tar.gz"), server.source(), server.source("/never.tar.gz"))
    assert verify("fake") == [f"{cache_folder() / 'fake' / name}: missing" for name in CONTENTS]
    assert holds(fetch("fake"))
    assert [path for path, _ in server.log] == ["/gone.tar.gz", "/good.tar.gz"]
    assert verify("fake") == []
    assert [path.name for path in (cache_folder() / ".staging").iterdir()] == ["fake.lock"]


def test_what_is_there_is_not_fetched_again_unless_forced(server, offer):
    offer(server.source())
    fetch("fake")
    fetch("fake")
    assert len(server.log) == 1
    fetch("fake", force=True)
    assert len(server.log) == 2


def test_two_processes_at_once_download_once(server, offer):
    dataset = offer(server.source())
    server.hold = threading.Event()
    children = [start(dataset), start(dataset)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    wait_for(lambda: server.log)
    time.sleep(0.5)  # time for the other one to come to the lock, or to the server if there were none
    server.hold.set()
    for child in children:
        output, errors = child.communicate(timeout=20)
        assert child.returncode == 0, errors
        assert output == f"{cache_folder() / 'fake'}\n"
    assert len(server.log) == 1 and holds(cache_folder() / "fake")


def test_a_killed_download_leaves_no_data_and_no_lock(server, offer):
    dataset = offer(server.source())
    server.hold = threading.Event()
    child = start(dataset)
    part = cache_folder() / ".staging" / "fake" / f"{sha1(ARCHIVE)}.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 0)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    server.hold.set()
    begin = part.stat().st_size
    assert len(verify("fake")) == 2 and 0 < begin < len(ARCHIVE)
    assert holds(fetch("fake"))
    assert server.log[-1][1] == f"bytes={begin}-"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a device without room, is Linux only")
def test_a_full_disk_is_said_in_one_sentence(server, offer):
    offer(server.source())
    staging = cache_folder() / ".staging" / "fake"
    staging.mkdir(parents=True)
    (staging / f"{sha1(ARCHIVE)}.part").symlink_to("/dev/full")  # a real ENOSPC, from the kernel
    with pytest.raises(OSError) as caught:
        fetch("fake")
    assert str(caught.value) == (
        f"Cannot store Fake in {cache_folder()}: the disk is full. Free some space (fetching takes up to 9 MB), "
        "or set D2LCLS_HOME to a writable folder with enough space."
    )


def test_once_there_is_room_a_download_goes_on(server, offer, small_disk, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(small_disk(64 << 10)))
    offer(server.source())
    with pytest.raises(
        OSError, match=r"Cannot store Fake in \S+disk: the disk is full. Free some space \(fetching takes"
    ):
        fetch("fake")
    small_disk(64 << 20)
    assert holds(fetch("fake"))
    assert server.log[-1][1].startswith("bytes=")  # not from the beginning


def test_a_file_in_place_of_the_cache_is_said_in_one_sentence(server, offer):
    offer(server.source())
    cache_folder().write_text("in the way")
    with pytest.raises(
        OSError,
        match=r"Cannot store Fake in .*home: the folder cannot be written \(.+\)\. .*"
        "up to 9 MB.*D2LCLS_HOME",
    ):
        fetch("fake")


@pytest.mark.parametrize("filled", [True, False])
def test_a_read_only_cache_works_if_it_is_complete_and_is_explained_if_not(server, offer, filled):
    dataset = offer(server.source())
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to other users
        os.chmod(folder, 0o755)
        cache = Path(folder) / "home"
        (cache / "fake").mkdir(parents=True)
        if filled:
            for name, content in CONTENTS.items():
                (cache / "fake" / name).write_bytes(content)
            (cache / ".staging" / "fake" / "work-of-a-killed-process").mkdir(parents=True)
        for path in (cache / "fake", cache):
            path.chmod(0o555)
        # modes mean nothing to root, so there the child becomes the user "nobody"
        child = start(dataset, *(["65534"] if os.getuid() == 0 else []), D2LCLS_HOME=str(cache))
        output, errors = child.communicate(timeout=20)
        cache.chmod(0o755)
        (cache / "fake").chmod(0o755)
    if filled:
        assert output == f"ready\n{cache / 'fake'}\n", errors
    else:
        assert child.returncode == 1 and "cannot be written (Permission denied)" in errors.splitlines()[-1]
    assert server.log == []


def test_when_all_sources_fail_each_has_its_reason_and_the_next_step_is_named(server, offer):
    dead = Source("dead", "web", (Download(f"http://127.0.0.1:{closed_port()}/x.tar.gz", sha1(ARCHIVE)),))
    offer(dead, server.source("/gone.tar.gz", "gone"))
    with pytest.raises(DataUnavailable) as caught:
        fetch("fake")
    assert str(caught.value).splitlines() == [
        "Fake could not be fetched from any of its sources:",
        "  dead (127.0.0.1): no connection",
        "  gone (127.0.0.1): HTTP 404 Not Found",
        "Try `d2lcls data get fake` when the network works, or `d2lcls data get fake --from FOLDER` with a folder that "
        "holds a.bin, b.bin.",
    ]


def test_offline_asks_nobody(server, offer, monkeypatch):
    offer(server.source())
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match="not asked, as D2LCLS_OFFLINE=1"):
        fetch("fake")
    assert server.log == []


def test_verify_names_every_kind_of_damage_and_fetch_repairs_it(server, offer):
    offer(server.source())
    folder = fetch("fake")
    (folder / "a.bin").write_bytes(CONTENTS["a.bin"][:-1] + bytes([CONTENTS["a.bin"][-1] ^ 1]))
    (folder / "b.bin").write_bytes(b"short")
    first, second = verify("fake")
    assert first.startswith(f"{folder / 'a.bin'}: has sha1 ") and first.endswith(sha1(CONTENTS["a.bin"]))
    assert second == f"{folder / 'b.bin'}: has 5 bytes, expected 100000"
    assert holds(fetch("fake"))


def test_an_unknown_name_is_refused_before_anything_is_written():
    for function in (fetch, verify):
        with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
            function("cifar_10")
    assert not cache_folder().exists()
