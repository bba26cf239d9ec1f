import json
from dataclasses import asdict

from d2lcls.data import BrokenImage
from d2lcls.data.batches import Batches
from d2lcls.data.images import Images
from d2lcls.data.preprocess import Preprocess

import numpy as np
import pytest
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STANDARD = Preprocess(256, 224, MEAN, STD, "bilinear")


def picture(path, width, height):
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 3 + columns, columns * 7, 250 - rows - columns * 2], axis=-1) % 256
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "width, height, scaled, corner",
    [  # corner: (left, top)
        (500, 333, (384, 256), (80, 16)),  # 384.38 is cut off
        (333, 500, (256, 384), (16, 80)),
        (500, 375, (341, 256), (58, 16)),  # 341.33; 117 / 2 = 58.5 goes to the even 58
        (512, 385, (340, 256), (58, 16)),
        (300, 223, (344, 256), (60, 16)),  # 344.39; enlarged
        (256, 259, (256, 259), (16, 18)),  # not scaled at all; 35 / 2 = 17.5 goes to the even 18
        (300, 300, (256, 256), (16, 16)),
    ],
)
def test_sizes_and_corners_are_torchvisions(tmp_path, width, height, scaled, corner, interpolation):
    path = picture(tmp_path / "picture.png", width, height)
    image = Preprocess(256, 224, MEAN, STD, interpolation).image(path)
    with Image.open(path) as original:
        whole = np.asarray(original.resize(scaled, Image.Resampling[interpolation.upper()]))
    left, top = corner
    np.testing.assert_array_equal(image, whole[top : top + 224, left : left + 224])
    assert image.dtype == np.uint8 and image.flags.writeable


def test_bytes_and_paths_give_the_same(tmp_path):
    path = picture(tmp_path / "picture.png", 90, 70)
    small = Preprocess(40, 32, MEAN, STD, "bicubic")
    np.testing.assert_array_equal(small.image(path), small.image(path.read_bytes()))


def test_a_batch_is_normalised_by_the_formula_and_as_batches_does(tmp_path):
    small = Preprocess(40, 32, MEAN, STD, "bicubic")
    paths = [picture(tmp_path / "1.png", 90, 70), picture(tmp_path / "2.png", 41, 80)]
    x = small(paths)
    images = np.stack([small.image(path) for path in paths])
    assert x.shape == (2, 3, 32, 32) and x.dtype == np.float32
    np.testing.assert_allclose(x, ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2), atol=1e-5)
    data = Images(images, np.zeros(2, np.int64), ("a",), "two")
    np.testing.assert_array_equal(x, next(iter(Batches(data, 2, small.mean, small.std)))[0])
    np.testing.assert_array_equal(x, small.batch(paths))


def test_json_brings_it_back_equal():
    made = Preprocess(np.int64(256), 224, list(MEAN), np.array(STD), "bicubic")
    assert Preprocess(**json.loads(json.dumps(asdict(made)))) == made == Preprocess(256, 224, MEAN, STD, "bicubic")
    assert made != STANDARD and len({made, STANDARD}) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(resize=0), "resize must be a whole number of pixels, 1 or more, not 0"),
        (dict(crop=224.5), "crop must be a whole number of pixels.*224.5"),
        (dict(crop=True), "crop must be a whole number of pixels.*True"),
        (dict(crop=257), "crop=257 does not fit.*resize=256. Make crop 256 or less"),
        (dict(mean=(0.5, 0.5)), "mean must be three numbers, one for each colour"),
        (dict(std=(0.2, float("nan"), 0.2)), "std must be three numbers"),
        (dict(mean=(123.7, 116.3, 103.5)), "must be on the 0..1 scale.*Divide values"),
        (dict(std=(0.2, 0.0, 0.2)), "std above 0"),
        (dict(interpolation="lanczos"), "interpolation must be 'bilinear' or 'bicubic', not 'lanczos'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**{**asdict(STANDARD), **change})


def test_bad_pictures_are_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(BrokenImage, match="text.jpg.*not an image"):
        STANDARD.image(tmp_path / "text.jpg")
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        STANDARD.image(tmp_path / "gone.jpg")
    with pytest.raises(BrokenImage, match="line.png: 1 x 9000 pixels is too narrow.*256 x 2304000"):
        STANDARD.image(picture(tmp_path / "line.png", 1, 9000))


def test_bad_batches_are_named(tmp_path):
    path = picture(tmp_path / "picture.png", 30, 30)
    for single in (path, str(path), path.read_bytes()):
        with pytest.raises(TypeError, match="list of pictures, not a .*Put it in a list"):
            STANDARD(single)
    with pytest.raises(ValueError, match="sources is empty; at least one picture"):
        STANDARD([])
    with pytest.raises(ValueError, match=r"uint8 of shape \(N, H, W, 3\), not float32"):
        STANDARD.normalise(np.zeros((1, 8, 8, 3), np.float32))
