"""`python -m ftlab` is the command `ftlab`."""

import sys

from ftlab.cli import main

sys.exit(main())
