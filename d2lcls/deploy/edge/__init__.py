"""Models compiled with TVM: a library for this machine, or one program for 64-bit Arm."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
