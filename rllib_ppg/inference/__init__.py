"""The room that acts: a policy's actions for observations."""
