from . import allowed as allowed
from . import attributes as attributes
from .allowed import load_symbol as load_symbol
from .attributes import NotAllowed as NotAllowed
