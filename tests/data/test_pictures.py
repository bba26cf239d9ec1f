"""Pictures are found wherever they are, and one that is broken does not stop the others."""

import io
import itertools
import os
import sys
import threading

from d2lcls.data import BrokenImage, find_pictures, read_batches, read_image

import numpy as np
import pytest
from PIL import Image

SUFFIXES = ["png", "jpg", "JPEG", "gif", "bmp", "webp", "tiff", "ppm"]


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 7, 3), value, dtype=np.uint8)).save(path)


def found(*names):
    """The paths that names lead to, and what was reported."""
    reports = []
    return [picture.name for picture in find_pictures(map(str, names), reports.append)], reports


@pytest.fixture
def folder(tmp_path):
    """A folder with a picture of each format, two below it, and what is no picture or hidden."""
    root = tmp_path / "photos"
    for suffix in SUFFIXES:
        save(root / f"1.{suffix}")
    save(root / "b" / "c" / "2.png")
    save(root / "a" / "3.png")
    for name in (".hidden.png", "a/._3.png", ".cache/4.png", "__MACOSX/5.png"):
        save(root / name)
    for name in ("notes.txt", "Thumbs.db", "b/desktop.ini", "none"):
        (root / name).write_text("x")
    return root


@pytest.fixture
def standard_input(monkeypatch):
    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))

    return give


def test_a_folder_is_searched_to_the_bottom_for_every_format(folder):
    paths, reports = found(folder)
    expected = [folder / f"1.{suffix}" for suffix in sorted(SUFFIXES)] + [folder / "a/3.png", folder / "b/c/2.png"]
    assert paths == list(map(str, expected)) and reports == []


def test_a_file_is_taken_whatever_its_name(folder):
    (folder / "a[1].png").write_bytes((folder / "1.png").read_bytes())  # not a pattern, as it exists
    names = [folder / "notes.txt", folder / "1.png", folder / "a[1].png", folder / ".hidden.png"]
    assert found(*names) == (list(map(str, names)), [])


def test_patterns_find_pictures_only(folder):
    assert found(folder / "*.jp*") == ([str(folder / "1.jpg")], [])
    assert found(folder / "1.[jJ]*")[0] == [str(folder / "1.JPEG"), str(folder / "1.jpg")]
    assert found(folder / "*")[0] == [str(folder / f"1.{suffix}") for suffix in sorted(SUFFIXES)]
    assert found(folder / "**" / "[23].png")[0] == [str(folder / "a/3.png"), str(folder / "b/c/2.png")]


def test_names_that_lead_nowhere_are_reported_and_the_others_found(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    paths, reports = found(tmp_path / "none.jpg", folder / "1.png", tmp_path / "empty", tmp_path / "*.png")
    assert paths == [str(folder / "1.png")]
    assert reports[0] == f"{tmp_path}/none.jpg: no such file or folder."
    assert reports[1].startswith(f"{tmp_path}/empty: no pictures in this folder")
    assert reports[2].startswith(f"{tmp_path}/*.png: no picture matches this pattern")


def test_links_are_followed_but_never_in_a_circle(folder, tmp_path):
    save(tmp_path / "elsewhere" / "6.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "a" / "itself").symlink_to(folder / "a")
    (folder / "a" / "gone.png").symlink_to(tmp_path / "gone.png")
    paths, _ = found(folder)
    assert str(folder / "linked/6.png") in paths and len(paths) == len(set(paths)) == len(SUFFIXES) + 4
    assert str(folder / "a/gone.png") in paths  # so that the broken link is reported


def test_pipes_in_a_folder_are_passed_over(folder):
    os.mkfifo(folder / "a" / "pipe.png")
    assert str(folder / "a" / "pipe.png") not in found(folder)[0]


def test_a_folder_is_searched_only_as_far_as_needed(folder):
    first = next(find_pictures([str(folder), str(folder / "none.png")], pytest.fail))
    assert first.name == str(folder / "1.JPEG")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_cannot_be_read_are_reported(folder):
    (folder / "a").chmod(0)
    paths, reports = found(folder)
    (folder / "a").chmod(0o755)
    assert str(folder / "b/c/2.png") in paths and reports == [f"{folder}/a: Permission denied"]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_standard_input_lists_files_and_folders(folder, standard_input, end):
    lines = [str(folder / "1.png"), "", str(folder / "a"), "none.jpg", str(folder / "[1].png"), str(folder / "b")]
    standard_input((end or "\n").join(lines).encode() + end.encode())
    paths, reports = found("-")
    assert paths == [str(folder / "1.png"), str(folder / "a/3.png"), str(folder / "b/c/2.png")]
    assert [report.partition(": ")[0] for report in reports] == ["none.jpg", str(folder / "[1].png")]


@pytest.mark.parametrize("first", ["BMW/1.png", "P6", "P5 2024/1.png", "GIF89a/1.png", "RIFF", "II*/1.png", "MM/1.png"])
def test_paths_that_begin_like_a_picture_are_paths(tmp_path, monkeypatch, standard_input, first):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "1.png")
    (tmp_path / first).parent.mkdir(exist_ok=True)
    (tmp_path / first).write_bytes((tmp_path / "1.png").read_bytes())
    standard_input(f"{first}\n1.png\n".encode())
    assert found("-") == ([first, "1.png"], [])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [1, 128, 255])
def test_standard_input_can_be_a_picture(tmp_path, standard_input, suffix, value):
    save(tmp_path / f"1.{suffix}", value)
    standard_input((tmp_path / f"1.{suffix}").read_bytes())
    pictures = list(find_pictures(["-"], pytest.fail))
    assert [picture.name for picture in pictures] == ["-"]
    np.testing.assert_array_equal(read_image(pictures[0].source), read_image(tmp_path / f"1.{suffix}"))


def test_a_ppm_with_a_comment_is_a_picture(standard_input):
    standard_input(b"P6\n# Created by GIMP\n2 1\n255\nabcdef")
    [picture] = find_pictures(["-"], pytest.fail)
    assert read_image(picture.source).tolist() == [[[97, 98, 99], [100, 101, 102]]]


@pytest.mark.parametrize("content", [b"a.jpg\0b.jpg\0", b"\x7fELF\x02\x01\x01\0\0\0", b"\0" * 1000])
def test_other_bytes_are_refused(standard_input, content):
    standard_input(content)
    with pytest.raises(
        BrokenImage, match="standard input: expected the paths of pictures, one per line, or one picture"
    ):
        list(find_pictures(["-"], lambda problem: None))


def test_empty_standard_input_is_reported(standard_input):
    standard_input(b"\n")
    paths, reports = found("-")
    assert paths == [] and len(reports) == 1 and reports[0].startswith("standard input: empty")


def test_a_list_is_read_line_by_line(folder, monkeypatch):
    read_end, write_end = os.pipe()
    monkeypatch.setattr(sys, "stdin", open(read_end))  # noqa: SIM115
    pictures = find_pictures(["-"], pytest.fail)
    for suffix in ("png", "bmp"):
        os.write(write_end, f"{folder}/1.{suffix}\n".encode())
        result = []
        thread = threading.Thread(target=lambda: result.append(next(pictures).name), daemon=True)
        thread.start()
        thread.join(20)
        assert result == [f"{folder}/1.{suffix}"]  # although the pipe is open and more may come
    os.close(write_end)
    assert list(pictures) == []
    sys.stdin.close()


def test_names_that_are_no_utf8_are_found_unchanged(folder, standard_input):
    path = os.fsencode(folder) + b"/\xff.png"
    with open(path, "wb") as file:
        file.write((folder / "1.png").read_bytes())
    standard_input(path + b"\n")
    assert found("-") == ([os.fsdecode(path)], []) and os.fsdecode(path) in found(folder)[0]


def test_batches_hold_pictures_in_order_and_the_reason_for_each_that_is_broken(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", 10 * number)
    (tmp_path / "2.png").write_bytes(b"nothing")
    (tmp_path / "3.png").unlink()
    (tmp_path / "3.png").symlink_to(tmp_path / "gone")
    batches = list(read_batches(find_pictures([str(tmp_path)], pytest.fail), read_image, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    pictures = list(itertools.chain(*batches))
    assert [picture.name for picture in pictures] == [str(tmp_path / f"{number}.png") for number in range(5)]
    assert [None if p.image is None else int(p.image.max()) for p in pictures] == [0, 10, None, None, 40]
    assert pictures[2].problem.startswith(f"{tmp_path}/2.png: cannot be read as an image")
    assert pictures[3].problem == f"{tmp_path}/3.png: No such file or directory"


def test_only_one_batch_is_decoded_at_a_time(tmp_path):
    for number in range(10):
        save(tmp_path / f"{number}.png")
    read = []
    batches = read_batches(
        find_pictures([str(tmp_path)], pytest.fail), lambda path: read.append(path) or np.empty(1), 3
    )
    next(batches)
    assert len(read) == 3
    next(batches)
    assert len(read) == 6
