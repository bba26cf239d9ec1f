"""Bringing data sets onto this machine: what there is, where it comes from, and the cache that holds it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
