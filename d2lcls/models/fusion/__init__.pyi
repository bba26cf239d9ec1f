from . import folding as folding
from . import fused as fused
from . import fusible as fusible
from . import int8 as int8
from . import unfused as unfused
from .folding import fold_batch_norm as fold_batch_norm
from .fused import fuse as fuse
from .fused import quantize as quantize
