"""Downloading data sets: which exist, from which sources, and the cache on this machine."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
