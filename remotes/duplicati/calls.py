"""A Duplicati server: one call -> its JSON, or an error of ours; and the calls that every
action needs. Where the generations differ in a call, they differ here.

Guards: that a call means the same on every release. Leaves alone: sessions; versions and
files (browsing), what tasks do and how they end (tasks), changing (changes).

Source: protocol page of Duplicati, section 3.
"""

import contextlib
import json

from remotes.duplicati.answers import NO_ENDPOINT, judge
from remotes.duplicati.session import OtherGenerationError
from remotes.errors import (
    ForeignServerError,
    NotFoundError,
    RefusedError,
    RemotesError,
    UnavailableError,
)

_LOG_PAGE = 100
# The rows of a job that never ran, on servers of the old generation (section 2.7, 11).
_NO_TABLE = "no such table"


class Duplicati:
    """A server, asked through `session`."""

    def __init__(self, session):
        self.session = session

    @property
    def is_legacy(self):
        """Whether it is of the old generation (2.0, with cookies)."""
        return self.session.generation == "cookie"

    @property
    def generation(self):
        return self.session.generation

    @property
    def base(self):
        return self.session.base

    def close(self):
        self.session.close()

    def raw(self, method, path, **sent):
        """The Answer of one exchange, whatever its status: see Session.exchange. A server that
        was replaced by one of the other generation is logged into again.
        """
        try:
            return self.session.exchange(method, path, **sent)
        except OtherGenerationError as error:
            was_heard, why = self.session.was_heard, error
        from remotes.duplicati import login  # which few runs need here

        self.session = login.begin_again(self.session, why)
        if was_heard and method != "GET":
            # What is to be changed was thought out for the server that was there before.
            raise UnavailableError(f"the server at {self.base} was replaced by one of another"
                                   " generation in mid-run, and nothing was changed: run it again",
                                   kind="server_error")
        return self.session.exchange(method, path, **sent)

    def call(self, method, path, **sent):
        """The JSON of one exchange (None if the body is empty); see answers.judge.

        `path` is below api/ ("v1/tasks"). `query` (mapping), and one of `document`
        (JSON), `form` (mapping), `parts` (multipart) may be given.
        """
        return judge(self.raw(method, path, **sent), method)

    def _rows(self, method, path, **sent):
        """A call whose answer must be a list of mappings."""
        rows = self.call(method, path, **sent)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._unexpected(path)
        return rows

    def _mapping(self, method, path, **sent):
        found = self.call(method, path, **sent)
        if not isinstance(found, dict):
            raise self._unexpected(path)
        return found

    def _unexpected(self, path):
        return ForeignServerError(f"{self.session.url(path)} answers what no Duplicati server does")

    # -- the server ------------------------------------------------------------------

    def system_info(self):
        """Section 5.6, as a mapping; some hundred kB."""
        return self._mapping("GET", "v1/systeminfo")

    def state(self, *, after_event=None, wait_seconds=0):
        """Section 5.1, as a mapping. With `after_event` (a LastEventID) the server answers
        when something happens, or after `wait_seconds` (10 to 3600).
        """
        if after_event is None:
            return self._state()
        query = {"longpoll": True, "lasteventid": after_event, "duration": f"{wait_seconds:d}s"}
        return self._state(query=query, patience_seconds=wait_seconds)

    def _state(self, **sent):
        """A serverstate whose tasks and schedules can be relied on: ActiveTask a mapping or None,
        SchedulerQueueIds and ProposedSchedule lists of mappings; Item1 of a task is a number.
        """
        path = "v1/serverstate"
        state = self._mapping("GET", path, **sent)
        active = state.get("ActiveTask")
        for name in ("SchedulerQueueIds", "ProposedSchedule"):
            state[name] = [] if state.get(name) is None else state[name]
            if not isinstance(state[name], list):
                raise self._unexpected(path)
        tasks = state["SchedulerQueueIds"] + ([] if active is None else [active])
        if not all(_is_pair(row) and type(row["Item1"]) is int for row in tasks) \
                or not all(_is_pair(row) for row in state["ProposedSchedule"]):
            raise self._unexpected(path)
        return state

    def progress(self):
        """Section 5.3, as a mapping; None before the first task since the server's start."""
        path = "v1/progressstate"
        try:
            found = self._mapping("GET", path)
        except NotFoundError:
            return None
        if type(found.get("TaskID", 0)) is not int:
            raise self._unexpected(path)
        return found

    def server_settings(self):
        return self._mapping("GET", "v1/serversettings")

    def notifications(self):
        return self._rows("GET", "v1/notifications")

    def notification(self, number):
        return self._mapping("GET", f"v1/notification/{number}")

    def tasks(self):
        """The tasks that run and wait; their shape differs between releases."""
        return self._rows("GET", "v1/tasks")

    def task(self, number):
        """A task's Status, and more where the release has it. Errors: NotFoundError."""
        return self._mapping("GET", f"v1/task/{number}")

    # -- backups ---------------------------------------------------------------------

    def backups(self):
        """[{"Backup": …, "Schedule": … or None}]; without settings, sources and filters."""
        rows = self._rows("GET", "v1/backups")
        if not all(_is_backup(row) for row in rows):
            raise self._unexpected("v1/backups")
        return rows

    def backup(self, backup_id):
        """{"Backup": …, "Schedule": … or None, "DisplayNames": …}. Errors: NotFoundError."""
        try:
            found = self._mapping("GET", f"v1/backup/{backup_id}")
        except NotFoundError as error:
            raise self.unknown_backup(backup_id, error) from None
        found = found["data"] if isinstance(found.get("data"), dict) else found
        if not _is_backup(found):
            raise self._unexpected(f"v1/backup/{backup_id}")
        return found

    def unknown_backup(self, backup_id, error):
        """The NotFoundError for an ID that the server does not know, from that of a call. A backup
        may be named in digits, and be meant.
        """
        text = f"{self.base} has no backup {backup_id}"
        if backup_id.isdigit():
            with contextlib.suppress(RemotesError):
                found = [str(row["Backup"].get("ID")) for row in self.backups()
                         if row["Backup"].get("Name") == backup_id]
                if found:
                    text += f"; one has that name: its number is {', '.join(found)}"
        return NotFoundError(text, answer=error.answer)

    def find_backup(self, text):
        """The ID of the backup that `text` names: all digits is an ID, anything else a
        name. Errors: NotFoundError, RefusedError (two of that name).
        """
        text = str(text)
        if text.isascii() and text.isdigit():
            return text
        names = [(str(row["Backup"].get("Name")), str(row["Backup"].get("ID")))
                 for row in self.backups()]
        found = [number for name, number in names if name == text]
        if len(found) > 1:
            raise RefusedError(f"{len(found)} backups are named {text!r}: use --id with one of "
                               + ", ".join(found))
        if not found:
            import difflib  # which no call but this one needs

            close = difflib.get_close_matches(text, [name for name, _ in names], n=1)
            raise NotFoundError(f"{self.base} has no backup named {text!r}"
                                + (f"; did you mean {close[0]!r}?" if close else ""))
        return found[0]

    def is_active(self, backup_id):
        """Whether a task of that backup runs or waits."""
        return bool(self._mapping("GET", f"v1/backup/{backup_id}/isactive").get("Active"))

    def log(self, backup_id, *, page_size=_LOG_PAGE, before=None):
        """Rows of the backup's log, newest first, `before` a row's ID (section 3.4).

        A row of type Result has a mapping `Result` beside its `Message`, if that can be
        read. An empty list if it never ran.
        """
        rows = self._job_rows(backup_id, "log", page_size, before)
        for row in rows:
            if row.get("Type") == "Result":
                row["Result"] = _parsed(row.get("Message"))
        return rows

    def remote_log(self, backup_id, *, page_size=_LOG_PAGE, before=None):
        """What was done at the backup's target, newest first (section 3.4)."""
        return self._job_rows(backup_id, "remotelog", page_size, before)

    def _job_rows(self, backup_id, name, page_size, before):
        """Rows of one of a backup's logs; an empty list if it never ran."""
        try:
            return self._rows("GET", f"v1/backup/{backup_id}/{name}",
                              query={"pagesize": page_size, "offset": before})
        except NotFoundError as error:
            raise self.unknown_backup(backup_id, error) from None
        except RefusedError as error:
            if _NO_TABLE in str(error):
                return []
            raise

    def stored_log(self, *, page_size=_LOG_PAGE, before=None):
        """The server's own log of errors, newest first; `before` in Unix seconds."""
        return self._rows("GET", "v1/logdata/log",
                          query={"pagesize": page_size, "offset": before})

    def live_log(self, *, level, after=0, page_size=_LOG_PAGE):
        """Entries of the live log with an ID over `after`, oldest first (section 5.7)."""
        return self._rows("GET", "v1/logdata/poll",
                          query={"level": level, "id": after, "pagesize": page_size})


def _is_pair(row):
    """Whether it is a pair as servers write them: a number or text, and something or nothing."""
    return isinstance(row, dict) and isinstance(row.get("Item1"), (int, str)) \
        and isinstance(row.get("Item2"), (int, str, type(None)))


def _is_backup(found):
    return isinstance(found.get("Backup"), dict) \
        and isinstance(found.get("Schedule"), (dict, type(None)))


def _parsed(message):
    """The result in a row's Message, a mapping; None if it cannot be read."""
    if isinstance(message, dict):
        return message
    try:
        found = json.loads(message)
    except (TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def is_missing_endpoint(error):
    """Whether a NotFoundError means that this release has no such request at all."""
    return error.code == NO_ENDPOINT
