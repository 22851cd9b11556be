"""Kills, fills disks, starts two at once and damages files: what docs/reliability.md reports. Run: make torture."""
