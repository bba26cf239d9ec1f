"""Networks by name: the book's own and GluonCV's."""

import difflib
import fnmatch


def list_models(pattern="*"):
    """Return the names `get_model` knows, in alphabetical order, that match a shell pattern such as "cifar_*"."""
    from gluoncv.model_zoo.model_zoo import get_model_list

    return sorted(fnmatch.filter({"cnn", *get_model_list()}, pattern))


def get_model(name, classes=10, **kwargs):
    """Make a network, not yet initialised.

    Args:
        name: "cnn" for `SmallCNN`, or a name of GluonCV's model zoo, such as "cifar_resnet20_v1".
        classes: number of logits.
        kwargs: further arguments of that network's constructor.

    Returns:
        `gluon.HybridBlock` that maps (N, C, H, W) to logits (N, classes).

    Raises:
        ValueError: no network has that name; the nearest names are suggested.
    """
    name = name.lower()
    if name == "cnn":
        from d2lcls.models.cnn import SmallCNN

        return SmallCNN(classes=classes, **kwargs)
    known = list_models()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        raise ValueError(f"No network is called {name!r}.{hint} "
                         f"d2lcls.models.list_models() lists all {len(known)}.")
    from gluoncv.model_zoo import get_model as gluoncv_model

    return gluoncv_model(name, pretrained=False, classes=classes, **kwargs)
