"""A trained policy plays: what is under `rllib evaluate`, `record` and `export`."""
