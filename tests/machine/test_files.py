import os
import subprocess
import sys

from d2lcls.machine.files import check_new_folder, check_writable, new_folder, write_atomically

import pytest


def test_a_file_appears_with_its_folders(tmp_path):
    path = tmp_path / "a/b/file"
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and list(path.parent.iterdir()) == [path]
    write_atomically(str(path), lambda file: file.write(b"newer"))
    assert path.read_bytes() == b"newer"


def test_nothing_is_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b" and half")

    write_atomically(path, write)
    assert path.read_bytes() == b"half and half"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("wrong"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failed_write_leaves_things_as_they_were(tmp_path, error, old):
    path = tmp_path / "file"
    if old:
        path.write_bytes(old)

    def write(file):
        file.write(b"new")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert list(tmp_path.iterdir()) == ([path] if old else [])
    assert not old or path.read_bytes() == old


def test_a_full_disk_is_named(tmp_path):
    def write(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="file: cannot be written .No space left on device.. Free some space") as caught:
        write_atomically(tmp_path / "file", write)
    assert caught.value.errno == 28


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="inside: cannot be written .*choose another folder"):
        write_atomically(tmp_path / "file/inside", lambda file: None)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder: cannot be written"):
        write_atomically(tmp_path / "folder", lambda file: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        f"import os\nfrom d2lcls.machine.files import write_atomically\n"
        f"write_atomically({str(path)!r}, lambda file: (file.write(b'new'), file.flush(), os.kill(os.getpid(), 9)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, env=os.environ).returncode == -9
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("wrong"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", ["", "models", "models/new"])
def test_a_folder_that_fails_leaves_things_as_they_were(tmp_path, error, before):
    (tmp_path / before).mkdir(parents=True, exist_ok=True)
    expected = sorted(tmp_path.rglob("*"))
    with pytest.raises(type(error)), new_folder(tmp_path / "models/new") as folder:
        (folder / "file").write_bytes(b"half")
        (folder / ".hidden").write_bytes(b"half")
        (folder / "sub/sub").mkdir(parents=True)
        raise error
    assert sorted(tmp_path.rglob("*")) == expected
    with new_folder(str(tmp_path / "models/new")) as folder:  # and a second try succeeds
        (folder / "file").write_bytes(b"whole")
    assert (tmp_path / "models/new/file").read_bytes() == b"whole"


def test_a_failed_folder_spares_what_others_put_beside_it(tmp_path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "models/new"):
        (tmp_path / "models/other").mkdir()
        raise RuntimeError
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["other"]


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    for used in (tmp_path, tmp_path / "file"):
        for refuses in (check_new_folder, lambda path: new_folder(path).__enter__()):
            with pytest.raises(
                ValueError, match="already exists and is not an empty folder. Choose another folder, or remove it"
            ):
                refuses(used)
    with pytest.raises(NotADirectoryError, match="new: cannot be written, because .*file is not a folder"):
        check_new_folder(tmp_path / "file/new")
    assert check_new_folder(tmp_path / "a/b") == tmp_path / "a/b" and not (tmp_path / "a").exists()


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))  # root may write anywhere
    with pytest.raises(PermissionError, match=f"a/b: cannot be written, because {tmp_path} is read-only"):
        check_writable(tmp_path / "a/b")
