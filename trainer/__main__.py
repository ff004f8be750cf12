"""`python -m trainer` is `trainer`."""

import sys

from trainer.cli import main

sys.exit(main())
