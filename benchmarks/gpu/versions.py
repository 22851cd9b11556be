"""Prints what is measured, in one line: python -m benchmarks.gpu.versions."""

import platform

import torch

from benchmarks.harness.rows import provenance
from benchmarks.peers import all_peers


def main() -> None:
    found = provenance("cuda" if torch.cuda.is_available() else "cpu")
    driver = [f"driver {found['driver']}"] if found["driver"] else []
    versions = [f"torch {found['torch']}", f"triton {found['triton'] or 'none'}", f"Python {platform.python_version()}"]
    peers = ", ".join(peer.NAME for peer in all_peers() if not peer.available())
    print(", ".join([found["device"], *driver, *versions, f"commit {found['commit']}"]) + f"; peers: {peers}")


if __name__ == "__main__":
    main()
