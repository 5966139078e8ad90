"""What a machine or a cluster offers, and where a run's processes go."""
