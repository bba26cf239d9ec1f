"""What becomes of archives and packages, and of those that are not as expected."""

import gzip
import io
import json
import os
import tarfile

from d2lcls.data.download.cache import DataUnavailable, fetch
from d2lcls.data.download.catalog import Download, Source
from d2lcls.data.download.sources import cifar_from_png, unpack_tar
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
    unpack_tar(tmp_path / "x.tar.gz", ["a.bin", "b.bin", "d.bin"], folder)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert written == {"x.tar.gz", "one/two/a.bin", "one/two/b.bin"}


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
    with pytest.raises(ValueError, match=r"data_batch_1.bin: pixels of shape \(3, 1000, 3\) for 3 labels"):
        cifar_from_png(tmp_path / "x.tgz", ["data_batch_1.bin"], tmp_path)


def test_the_debian_package_is_unpacked_without_installing_it(offer, program, tmp_path):
    for name, content in CONTENTS.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    program("apt-get", '[ "$1 $2" = "download some-package" ] && touch some-package_1.0_all.deb')
    program("dpkg-deb", f'[ "$1" = -x ] && mkdir -p "$3/usr/share" && cp {tmp_path}/*.gz "$3/usr/share"')
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
