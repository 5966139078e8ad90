"""Experiment files and command-line options, as a Tuner."""
