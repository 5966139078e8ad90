"""Callbacks and loggers for Tune runs."""
