"""Networks: the book's own, EfficientNets, GluonCV's by name, and what can be changed in them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
