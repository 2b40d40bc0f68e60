"""The local list of tasks: what was fetched, how far it is, and what came of it.

States of a task in `task-list.yml` (key: task server, ID):

    fetched    it came; nothing was done or answered
    accepted   it will be done
    running    it is being done, or is about to be
    done       its result is kept until the task server has it
    refused    likewise
    sent       off the list; remembered for 12 hours, should the server list it again

An entry of the server's list without a usable ID is remembered as `unusable`, under its
content: it cannot be answered, and is told once.

Guards: a change is on the disk before it is acted on; what is remembered is bounded; a
change costs the same however long the list is; where lines of the file were damaged, a task
of which less may be known than was done is marked. Leaves alone: what the states lead to
(tasks), whether a task is one (operations), how a line survives (journal), locking: whoever
appends holds the lock of the tasks.

Source: protocol page of the task server, "task-list.yml".
"""

import contextlib
import json
import time
from datetime import datetime, timezone

from remotes.errors import DiskFullError
from remotes.journal import Journal

LIST_NAME = "task-list.yml"
REMEMBERED_SECONDS = 12 * 3600
_REMEMBERED = 20_000
_REMEMBERED_BYTES = 32 * 1024 * 1024
_UNUSABLE = 10_000
# A task beyond these is refused; it need not be kept to be read again.
_TASK_CHARACTERS = 256 * 1024
_DEPTH = 96  # more than a task may be
_NOT_KEPT = "it was answered before; the answer held secrets, and is not kept"
_ON_LIST = ("fetched", "accepted", "running", "done", "refused")


def is_usable(task_id):
    """Whether this can be an ID: a whole number or a text. True is neither, nor is 1.0."""
    return type(task_id) in (int, str)


class TaskList:
    """The tasks of the task server `server` (its base URL) in the file `path`.

    1 and "1" are two tasks. `tell` is called with one line when the file was damaged,
    `clock` gives the time in seconds since 1970. Opened `for_reading`, nothing is changed.
    Errors, of each change: DiskFullError, SettingsError; then the task is what it was.
    """

    def __init__(self, path, server, *, tell, clock=time.time, for_reading=False):
        self.path = path
        self._server = server
        self._clock = clock
        self._journal = Journal(path, "tasks", ("server", "id"), tell=tell, is_checked=True,
                                for_reading=for_reading, on_damage=_doubt)
        self._sort()

    def _sort(self):
        """Sorts what the journal holds: at the start, and after each fold."""
        self._open = {}  # the IDs on the list, as they came
        self._sent = {}  # key -> (at, bytes), the oldest first
        self._unusable = {}  # likewise
        self._remembered_bytes = 0
        self._unwritten = {}  # key -> fields for which the disk had no room
        for key in self._journal.entries:
            self._place(key)
        self._sent = dict(sorted(self._sent.items(), key=lambda row: row[1][0]))

    def _place(self, key):
        """Puts a key to where its state belongs."""
        entry = self._journal.entries.get(key)
        state = entry.fields.get("state") if entry else "removed"
        for name, kind in (("sent", self._sent), ("unusable", self._unusable)):
            at, size = kind.get(key, (None, 0))
            self._remembered_bytes -= size
            if state == name:
                now_at = _seconds(entry.fields.get("at"))
                if now_at != at:
                    kind.pop(key, None)  # it goes to the end
                kind[key] = (now_at, entry.size)
                self._remembered_bytes += entry.size
            else:
                kind.pop(key, None)
        if key[0] != self._server:
            return
        if state in ("sent", "removed"):
            self._open.pop(key[1], None)
        else:
            self._open.setdefault(key[1])

    # -- reading ---------------------------------------------------------------------

    @property
    def live_bytes(self):
        """Bytes of the file that belong to tasks on the list, also those of other servers."""
        return self._journal.live_bytes - self._remembered_bytes

    @property
    def was_damaged(self):
        """Whether lines of the file could not be read: see `_doubt`."""
        return self._journal.was_damaged

    def open(self):
        """The IDs on the list, in the order in which they came."""
        return list(self._open)

    def open_elsewhere(self):
        """The addresses of other task servers of which tasks are on the list."""
        return sorted({server for (server, _), entry in self._journal.entries.items()
                       if server not in (self._server, "unusable")
                       and entry.fields.get("state") in _ON_LIST})

    def fields(self, task_id):
        """What is noted of a task, sent ones included: a mapping; None if it is not known."""
        entry = self._entry(task_id)
        return dict(entry.fields) if entry else None

    def result(self, task_id):
        """The result of a task, as it was finished, sent ones included; else None."""
        entry = self._entry(task_id)
        if entry is None or entry.fields.get("state") not in ("done", "refused", "sent"):
            return None
        return self._journal.body((self._server, task_id))

    def former(self, task_id, sha256):
        """Whether this task, of this content, was taken off the list less than 12 hours ago.

        What was taken off in the future (the clock was set back) was so just now.
        """
        entry = self._entry(task_id)
        if entry is None or entry.fields.get("state") != "sent":
            return False
        age = int(self._clock()) - self._sent[self._server, task_id][0]
        return age < REMEMBERED_SECONDS and entry.fields.get("sha256") == sha256

    def _entry(self, task_id):
        return self._journal.entries.get((self._server, task_id)) if is_usable(task_id) else None

    # -- changing --------------------------------------------------------------------

    def note(self, task_id, *, sync=True, **fields):
        """Notes a change of a task; a `state` gets its `at`, too.

        The first one has state="fetched", `task` (the server's entry) and its `sha256`. A
        task that is too large or too deep to be one is kept as None. Names that cannot be
        fields: server, id, at, body, check, key.
        """
        key = self._key(task_id)
        self._write_unwritten()
        if fields.get("state") == "fetched" and key in self._sent:
            # What is remembered of the former task is not this one's.
            self._append(key, sync=False, state="removed")
        if "task" in fields:
            fields["task"] = _kept_task(fields["task"])
        self._append(key, sync=sync, **fields)
        self._fold()

    def finish(self, task_id, status, data, *, state="done", sync=True):
        """Keeps the result of a task: `status` and `data` (any JSON) as the server gets them."""
        key = self._key(task_id)
        body = {"ID": task_id, "Status": status, "Data": _kept_data(data)}
        self._write_unwritten()
        self._append(key, sync=sync, state=state, body=body)
        self._fold()

    def sent(self, task_id):
        """Takes a task off the list: the server has its result.

        Not synced: a kill cannot undo it, and after a power cut it is sent once more. A full
        disk does not keep it from that: it is written when there is room, or sent once more. What
        is `secret` of it (its "task" or its "answer") is not kept: the file is written anew.
        """
        key = self._key(task_id)
        if key not in self._journal.entries:
            return
        known = self._journal.entries[key].fields
        self._follow_clock()
        self._write_unwritten()
        # With the content's hash once more, should the task's first line be damaged one day.
        fields = {"state": "sent", "at": _text(self._clock()), "task": None,
                  "sha256": known.get("sha256"),
                  **{name: None for name in known if name.startswith("result_")}}
        secret, body = known.get("secret"), None
        if secret == "answer":
            body = {**(self._journal.body(key) or {}), "Data": {"Message": _NOT_KEPT}}
        self._append_in_time(key, {**fields, "body": body} if body else fields)
        if secret and self._journal.fold():
            self._sort()
        self._fold()

    def note_unusable(self, sha256):
        """Notes an entry without a usable ID by its content's hash; whether it is a new one."""
        key = ("unusable", sha256)
        if key in self._unusable:
            return False
        self._append(key, sync=False, state="unusable")
        return True

    def forget_old(self):
        """Forgets what was sent 12 hours ago or earlier, and the oldest of what is too much."""
        self._follow_clock()
        self._write_unwritten()
        with contextlib.suppress(DiskFullError):  # then it is forgotten later
            for key in [*self._sent_too_long(), *self._unusable_too_many()]:
                self._append(key, sync=False, state="removed")
        self._fold()

    def _sent_too_long(self):
        # Collected first: to look for the first of a dict costs as much as were taken out there.
        oldest_at = int(self._clock()) - REMEMBERED_SECONDS
        number, size = len(self._sent), self._remembered_bytes
        for key, (at, key_size) in self._sent.items():
            if number <= _REMEMBERED and size <= _REMEMBERED_BYTES and at > oldest_at:
                return
            yield key
            number, size = number - 1, size - key_size

    def _unusable_too_many(self):
        return list(self._unusable)[:-_UNUSABLE] if len(self._unusable) > _UNUSABLE else []

    def sync(self):
        """Makes all that was noted survive a power cut, for notes that were not synced."""
        self._journal.sync()

    def require_room(self, needed_bytes):
        """DiskFullError unless `needed_bytes` more can be written, as far as can be known."""
        self._journal.require_room(needed_bytes)

    def close(self):
        self._journal.close()

    def _key(self, task_id):
        if not is_usable(task_id):
            raise ValueError(f"{task_id!r:.80} is no ID of a task")
        return (self._server, task_id)

    def _append(self, key, *, sync, **fields):
        if "state" in fields:
            fields.setdefault("at", _text(self._clock()))
        try:
            self._journal.note(key, sync=sync, **fields)
        except ValueError:  # it holds NaN or the like, which is no JSON
            self._journal.note(key, sync=sync, **_plain(fields))
        self._place(key)
        if key not in self._journal.entries:
            self._unwritten.pop(key, None)

    def _append_in_time(self, key, fields):
        """Appends a change that may be lost: on a full disk it waits, and holds already."""
        fields = {**self._unwritten.pop(key, {}), **fields}
        try:
            self._append(key, sync=False, **fields)
        except DiskFullError:
            self._journal.entries[key].fields.update(fields)
            self._place(key)
            self._unwritten[key] = fields

    def _write_unwritten(self):
        for key, fields in list(self._unwritten.items()):
            self._append_in_time(key, fields)
            if key in self._unwritten:
                return  # there is still no room

    def _follow_clock(self):
        """After the clock was set back, what was sent in the future was sent now.

        Else it would be remembered until then. What is sent stays in the order of its time.
        """
        now, ahead = int(self._clock()), []
        for key in reversed(self._sent):
            if self._sent[key][0] <= now:
                break
            ahead.append(key)
        for key in reversed(ahead):
            self._append_in_time(key, {"at": _text(now)})

    def _fold(self):
        if self._journal.fold_if_mostly_dead():
            self._sort()


def _doubt(entry):
    """Marks an entry of a damaged file, of which a later line may be lost.

    `doubted`: more of it may have been begun than is known. A result that is lost leaves what came
    before it.
    """
    fields = entry.fields
    if fields.get("state") in ("done", "refused") and entry.body_place is None:
        fields["state"] = "running" if fields["state"] == "done" else "fetched"
    if fields.get("state") not in (*_ON_LIST, "sent", "unusable"):
        fields["state"] = "fetched"
    if fields["state"] in ("fetched", "accepted", "running"):
        fields["doubted"] = True


def _kept_task(task):
    if _is_deep(task):
        return None
    return task if len(json.dumps(task, ensure_ascii=False)) <= _TASK_CHARACTERS else None


def _kept_data(data):
    if _is_deep(data):
        return {"Message": "the result is nested too deeply to be kept"}
    return data


def _plain(value):
    """JSON as all can read it: NaN and its like, which Python knows alone, as texts."""
    return json.loads(json.dumps(value), parse_constant=str)


def _is_deep(value):
    """Whether JSON is nested so deeply that a reader of the file might give up."""
    level = [value]
    for _ in range(_DEPTH):
        level = [inner for outer in level if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return False
    return True


def _text(seconds):
    """A time as the list has it: UTC, to the second."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat()


def _seconds(text):
    """The seconds since 1970 of a time of the list; what is none counts as in the future."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (TypeError, ValueError, OverflowError):
        return float("inf")
