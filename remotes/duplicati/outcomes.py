"""How a task ended, in truth: from the row that its run left in the backup's log, else
from all the other places where a failure shows.

Guards: that a run is never called good because the server says "Completed" (before 2.3
every task is), nor by another run's row. Leaves alone: waiting.

Source: protocol page of Duplicati, sections 2.7 (7), 4.1 to 4.3, 8.1.
"""

import time
from dataclasses import dataclass, field
from datetime import timedelta

from remotes.duplicati import moments, tasks
from remotes.errors import NotFoundError, RefusedError, UnavailableError, WaitTimeoutError

# result -> exit code: what a script does next.
EXIT_CODES = {"success": 0, "warning": 3, "error": 4, "aborted": 4, "interrupted": 4, "unknown": 4}
_PARSED = {"Success": "success", "Warning": "warning", "Error": "error", "Fatal": "error"}
_ABORT_WORDS = ("ThreadAbortException", "TaskCanceledException", "OperationCanceledException",
                "A task was canceled")
# A row bears the second in which it was written; its run lies between begin and end of its task.
_SECOND = timedelta(seconds=1)
# Clocks are compared within that.
_JUST_BEFORE = timedelta(seconds=1)
# A row of a run that was cut off by a restart began before it was last seen to run.
_LATEST = timedelta(seconds=0.05)
_PAGES = 5
_PAGE_ROWS = 50
# A row is a run's own if it has at least that part of its time in common with that in which the
# run was seen, or (it began before) of that, if it was seen so long.
_LEAST_PART, _SEEN_LONG = 0.5, timedelta(seconds=0.2)
_LOCK_WAIT_SECONDS, _LOCK_PAUSE_SECONDS = 30.0, 0.25
# Operations that leave a row only if there was something to do (2.0 and 2.1).
_MAY_LEAVE_NO_ROW = ("Compact", "Vacuum")
_FILE_COUNTS = {
    "examined": "ExaminedFiles", "added": "AddedFiles", "modified": "ModifiedFiles",
    "deleted": "DeletedFiles", "failed": "FilesWithError", "restored": "RestoredFiles",
}
_BYTE_COUNTS = {
    "examined_bytes": "SizeOfExaminedFiles", "added_bytes": "SizeOfAddedFiles",
    "restored_bytes": "SizeOfRestoredFiles",
}


@dataclass
class Outcome:
    """How a task ended. `result` is a key of EXIT_CODES, `why` says it in words.

    `row` is the result of the run as its log has it (section 4.3), None if it left none.
    """

    result: str
    why: str
    row: dict = None
    began: object = None
    ended: object = None
    warnings: list = field(default_factory=list)
    errors: list = field(default_factory=list)

    @property
    def exit_code(self):
        return EXIT_CODES[self.result]

    def answer(self):
        """As a mapping for the answer of an action; times in ISO 8601, sizes in bytes."""
        row = self.row or {}
        counts = {name: row[key] for name, key in {**_FILE_COUNTS, **_BYTE_COUNTS}.items()
                  if isinstance(row.get(key), int)}
        seconds = None
        if self.began and self.ended:
            seconds = round((self.ended - self.began).total_seconds(), 3)
        traffic = row.get("BackendStatistics")
        uploaded = traffic.get("BytesUploaded") if isinstance(traffic, dict) else None
        return {
            "result": self.result, "why": self.why, "began": moments.iso(self.began),
            "ended": moments.iso(self.ended), "seconds": seconds, **counts,
            **({"uploaded_bytes": uploaded} if isinstance(uploaded, int) else {}),
            "warnings": self.warnings, "errors": self.errors,
        }


def find(server, started, ending, deadline=None):
    """The Outcome of the task of `started`, whose waiting ended with `ending`.

    Errors: UnavailableError while another task of the backup has the database and the result
    cannot be read (WaitTimeoutError after `deadline`, monotonic seconds); it can be found later.
    """
    window = _Window(server, started, ending)
    row = _row(server, started, ending, window, deadline) if started.has_row else None
    if row is not None:
        return of_row(row, ending.task)
    return _without_row(server, started, ending, window)


# -- by its row --------------------------------------------------------------------------

class _Window:
    """What tells the run's row from those of others. Moments by the server's clock.

    `earliest`, `latest`: when the run can have begun; `ended_after`: when it cannot have
    been over yet. None where there is no such bound.
    """

    def __init__(self, server, started, ending):
        self.earliest = started.started_at
        self.latest = self.ended_after = None
        is_cut = ending.state != "over" or ending.is_doubted
        if is_cut or self.earliest is None and started.row is None:
            self._reckon(started, ending, is_cut, clock_offset(server)[0])
        elif finished := moments.parse((ending.task or {}).get("TaskFinished")):
            self.latest = finished

    def _reckon(self, started, ending, is_cut, offset):
        """Bounds from this machine's clock, which the server's is ahead of by `offset`."""
        if offset is not None and started.asked_at:
            self.ended_after = moments.parse(started.asked_at) + offset - _JUST_BEFORE
        if is_cut:  # runs that began after the restart have left rows, too
            seen = ending.seen_at or started.asked_at
            bounds = [moments.parse(seen) + offset + _LATEST] if offset is not None and seen else []
            if started.started_at:  # it may have been on its way for long
                bounds.append(started.started_at + _LATEST)
            self.latest = max(bounds, default=None)

    def holds(self, row, started):
        """Whether a row whose result is of the right operation is that of the run."""
        began, ended = (moments.parse(row["Result"].get(name)) for name in ("BeginTime", "EndTime"))
        if self.latest is not None and (began is None or began > self.latest):
            return False
        if started.row is not None and _number(row) <= started.row:
            return False
        if self.earliest is not None:  # one task at a time: the one before was over by then
            return began is not None and (ended or began) >= self.earliest
        if started.row is not None:
            return True
        return self.ended_after is not None and ended is not None and ended >= self.ended_after


def clock_offset(server, looks=1, clock=time.time):
    """(offset, span): how much the server's clock is ahead of this machine's, rather too much than
    too little, by `span` at most, which more looks make smaller. The first is None if it is not
    known. `clock` gives Unix seconds.
    """
    most, least = None, None
    for _ in range(looks):
        here = moments.parse(clock())
        try:
            there = moments.parse(server.system_info().get("ServerTime"))
        except (NotFoundError, RefusedError):  # with any other, the outcome is found later
            there = None
        if there is None:
            return None, timedelta(0)
        after = moments.parse(clock())
        most = there - here if most is None else min(most, there - here)
        least = there - after if least is None else max(least, there - after)
    return most, max(most - least, timedelta(0))


def _row(server, started, ending, window, deadline):
    """The result of the run from its row: the first that fits; None if there is none."""
    found = _readable_rows(server, started, ending, window, deadline)
    if not found:
        return None
    if window.earliest is not None or ending.state != "over":
        return found[-1]["Result"]
    results = [row["Result"] for row in found]
    if ending.others:
        return _row_by_time(server, started, ending, results)
    # A run that left no row (2.0) is not that of a later one, which does not note an error.
    return None if _has_failed_before(server, started, results) else results[-1]


def _has_failed_before(server, started, results):
    """Whether the backup notes an error that is none of `results`, from before the first one's end,
    which was good."""
    first, ended = of_row(results[-1]), moments.parse(results[-1].get("EndTime"))
    if first.exit_code == 4 or ended is None or _last_error(server, started) is None:
        return False
    at = moments.parse(_metadata(server, started).get("LastErrorDate"))
    is_told = any(outcome.exit_code == 4 and outcome.ended and at
                  and abs(outcome.ended - at) <= _SECOND for outcome in map(of_row, results))
    return at is not None and at <= ended and not is_told


def _row_by_time(server, started, ending, results):
    """The result that is the run's own, where other tasks of the backup ran before and after it,
    and the release tells no times of tasks: by this machine's clock. None if it cannot be told.
    """
    offset, span = (None, None) if ending.ran_at is None else clock_offset(server, looks=3)
    if offset is None:
        # It was over when somebody first looked. If all of them are good, so is its own; if all
        # of them are bad, so is its own, or it left none.
        codes = {of_row(result).exit_code for result in results}
        is_clear = codes == {4} or codes == {0} and len(results) > ending.others \
            and _last_error(server, started) is None
        return results[-1] if is_clear else None
    begin, end = (moments.parse(at) + offset - span / 2 for at in (ending.ran_at, ending.over_at))

    def common(result):
        """What the row's time has in common with that in which the run was seen."""
        began, ended = (moments.parse(result.get(name)) for name in ("BeginTime", "EndTime"))
        if began is None or ended is None:
            return -timedelta.max
        return min(ended, end) - max(began, begin)

    best = max(results, key=common)
    row_span = moments.parse(best.get("EndTime")) - moments.parse(best.get("BeginTime")) \
        if common(best) > timedelta(0) else None
    if row_span is None:
        return None
    shared = common(best) + span
    is_own = shared >= row_span * _LEAST_PART \
        or end - begin >= _SEEN_LONG and shared >= (end - begin) * _LEAST_PART
    return best if is_own else None


def _readable_rows(server, started, ending, window, deadline):
    """Rows that may be the run's; waits a while for a database that another task has."""
    until = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        locked = None
        # While a task of the backup runs, its log is empty (2.1 to 2.3.0), or locked (today).
        is_busy = bool(ending.others and tasks.numbers_of(server.state(), started.backup_id))
        try:
            found = _rows(server, started, window)
        except NotFoundError:
            return []  # the backup is gone
        except UnavailableError as error:
            if error.kind not in ("database_locked", "server_error"):
                raise
            found, locked = [], error
        is_hidden = locked is not None or is_busy and not found
        if not is_hidden or (ending.task or {}).get("Status") == "Failed":
            return found
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise WaitTimeoutError(f"task {started.number} of backup {started.backup_id} is over;"
                                   " how it ended cannot be read yet: another task of it runs")
        if now >= until:
            if locked is None or locked.kind == "database_locked":
                raise locked or UnavailableError(
                    f"task {started.number} of backup {started.backup_id} is over; how it ended"
                    " cannot be read while another task of it runs", kind="database_locked")
            return []
        left = _LOCK_PAUSE_SECONDS if deadline is None else deadline - now
        time.sleep(min(_LOCK_PAUSE_SECONDS, left))


def _rows(server, started, window):
    """Rows of the log that fit what is known of the run, newest first."""
    before, found = None, []
    for _ in range(_PAGES):
        rows = server.log(started.backup_id, page_size=_PAGE_ROWS, before=before)
        found += [row for row in rows if _is_result_of(row, started.operation)
                  and window.holds(row, started)]
        if len(rows) < _PAGE_ROWS or _is_older(rows[-1], started, window):
            break
        before = rows[-1].get("ID")
    return found


def _is_result_of(row, operation):
    result = row.get("Result")
    if row.get("Type") != "Result" or not isinstance(result, dict):
        return False
    name = str(result.get("MainOperation"))
    return name == operation if operation else not name.startswith(("List", "Search"))


def _number(row):
    return row["ID"] if isinstance(row.get("ID"), int) else -1


def _is_older(row, started, window):
    """Whether a row is from before the run, so that no older one is of use."""
    stamp = moments.parse(row.get("Timestamp"))
    if window.earliest is not None and stamp is not None:
        return stamp < window.earliest - _SECOND
    return started.row is not None and _number(row) <= started.row


def of_row(row, task=None):
    """The Outcome that a result row (mapping) tells; `task`: what the server says of it."""
    parsed = str(row.get("ParsedResult"))
    result = _PARSED.get(parsed, "unknown")
    errors, warnings = _lines(row.get("Errors")), _lines(row.get("Warnings"))
    is_stopped = row.get("Interrupted") is True or row.get("PartialBackup") is True
    why = {"success": "it ended well", "warning": _first(warnings, "it ended with warnings"),
           "error": _first(errors, "it ended in an error"),
           "unknown": f"the log calls its result {parsed}"}[result]
    if result == "error" and any(word in line for line in errors for word in _ABORT_WORDS):
        result, why = "aborted", "it was aborted"
    elif is_stopped and result != "error":
        result, why = "interrupted", "it was stopped before its end, and is partial"
    elif result in ("success", "warning") and (task or {}).get("Status") == "Failed":
        result, why = "error", str(task.get("ErrorMessage") or "the server calls it failed")
    return Outcome(result, why, row, moments.parse(row.get("BeginTime")),
                   moments.parse(row.get("EndTime")), warnings, errors)


def _lines(found):
    return [str(line) for line in found] if isinstance(found, list) else []


def _first(lines, otherwise):
    """The first line of what was logged, without its stamp and tag."""
    if not lines:
        return otherwise
    text = lines[0].partition("]: ")[2] or lines[0]
    return " ".join(text.split())[:300]


# -- by what else there is ---------------------------------------------------------------

def _without_row(server, started, ending, window):
    """The Outcome of a run that left no row."""
    task = ending.task or {}
    began, ended = moments.parse(task.get("TaskStarted")), moments.parse(task.get("TaskFinished"))
    if task.get("Status") == "Failed":
        message = str(task.get("ErrorMessage") or "the server calls it failed")
        text = f"{message} {task.get('Exception') or ''}"
        is_aborted = any(word in text for word in _ABORT_WORDS)
        return Outcome("aborted" if is_aborted else "error",
                       "it was aborted" if is_aborted else message, None, began, ended, [],
                       [message])
    message = _last_error(server, started)
    if message is not None and ending.state == "over":
        return Outcome("error", message, None, began, ended, [], [message])
    for kind, text in _notified(server, started, window, ending):
        result = "error" if kind == "Error" else "warning"
        lines = {"errors" if result == "error" else "warnings": [text]}
        return Outcome(result, text, None, began, ended, **lines)
    if ending.state == "restarted":
        return Outcome("interrupted", "the server was started anew while it ran, and it left no"
                       " result", None, began, ended)
    if ending.state == "forgotten":
        return Outcome("interrupted", "the server does not know the task any more (was it started"
                       " anew?), and it left no result", None, began, ended)
    if ending.is_doubted:
        return Outcome("interrupted", "the server was away, was started anew as it seems, and the"
                       " run left no result", None, None, None)
    if _phase_is_error(server, started):
        return Outcome("error", "it ended in an error, of which the backup's log knows nothing",
                       None, began, ended)
    if not started.has_row or started.operation in _MAY_LEAVE_NO_ROW:
        return Outcome("success", "the server calls it completed", None, began, ended)
    return Outcome("unknown", "the server calls it completed, but it left no result: it failed, or"
                   " was aborted", None, began, ended)


def _phase_is_error(server, started):
    """Whether the last task of the server was this one, and an exception ended it."""
    state = server.progress() or {}
    return state.get("TaskID") == started.number and state.get("Phase") == "Error"


def _metadata(server, started):
    """The backup's metadata, a mapping; an empty one if it is gone."""
    try:
        found = server.backup(started.backup_id)["Backup"].get("Metadata")
    except NotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def _last_error(server, started):
    """The backup's LastErrorMessage, if it is newer than the run's start; else None."""
    metadata = _metadata(server, started)
    stamp = metadata.get("LastErrorDate")
    if not stamp or str(stamp) == started.error_stamp and started.asked_at:
        return None
    if not started.asked_at:  # started elsewhere: what was there before is not known
        at = moments.parse(stamp)
        if started.started_at is None or at is None or at < started.started_at - _SECOND:
            return None
    return str(metadata.get("LastErrorMessage") or "the backup notes an error")


def _notified(server, started, window, ending):
    """(type, message) of the notifications that the run has made, errors first."""
    earliest = window.earliest or window.ended_after
    if earliest is None or ending.state != "over":
        return []
    if started.notified is not None \
            and server.state().get("LastNotificationUpdateID") == started.notified:
        return []  # those that there are were there before
    found = []
    for row in server.notifications():
        at = moments.parse(row.get("Timestamp"))
        is_ours = str(row.get("BackupID")) == started.backup_id and at \
            and at >= earliest - _SECOND
        if is_ours and row.get("Type") in ("Error", "Warning"):
            found.append((row["Type"], " ".join(str(row.get("Message")).split())[:300]))
    return sorted(found, key=lambda pair: pair[0] != "Error")
