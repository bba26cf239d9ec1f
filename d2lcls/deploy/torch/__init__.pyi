from . import check as check
from . import code as code
from . import export as export
from . import graph as graph
from . import operators as operators
from . import shapes as shapes
from .export import export_torch as export_torch
from .export import write_torch as write_torch
