"""Lets sdists hold the repository's symbolic links as links, not as copies. All else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

LINKS = {"fmlfast/kernels": "../kernels", "fmlfast/cli/train.py": "../../train.py"}


class LinkedSdist(sdist):
    """Writes sdists with the links of the repository."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copies the files, and replaces copies of what is linked to by links."""
        super().make_release_tree(base_dir, files)
        for name, target in LINKS.items():
            copied = Path(base_dir) / name
            shutil.rmtree(copied) if copied.is_dir() else copied.unlink()
            copied.symlink_to(target)


setup(cmdclass={"sdist": LinkedSdist})
