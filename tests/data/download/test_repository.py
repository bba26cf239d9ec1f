"""A data set of many small files: fetched as the archive of a repository or copied from a folder, each file checked."""

import dataclasses
import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

from d2lcls.commands.data import SHOWN
from d2lcls.data.download import catalog
from d2lcls.data.download.cache import DataUnavailable, fetch, verify
from d2lcls.data.download.dataset import Download, File, Source
from d2lcls.data.download.grocery import LIST, read_list
from d2lcls.machine.files import cache_folder

import numpy as np
import pytest
from local_server import dataset_of
from test_fetch import start, wait_for

GROCERY = os.environ.get("D2LCLS_GROCERY", "")  # a folder with the files of the data set
TOP = f"Repository-{'0' * 40}"  # GitHub's folder is named after repository and commit
LONG = "train/Packages/Juice/" + "-".join(["God-Morgon-Orange-Red-Grapefruit-Juice"] * 2) + "/001.jpg"
ADDRESS = "/archive.tar.gz"
CONTENTS = {
    name: np.random.default_rng(seed).bytes(size)
    for seed, (name, size) in enumerate(
        [("train/Fruit/Kiwi/001.jpg", 300_000), (LONG, 200_000), ("test/Fruit/Kiwi/001.jpg", 100_000), ("LICENSE", 900)]
    )
}
REST = {"README.md": b"about", "dataset/iconic/Fruit/Kiwi/Kiwi.jpg": b"iconic", "samples/001.jpg": b"sample"}


def blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def in_repository(contents):
    return {f"{'' if name == 'LICENSE' else 'dataset/'}{name}": content for name, content in contents.items()} | REST


def packed(contents, level=6):
    """Pack files as `git archive` does: a global header with the commit, then ustar."""
    stream = io.BytesIO()
    stream.write(tarfile.TarInfo.create_pax_global_header({"comment": "0" * 40}))
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{TOP}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), level)


ARCHIVE = packed(in_repository(CONTENTS))


@pytest.fixture
def repository(server, monkeypatch):
    """A data set in the catalogue, as "fake", whose source serves ARCHIVE without a checksum of it."""
    server.pages[ADDRESS] = ARCHIVE
    source = Source("repository", "web", (Download(server.address + ADDRESS, None),))
    files = tuple(
        File(name, len(content), blob(content), name.split("/")[0], True) for name, content in CONTENTS.items()
    )
    dataset = dataclasses.replace(dataset_of(source), files=files)
    monkeypatch.setitem(catalog.DATASETS, "fake", dataset)
    return dataset


def part():
    return cache_folder() / ".staging" / "fake"


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_the_files_of_the_list_are_unpacked_and_no_others(server, repository):
    assert tree(fetch("fake")) == CONTENTS
    assert verify("fake") == [] and len(server.log) == 1
    fetch("fake")
    assert len(server.log) == 1


def test_git_itself_packs_such_an_archive(server, repository, tmp_path):
    def git(*words):
        return subprocess.run(["git", "-C", tmp_path / "made", *words], check=True, capture_output=True).stdout

    try:
        subprocess.run(["git", "init", "-q", tmp_path / "made"], check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    for name, content in in_repository(CONTENTS).items():
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "files")
    server.pages[ADDRESS] = git("archive", "--format=tar.gz", f"--prefix={TOP}/", "HEAD")
    assert tree(fetch("fake")) == CONTENTS
    listed = git("ls-tree", "-r", "HEAD", "--", "dataset/train").decode().split()
    assert [file.sha1 for file in repository.files if file.split == "train"] == listed[2::4]


def test_an_interrupted_download_goes_on(server, repository):
    server.cut = [100_000, 200_000]
    assert tree(fetch("fake")) == CONTENTS
    assert [begun for _, begun in server.log] == [None, "bytes=100000-", "bytes=300000-"]


def test_where_the_server_always_begins_at_the_start_the_file_is_whole_all_the_same(server, repository):
    server.ranges, server.cut = False, [100_000]
    assert tree(fetch("fake")) == CONTENTS


def test_a_killed_download_goes_on(server, repository):
    server.hold = threading.Event()
    child = start(repository)
    wait_for(lambda: any(path.stat().st_size for path in part().glob("*.part")))
    child.send_signal(signal.SIGKILL)
    child.communicate()
    server.hold.set()
    begun = next(part().glob("*.part")).stat().st_size
    assert len(verify("fake")) == 4 and 0 < begun < len(ARCHIVE)
    assert tree(fetch("fake")) == CONTENTS
    assert server.log[-1][1] == f"bytes={begun}-" and [path.name for path in part().parent.iterdir()] == ["fake.lock"]


def test_an_archive_that_was_packed_anew_in_the_meantime_is_fetched_from_the_start(server, repository):
    server.cut = [100_000, 0]  # the second try receives nothing: the command ends
    with pytest.raises(DataUnavailable, match="connection broke off"):
        fetch("fake")
    server.pages[ADDRESS] = packed(in_repository({"train/Fruit/Kiwi/000.jpg": bytes(50_000)} | CONTENTS), level=1)
    assert tree(fetch("fake")) == CONTENTS
    assert [begun for _, begun in server.log] == [None, "bytes=100000-", "bytes=100000-", None]


@pytest.mark.parametrize("damage", [lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: c[:-1], None])
def test_a_wrong_or_missing_file_is_named(server, repository, damage):
    contents = {name: content for name, content in CONTENTS.items() if name != LONG}
    if damage:
        contents[LONG] = damage(CONTENTS[LONG])
    server.pages[ADDRESS] = packed(in_repository(contents))
    with pytest.raises(DataUnavailable, match=rf"sent other data: \S+{LONG}: (has|missing)"):
        fetch("fake")
    assert not (cache_folder() / "fake").exists() and not part().exists()


@pytest.mark.parametrize(
    "archive",
    [b"junk" * 1000, ARCHIVE[:300_000], gzip.compress(b"junk" * 1000)],
    ids=["no archive", "cut off", "no tar"],
)
def test_what_is_no_archive_is_refused_and_not_kept(server, repository, archive):
    server.pages[ADDRESS] = archive
    with pytest.raises(DataUnavailable, match="sent something else than expected"):
        fetch("fake")
    assert not part().exists()


def test_an_answer_much_longer_than_the_files_is_not_received(server, repository):
    server.pages[ADDRESS] = bytes(4 << 20)
    with pytest.raises(DataUnavailable, match="announced 4,194,304 bytes, at most 1,6"):
        fetch("fake")


def test_a_hostile_archive_writes_nothing_outside(server, repository, tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive:
        link = tarfile.TarInfo("train")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        for name in ("../../evil.jpg", "train/../../LICENSE/x", "/train/Fruit/Kiwi/../evil.jpg", "train"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
        for name, content in CONTENTS.items():  # looked up in the list, whatever is in front of it
            info = tarfile.TarInfo(f"../../{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    server.pages[ADDRESS] = stream.getvalue()
    assert tree(fetch("fake")) == CONTENTS
    assert {path.name for path in tmp_path.iterdir()} == {"home"} and not list(tmp_path.rglob("*evil*"))


# --from


@pytest.fixture
def origin(tmp_path):
    for name, content in (CONTENTS | {"notes.txt": b"mine"}).items():
        path = tmp_path / "origin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "origin"


def test_a_folder_takes_the_place_of_the_sources(server, repository, origin, monkeypatch):
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    assert tree(fetch("fake", origin=origin)) == CONTENTS
    assert server.log == [] and tree(origin) == CONTENTS | {"notes.txt": b"mine"}
    assert [path.name for path in part().parent.iterdir()] == ["fake.lock"]


def test_a_wrong_or_missing_file_of_a_folder_is_named(repository, origin):
    (origin / LONG).write_bytes(bytes(200_000))
    with pytest.raises(
        ValueError, match=rf"1 of the 4 files of Fake .*{LONG}: has sha1 .*holds train/, test/, LICENSE"
    ):
        fetch("fake", origin=origin)
    (origin / "train/Fruit/Kiwi/001.jpg").unlink()
    with pytest.raises(ValueError, match="2 of the 4 files of Fake .*train/Fruit/Kiwi/001.jpg: missing"):
        fetch("fake", origin=origin)
    with pytest.raises(
        FileNotFoundError, match="nowhere: no such folder. Expected one that holds train/, test/, LICENSE"
    ):
        fetch("fake", origin=origin / "nowhere")
    assert not cache_folder().exists()


def test_a_full_disk_is_said_and_leaves_nothing(repository, origin, small_disk, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(small_disk(400 << 10)))
    with pytest.raises(OSError, match="Cannot store Fake in .*the disk is full"):
        fetch("fake", origin=origin)
    assert not (cache_folder() / "fake").exists() and not part().exists()
    small_disk(4 << 20)
    assert tree(fetch("fake", origin=origin)) == CONTENTS


# The list


def test_the_tool_makes_the_list_of_a_folder(origin, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "tools")
    from make_grocery import write_list

    photographs = [name for name in CONTENTS if name != "LICENSE"]
    for split in ("train", "val", "test"):
        lines = [f"{name}, 0, 0\n" for name in photographs if name.startswith(split)]
        (origin / f"{split}.txt").write_text("".join(lines))
    write_list(origin, tmp_path / "list.gz")
    files = read_list(tmp_path / "list.gz")
    assert [file.name for file in files] == [*photographs, "train.txt", "val.txt", "test.txt", "LICENSE"]
    assert [file.split for file in files] == ["train", "train", "test", "", "", "", ""]
    for file in files:
        content = (origin / file.name).read_bytes()
        assert (file.size, file.sha1) == (len(content), blob(content)) and file.blob


@pytest.mark.skipif(not GROCERY, reason="D2LCLS_GROCERY names no folder with the files of Grocery Store")
def test_the_list_in_the_package_is_that_of_the_data_set(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "tools")
    from make_grocery import write_list

    write_list(Path(GROCERY), tmp_path / "list.gz")
    assert gzip.decompress((tmp_path / "list.gz").read_bytes()) == gzip.decompress(LIST.read_bytes())


@pytest.mark.skipif(not GROCERY, reason="D2LCLS_GROCERY names no folder with the files of Grocery Store")
def test_the_whole_data_set_from_an_archive(server, monkeypatch, capsys):
    grocery = catalog.DATASETS["grocery"]
    contents = {file.name: Path(GROCERY, file.name).read_bytes() for file in grocery.files}
    server.pages[ADDRESS], server.cut = packed(in_repository(contents), level=1), [50_000_000]
    del contents
    source = Source("repository", "web", (Download(server.address + ADDRESS, None),))
    monkeypatch.setitem(catalog.DATASETS, "grocery", dataclasses.replace(grocery, sources=(source,)))
    folder = fetch("grocery")
    assert [begun for _, begun in server.log] == [None, "bytes=50000000-"]
    assert verify("grocery") == [] and len(tree(folder)) == len(grocery.files) == 5425


def test_a_data_set_with_thousands_of_missing_files_does_not_flood_the_screen(tmp_path):
    words = [sys.executable, "-m", "d2lcls", "data", "check", "grocery"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "D2LCLS_HOME": str(tmp_path)})
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and len(lines) == SHOWN + 1 and "5,415 more files" in lines[-1], done.stderr
