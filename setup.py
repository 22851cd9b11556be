"""Lets the sdist hold kernels/ once: fmlfast/kernels is a link to it there, too. All else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist


class LinkedSdist(sdist):
    """Writes sdists in which fmlfast/kernels is a symbolic link, as in the repository."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copies the files, and replaces the copy of kernels/ within the package by the link."""
        super().make_release_tree(base_dir, files)
        copied = Path(base_dir) / "fmlfast" / "kernels"
        shutil.rmtree(copied)
        copied.symlink_to("../kernels", target_is_directory=True)


setup(cmdclass={"sdist": LinkedSdist})
