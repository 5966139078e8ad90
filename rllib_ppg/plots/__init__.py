"""Reads runs back, compares them, and draws them: what is under `rllib plot`."""
