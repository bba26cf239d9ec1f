"""From ONNX to PyTorch: code to read and train on, its weights, and a check."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
