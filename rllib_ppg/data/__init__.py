"""What flows between env runners, driver and learners, and the formulas over it; no actors."""
