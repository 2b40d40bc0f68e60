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
from remotes.errors import DiskFullError, RemotesError
from remotes.executor import DOUBTED, Step, ended_in_error
from remotes.task_delivery import TaskDelivery

# More are not fetched, nor are more entries of a list looked at; the server keeps the others.
MOST_OPEN = 20_000
# So many entries without a usable ID are told of, of one list.
_MOST_LEFT_OUT = 20
# What a turn needs at the least, for its notes and a result.
_ROOM_BYTES = 1024 * 1024
# Looks at what goes on: from so often to so seldom; where Duplicati is away, from the second.
_LOOK_SECONDS, _AWAY_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.3, 2.0, 10.0
_LONGEST_AWAY_LOOK_SECONDS = 60.0
# What a report and the audit show of what the server says.
_LONGEST_SHOWN, _LONGEST_MESSAGE, _MOST_SHOWN = 80, 500, 10


class Report:
    """How a task ended here: `status` as it was told; `is_delivered`: the server has it."""

    def __init__(self, task_id, entry, status, message, pins=None):
        self.task_id = task_id
        self.operation = _shown(entry.get("Operation"), _LONGEST_SHOWN)
        self.status = status
        self.message = _shown(message, _LONGEST_MESSAGE)
        self.resources = _shown_resources(entry, pins)
        self.is_delivered = False

    def answer(self):
        """As a mapping for people and scripts."""
        return {"id": self.task_id, "operation": self.operation, "status": self.status,
                "message": self.message, "delivered": self.is_delivered}

    def line(self):
        """As one line for a log."""
        why = f" ({self.message})" if self.message else ""
        return f"task {_shown(self.task_id, _LONGEST_SHOWN)} {self.operation}: {self.status}{why}"


def _shown(said, longest):
    """What a server says, as a part of a line: short, and nothing that would not be seen."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(said)[:longest + 1])
    return text if len(text) <= longest else text[:longest] + "…"


def _shown_resources(entry, pins):
    """The resources of a task for the audit: by number and name where those were looked up."""
    listed = pins or entry.get("Resources")
    listed = listed if isinstance(listed, list) else []
    return [{str(name)[:_LONGEST_SHOWN]: _shown(value, _LONGEST_SHOWN)
             for name, value in list(one.items())[:_MOST_SHOWN] if value is not None}
            for one in listed[:_MOST_SHOWN] if isinstance(one, dict)]


class TasksRun:
    """The tasks of one task server for one host; a turn is `process`, a look `look`.

    `reports` grows with each task that is over; `on_report` is called with each, `on_wait` with a
    line when tasks begin to wait for Duplicati, and when that is over. `stop_requested` is asked
    before each task, and `beat` called. `clock`: Unix seconds; `monotonic`: for pauses.
    `kept_limit`: bytes of tasks and results over which nothing new is taken. After a turn or a
    look: `under_way`: IDs of the tasks that are not over; `away_error`: why Duplicati cannot be
    had.
    """

    def __init__(self, server, tasklist, policy, executor, audit, *, tell,
                 on_report=lambda report: None, on_wait=lambda line: None, clock=time.time,
                 monotonic=time.monotonic, stop_requested=lambda: False, beat=lambda: None,
                 kept_limit=64 * 1024 * 1024):
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
        self._stop_requested = stop_requested
        self._beat = beat
        self._kept_limit = kept_limit
        self._delivery = TaskDelivery(server, tasklist, tell=tell, monotonic=monotonic)
        self._tasks = {}  # task's id -> Task, of those that were accepted
        self._told_again = set()  # IDs of which was told that they are listed again
        self._kept = {}  # task's id -> Step that found no room on the disk yet
        self._look_seconds = None
        self._was_away = False
        self._begin_pass()

    def _begin_pass(self):
        self._delivery.begin_pass()
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
        failure, has_new = self._fullness(), False
        try:
            has_new = failure is None and self._fetch()
        except DiskFullError:
            raise
        except RemotesError as error:
            failure = self._delivery.error = error
        is_busy = self._go_through(is_turn=True) or has_new
        if failure is not None or self._delivery.error is not None:
            raise failure or self._delivery.error
        return is_busy

    def look(self):
        """Between turns: goes on with what goes on, and tells what has ended."""
        self._begin_pass()
        self._go_through(is_turn=False)

    def next_look(self):
        """In how many seconds there is something to look at; None if nothing goes on."""
        return self._look_seconds

    def undelivered(self):
        """(IDs of the tasks whose answers wait for the server, the last try's error or None)."""
        waiting = [task_id for task_id in self._list.open()
                   if self._list.fields(task_id)["state"] in ("done", "refused")]
        return waiting, self._delivery.last_error or self._delivery.error

    def _go_through(self, *, is_turn):
        """Goes on with each task of the list; True if there was anything to go on with."""
        open_ids, over = self._list.open(), []
        self.under_way = []
        for task_id in open_ids:
            if self._stop_requested():
                break
            self._beat()
            state = self._list.fields(task_id)["state"]
            if state in ("done", "refused"):
                over.append(task_id)
            else:
                self._go_on(task_id, state)
        if is_turn and not self._stop_requested():
            self._delivery.deliver_kept(over)
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
        number, left_out = len(self._list.open()), 0
        for entry in entries[:MOST_OPEN]:
            if number >= MOST_OPEN or self._is_full():
                break
            self._beat()
            task_id = operations.task_id(entry)
            if task_id is None:
                left_out += self._leave_out(entry, left_out)
            else:
                number += self._take(task_id, entry)
        if left_out > _MOST_LEFT_OUT:
            self._tell(f"{left_out} tasks without a usable ID are left out")
        self._list.sync()
        return bool(entries)

    def _is_full(self):
        return self._list.live_bytes > self._kept_limit

    def _fullness(self):
        """The error where so much is kept that nothing new is fetched; None else."""
        return RemotesError(
            f"{self._list.path} is full ({self._list.live_bytes:,} bytes of tasks, and of results"
            " that are not delivered): nothing new is fetched") if self._is_full() else None

    def _leave_out(self, entry, number):
        """An entry without a usable ID cannot be answered: it is told, once. 1 if it is new."""
        is_new = self._list.note_unusable(operations.content_hash(entry))
        if is_new and number < _MOST_LEFT_OUT:
            shown = _shown(f"{entry!r:.120}", 120)
            self._tell(f"a task without a usable ID is left out: {shown}")
        return int(is_new)

    def _take(self, task_id, entry):
        """Takes one task that the server lists; 1 if it is new here, else 0."""
        sha256 = operations.content_hash(entry)
        fields = self._list.fields(task_id)
        kept = operations.keepable(entry)
        if fields is not None and fields["state"] != "sent":
            self._delivery.is_listed(task_id)
            return 0
        if self._list.former(task_id, sha256):
            self._answer_again(task_id)
            return 1
        why = operations.examine(entry, self._now())[1] if kept is not entry else None
        self._list.note(task_id, sync=False, state="fetched", task=kept, sha256=sha256,
                        **({"unfit": why} if why else {}))
        return 1

    def _answer_again(self, task_id):
        """The server has lost the result of a task, or lists it by mistake: nothing is done."""
        if task_id not in self._told_again:
            self._told_again.add(task_id)
            self._tell(f"task {_shown(task_id, _LONGEST_SHOWN)} is listed again: it gets its former"
                       " result")
        self._list.note(task_id, sync=False, state="done")

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
        named = [(resource.type, pin["id"]) for resource, pin in zip(task.resources, pins)]
        if len(set(named)) < len(named):
            return _refusal("a resource is named twice, by its number and by its name")
        is_long = task.kind.manner == "background"
        self._list.note(task_id, sync=is_long, state="accepted", pins=pins, held_since=None,
                        duplicati=self._executor.base, **_secret(task))
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
        if fields.get("duplicati") not in (None, self._executor.base):
            return ended_in_error(f"it was accepted for {fields['duplicati']}, and the client is"
                                  f" logged into {self._executor.base} now")
        if task.kind.manner == "background":
            self._delivery.tell_accepted(task_id)
        if self._away and task.operation != "abort":
            return self._executor.held(task, self._away)
        if fields.get("phase") is None and self._is_full():
            return Step("waits", why="the list is full")
        step = self._executor.do(task, self._why_not)
        self._has_news |= step.state == "over" \
            or self._list.fields(task_id).get("phase") != fields.get("phase")
        return step

    def _why_not(self, task, place, pins):
        """Why the policy refuses now what it allowed when the task came; None if it does not."""
        verdict = list(verdicts(self._policy, task, pins, self._clock()))[place]
        return None if verdict.is_allowed else verdict.message

    # -- what is over --------------------------------------------------------------------------

    def _finish(self, task_id, step):
        """Keeps the result of a task that is over, tells of it, and delivers it."""
        fields = self._list.fields(task_id)
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
        report = Report(task_id, fields.get("task") or {}, step.status,
                        step.data.get("Message") or "", fields.get("pins"))
        self.reports.append(report)
        self._audit.note(kind="task", server=self._server.base, id=task_id,
                         operation=report.operation, resources=report.resources,
                         status=step.status, **({"message": report.message}
                                                if report.message else {}))
        report.is_delivered = self._delivery.deliver(task_id)
        self._on_report(report)


def verdicts(policy, task, pins, now):
    """The policy's Verdict on each resource of a Task, known as `pins` (task_calls.pins_of), or by
    what the task says. `now`: Unix seconds.
    """
    for place, resource in enumerate(task.resources or [None]):
        pin = pins[place] if pins else {"id": resource and resource.id, "name": None}
        yield policy.verdict(
            task.operation, resource and resource.type,
            () if pin["id"] is None else (str(pin["id"]),), pin["name"],
            datetime.fromtimestamp(now), bool(task.fields.get("Passwords")))


def _secret(task):
    """What of a Task may hold secrets that are not masked, as the list has it."""
    if task.fields.get("Passwords"):
        return {"secret": "answer"}
    return {"secret": "task"} if task.operation in ("edit", "create", "update") else {}


class _NotATaskError(Exception):
    """What the list holds as accepted is no task to this release."""


def _refusal(why):
    return Step("over", "refused", {"Message": why})
