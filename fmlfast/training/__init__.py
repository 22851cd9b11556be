"""One training step and what surrounds it: processes, checkpoints, logs, priors."""
