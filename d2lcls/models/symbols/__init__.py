"""Graphs in the JSON of MXNet: the operators and attributes that a file may use, and the symbol of a checked one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
