"""Searching for hyper-parameters: the learning-rate range test, and studies with Optuna."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
