"""Experiments: read from files or options, checked, and run by Tune."""
