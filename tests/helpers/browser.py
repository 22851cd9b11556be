"""A headless Chromium that a test drives; tests skip where node, its packages or Chromium are missing."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "browser"
_PATIENCE = 120.0  # seconds


class Browser:
    """A page in headless Chromium, as a context manager."""

    def __init__(self, address: str, folder: Path) -> None:
        node, chromium = shutil.which("node"), shutil.which("chromium")
        if node is None or chromium is None:
            pytest.skip("no node here" if node is None else "no Chromium here")
        if not (FOLDER / "node_modules" / "playwright-core").is_dir():
            pytest.skip("playwright-core is missing: npm ci in tests/browser")
        self.folder = folder
        self._process = subprocess.Popen(
            [node, FOLDER / "drive.mjs", chromium, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        assert "opened" in self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_PATIENCE)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def do(self, op: str, **options: Any) -> None:
        """Has one operation of drive.mjs done; fails where it or the page did."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **options}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "done" in answer and not answer["problems"], answer

    def shot(self) -> np.ndarray:
        """Takes a screenshot, uint8 [800, 1280, 3]."""
        path = self.folder / "shot.png"
        self.do("shot", file=str(path))
        return np.array(Image.open(path).convert("RGB"))

    def until(self, condition: Callable[[np.ndarray], bool]) -> np.ndarray:
        """Takes screenshots until one meets a condition and is the same as the one before."""
        end, before = time.monotonic() + _PATIENCE, None
        while True:
            picture = self.shot()
            if condition(picture) and before is not None and np.abs(picture.astype(int) - before).mean() < 0.05:
                return picture
            before = picture
            if time.monotonic() > end:
                pytest.fail(f"no such picture came; the last is {self.folder / 'shot.png'}")
