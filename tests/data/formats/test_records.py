import random
import subprocess
import sys
from pathlib import Path

from d2lcls.data import BrokenImage, load, load_folder, open_records, read_records, write_records
from d2lcls.machine.full_disk import DiskFull

import mxnet as mx
import numpy as np
import pytest
from mxnet import recordio
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("ant/1.png", "ant/2.png", "bee/1.jpg", "wasp/1.png", "wasp/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 26, 3), dtype=np.uint8)).save(root / name)
    return root


@pytest.fixture
def records(photos, tmp_path):
    write_records(photos, tmp_path / "set")
    return tmp_path / "set.rec"


def write_by_hand(path, labels, content=None):
    """Records as MXNet's own writer makes them, of one grey picture."""
    stream = mx.recordio.MXRecordIO(str(path), "w")
    for number, label in enumerate(labels):
        picture = np.full((8, 8, 3), 10 * number, dtype=np.uint8)
        header = recordio.IRHeader(0, label, number, 0)
        stream.write(
            recordio.pack_img(header, picture, img_fmt=".png") if content is None else recordio.pack(header, content)
        )
    stream.close()


@pytest.mark.parametrize("size, interpolation", [(16, "bilinear"), ((12, 20), "bicubic")])
def test_a_round_trip_is_bit_for_bit_load_folder(photos, tmp_path, size, interpolation):
    assert write_records(photos, tmp_path / "deep" / "set") == 5
    for prefix in (tmp_path / "deep" / "set", str(tmp_path / "deep" / "set.rec")):
        back, direct = read_records(prefix, size, interpolation), load_folder(photos, size, interpolation=interpolation)
        np.testing.assert_array_equal(back.images, direct.images)
        np.testing.assert_array_equal(back.labels, direct.labels)
        assert back.labels.dtype == np.int64 and back.classes == direct.classes and back.name == "set"


def test_the_files_bytes_are_kept(photos, tmp_path):
    write_records(photos, tmp_path / "set")
    reader = recordio.MXIndexedRecordIO(str(tmp_path / "set.idx"), str(tmp_path / "set.rec"), "r")
    header, content = recordio.unpack(reader.read_idx(2))
    assert content == (photos / "bee" / "1.jpg").read_bytes() and header.label == 1.0 and header.id == 2
    reader.close()


def test_nothing_but_the_record_set_is_written(photos, tmp_path):
    write_records(photos, tmp_path / "out" / "set")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["set.classes", "set.idx", "set.rec"]
    assert (tmp_path / "out" / "set.classes").read_text() == "ant\nbee\nwasp\n"


def test_mxnets_iterator_reads_them(photos, tmp_path):
    for path in photos.rglob("*.jpg"):  # its decoder differs from Pillow's in a last bit of JPEG
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    write_records(photos, tmp_path / "set")
    iterator = mx.io.ImageRecordIter(
        path_imgrec=str(tmp_path / "set.rec"), data_shape=(3, 20, 26), batch_size=5, preprocess_threads=1, shuffle=False
    )
    batch = next(iterator)
    data = load_folder(photos, (20, 26))
    np.testing.assert_array_equal(batch.label[0].asnumpy(), data.labels)
    np.testing.assert_array_equal(batch.data[0].asnumpy(), data.images.transpose(0, 3, 1, 2))


def test_records_of_mxnets_own_writer(tmp_path):
    write_by_hand(tmp_path / "own.rec", [0.0, 2.0, 1.0])
    data = read_records(tmp_path / "own", 8)
    assert data.classes == ("0", "1", "2") and data.labels.tolist() == [0, 2, 1]
    assert data.images[:, 0, 0, 0].tolist() == [0, 10, 20]


def test_records_of_im2rec(photos, tmp_path):
    tool = Path(mx.__file__).parent / "tools" / "im2rec.py"
    if not tool.is_file():
        pytest.skip("this MXNet ships no im2rec.py")
    lines = [
        f"{number}\t{label}\t{path.relative_to(photos)}"
        for number, (label, path) in enumerate(
            (label, path) for label, folder in enumerate(sorted(photos.iterdir())) for path in sorted(folder.iterdir())
        )
    ]
    (tmp_path / "own.lst").write_text("\n".join(lines) + "\n")
    code = "import d2lcls, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    subprocess.run(
        [sys.executable, "-c", code, str(tool), "--pass-through", str(tmp_path / "own"), str(photos)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    np.testing.assert_array_equal(read_records(tmp_path / "own").images, load_folder(photos).images)


def test_load_takes_a_rec_file(records):
    assert load(str(records), size=9).images.shape == (5, 9, 9, 3)
    with pytest.raises(FileNotFoundError, match="nowhere.rec: no such file"):
        load(str(records.with_name("nowhere.rec")))


def test_without_names_the_classes_are_numbers(records):
    records.with_suffix(".classes").unlink()
    assert read_records(records).classes == ("0", "1", "2")


def test_names_that_are_too_few_are_noticed(records):
    records.with_suffix(".classes").write_text("ant\nbee\n")
    with pytest.raises(
        ValueError, match="set.rec: record 3 has the label 2; with 2 classes it must be a whole number from 0 to 1"
    ):
        read_records(records)


def test_several_labels_a_picture_are_refused(tmp_path):
    write_by_hand(tmp_path / "boxes.rec", [np.array([1.0, 2.0, 3.0])])
    with pytest.raises(ValueError, match="boxes.rec: record 0 has 3 labels; a classifier needs one"):
        read_records(tmp_path / "boxes")


@pytest.mark.parametrize("label", [0.5, -1.0, float("nan"), float("inf"), 3e38])
def test_labels_that_are_no_class_are_refused(tmp_path, label):
    write_by_hand(tmp_path / "odd.rec", [0.0, label])
    with pytest.raises(ValueError, match="odd.rec: record 1 has the label .*whole number"):
        read_records(tmp_path / "odd")


def test_a_record_without_a_picture_is_named(tmp_path):
    write_by_hand(tmp_path / "text.rec", [0.0], content=b"no picture")
    with pytest.raises(BrokenImage, match="text.rec: record 0: .*not an image"):
        read_records(tmp_path / "text")


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.rec: no such file"):
        read_records(tmp_path / "nowhere")
    (tmp_path / "empty.rec").touch()
    with pytest.raises(BrokenImage, match="empty.rec: holds no record"):
        read_records(tmp_path / "empty")
    (tmp_path / "text.rec").write_text("these are no records\n" * 20)
    with pytest.raises(BrokenImage, match="text.rec: damaged after 0 records. Write the file again"):
        read_records(tmp_path / "text")


def test_files_cut_short_are_never_taken_for_whole(records):
    whole = records.read_bytes()
    rng = random.Random(0)
    for length in [4, 8, *(rng.randrange(1, len(whole)) for _ in range(40))]:
        records.write_bytes(whole[:length])
        with pytest.raises(BrokenImage, match=r"set\.rec: "):
            read_records(records)


def test_a_file_cut_between_two_records_is_noticed_by_its_index(records):
    start = int(records.with_suffix(".idx").read_text().splitlines()[3].split("\t")[1])
    records.write_bytes(records.read_bytes()[:start])
    with pytest.raises(BrokenImage, match="set.rec: holds 3 records, but set.idx lists 5"):
        read_records(records)


def test_flipped_bits_give_images_or_an_error_that_names_the_file(records):
    whole, outcomes = records.read_bytes(), {"images": 0, "error": 0}
    for seed in range(200):
        rng = random.Random(seed)
        damaged = bytearray(whole)
        damaged[rng.randrange(40 if seed % 4 == 0 else len(whole))] ^= 1 << rng.randrange(8)
        records.write_bytes(damaged)
        try:
            assert len(read_records(records)) == 5
            outcomes["images"] += 1
        except ValueError as error:  # BrokenImage is one
            assert str(error).startswith(str(records)), error
            outcomes["error"] += 1
    assert outcomes["images"] and outcomes["error"]


def test_a_broken_picture_stops_or_is_left_out(photos, tmp_path, capsys):
    (photos / "ant" / "1.png").write_bytes(b"")
    with pytest.raises(BrokenImage, match=r"ant/1\.png"):
        write_records(photos, tmp_path / "out" / "set")
    assert list((tmp_path / "out").iterdir()) == []
    assert write_records(photos, tmp_path / "out" / "set", on_broken="skip") == 4
    out = capsys.readouterr().out
    assert "left out 1 of 5 files" in out and "ant/1.png" in out
    assert read_records(tmp_path / "out" / "set").labels.tolist() == [0, 1, 2, 2]


def test_a_class_of_which_nothing_can_be_read_is_named(photos, tmp_path):
    (photos / "bee" / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="not one readable picture of the class 'bee'"):
        write_records(photos, tmp_path / "out" / "set", on_broken="skip")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_midway_leaves_the_older_set_alone(photos, tmp_path):
    write_records(photos, tmp_path / "out" / "set")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (photos / "wasp" / "2.jpg").write_bytes(b"broken at the very end")
    with pytest.raises(BrokenImage):
        write_records(photos, tmp_path / "out" / "set")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_bad_arguments(photos, tmp_path):
    with pytest.raises(ValueError, match="on_broken must be 'raise' or 'skip', not 'ignore'"):
        write_records(photos, tmp_path / "set", on_broken="ignore")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        write_records(tmp_path / "nowhere", tmp_path / "set")
    assert not list(tmp_path.glob("set*"))


def test_the_same_bytes_as_mxnets_own_writer(photos, tmp_path):
    magic, first = b"\x0a\x23\xd7\xce", sorted(photos.rglob("*.png"))[0]
    content = first.read_bytes()
    first.write_bytes(content + bytes(-len(content) % 4) + 2 * magic + b"x" + magic + b"xxx" + magic)
    number = write_records(photos, tmp_path / "a")
    offsets = [int(line.split("\t")[1]) for line in (tmp_path / "a.idx").read_text().splitlines()]
    reader, writer = (
        recordio.MXIndexedRecordIO(str(tmp_path / f"{name}.idx"), str(tmp_path / f"{name}.rec"), mode)
        for name, mode in (("a", "r"), ("b", "w"))
    )
    for index in range(number):
        writer.write_idx(index, reader.read_idx(index))
    reader.close()
    writer.close()
    assert number == len(offsets)
    assert (
        offsets[1] == 24 + len(first.read_bytes()) + 4 * 8 - 3 * 4
    )  # four parts, each with a head, instead of the magic
    for suffix in (".rec", ".idx"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_pictures_that_were_cut_short_are_found_in_their_records(photos, tmp_path):
    """Of any length, so that records are filled up with 0 to 3 bytes, and with either form of a label."""
    contents = [path.read_bytes() for path in sorted(photos.rglob("*.*g"))]
    for index, whole in enumerate(contents[:5]):
        for cut in (0, 41, 42, 43, 44):
            writer = recordio.MXRecordIO(str(tmp_path / "cut.rec"), "w")
            for number, content in enumerate((*contents, whole[: len(whole) - cut])):
                label = 0.0 if (number + cut) % 2 else np.zeros(1, dtype=np.float32)
                writer.write(recordio.pack(recordio.IRHeader(0, label, number, 0), content))
            writer.close()
            opened = open_records(tmp_path / "cut")
            if cut:
                with pytest.raises(BrokenImage, match="cut.rec: record 5: <bytes>: cannot be read as an image"):
                    opened.checked()
            assert len(opened.checked(skip_broken=True)) == (5 if cut else 6), (index, cut)


def test_a_full_disk(photos, small_disk):
    disk = small_disk(4096)
    with pytest.raises(DiskFull, match=r"disk/a.rec: cannot be written .No space left on device"):
        write_records(photos, disk / "a")
    assert list(disk.iterdir()) == []
