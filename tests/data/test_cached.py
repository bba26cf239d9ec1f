import os

from d2lcls.data import Batches, BrokenImage, open_folder, random_resized_crop
from d2lcls.data.cached import cached
from d2lcls.machine.full_disk import DiskFull

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        path = tmp_path / "photos" / ("ant", "bee")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_each_picture_is_decoded_once_and_stays_the_same(photos, tmp_path):
    opened = open_folder(photos, (12, 10)).subset([5, 0, 3])
    expected, decoded = opened.images[:], []
    inner = opened.images.read
    opened.images.read = lambda position, *rest: decoded.append(position) or inner(position, *rest)
    file = tmp_path / "kept"
    with cached(opened, file) as kept:
        for _ in range(2):
            np.testing.assert_array_equal(kept.images[:], expected)
            np.testing.assert_array_equal(kept.subset([2]).images[0], expected[2])
        assert sorted(decoded) == sorted(opened.images.positions) and file.stat().st_size == 6 * 12 * 10 * 3
    assert not file.exists()


def test_pictures_can_be_kept_at_the_size_of_decode(photos, tmp_path):
    opened, file = open_folder(photos, 12), tmp_path / "kept"
    crop = {"augment": [random_resized_crop(size=12)], "decode": 14}
    expected = [list(Batches(opened, 6, **crop).epoch(epoch)) for epoch in range(2)]
    with cached(opened, file, 14) as kept:
        assert kept.images.shape == (6, 12, 12, 3)
        batches = Batches(kept, 6, **crop)
        for epoch, before in enumerate(expected):
            for (x, _), (x0, _) in zip(batches.epoch(epoch), before):
                np.testing.assert_array_equal(x, x0)
            assert file.stat().st_size == 6 * 14 * 14 * 3
            for path in photos.glob("*/*"):
                path.write_bytes(b"")  # the second epoch does not read it
        with pytest.raises(BrokenImage):
            batches.example()  # which has another size


def test_a_disk_that_is_too_small_is_noticed_before_the_first_picture(photos, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    with (
        pytest.raises(DiskFull, match="kept: cannot be written .*train without the cache"),
        cached(open_folder(photos, 12), tmp_path / "kept"),
    ):
        pass
    assert os.listdir(tmp_path) == ["photos"]
