"""What the driver uses to call env runners and learners, and to save and restore a run."""
