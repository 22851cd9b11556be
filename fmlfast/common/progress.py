"""Shows how far long work is: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 10.0
"""Between two lines of one bar in a log."""


class ProgressBar(tqdm):
    """tqdm's bar on standard error; where that is no terminal, a line each LINE_SECONDS with rate and time left.

    The last line says how much was done in all, and no state is printed twice. Arguments as of tqdm.
    """

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        self._log = not sys.stderr.isatty()
        self._said, self._shown = time.monotonic(), options.get("initial", 0)
        super().__init__(iterable, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Redraws the bar, as tqdm asks for; a log gets its line where one is due."""
        if not self._log:
            super().display(msg, pos)
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._line()

    def clear(self, *args: Any, **options: Any) -> None:
        """Clears the bar's line for other output, see tqdm.write; a log's lines stay."""
        if not self._log:
            super().clear(*args, **options)

    def close(self) -> None:
        """Ends the bar; a second time does nothing."""
        if self._log and not self.disable:
            self._line(rate=None)  # that of all the work, not of the last seconds
            self.delay = float("inf")  # nothing is on the screen that tqdm must clear
        super().close()

    def _line(self, **other: None) -> None:
        if self.n != self._shown:
            self._said, self._shown = time.monotonic(), self.n
            print(self.format_meter(**{**self.format_dict, **other}), file=sys.stderr, flush=True)
