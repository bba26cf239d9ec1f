from . import adamw as adamw
from . import ema as ema
from . import lookahead as lookahead
from .adamw import AdamW as AdamW
from .ema import MovingAverage as MovingAverage
from .lookahead import Lookahead as Lookahead
