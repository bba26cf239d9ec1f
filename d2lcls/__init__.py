"""d2lcls: one image classifier from raw pixels to deployment, in Apache MXNet/Gluon.

Importing this package makes ``import mxnet`` work on a current machine (see `d2lcls.machine.compat`). It imports
neither MXNet nor any other large library itself: its parts are imported when they are first used.
"""

from d2lcls.machine import compat

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

compat.prepare()
