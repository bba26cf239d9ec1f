"""d2lcls: one image classifier from raw pixels to deployment, in Apache MXNet/Gluon.

Importing this package makes ``import mxnet`` work on a machine of today (see
`d2lcls.compat`); it imports neither MXNet nor any other heavy library itself.
"""

from d2lcls import compat

__version__ = "0.1.0"

compat.prepare()
