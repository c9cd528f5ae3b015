"""`python -m switch` is `cardswitch`."""

import sys

from switch.cli import main

sys.exit(main())
