"""Networks by name: the book's own and GluonCV's."""

import difflib
import fnmatch

# GluonCV's zoo also holds networks that detect, segment or watch films, and some (hrnet, the pruned ones) that
# take an argument `classes` and ignore it. These modules of gluoncv.model_zoo hold the others.
CLASSIFIERS = ("alexnet", "cifarresnet", "cifarresnext", "cifarwideresnet", "densenet", "dla", "googlenet",
               "inception", "mobilenet", "mobilenetv3", "nasnet", "residual_attentionnet", "resnest", "resnet",
               "resnetv1b", "resnext", "senet", "shufflenet", "squeezenet", "vgg", "xception", "yolo.darknet")


def list_models(pattern="*"):
    """Return the names `get_model` knows, in alphabetical order, that match a shell pattern such as "cifar_*"."""
    from gluoncv.model_zoo import model_zoo

    modules = {f"gluoncv.model_zoo.{name}" for name in CLASSIFIERS}
    theirs = [name for name, function in model_zoo._models.items() if function.__module__ in modules]
    return sorted(fnmatch.filter(["cnn", *theirs], pattern))


def get_model(name, classes=10, **kwargs):
    """Make a network, not yet initialised.

    Args:
        name: "cnn" for `SmallCNN`, or a classifier of GluonCV's model zoo, such as "cifar_resnet20_v1".
        classes: number of logits.
        kwargs: further arguments of that network's constructor.

    Returns:
        `gluon.HybridBlock` that maps (N, C, H, W) to logits (N, classes).

    Raises:
        ValueError: no classifier has that name; the nearest names are suggested.
    """
    name = name.lower()
    if name == "cnn":
        from d2lcls.models.cnn import SmallCNN

        return SmallCNN(classes=classes, **kwargs)
    known = list_models()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        raise ValueError(f"No image classifier is called {name!r}.{hint} "
                         f"d2lcls.models.list_models() lists all {len(known)}.")
    from gluoncv.model_zoo import get_model as gluoncv_model

    return gluoncv_model(name, pretrained=False, classes=classes, **kwargs)
