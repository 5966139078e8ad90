"""Checkpoints as files: their folder, replay lists, and states of processes."""
