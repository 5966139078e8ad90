"""What learners are made of, apart from the algorithm's phases."""
