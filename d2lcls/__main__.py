"""`python -m d2lcls` is the command `d2lcls`."""

import sys

from d2lcls.cli import main

sys.exit(main())
