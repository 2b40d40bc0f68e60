"""The fault that was told last, for --quiet: kept beside the settings from run to run.

Guards: that a fault which goes on from one cron turn to the next is told when it
begins and when it ends. Leaves alone: what a fault is. A file that cannot be read or
written costs a line too many, never a run.
"""

import contextlib
import json
import time

from remotes import files
from remotes.errors import RemotesError


class Faults:
    """The faults in the file `path`; this run is one of the action `action_name`."""

    def __init__(self, path, action_name):
        self.path = path
        self._action = action_name
        try:
            with open(path, encoding="utf-8") as stream:
                self._told = json.load(stream)
        except (OSError, ValueError, RecursionError):
            self._told = {}
        if not isinstance(self._told, dict):
            self._told = {}

    def begins(self, kind, message):
        """Notes a fault of this run; whether it is to be told (it is not the last one)."""
        last = self._told.get(self._action)
        if isinstance(last, dict) and last.get("kind") == kind:
            return False
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._told[self._action] = {"kind": kind, "message": message, "since": stamp}
        self._write()
        return True

    def ends(self):
        """Notes that this run went well: a line if a fault is over with it, or None."""
        last = self._told.pop(self._action, None)
        if not isinstance(last, dict):
            return None
        self._write()
        return f"the fault since {last.get('since')} is over: {last.get('message')}"

    def _write(self):
        with contextlib.suppress(RemotesError):
            files.replace(self.path, json.dumps(self._told, indent=2).encode() + b"\n")
