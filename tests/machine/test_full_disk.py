"""A full disk, or a limit of file size, becomes one line with a path; nothing incomplete stays, nothing old is lost."""

import errno
import os
import subprocess
import sys
import tempfile

from d2lcls.machine.child import in_child
from d2lcls.machine.files import hold_folder, new_folder, write_atomically
from d2lcls.machine.full_disk import DiskFull, naming_full_disk
from d2lcls.machine.temporary import temporary_folder

import pytest

MB = 1_000_000


def test_a_file_that_does_not_fit(small_disk):
    disk = small_disk(4 << 20)
    write_atomically(disk / "a.npz", b"old")
    expected = r"a.npz: cannot be written \(No space left on device; 5.00 MB are needed, 4.19 MB are free\)\. Free some"
    with pytest.raises(DiskFull, match=expected) as caught:
        write_atomically(disk / "a.npz", bytes(5 * MB))
    assert caught.value.errno == errno.ENOSPC
    assert (disk / "a.npz").read_bytes() == b"old" and len(list(disk.iterdir())) == 1
    write_atomically(disk / "a.npz", bytes(2 * MB))
    assert (disk / "a.npz").stat().st_size == 2 * MB


def test_a_folder_that_does_not_fit(small_disk):
    disk = small_disk(1 << 20)
    with (
        pytest.raises(DiskFull, match=r"disk/models/new: cannot be written"),
        new_folder(disk / "models/new") as folder,
    ):
        (folder / "model").write_bytes(bytes(2 * MB))
    with pytest.raises(DiskFull, match=r"disk/models/new/a: .*needed"), new_folder(disk / "models/new") as folder:
        write_atomically(folder / "a", bytes(2 * MB))
    assert list(disk.iterdir()) == []


def test_a_folder_that_exists_is_emptied(small_disk):
    folder = small_disk(1 << 20) / "model"
    folder.mkdir()
    with pytest.raises(DiskFull, match="disk/model: cannot be written"), new_folder(folder) as path:
        (path / "model").write_bytes(bytes(2 * MB))
    assert list(folder.iterdir()) == []


def test_no_room_for_a_lock(small_disk):
    disk = small_disk(4096)
    (disk / "full").write_bytes(bytes(4096))
    with pytest.raises(DiskFull, match="disk/run: cannot be written"), hold_folder(disk / "run"):
        pass
    assert [path.name for path in disk.iterdir()] == ["full"]


def test_the_folder_for_temporary_files_is_named(small_disk, monkeypatch):
    disk = small_disk(1 << 20)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    expected = r"disk: cannot be written \(No space left on device.*set TMPDIR to a folder on another disk"
    with pytest.raises(DiskFull, match=expected), temporary_folder() as folder:
        (folder / "a").write_bytes(bytes(2 * MB))
    with pytest.raises(DiskFull, match=r"; 2.00 MB are needed, 1.05 MB are free"), temporary_folder(needed=2 * MB):
        pytest.fail("there is no room")
    with pytest.raises(DiskFull, match=expected):
        in_child(len, bytes(2 * MB))
    assert list(disk.iterdir()) == []


def test_another_place_keeps_its_name(tmp_path, small_disk):
    disk = small_disk(1 << 20)
    with pytest.raises(DiskFull, match="disk/a: cannot be written"), new_folder(tmp_path / "model"):
        write_atomically(disk / "a", bytes(2 * MB))
    with pytest.raises(DiskFull, match="disk/a: cannot be written"), temporary_folder():
        write_atomically(disk / "a", bytes(2 * MB))


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EFBIG])
def test_quotas_and_limits(tmp_path, number):
    expected = rf"{tmp_path}: cannot be written \({os.strerror(number)}\)"
    with pytest.raises(DiskFull, match=expected) as caught, naming_full_disk(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), RuntimeError("wrong")])
def test_other_errors_stay_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path):
        raise error
    assert caught.value is error


def test_what_a_compiler_says(tmp_path):
    with pytest.raises(DiskFull, match=f"{tmp_path}: cannot be written"), naming_full_disk(tmp_path):
        raise RuntimeError("/usr/bin/ld: final link failed: No space left on device\ncollect2: ld returned 1")


def test_a_limit_of_file_size(tmp_path):
    code = (
        "import resource, sys\nfrom d2lcls.machine.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try:\n    write_atomically(sys.argv[1], bytes(200_000))\nexcept OSError as error:\n    print(error)"
    )
    path = tmp_path / "file"
    path.write_bytes(b"old")
    child = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (child.returncode, child.stderr) == (0, "")
    assert f"{path}: cannot be written (File too large)" in child.stdout
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
