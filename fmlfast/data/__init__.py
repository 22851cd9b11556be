"""Reads, writes, augments and batches clips; detects faces in images."""
