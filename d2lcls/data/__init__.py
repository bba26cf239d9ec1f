"""Images, labels and batches: everything between a file on disk and a network's input."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
