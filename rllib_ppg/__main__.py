"""`python -m rllib_ppg ...`: the `rllib` command where no script of that name is installed."""

import sys

from rllib_ppg_cli import main

sys.exit(main())
