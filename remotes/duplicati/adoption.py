"""A run that was about to be started when the client was ended: whether the server has it.

Guards: that no run is taken for it that is older than the request, nor one that a server which
was started anew since has made; and that a log which cannot be read now is not taken for one
without traces. A run that is under way is the one that is meant, as for tasks.start.
A run that is over is found by the same traces where its number is not to be relied on.
Leaves alone: waiting for it (waiting), how it ended (outcomes), and starting it.

What is not to be found: a run that was cut off when the server was killed (all releases), one
that was aborted on 2.1.0 once another task has followed, and, on releases that tell no times of
tasks (2.0, 2.1.0), the end of one if the server was started anew and has done as much since. The
first two are started again, of the third it is said that it is unclear. A run that a schedule has
begun after the request looks like that of the request; on releases without times so does one after
a restart that the server's counters do not show. On 2.0.6.3, where a failure leaves no row, that of
another task of the backup looks so, too, if the server's own log does not tell of it.

Source: protocol page of Duplicati, sections 2.7 (7, 8), 3.3, 3.4, 4.1 and 8.1.
"""

import re
import time
from collections import namedtuple
from dataclasses import replace
from datetime import timedelta
from functools import cached_property

from remotes.duplicati import moments, outcomes, tasks, waiting
from remotes.errors import NotFoundError, UnavailableError

# What a run is called in the server's own log (the second by today's release), and where.
_RUN_WORDS = ("Backup", "BackupOrSync")
_FAILED = re.compile(r'Failed while executing "?(\w+)')
# Stamps of errors are whole seconds, cut off; one and the same may be stamped in two.
_SECOND = timedelta(seconds=1)
_PAGE_ROWS, _PAGES = 100, 50
# The first task of a server has this number; so many that are over are remembered.
_FIRST_NUMBER, _KEPT_TASKS = 2, 99
_CLOCK_LOOKS = 3
# Above the number of any row: none is that of a run that left none.
_NO_ROW = 2**62

# A row of the backup's log. began, ended: aware datetimes or None; is_bad: it ended in an error.
_Run = namedtuple("_Run", "number operation began ended is_bad")


def search(server, noted, clock=time.time):
    """The run of a backup that `noted` (tasks.Started, all but its number; `asked_at` just before
    the request) was noted for: a Started, or None if the server has no trace of it.

    `clock` is that of `asked_at`, in Unix seconds.

    Errors: those of the server; UnavailableError (database_locked) while another task of the backup
    hides what there is, or it is not told what its task does: search again later then.
    NotFoundError if what there is may be of that run, or of a later one, for good.
    """
    traces = _Traces(server, noted, clock)
    found = traces.under_way() or traces.over()
    if found is None and not traces.hides_nothing(server.state()):
        raise traces.unknown()  # it was on its way from the queue
    return found


def outcome(server, noted, ending, deadline=None, clock=time.time):
    """The Outcome (outcomes) of a run that nobody has seen running and that is over, as `ending`
    (waiting) says by its number. That is another's by now if the server was started anew since: so
    it is told by what it left behind. `noted`: as it was started, its number included.

    Errors: as of `search` and of outcomes.find; ask again later then.
    """
    traces = _Traces(server, noted, clock)
    if not traces.hides_nothing(server.state()):
        raise traces.unknown()
    found = traces.over()
    if found is None:
        return outcomes.find(server, noted, ending._replace(task=None), deadline)
    ending = waiting.Wait(server, found).look(server.state())
    return outcomes.find(server, found, ending, deadline)


class _Traces:
    """What the server `server` tells of the run that `noted` was noted for."""

    def __init__(self, server, noted, clock):
        self._server = server
        self._noted = noted
        self._clock = clock
        self._state = server.state()
        self._progress = server.progress() or {}
        event = self._state.get("LastEventID")
        self._event = event if isinstance(event, int) else None
        self._last = self._progress.get("TaskID", 0)

    @property
    def _asked(self):
        """When the request was made by the server's clock, rather too early than too late."""
        return self._asked_between[0]

    @cached_property
    def _asked_between(self):
        """The earliest and the latest moment of the server's clock for the request."""
        # One look can meet a stall, and a run that was over within it would seem to be a later one.
        offset, span = outcomes.clock_offset(self._server, _CLOCK_LOOKS, self._clock)
        asked = moments.parse(self._noted.asked_at) or moments.parse(self._clock())
        latest = asked if offset is None else asked + offset
        return latest - span, latest

    @cached_property
    def _is_restarted(self):
        """Whether the server is surely another process than when it was noted: its counters, which
        only grow, fell; or the last task of then began after the request."""
        former = self._noted.former
        if None not in (self._event, self._noted.event) and self._event < self._noted.event:
            return True
        if not former:
            return False
        began = moments.parse(self._task(former).get("TaskStarted"))
        return self._last < former if began is None else began > self._asked_between[1]

    def _found(self, number, **more):
        if self._is_restarted:  # numbers and events of before mean nothing now
            more.update(others=[], event=self._event)
        return replace(self._noted, number=number, **more)

    # -- while it is there -----------------------------------------------------------

    def under_way(self):
        """The run that runs or waits, or None. Errors: UnavailableError if it is not told whether
        a task is one, or the log is hidden while it goes on."""
        for number in self._numbers(self._state):
            if self._operation(number) == self._noted.operation and (
                    not self._is_restarted or "TaskStarted" in self._task(number)):
                return self._found(number)  # else its row could not be told from older ones
        if not self.hides_nothing(self._state):
            raise self.unknown()
        return None

    def _numbers(self, state):
        return tasks.numbers_of(state, self._noted.backup_id)

    def hides_nothing(self, state):
        """Whether the backup's tasks in a serverstate, if any, are no runs, and its log can be read
        all the same: on 2.0."""
        numbers = self._numbers(state)
        return not numbers or self._server.is_legacy and all(
            self._operation(number) not in ("", self._noted.operation) for number in numbers)

    def _operation(self, number):
        """What a task does, "" if that is not known: before 2.1.1 it is told, later a run is known
        by its phase once it has one of its own."""
        told = tasks.operation_of(self._server, number)
        return told or (self._noted.operation if self._is_run_by_phase(number) else "")

    def _is_run_by_phase(self, number):
        phase = str(self._progress.get("Phase"))
        return self._progress.get("TaskID") == number and phase.startswith("Backup_") \
            and phase != "Backup_Begin"  # with which all operations begin, before 2.1.1

    def unknown(self):
        noted = self._noted
        return UnavailableError(f"whether the {noted.operation} of backup {noted.backup_id} was"
                                " started is not known while another task of it, or that one, runs"
                                " or waits", kind="database_locked")

    # -- once it is over -------------------------------------------------------------

    def over(self):
        """The run that has ended since, or None: the first that left a row or failed."""
        try:
            backup = self._server.backup(self._noted.backup_id)["Backup"]
        except NotFoundError:
            return None
        runs = self._new_rows(backup)
        ours = [run for run in runs if self._is_ours(run)]
        failures = self._failures(backup, runs, ours)
        if self._is_restarted:
            ours, failures = self._before_restart(ours, failures)
        if failures and not (ours and ours[0].began and ours[0].began < failures[0]):
            return self._without_row(failures[0], error_stamp="")
        if ours:
            number, began = self._task_of(ours[0])
            return self._found(number, started_at=began, row=ours[0].number - 1, is_over=True)
        return self._without_row() if self._is_newer_task() and self._is_run_by_phase(self._last) \
            else None

    def _without_row(self, failed=None, **more):
        """The Started of a run that left no row, and that failed in the second `failed`. Its number
        is known if it is the server's last task."""
        task = self._task(self._last) if self._is_newer_task() else {}
        began, ended = (moments.parse(task.get(name)) for name in ("TaskStarted", "TaskFinished"))
        is_it = began and ended and (failed is None or task.get("Status") == "Failed"
                                     and began - _SECOND <= failed <= ended)
        return self._found(self._last if is_it else None, started_at=began if is_it else None,
                           row=_NO_ROW, is_over=True, **more)

    def _is_newer_task(self):
        """Whether the server's last task is one of the backup that was not there before."""
        return not self._is_restarted and self._noted.former is not None \
            and self._last != self._noted.former \
            and str(self._progress.get("BackupID")) == self._noted.backup_id

    def _new_rows(self, backup):
        """What has left a row since, and some of before, oldest first, as _Run.

        Errors: UnavailableError if the log is there and shows nothing.
        """
        noted = self._noted

        def is_old(row):
            stamp = moments.parse(row.get("Timestamp"))
            return (noted.row is None or _number(row) <= noted.row) \
                and stamp is not None and stamp < self._asked - _SECOND

        rows = _pages(lambda **page: self._server.log(noted.backup_id, **page), "ID", is_old)
        if not rows and noted.row and backup.get("DBPathExists") is True:
            raise self.unknown()
        return [_run(row) for row in reversed(rows) if isinstance(row.get("Result"), dict)]

    def _is_ours(self, run):
        """Whether a row can be that of the run: one that was made since, of a run that began after
        the request, or was under way then. By the clock only where numbers do not tell."""
        noted = self._noted
        if run.operation != noted.operation:
            return False
        is_newer = noted.row is not None and run.number > noted.row
        if is_newer and not noted.others:
            return True
        if noted.row is not None and not is_newer:  # the database may have been made anew
            return run.began is not None and run.began >= self._asked_between[1]
        return run.ended is not None and run.ended >= self._asked

    def _failures(self, backup, runs, ours):
        """When runs have failed since that left no row: seconds, oldest first. `ours`: those of
        `runs` that can be the run."""
        before = moments.parse(self._noted.error_stamp)
        metadata = backup.get("Metadata") if isinstance(backup.get("Metadata"), dict) else {}
        told = self._told_failures()
        found = {at for at, word in told if word in _RUN_WORDS and (before is None or at > before)}
        if str(metadata.get("LastErrorDate") or "") != self._noted.error_stamp:
            told = [(at, word) for at, word in told if before is None or at > before]
            last = moments.parse(metadata.get("LastErrorDate"))
        else:  # another can have failed in the same second
            is_newer = self._is_newer_task() and self._progress.get("Phase") == "Error"
            last = before if is_newer else None
        if last and not self._is_of_others(last, told, runs):
            found.add(last)
        return sorted(at for at in found if not any(_is_told_by(run, at) for run in ours))

    def _is_of_others(self, last, told, runs):
        """Whether the backup's last error is told to be that of another operation: by the server's
        own log, or by its row."""
        return any(abs(at - last) <= _SECOND and word not in _RUN_WORDS for at, word in told) \
            or any(run.operation != self._noted.operation and _is_told_by(run, last)
                   and (self._noted.row is None or run.number > self._noted.row) for run in runs)

    def _told_failures(self):
        """(second, operation) of the backup's failures in the server's own log since then."""
        def is_old(row):
            at = moments.parse(row.get("Timestamp"))
            return at is not None and at + _SECOND < self._asked

        found = []
        for row in _pages(self._server.stored_log, "Timestamp", is_old):
            words = _FAILED.match(str(row.get("Message")))
            at = moments.parse(row.get("Timestamp"))
            if words and at and not is_old(row) \
                    and str(row.get("BackupID")) == self._noted.backup_id:
                found.append((at, words[1]))
        return found

    def _before_restart(self, runs, failures):
        """Those of `runs` and `failures` that are surely from before the server's restart: what
        came after it is none of a request that came before. By the start of its first task, or,
        where no times are told, by how many tasks there can have been since."""
        count = 0
        for number in range(_FIRST_NUMBER, self._last + 1):
            task = self._task(number)
            if began := moments.parse(task.get("TaskStarted")):
                return ([run for run in runs if run.ended and run.ended <= began],
                        [at for at in failures if at + _SECOND <= began])
            is_of_other = number == self._last \
                and str(self._progress.get("BackupID")) != self._noted.backup_id
            count += bool(task) and not is_of_other
            if count >= max(1, len(runs)):
                break
        if count == 0:
            return runs, failures
        surely = runs[:max(0, len(runs) - count)]
        if not surely and (runs or failures):
            raise self._unclear()
        return surely, []

    def _unclear(self):
        return NotFoundError(
            f"interrupted: backup {self._noted.backup_id} was run since, but the server was started"
            " anew, too, and does not tell whether that was the run that was asked for; see its"
            " log: it is not run a second time")

    def _task_of(self, run):
        """(number, start) of the task that left a row; (None, its begin) if that is not told."""
        for number in range(self._last, max(self._last - _KEPT_TASKS, _FIRST_NUMBER - 1), -1):
            task = self._task(number)
            began, ended = (moments.parse(task.get(name))
                            for name in ("TaskStarted", "TaskFinished"))
            if task and "TaskStarted" not in task or ended and run.began and ended < run.began:
                break
            if began and ended and run.ended and began <= run.ended <= ended:
                return number, began
        return None, run.began

    def _task(self, number):
        """What the server says of a task; {} if it does not know it."""
        try:
            return self._server.task(number)
        except NotFoundError:
            return {}


def _pages(read, key, is_enough):
    """Rows of a log, newest first, page by page until one `is_enough`."""
    rows, before = [], None
    for _ in range(_PAGES):
        page = read(page_size=_PAGE_ROWS, before=before)
        rows += page
        if len(page) < _PAGE_ROWS or is_enough(page[-1]) or page[-1].get(key) == before:
            break
        before = page[-1].get(key)
    return rows


def _number(row):
    return row["ID"] if isinstance(row.get("ID"), int) else -1


def _run(row):
    result = row["Result"]
    return _Run(_number(row), str(result.get("MainOperation")),
                moments.parse(result.get("BeginTime")), moments.parse(result.get("EndTime")),
                result.get("ParsedResult") in ("Error", "Fatal"))


def _is_told_by(run, at):
    """Whether the row of a run tells of a failure in that second."""
    return run.is_bad and run.ended is not None and abs(run.ended - at) <= 2 * _SECOND
