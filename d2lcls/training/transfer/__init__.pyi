from . import start as start
