"""`rllib report`: a page about runs, in one file that a browser opens without a network."""
