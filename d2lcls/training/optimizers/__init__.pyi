from . import lookahead as lookahead
from .lookahead import Lookahead as Lookahead
