"""Kills, fills disks, starts two at once and damages files: what docs/reliability.md reports. Run: make torture."""

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)
