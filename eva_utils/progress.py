"""A line of text that tells how far a long piece of work has come, and leaves nothing behind."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Progress:
    """A line that counts pieces of work and replaces itself, once a second.

    It shows in a terminal or a notebook, for work of more than 3 seconds, and not where the output is a file, so that
    short work, logs and stored notebooks stay clean.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled and (_in_notebook() or sys.stderr.isatty())
        self._handle = None
        self._width = 0

    def track(self, pieces: Iterable[T], label: str, *, total: int, unit: tuple[float, str] = (1, "")) -> Iterator[T]:
        """Give the pieces one by one, and show how many of ``total`` are done, and the time left.

        ``unit`` is how much a piece is, and of what: it is shown instead of pieces, with the rate.
        """
        size, name = unit
        start = time.monotonic()
        due = start + 3.0
        try:
            for done, piece in enumerate(pieces):
                now = time.monotonic()
                if self._enabled and now >= due:
                    rate = max(done, 1) / (now - start)
                    counts = f"{done * size:,.0f} of {total * size:,.0f}"
                    counts += f" {name}, {rate * size:.2g} {name}/s" if name else ""
                    self._show(f"{label}: {counts}, {(total - done) / rate:.0f} s left")
                    due = now + 1.0
                yield piece
        finally:
            if self._width:
                self._show("")

    def _show(self, text: str) -> None:
        if _in_notebook():
            self._show_in_notebook(text)
        else:
            print("\r" + text.ljust(self._width) + ("" if text else "\r"), end="", file=sys.stderr, flush=True)
        self._width = max(self._width, len(text)) if text else 0

    def _show_in_notebook(self, text: str) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
