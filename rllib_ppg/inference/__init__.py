"""Choosing actions with a module."""
