"""The GPU's checks, prepared for a bare machine: `pack.py` here, `run.sh` there."""
