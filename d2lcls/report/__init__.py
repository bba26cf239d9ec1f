"""A run examined: what `d2lcls explain` and `d2lcls report` write about it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
