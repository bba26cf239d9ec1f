from . import book as book
from . import cli as cli
from . import commands as commands
from . import data as data
from . import deploy as deploy
from . import explain as explain
from . import machine as machine
from . import models as models
from . import training as training
from . import weights as weights

__version__: str
