import importlib
import io
import random
import struct
import subprocess
import sys
import zlib

from d2lcls.data import BrokenImage, open_image, read_image
from d2lcls.data.decode import MAX_PIXELS, is_image_name

import numpy as np
import pytest
from PIL import Image, ImageOps

EXIF_ORIENTATION = 0x0112


def picture(height=24, width=16, channels=3, seed=0):
    """An array that is different everywhere but smooth enough to survive JPEG."""
    rows, columns = np.mgrid[:height, :width]
    planes = [rows * 9 + columns, columns * 13, 250 - rows * 7 - columns * 2]
    return np.stack(planes[:channels], axis=-1).clip(0, 255).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind, ending", [("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif"), ("PPM", "ppm")])
def test_lossless_colour_comes_back_bit_for_bit(tmp_path, kind, ending):
    path = tmp_path / f"picture.{ending}"
    path.write_bytes(encoded(picture(), kind))
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
        read = read_image(source)
        assert read.dtype == np.uint8 and read.shape == (24, 16, 3)
        np.testing.assert_array_equal(read, picture())


def test_the_array_can_be_written_to():
    read = read_image(encoded(picture()))
    read[0, 0] = 7
    assert (read[0, 0] == 7).all()


@pytest.mark.parametrize("kind, options", [("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("GIF", {})])
def test_lossy_kinds_are_read(kind, options):
    read = read_image(encoded(picture(), kind, **options)).astype(int)
    assert read.shape == (24, 16, 3) and abs(read - picture()).mean() < 12


def test_greyscale_gets_three_equal_channels():
    grey = picture()[..., 0]
    np.testing.assert_array_equal(read_image(encoded(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white_bits():
    bits = picture()[..., 0] > 100
    read = read_image(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(read, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


def test_palette_colours_are_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert read_image(encoded(image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    wide = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    assert read_image(encoded(wide, kind))[0, :, 0].tolist() == [0, 0, 127, 255]


def test_a_dark_picture_of_sixteen_bits_stays_dark():
    assert read_image(encoded(np.array([[0, 2570]], dtype=np.uint16)))[0, :, 0].tolist() == [0, 10]


def test_cmyk_jpeg_becomes_rgb():
    cmyk = Image.fromarray(picture()).convert("CMYK")
    read = read_image(encoded(cmyk, "JPEG", quality=95))
    assert read.shape == (24, 16, 3) and abs(read.astype(int) - picture()).mean() < 12


def test_transparency_is_laid_on_white():
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], dtype=np.uint8)
    assert read_image(encoded(rgba)).tolist() == [[[200, 0, 0], [255, 255, 255], [244, 204, 204]]]


def test_grey_with_transparency_is_laid_on_white():
    la = Image.fromarray(np.array([[[10, 255], [10, 0]]], dtype=np.uint8), "LA")
    assert read_image(encoded(la)).tolist() == [[[10] * 3, [255] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_is_laid_on_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert read_image(encoded(image, kind, transparency=1)).tolist() == [[[10, 20, 30], [255] * 3]]


def test_an_animation_gives_its_first_picture():
    frames = [Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (10, 200)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert (read_image(stream.getvalue()) == 10).all()


# What a camera that stores `f(upright)` means by each EXIF orientation, from the standard.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind, options", [("JPEG", {"quality": 100, "subsampling": 0}), ("PNG", {})])
def test_turned_photographs_come_upright(orientation, kind, options):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = np.ascontiguousarray(STORED[orientation](picture()))
    read = read_image(encoded(stored, kind, exif=exif, **options))
    assert read.shape == (24, 16, 3)
    assert abs(read.astype(int) - picture()).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    np.testing.assert_array_equal(read_image(encoded(picture(), exif=exif)), picture())


# what cannot be read


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_files_cut_short_are_named(tmp_path, kind, part):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encoded(noise, kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(BrokenImage, match=r"cut\.\w+: cannot be read as an image \(.+\)\. Repair"):
        read_image(path)


def test_cut_files_are_noticed_after_an_import_of_gluoncv(monkeypatch):
    """gluoncv.data.mhp makes Pillow fill up what is missing with grey; d2lcls.machine.compat undoes that."""
    monkeypatch.delitem(sys.modules, "gluoncv.data.mhp", raising=False)
    importlib.import_module("gluoncv.data.mhp")
    with pytest.raises(BrokenImage, match="cannot be read as an image"):
        read_image(encoded(picture(), "JPEG")[:-60])


@pytest.mark.parametrize("content", [b"", b"this is no picture\n" * 40, b"\x00" * 100, b"\xff\xd8\xff"])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(
        BrokenImage, match=r"notes\.jpg: cannot be read as an image \(not an image in one of the formats PNG,"
    ):
        open_image(path)
    with pytest.raises(BrokenImage, match="<bytes>: cannot be read as an image"):
        open_image(content)


@pytest.mark.parametrize("suffix", ["eps", "jpg", "png"])
def test_ghostscript_is_not_started(tmp_path, monkeypatch, suffix):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / f"picture.{suffix}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    for source in (path, path.read_bytes()):
        with pytest.raises(BrokenImage, match="not an image in one of the formats PNG"):
            open_image(source)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "ICNS", "PCX", "SGI", "TGA", "IM", "JPEG2000", "DDS"])
def test_other_formats_are_refused(tmp_path, kind):
    path = tmp_path / "picture.jpg"
    Image.fromarray(picture()).save(path, kind)
    with pytest.raises(BrokenImage, match="not an image in one of the formats PNG"):
        open_image(path)


def test_a_size_that_changes_during_decoding_is_refused(monkeypatch):
    def load(self):
        self._size = 10, 10

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(BrokenImage, match="declares two sizes"):
        read_image(encoded(picture()))


def test_a_tiff_that_lies_on_its_side_has_one_size():
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    wide = picture()[:10]
    assert read_image(encoded(wide, "TIFF", exif=exif)).shape == (wide.shape[1], 10, 3)


def test_a_missing_file_is_not_called_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_image(tmp_path / "nowhere.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(BrokenImage, match="directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("width, height", [(10_001, 10_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(BrokenImage, match="bomb.png: .*pixels"):
        read_image(path)


def test_a_large_photograph_is_no_bomb():
    """90 megapixels: beyond what Pillow warns of, within what is read; fails only because its pixels lack."""
    assert MAX_PIXELS > 90_000_000 > Image.MAX_IMAGE_PIXELS
    with pytest.raises(BrokenImage) as caught:
        read_image(png_header(9_000, 10_000))
    assert "more than" not in str(caught.value)


def test_bombs_are_refused_before_they_are_unpacked(monkeypatch):
    def load(self):
        raise AssertionError("unpacked")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(BrokenImage, match="10001 x 10000 pixels, more than the limit of 100,000,000"):
        read_image(png_header(10_001, 10_000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_flipped_bits_give_an_array_or_broken_image(kind):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    exif[0x010E] = "a description"
    whole = encoded(picture(), kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    outcomes = {"array": 0, "broken": 0}
    for seed in range(200):
        rng = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(min(len(whole), 200 if seed % 2 else len(whole)))] ^= 1 << rng.randrange(8)
        try:
            read = read_image(bytes(damaged))
            assert read.dtype == np.uint8 and read.ndim == 3 and read.shape[2] == 3
            outcomes["array"] += 1
        except BrokenImage:
            outcomes["broken"] += 1
    assert outcomes["array"] and outcomes["broken"]


def test_pillows_warnings_do_not_reach_the_user(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    content = encoded(picture(), "JPEG", exif=exif)
    (tmp_path / "damaged.jpg").write_bytes(content.replace(b"\0\0\0\x1a", b"\0\0\xff\xff"))  # its position
    code = """if True:
        import sys, warnings
        from PIL import Image
        Image.MAX_IMAGE_PIXELS = 300  # of a picture with 384, Pillow warns
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Image.open(sys.argv[1]) as opened:
                opened.getexif()
        print(sorted({warning.category.__name__ for warning in caught}))
        from d2lcls.data import read_image
        print(read_image(sys.argv[1]).shape)
    """
    command = [sys.executable, "-W", "error::UserWarning", "-W", "error::RuntimeWarning", "-c", code]
    done = subprocess.run([*command, str(tmp_path / "damaged.jpg")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['DecompressionBombWarning', 'UserWarning']\n(24, 16, 3)\n", "")


# size


def test_an_int_is_a_square_and_a_pair_is_height_and_width():
    content = encoded(picture())
    assert read_image(content, 8).shape == (8, 8, 3)
    assert read_image(content, np.int64(8)).shape == (8, 8, 3)
    assert read_image(content, (8, 12)).shape == (8, 12, 3)
    assert read_image(content, [12, 8]).shape == (12, 8, 3)


def test_the_centre_is_cropped():
    tall = np.zeros((30, 10, 3), dtype=np.uint8)
    tall[10:20] = 255
    assert (read_image(encoded(tall), 10) == 255).all()
    assert (read_image(encoded(tall.transpose(1, 0, 2)), 10) == 255).all()


def test_a_picture_of_that_size_is_not_touched():
    np.testing.assert_array_equal(read_image(encoded(picture()), (24, 16)), picture())


def test_a_single_pixel_is_enlarged():
    read = read_image(encoded(np.full((1, 1, 3), 77, dtype=np.uint8)), 5)
    assert read.shape == (5, 5, 3) and (read == 77).all()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_interpolation_is_pillows(interpolation):
    expected = ImageOps.fit(Image.fromarray(picture()), (7, 9), Image.Resampling[interpolation.upper()])
    np.testing.assert_array_equal(read_image(encoded(picture()), (9, 7), interpolation), np.asarray(expected))


def camera(width=640, height=480):
    """A JPEG with detail at every scale."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return encoded(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), "JPEG", quality=95)


@pytest.mark.parametrize(
    "side, size",
    [
        (481, (640, 480)),
        (241, (640, 480)),
        (240, (320, 240)),
        (121, (320, 240)),
        (120, (160, 120)),
        (60, (80, 60)),
        (1, (80, 60)),
    ],
)
def test_a_draft_is_the_smallest_that_covers_its_side(side, size):
    assert open_image(camera(), side).size == size


def test_a_draft_read_and_scaled_is_nearly_the_exact_picture():
    exact, draft = (read_image(camera(), 64, draft=draft).astype(int) for draft in (False, True))
    assert 0 < np.abs(draft - exact).mean() < 1.5 and np.abs(draft - exact).max() < 12


def test_a_draft_changes_nothing_but_large_jpegs():
    array = np.asarray(open_image(camera()))
    for source, size in ((camera(), 200), (camera(), (50, 241)), (encoded(array), 20), (encoded(array, "WEBP"), 20)):
        np.testing.assert_array_equal(read_image(source, size, draft=True), read_image(source, size))
    np.testing.assert_array_equal(read_image(camera(), draft=True), array)


def test_a_draft_is_turned_upright():
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    turned = encoded(open_image(camera()), "JPEG", quality=95, exif=exif)
    exact, draft = (read_image(turned, (100, 30), draft=draft).astype(int) for draft in (False, True))
    assert np.abs(draft - exact).mean() < 1.5


def test_a_draft_cut_short_is_broken():
    with pytest.raises(BrokenImage, match="truncated"):
        read_image(camera()[:9000], 32, draft=True)


@pytest.mark.parametrize("size", [0, -3, (8, 0), (8,), (8, 8, 3), 7.5, "8"])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match=r"size must be a number of pixels or \(height, width\), above 0, not"):
        read_image(encoded(picture()), size)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="one of nearest, bilinear, bicubic, not 'cubic'"):
        read_image(encoded(picture()), 8, "cubic")


def test_names_of_images():
    assert all(is_image_name(name) for name in ("a.jpg", "b.JPEG", "c/d.png", "e.webp", "f.gif"))
    assert not any(is_image_name(name) for name in ("a.txt", "b", ".png", "c.jpg.part", "d.eps", "e.psd", "f.pdf"))
