"""A bar on a terminal for a task that is waited for.

Guards: that the bar's questions never hold up the wait: they are asked in a thread, over a
connection of its own. Leaves alone: what a progressstate means (progress).
"""

import threading

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from remotes.duplicati import progress
from remotes.errors import RemotesError
from remotes.rendering import size_text

_PERIOD_SECONDS = 1.0


class Bar:
    """Shows the task of `started` while the `with` lasts. `connect()` gives a Duplicati."""

    def __init__(self, connect, started):
        self._connect = connect
        self._started = started
        self._place = "queued"
        self._over = threading.Event()
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
            TimeElapsedColumn(), console=Console(stderr=True), transient=True,
        )
        self._line = self._bar.add_task(self._title("waits its turn"), total=None)
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self):
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._bar.stop()

    def look(self, place, state):
        """What the wait has seen: running or queued, and the serverstate."""
        self._place = place
        words = {"queued": "waits its turn", "running": "runs"}[place]
        pause = " (the server is paused)" if state.get("ProgramState") == "Paused" else ""
        if place == "queued" or pause:
            self._bar.update(self._line, description=self._title(words + pause), total=None)

    def _title(self, words):
        # Of a server's texts, nothing but what can be printed reaches the terminal.
        name = "".join(letter if letter.isprintable() else "·" for letter in self._started.name)
        return f"{self._started.operation} {name or self._started.backup_id}: {words}"

    def _ask(self):
        server = None
        while not self._over.wait(_PERIOD_SECONDS):
            if self._place != "running":
                continue
            try:
                server = server or self._connect()
                self._draw(server.progress() or {})
            except RemotesError:
                continue  # the wait tells of it
        if server is not None:
            server.close()

    def _draw(self, state):
        if state.get("TaskID") != self._started.number:
            return
        how = progress.read(state)
        size = f", {size_text(how.total_bytes)}" if how.total_bytes else ""
        self._bar.update(self._line, description=self._title(how.words + size),
                         total=None if how.part is None else 1.0, completed=how.part or 0.0)
