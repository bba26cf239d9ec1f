"""Single images with what a network says about them, and the Grad-CAM map of why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2lcls.data.images import Images
from d2lcls.data.lazy import LazyImages
from d2lcls.explain.analysis import Analysis
from d2lcls.explain.gradcam import grad_cam, overlay
from d2lcls.training.rebuild import rebuild_network
from d2lcls.training.runs import Run, classify_images

import mxnet as mx
import numpy as np

AT_A_TIME = 16  # images whose maps are computed together


@dataclass(frozen=True, eq=False)
class Example:
    """An image and what the network says about it.

    Args:
        name: path of its file, or its number in its set.
        image: uint8 (H, W, C), as the network's input is made from it.
        predicted, probability: the likeliest class, and its probability as a share of 1.
        true, true_probability: the same of its true class, if that is known.
        loss: cross-entropy in nats, NaN if the true class is not known.
        cam: uint8 (H, W, 3), the Grad-CAM map of the predicted class laid over the image; None if there is none.
    """

    name: str
    image: np.ndarray
    predicted: str
    probability: float
    true: str | None = None
    true_probability: float = float("nan")
    loss: float = float("nan")
    cam: np.ndarray | None = None


class Explainer:
    """Makes examples of a run's images; `reason` says why they have no Grad-CAM map, if they have none.

    Args:
        folder: the run's folder.
        run: as `load_run` returns it.
    """

    def __init__(self, folder: str | Path, run: Run) -> None:
        self.run, self.reason = run, ""
        self.net: mx.gluon.HybridBlock | None = None
        try:
            self.net = rebuild_network(folder)
            grad_cam(self.net, self._inputs(np.zeros((1, *run.image_shape), dtype=np.uint8)))
        except ValueError as error:  # a network of the caller's own, or one without maps
            self.net, self.reason = None, " ".join(str(error).split())

    def maps(self, images: np.ndarray, predicted: np.ndarray) -> list[np.ndarray | None]:
        """Return the maps of predicted classes, int (N,), laid over the images, uint8 (N, H, W, C)."""
        if self.net is None:
            return [None] * len(images)
        found: list[np.ndarray | None] = []
        for begin in range(0, len(images), AT_A_TIME):
            part = slice(begin, begin + AT_A_TIME)
            cams = grad_cam(self.net, self._inputs(images[part]), classes=predicted[part])
            found += [overlay(_enlarged(image, cam.shape), cam) for image, cam in zip(images[part], cams)]
        return found

    def mistakes(self, analysis: Analysis, images: Images | LazyImages, split: str, top: int) -> list[Example]:
        """Return the mistakes with the largest losses, the largest first.

        Args:
            analysis: of all these images.
            images: the set.
            split: its name.
            top: number of mistakes.
        """
        worst = analysis.worst(top)
        if not worst:
            return []
        pixels, labels, predicted = images.images[np.array(worst)], analysis.labels[worst], analysis.predicted[worst]
        chances = analysis.probabilities
        return [
            Example(
                image_name(images, index, split),
                image,
                analysis.classes[guess],
                float(chances[index, guess]),
                analysis.classes[label],
                float(chances[index, label]),
                float(analysis.losses[index]),
                cam,
            )
            for index, image, label, guess, cam in zip(worst, pixels, labels, predicted, self.maps(pixels, predicted))
        ]

    def pictures(self, net: mx.gluon.Block, paths: Sequence[str]) -> list[Example]:
        """Return picture files with what a run's network says about them.

        Raises:
            BrokenImage, FileNotFoundError: as `Run.picture`.
        """
        images = np.stack([self.run.picture(path) for path in paths])
        chances = classify_images(self.run, net, images)
        predicted = chances.argmax(axis=1)
        return [
            Example(path, image, self.run.classes[guess], float(row[guess]), cam=cam)
            for path, image, row, guess, cam in zip(paths, images, chances, predicted, self.maps(images, predicted))
        ]

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        """Return images, uint8 (N, H, W, C), as the network takes them."""
        labels = np.zeros(len(images), dtype=np.int64)
        batches = self.run.batches(Images(images, labels, self.run.classes, "pictures"))
        return np.concatenate([x for x, _ in batches])


def image_name(images: Images | LazyImages, index: int, split: str) -> str:
    """Return the path of an image's file or, if it has none of its own, its number in its split, from 0."""
    path = images.path_of(index) if isinstance(images, LazyImages) else None
    return path or f"{split} image {index}"


def _enlarged(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return a uint8 image (H, W, C) at another (height, width)."""
    import cv2

    if image.shape[:2] == size:
        return image
    scaled = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
    return scaled.reshape(*size, image.shape[2])
