"""Groups of classes: the coarse labels of a data set whose classes are sorted into kinds."""

from d2lcls.data.download.catalog import DATASETS
from d2lcls.data.images import Images
from d2lcls.data.lazy import LazyImages

import numpy as np


def class_groups(data: Images | LazyImages) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the groups that the classes of a data set belong to.

    With `groups, of = class_groups(data)`, `of[data.labels]` are the coarse labels, and `of[predicted]` is the group of
    each predicted class: a mistake within a group is none among the groups.

    Args:
        data: a set whose classes have groups, or a part or the sample of it: `load("grocery")`.

    Returns:
        (names, of): the G names of the groups, in the order of their first classes; int64 (K,), for each class the
        position of its group in the names.

    Raises:
        ValueError: a class has no group.
    """
    dataset = DATASETS.get(data.name.removesuffix("-sample"))
    group_of = dict(zip(dataset.classes, dataset.groups)) if dataset else {}
    for name in data.classes:
        if name not in group_of:
            known = ", ".join(sorted(name for name, dataset in DATASETS.items() if dataset.groups))
            raise ValueError(f"{data.name}: the class {name!r} belongs to no group. Data sets with groups: {known}.")
    names = tuple(dict.fromkeys(group_of[name] for name in data.classes))
    return names, np.array([names.index(group_of[name]) for name in data.classes], dtype=np.int64)
