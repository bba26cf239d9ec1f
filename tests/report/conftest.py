"""A trained run whose classes have hostile names."""

import csv

from d2lcls.report import examine_run
from d2lcls.training import Recipe, train

import numpy as np
import pytest
from hostile import HOSTILE
from PIL import Image


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A CSV list of pictures of three classes of coloured noise: 12 a class to train, 4 to validate, 6 to test.

    The first picture of the test is in the wrong class.
    """
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    rows = []
    for split, count in (("train", 12), ("val", 4), ("test", 6)):
        for channel, name in enumerate(HOSTILE):
            for number in range(count):
                image = rng.integers(0, 100, (16, 16, 3), dtype=np.uint8)
                wrong = split == "test" and channel == number == 0
                image[..., 2 if wrong else channel] += 120
                path = f"{split} <b>{channel}-{number}.png"
                Image.fromarray(image).save(folder / path)
                rows.append((path, name, split))
    with open(folder / "list <i>.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "list <i>.csv"


@pytest.fixture(scope="session")
def folder(source, tmp_path_factory):
    """The folder of a run of four epochs."""
    recipe = Recipe(
        dataset=str(source), size=16, num_epochs=4, batch_size=8, lr=0.05, augment=("none",), warmup_epochs=0.5
    )
    return train(recipe, tmp_path_factory.mktemp("runs") / "run", ctx="cpu", on_epoch=None).folder


@pytest.fixture(scope="session")
def findings(folder):
    return examine_run(folder)
