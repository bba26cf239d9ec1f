"""From MXNet to ONNX, checked against MXNet's own outputs, and ONNX in int8."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
