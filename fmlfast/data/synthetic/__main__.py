"""Generates synthetic clips: python -m fmlfast.data.synthetic."""

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

from fmlfast.data.synthetic.generate import main

main()
