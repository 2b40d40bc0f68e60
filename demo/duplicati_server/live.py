"""The live log of the demo Duplicati server (section 5.7 of the protocol).

Guards: numbers that grow by one across all levels and begin anew with the server; without a
reader only the latest warnings and errors are kept.
Leaves alone: the server's stored log, and the logs of jobs.
"""
import threading
import time

from demo.duplicati_server.moments import local_text, now

LEVELS = ("ExplicitOnly", "Profiling", "Verbose", "Retry", "Information", "DryRun", "Warning",
          "Error")
KEPT_UNREAD, KEPT_WHILE_READ, READ_SECONDS = 30, 5000, 30


class LiveLog:
    """Entries in memory; can be used from several threads. `keeps_unread`: whether what nobody
    reads is kept, too."""

    def __init__(self, keeps_unread: bool = True):
        self._kept_unread = KEPT_UNREAD if keeps_unread else 0
        self._lock = threading.Lock()
        self._entries: list[dict] = []
        self._last = 0
        self._level, self._until = len(LEVELS), 0.0

    def add(self, level: str, tag: str, message: str, *, backup_id: str | None = None,
            task: int | None = None, exception: tuple[str, str] | None = None) -> None:
        """A new entry; `tag`: what follows the level in `Tag`. `exception`: class and trace."""
        with self._lock:
            self._last += 1
            is_read = time.monotonic() < self._until
            lowest = min(LEVELS.index("Warning"), self._level if is_read else len(LEVELS))
            if LEVELS.index(level) < lowest:
                return
            self._entries.append({
                "When": local_text(now()), "ID": self._last, "Message": message,
                "Tag": f"{level}-{tag}", "MessageID": tag.rpartition("-")[2],
                "ExceptionID": exception[0] if exception else None, "Type": level,
                "Exception": exception[1] if exception else None, "BackupID": backup_id,
                "TaskID": None if task is None else str(task)})
            kept = KEPT_WHILE_READ if is_read else self._kept_unread
            del self._entries[:len(self._entries) - kept]

    def poll(self, level: str, after: int, count: int) -> list[dict]:
        """Entries of that level and above with numbers over `after`, oldest first, the newest
        `count` of them. From now on, that level is kept for a while."""
        with self._lock:
            self._level, self._until = LEVELS.index(level), time.monotonic() + READ_SECONDS
            found = [entry for entry in self._entries if entry["ID"] > after
                     and LEVELS.index(entry["Type"]) >= self._level]
            return found[-count:]
