"""What runs in env runners."""
