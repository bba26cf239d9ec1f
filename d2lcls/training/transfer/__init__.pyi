from . import frozen as frozen
from . import start as start
from .frozen import find_frozen as find_frozen
