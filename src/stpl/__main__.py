"""`python -m stpl` is `stpl`."""

import sys

from stpl.cli import main

sys.exit(main())
