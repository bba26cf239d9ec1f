import subprocess

import d2lcls  # noqa: F401  before mxnet, which some tests import

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("D2LCLS_PROGRESS", "off")


@pytest.fixture
def small_disk(tmp_path):
    """A function that makes a disk of so many bytes and returns its folder; called again, it changes the size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        again = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small disk needs the right to mount one: {done.stderr.strip()}")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def shapes():
    """A set that a small network can learn: 3 classes of noisy 12 x 12 images, which differ by a bright band."""
    from d2lcls.data import Images

    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    images = rng.integers(0, 120, size=(150, 12, 12, 3)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[4 * label : 4 * label + 4] += 100
    return Images(images, labels.astype(np.int64), ("top", "middle", "bottom"), "shapes")
