"""Environments: Procgen, Atari, any gymnasium env as a vector env, and their states."""
