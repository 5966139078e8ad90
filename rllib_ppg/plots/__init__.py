"""`rllib plot`: reads runs, compares them and draws them."""
