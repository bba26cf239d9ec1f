from . import bound as bound
from . import input_shapes as input_shapes
from . import names as names
from . import operators as operators
from . import symbol_json as symbol_json
from .bound import bind as bind
from .symbol_json import SymbolError as SymbolError
from .symbol_json import read_symbol as read_symbol
