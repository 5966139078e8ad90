"""Losses of the auxiliary phase: L_joint = sum of weight x L + beta_clone KL[pi_old, pi]."""
