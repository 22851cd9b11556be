"""Generates synthetic clips: python -m fmlfast.data.synthetic."""

from fmlfast.data.synthetic.generate import main

main()
