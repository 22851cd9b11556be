"""Runs the `fmlfast` command: python -m fmlfast."""

from fmlfast.cli import main

main()
