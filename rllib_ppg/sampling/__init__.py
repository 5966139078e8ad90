"""Sampling: what runs in env runners."""
