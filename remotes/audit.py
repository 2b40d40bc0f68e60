"""audit.jsonl: one line for each command and task that was done here.

Guards: when, where from, what (SHA-256 of the source), how it ended; never what it
printed. Rotated at 5 MB, one old one is kept. Leaves alone: durability; the journal
is what decides, this is what people read. A full disk does not end a run.
"""

import json
import os
import time

from remotes import files

ROTATE_BYTES = 5 * 1000 * 1000


class Audit:
    """The log in the file `path`, 0600, made when the first line is written."""

    def __init__(self, path, *, tell=lambda line: None):
        self.path = path
        self._tell = tell
        self._is_broken = False

    def note(self, **fields):
        """Appends one line: UTC time and `fields` (JSON values)."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"at": stamp, **fields}, ensure_ascii=False) + "\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(self.path, flags, 0o600)
            try:
                _append(descriptor, line.encode("utf-8", "replace"))
                is_long = os.fstat(descriptor).st_size >= ROTATE_BYTES
            finally:
                os.close(descriptor)
            if is_long:
                os.replace(self.path, self.path + ".1")
            self._is_broken = False
        except OSError as error:
            if not self._is_broken:
                self._tell(f"cannot write {self.path}: {error.strerror}; the run goes on")
            self._is_broken = True


def _append(descriptor, line):
    """Writes a whole line, or nothing of it: the next one would be glued to a half."""
    start = os.fstat(descriptor).st_size
    try:
        files.write_all(descriptor, line)
    except OSError:
        os.ftruncate(descriptor, start)
        raise
