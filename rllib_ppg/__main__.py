"""`python -m rllib_ppg ...`: the `rllib` command where no script of that name is installed."""

import sys

from rllib_ppg.cli import main

sys.exit(main())
