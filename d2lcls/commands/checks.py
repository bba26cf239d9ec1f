"""What `train` and `tune` check before they read or write anything."""

from pathlib import Path


def check_training(options, side=None):
    """Return the contexts that options name, if training can begin on them.

    Args:
        options: with `model`, `dataset`, `batch_size` and `ctx`.
        side: of the images in pixels, as the network sees them; None is that of the data set.

    Raises:
        ValueError: no such model or device.
        FileNotFoundError: no such folder or file.
        MemoryError: a batch of such images cannot fit into memory.
    """
    from d2lcls.machine import devices
    from d2lcls.models import get_model
    from d2lcls.training.steps import check_training_memory

    ctx, net = devices.parse(options.ctx), get_model(options.model)
    shape = _shape(options.dataset, side)
    if shape and ctx[0].device_type == "cpu":
        count, height, width, channels = shape
        check_training_memory(net, (min(count, options.batch_size), channels, height, width))
    return ctx


def _shape(name, side):
    """Return the shape (N, H, W, C) of a set of images without reading them; None for a name that `load` refuses."""
    from d2lcls import data

    if name in data.DATASETS:
        height, width, channels = data.DATASETS[name].image_shape
        return data.DATASETS[name].splits["train"], side or height, side or width, channels
    if Path(name).suffix == ".rec":
        return data.open_records(name, side or 32).images.shape
    if Path(name).is_dir():
        return data.open_folder(Path(name, "train"), side or 32).images.shape
    return None
