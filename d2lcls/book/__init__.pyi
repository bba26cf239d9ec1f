from . import notebook as notebook
from . import plots as plots
from . import profiling as profiling
from . import results as results
from . import roofline as roofline
from . import scoreboard as scoreboard
from . import statistics as statistics
