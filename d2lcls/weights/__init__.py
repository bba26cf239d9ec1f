"""Parameters as files: pretrained weights, where they come from, and their conversion between Gluon and PyTorch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
