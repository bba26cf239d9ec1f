"""Augmentation: functions of a batch of uint8 images and a random generator."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
