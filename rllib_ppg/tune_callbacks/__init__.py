"""Tune callbacks: progress, logs, and what saves and resumes a run."""
