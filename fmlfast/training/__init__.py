"""Runs training steps on one or several processes, with checkpoints, logs and priors."""
