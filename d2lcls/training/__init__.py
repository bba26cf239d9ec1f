"""Teaching a network: the loop, its schedules, its checkpoints, and how good the result is."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
