"""What this machine is and can do: its cores, memory and devices, its files, and what MXNet needs to run on it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
