"""Tasks: fetch, judge, do, deliver; each noted on the list before it is acted on.

Guards: that each task that was fetched gets one final answer, and what is on the list, or was
done within 12 hours, is not done a second time; that one task, or one answer that is not taken,
holds up no other. Leaves alone: when a turn is made (actions, daemon), what a task means
(executor), what may be done (policy), how the list survives (tasklist).

Source: protocol page of the task server, throughout.
"""

import time
from datetime import datetime, timezone

from remotes import operations
from remotes.errors import (
    DiskFullError,
    RemotesError,
    TooLargeError,
    UnavailableError,
)
from remotes.executor import DOUBTED, Step, ended_in_error

# More are not fetched; the server keeps the others.
MOST_OPEN = 20_000
# What a turn needs at the least, for its notes and a result.
_ROOM_BYTES = 1024 * 1024
# Looks at what goes on: from so often to so seldom; where Duplicati is away, from the second.
_LOOK_SECONDS, _AWAY_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.3, 2.0, 10.0
_LONGEST_AWAY_LOOK_SECONDS = 60.0
# An answer that the server does not take is tried again, from so often to so seldom.
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 60.0, 3600.0
# After so many in a row that it does not take, no more are sent in this pass.
_REFUSALS_IN_A_ROW = 3


class Report:
    """How a task ended here: `status` as it was told; `is_delivered`: the server has it."""

    def __init__(self, task_id, entry, status, message, pins=None):
        self.task_id = task_id
        self.operation = str(entry.get("Operation"))
        self.status = status
        self.message = message
        self.pins = pins
        self.is_delivered = False

    def answer(self):
        """As a mapping for people and scripts."""
        return {"id": self.task_id, "operation": self.operation, "status": self.status,
                "message": self.message, "delivered": self.is_delivered}

    def line(self):
        """As one line for a log."""
        why = f" ({self.message})" if self.message else ""
        return f"task {self.task_id} {self.operation}: {self.status}{why}"


class TasksRun:
    """The tasks of one task server for one host; a turn is `process`, a look `look`.

    `reports` grows with each task that is over; `on_report` is called with each, `on_wait` with a
    line when tasks begin to wait for Duplicati, and when that is over. `stop_requested` is asked
    before each task. `clock`: Unix seconds; `monotonic`: for pauses. After a turn or a look:
    `under_way`: IDs of the tasks that are not over; `away_error`: why Duplicati cannot be had.
    """

    def __init__(self, server, tasklist, policy, executor, audit, *, tell,
                 on_report=lambda report: None, on_wait=lambda line: None, clock=time.time,
                 monotonic=time.monotonic, stop_requested=lambda: False):
        self.reports = []
        self.under_way = []
        self._server = server
        self._list = tasklist
        self._policy = policy
        self._executor = executor
        self._audit = audit
        self._tell = tell
        self._on_report = on_report
        self._on_wait = on_wait
        self._clock = clock
        self._monotonic = monotonic
        self._stop_requested = stop_requested
        self._tasks = {}  # task's id -> Task, of those that were accepted
        self._told = set()  # those whose acceptance the server has heard of
        self._retries = {}  # task's id -> (failures, when it is tried again)
        self._kept = {}  # task's id -> Step that found no room on the disk yet
        self._look_seconds = None
        self._was_away = False
        self._begin_pass()

    def _begin_pass(self):
        self._server_error = None  # the task server cannot be had in this pass
        self._refused_in_a_row = 0
        self._last_error = None
        self.away_error = None
        self._away = None  # why Duplicati cannot be had in this pass
        self._has_news = False
        self._executor.begin_pass()

    # -- turns and looks -------------------------------------------------------------------

    def process(self):
        """One turn: fetches what is new, does what can be done, delivers what is over.

        True if there was something to do. Errors: those of the task server; DiskFullError and
        SettingsError where the list cannot be written, and then nothing is fetched or done.
        """
        self._begin_pass()
        self._list.require_room(_ROOM_BYTES)
        self._list.forget_old()
        failure = None
        try:
            has_new = self._fetch()
        except DiskFullError:
            raise
        except RemotesError as error:
            failure, has_new, self._server_error = error, False, error
        is_busy = self._go_through(is_turn=True) or has_new
        if failure is not None or self._server_error is not None:
            raise failure or self._server_error
        return is_busy

    def look(self):
        """Between turns: goes on with what goes on, and tells what has ended."""
        self._begin_pass()
        self._go_through(is_turn=False)

    def next_look(self):
        """In how many seconds there is something to look at; None if nothing goes on."""
        return self._look_seconds

    def undelivered(self):
        """(how many results wait for the server, the error of the last try or None)."""
        waiting = [task_id for task_id in self._list.open()
                   if self._list.fields(task_id)["state"] in ("done", "refused")]
        return len(waiting), self._last_error or self._server_error

    def _go_through(self, *, is_turn):
        """Goes on with each task of the list; True if there was anything to go on with."""
        open_ids = self._list.open()
        self.under_way = []
        for task_id in open_ids:
            if self._stop_requested():
                break
            state = self._list.fields(task_id)["state"]
            if state in ("done", "refused"):
                if is_turn:
                    self._deliver(task_id)
                continue
            self._go_on(task_id, state)
        self._tell_of_duplicati()
        self._set_next_look()
        return bool(open_ids)

    def _tell_of_duplicati(self):
        """Tells when tasks begin to wait, since Duplicati cannot be had, and when that is over."""
        if self._away and not self._was_away:
            self._on_wait(f"tasks wait, since Duplicati cannot be had: {self._away}")
        elif self._was_away and not self._away:
            self._on_wait("tasks go on: Duplicati can be had again, or they were given up")
        self._was_away = bool(self._away)

    def _set_next_look(self):
        if not self.under_way and not self._kept:
            self._look_seconds = None
            return
        least, most = (_AWAY_LOOK_SECONDS, _LONGEST_AWAY_LOOK_SECONDS) if self._away \
            else (_LOOK_SECONDS, _LONGEST_LOOK_SECONDS)
        former = 0.0 if self._has_news or self._look_seconds is None else self._look_seconds
        self._look_seconds = max(least, min(former * 1.5, most))

    # -- fetching ----------------------------------------------------------------------------

    def _fetch(self):
        """Puts what the server has for this host on the list; whether there was anything."""
        if not self._server.has_tasks():
            return False
        entries = self._server.fetch()
        number = len(self._list.open())
        for entry in entries:
            task_id = operations.task_id(entry)
            if task_id is None:
                self._leave_out(entry)
            elif number < MOST_OPEN:
                number += self._take(task_id, entry)
        self._list.sync()
        return bool(entries)

    def _leave_out(self, entry):
        """An entry without a usable ID cannot be answered: it is told, once."""
        if self._list.note_unusable(operations.content_hash(entry)):
            self._tell(f"a task without a usable ID is left out: {entry!r:.120}")

    def _take(self, task_id, entry):
        """Takes one task that the server lists; 1 if it is new here, else 0."""
        sha256 = operations.content_hash(entry)
        fields = self._list.fields(task_id)
        kept = operations.keepable(entry)
        if fields is not None and fields["state"] != "sent":
            self._told.discard(task_id)  # it lists what it was told of: it is told again
            return 0
        if self._list.former(task_id, sha256):
            self._tell(f"task {task_id} is listed again: it gets its former result")
            self._list.note(task_id, sync=False, state="done")
            return 1
        why = operations.examine(entry, self._now())[1] if kept is not entry else None
        self._list.note(task_id, sync=False, state="fetched", task=kept, sha256=sha256,
                        **({"unfit": why} if why else {}))
        return 1

    # -- one task ----------------------------------------------------------------------------

    def _go_on(self, task_id, state):
        """Goes on with a task that is not over, as far as that goes now."""
        try:
            step = self._kept.get(task_id) or self._step(task_id, state)
        except RemotesError:
            raise  # the list cannot be written
        except Exception as error:  # a fault of ours must not hold up the others
            self._tell(f"task {task_id}: a fault of this program: {error!r}")
            step = ended_in_error(f"a fault of the client: {type(error).__name__}")
        if step.state == "away":
            self._away, self.away_error = self._away or step.why, step.error
        if step.state != "over":
            self.under_way.append(task_id)
            return
        self._finish(task_id, step)

    def _step(self, task_id, state):
        step = self._judged(task_id) if state == "fetched" else None
        return self._done(task_id) if step is None else step

    def _task(self, task_id):
        """The Task of an id that was accepted; it was examined when it came."""
        if task_id not in self._tasks:
            entry = dict(self._list.fields(task_id)["task"])
            entry.pop("Expires", None)  # that it came in time was seen then
            task, why = operations.examine(entry, self._now())
            if task is None:  # accepted by another release of this program
                raise _NotATaskError(why)
            self._tasks[task_id] = task
        return self._tasks[task_id]

    def _now(self):
        return datetime.fromtimestamp(self._clock(), timezone.utc)

    def _judged(self, task_id):
        """None if the task is accepted, and noted so; else the Step that says why not."""
        fields = self._list.fields(task_id)
        if fields.get("doubted"):
            return ended_in_error(DOUBTED)
        task, why = operations.examine(fields["task"], self._now())
        if task is None:
            return _refusal(fields.get("unfit") or why)
        # Without rules that look at IDs and names, Duplicati need not be asked for a refusal.
        if not self._policy.needs_names and (refusal := self._refused(task, None)):
            return refusal
        needs_names = self._policy.needs_names or task.operation == "delete"
        if self._away and needs_names:
            return self._executor.held(task, self._away)
        pins, step = self._executor.pin(task, with_names=needs_names)
        if step is not None:
            return step
        if self._policy.needs_names and (refusal := self._refused(task, pins)):
            return refusal
        is_long = task.kind.manner == "background"
        self._list.note(task_id, sync=is_long, state="accepted", pins=pins, held_since=None)
        self._tasks[task_id] = task
        return None

    def _refused(self, task, pins):
        """The Step of a task that the policy refuses, for one of its resources; else None."""
        for verdict in verdicts(self._policy, task, pins, self._clock()):
            if not verdict.is_allowed:
                return _refusal(verdict.message)
        return None

    def _done(self, task_id):
        """Goes on with an accepted task; a Step."""
        fields = self._list.fields(task_id)
        try:
            task = self._task(task_id)
        except _NotATaskError as error:
            return ended_in_error(str(error))
        if task.kind.manner == "background":
            self._tell_accepted(task_id)
        if self._away and task.operation != "abort":
            return self._executor.held(task, self._away)
        phase = fields.get("phase")
        step = self._executor.do(task)
        self._has_news |= step.state == "over" or self._list.fields(task_id).get("phase") != phase
        return step

    def _tell_accepted(self, task_id):
        if task_id in self._told or self._server_error is not None:
            return
        try:
            self._server.post(task_id, {"ID": task_id, "Status": "accepted"})
        except RemotesError as error:
            if not _is_of_one_answer(error):
                self._server_error = error
        self._told.add(task_id)  # what matters is how it ends

    # -- what is over --------------------------------------------------------------------------

    def _finish(self, task_id, step):
        """Keeps the result of a task that is over, tells of it, and delivers it."""
        entry = self._list.fields(task_id)["task"]
        message = step.data.get("Message", "") if step.status != "completed" else ""
        try:
            self._list.finish(task_id, step.status, step.data,
                              state="refused" if step.status == "refused" else "done")
        except DiskFullError:
            self._kept[task_id] = step
            self._look_seconds = _LONGEST_LOOK_SECONDS
            raise
        self._kept.pop(task_id, None)
        self._tasks.pop(task_id, None)
        self._executor.forget(task_id)
        pins = self._list.fields(task_id).get("pins")
        report = Report(task_id, entry, step.status, message, pins)
        self.reports.append(report)
        self._audit.note(kind="task", server=self._server.base, id=task_id,
                         operation=report.operation, resources=pins or entry.get("Resources"),
                         status=step.status, **({"message": message} if message else {}))
        report.is_delivered = self._deliver(task_id)
        self._on_report(report)

    def _deliver(self, task_id):
        """Sends the result of a task; True if the server has it now."""
        _, again_at = self._retries.get(task_id, (0, 0.0))
        if self._server_error is not None or self._monotonic() < again_at:
            return False
        document = self._list.result(task_id)
        try:
            self._post(task_id, document)
        except RemotesError as error:
            self._not_taken(task_id, error)
            return False
        self._refused_in_a_row = 0
        self._retries.pop(task_id, None)
        self._told.discard(task_id)
        self._list.sent(task_id)
        return True

    def _post(self, task_id, document):
        try:
            self._server.post(task_id, document)
        except TooLargeError as error:
            short = {"Message": f"the result is too large for the server, and is left out: {error}"}
            self._server.post(task_id, {**document, "Data": short})

    def _not_taken(self, task_id, error):
        """Notes that an answer was not taken: whether that is the server's or this one's fault."""
        self._last_error = error
        is_its_own = _is_of_one_answer(error)
        self._refused_in_a_row += 1
        if not is_its_own or self._refused_in_a_row >= _REFUSALS_IN_A_ROW:
            self._server_error = error
        if not is_its_own:
            return
        failures, _ = self._retries.get(task_id, (0, 0.0))
        pause = min(_RETRY_SECONDS * 2.0 ** min(failures, 16), _LONGEST_RETRY_SECONDS)
        self._retries[task_id] = failures + 1, self._monotonic() + pause
        if failures == 0:
            self._tell(f"an answer to task {task_id} is not taken, and kept: {error}")


def verdicts(policy, task, pins, now):
    """The policy's Verdict on each resource of a Task, known as `pins` (executor.pins_of), or by
    what the task says. `now`: Unix seconds.
    """
    for place, resource in enumerate(task.resources or [None]):
        pin = pins[place] if pins else {"id": resource and resource.id, "name": None}
        yield policy.verdict(
            task.operation, resource and resource.type,
            () if pin["id"] is None else (str(pin["id"]),), pin["name"],
            datetime.fromtimestamp(now), bool(task.fields.get("Passwords")))


def _is_of_one_answer(error):
    """Whether an answer may have failed for what it is, and others may be taken. So may one that
    is forbidden: a login that is refused as a whole gets no list either.
    """
    return not isinstance(error, UnavailableError) \
        or error.kind in ("server_error", "busy", "proxy_page")


class _NotATaskError(Exception):
    """What the list holds as accepted is no task to this release."""


def _refusal(why):
    return Step("over", "refused", {"Message": why})
