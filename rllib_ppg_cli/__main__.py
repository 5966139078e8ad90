"""`python -m rllib_ppg_cli ...`: the `rllib` command where its script is not installed."""

import sys

from rllib_ppg_cli import main

sys.exit(main())
