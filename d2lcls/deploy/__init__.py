"""From a trained network to a phone, a server and a browser; each step writes a model folder with a manifest."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
