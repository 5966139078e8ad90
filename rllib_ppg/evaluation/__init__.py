"""A checkpoint's policy, loaded, played, scored, filmed and exported."""
