"""What a task means: a task that was accepted -> actions on a Duplicati server -> its result.

Guards: that what changes or starts something is noted before, so that it is done once at the
most, whatever happens to this process; that a run which was cut off is found again. Leaves
alone: which tasks there are and what becomes of their results (tasks), whether they may be done
(policy), how an action is done (what is handed in as `performer`).

What the list holds of a task that is done here, besides its state (tasklist):

    pins      for each resource: {"id", "name"} by which it was judged; its name may change
    part      which of its resources it is at; result_N what came of those before
    phase     changing   an action that changes something was about to be done, or was done
              starting   Duplicati was about to be asked for a task; `started` says what was then
              started    it has; `started` has the number
    cancelled what was not begun when an abort came is not begun any more
    held_since  Unix seconds since when Duplicati cannot be had

Source: protocol page of the task server, "A task", "A result", "task-list.yml".
"""

import json
import time
from collections import namedtuple

from remotes import task_calls
from remotes.duplicati.answers import LOCKED
from remotes.errors import (
    CertificateError,
    DiskFullError,
    ForeignServerError,
    LoginError,
    NotFoundError,
    RemotesError,
    SettingsError,
    UnavailableError,
    WaitTimeoutError,
)

# A task that cannot be done, since Duplicati is away, refuses the login or is busy, ends as an
# error after that; one that goes on there is waited for longer, and so is the end of a backup
# that keeps its database locked.
HELD_LIMIT_SECONDS = 900.0
PATIENT_LIMIT_SECONDS = 86400.0
# A request that was cut off may still reach the server for so long.
_ON_ITS_WAY_SECONDS = 5.0
_ABORT_WAIT_SECONDS = 10.0
# What the server cannot do, though it can be had, is tried again, from so often to so seldom.
_AGAIN_SECONDS, _LONGEST_AGAIN_SECONDS = 1.0, 30.0
_RESULT_LIMIT_BYTES = 16 * 1024 * 1024
DOUBTED = ("interrupted: the list of tasks was damaged; whether it was begun is not known, and it"
           " is not done a second time")
_CUT_OFF = ("interrupted: the client was stopped while it was at it; whether it was done is not"
            " known, and it is not done a second time")

# How far a task came. state: "over" (status and data are its result), "waits" (for what goes on, or
# for another task), "held" (it cannot be done now), "away" (nor can any other: Duplicati cannot be
# had, as `error` says).
Step = namedtuple("Step", "state status data why error", defaults=(None, None, "", None))


def ended_in_error(message, **more):
    """The Step of a task that is over, and failed."""
    return Step("over", "error", {"Message": message, **more})


class _Follower:
    """Notes on the list what is started in Duplicati for one task."""

    def __init__(self, tasklist, task_id, busy):
        self.was_noted = False
        self._list, self._task_id, self._busy = tasklist, task_id, busy

    def about_to_start(self, noted):
        noted.asked_at = time.time()
        self._list.note(self._task_id, state="running", phase="starting", started=noted.kept())
        self._busy[self._task_id] = noted.backup_id
        self.was_noted = True

    def has_started(self, started):
        self._list.note(self._task_id, phase="started", started=started.kept())


class Executor:
    """Does accepted tasks, which are on `tasklist` (TaskList), through `performer`.

    `performer`: .perform(action, options, documents=, follower=, is_masked=) -> (document, exit
    code), .server (a Duplicati), .was_asked_to_change.
    """

    def __init__(self, performer, tasklist, *, clock=time.time, monotonic=time.monotonic):
        self._performer = performer
        self._list = tasklist
        self._clock = clock
        self._monotonic = monotonic
        self._waits = {}  # task's id -> (Wait, its Started)
        self._state = None  # the serverstate of this pass
        self._is_there = None  # whether the server answers in this pass; None: not asked yet
        self._again = {}  # task's id -> (when it is tried again, the pause before that, why)
        self._began = 0.0  # when the task that is tried now was begun
        self._busy = {}  # task's id -> ID of the backup of which it has a task in Duplicati
        for task_id in tasklist.open():
            fields = tasklist.fields(task_id)
            if fields["state"] == "running" and fields.get("phase") in ("starting", "started"):
                self._busy[task_id] = _started_of(fields).backup_id

    @property
    def base(self):
        """The address of the Duplicati server."""
        return self._performer.server.base

    def begin_pass(self):
        """What was learnt of the server's state is old now."""
        self._state = None
        self._is_there = None

    def _server_state(self):
        if self._state is None:
            self._state = self._performer.server.state()
        return self._state

    def pin(self, task, *, with_names):
        """(what task_calls.pins_of gives, None), or (None, the Step of a task that cannot be
        judged)."""
        try:
            return task_calls.pins_of(task, lambda: self._performer.server,
                                      with_names=with_names), None
        except RemotesError as error:
            if _is_for_now(error):
                return None, self._held(task, error)
            return None, ended_in_error(_said(error))

    # -- a task --------------------------------------------------------------------------

    def do(self, task, why_not):
        """Goes on with a Task that was accepted, as far as it goes without waiting; a Step.

        `why_not(task, place, pins)` is asked before each resource is begun: why the policy refuses
        it now, or None.
        Errors: DiskFullError and SettingsError where the list cannot be written.
        """
        self._why_not, self._began = why_not, self._monotonic()
        again_at, _, why = self._again.get(task.task_id, (0.0, 0.0, ""))
        if self._began < again_at:
            return self.held(task, why)
        count = max(1, len(task.resources))
        place = self._list.fields(task.task_id).get("part", 0)
        while True:
            step = self._part(task, place)
            if step.state == "over":
                self.forget(task.task_id)
            if step.state != "over" or count == 1:
                return self._unless_too_long(step)
            result = {"Type": task.resources[place].type, "ID": task.resources[place].id,
                      "Status": step.status, "Data": step.data}
            place += 1
            self._list.note(task.task_id, part=place, phase=None, started=None, plan=None,
                            held_since=None, **{f"result_{place - 1}": result})
            if place == count:
                return self._unless_too_long(self._whole(task))

    def forget(self, task_id):
        """What goes on in Duplicati is not this task's any more: it is over, however it ended."""
        for known in (self._busy, self._waits, self._again):
            known.pop(task_id, None)

    def _whole(self, task):
        """The Step over all resources of a task."""
        fields = self._list.fields(task.task_id)
        results = [fields[f"result_{place}"] for place in range(len(task.resources))]
        bad = [result for result in results if result["Status"] == "error"]
        if not bad:
            told = [result["Data"]["Message"] for result in results if "Message" in result["Data"]]
            return Step("over", "completed", {**({"Message": "; ".join(told)} if told else {}),
                                              "Results": results})
        return ended_in_error(f"{len(bad)} of {len(results)} failed: "
                              f"{bad[0]['Data'].get('Message')}", Results=results)

    def _unless_too_long(self, step):
        if step.state != "over" or len(json.dumps(step.data)) <= _RESULT_LIMIT_BYTES:
            return step
        text = f"the result is longer than {_RESULT_LIMIT_BYTES:,} bytes, and is left out"
        return step._replace(data={"Message": text})

    def _part(self, task, place):
        """One resource of a task (or a task that has none): a Step."""
        fields = self._list.fields(task.task_id)
        phase = fields.get("phase")
        if phase == "changing":
            return ended_in_error(_CUT_OFF)
        if phase in ("starting", "started"):
            return self._patiently(task, fields, lambda: self._go_on(task, place, fields))
        if fields.get("doubted"):
            return ended_in_error(DOUBTED)
        if fields.get("cancelled"):
            return ended_in_error("aborted before it was begun")
        if why := self._why_not(task, place, fields["pins"]):
            return ended_in_error(why) if len(task.resources) > 1 \
                else Step("over", "refused", {"Message": why})
        if task.operation == "abort":
            return self._abort(task, place)
        call = task_calls.call_of(task, place, fields["pins"])
        if task.kind.manner == "background":
            return self._start(task, call)
        if task.kind.manner == "changes":
            self._list.note(task.task_id, state="running", phase="changing")
        return self._performed(task, call)

    # -- what is over when the action is ---------------------------------------------------

    def _performed(self, task, call):
        try:
            document, code = self._perform(call)
        except DiskFullError:
            raise
        except RemotesError as error:
            is_unsure = isinstance(error, UnavailableError) and self._performer.was_asked_to_change
            if task.kind.manner == "changes" and is_unsure:
                return ended_in_error(f"{_said(error)}; whether it was done is not known")
            if not _is_for_now(error):
                return ended_in_error(_said(error))
            if task.kind.manner == "changes":
                self._list.note(task.task_id, state="accepted", phase=None)
            return self._held(task, error)
        shown = {name: value for name, value in document.items()
                 if name not in ("status", "exit", "kind", "message")}
        if code == 0:
            return Step("over", "completed", shown)
        return ended_in_error(str(document.get("message")), **shown)

    def _perform(self, call, follower=None):
        return self._performer.perform(call.action, call.options, documents=call.documents,
                                       follower=follower, is_masked=call.is_masked)

    def _held(self, task, error):
        """The Step of a task that cannot be done for now; an error if that lasts too long."""
        is_locked = error.code == LOCKED or error.kind == "database_locked"
        step = self.held(task, _said(error), is_patient=is_locked or None)
        if is_locked or step.state == "over":
            return step
        if isinstance(error, UnavailableError) and self._answers():
            self._try_later(task, step.why)
            return step
        return step._replace(state="away", error=error)

    def _answers(self):
        """Whether the server can be had, though it could not do something; asked once a pass."""
        if self._is_there is None:
            self._state = None
            try:
                self._server_state()
                self._is_there = True
            except RemotesError:
                self._is_there = False
        return self._is_there

    def _try_later(self, task, why):
        """It is this task alone that the server cannot do now: it holds up no other, and not for
        long if each try takes long."""
        now = self._monotonic()
        _, pause, _ = self._again.get(task.task_id, (0.0, _AGAIN_SECONDS / 2, ""))
        pause = max(min(2 * pause, _LONGEST_AGAIN_SECONDS), 3 * (now - self._began))
        self._again[task.task_id] = now + pause, pause, why

    def held(self, task, why, *, is_patient=None):
        """The Step of a task that cannot be done for now, since `why`; an error after some time:
        a long one if it `is_patient` (None: if it goes on in Duplicati, or may).
        """
        fields = self._list.fields(task.task_id)
        now = self._clock()
        since = fields.get("held_since")
        if since is None or since > now:
            since = now
            self._list.note(task.task_id, sync=False, held_since=now)
        if is_patient is None:
            is_patient = fields.get("phase") is not None
        limit = PATIENT_LIMIT_SECONDS if is_patient else HELD_LIMIT_SECONDS
        if now - since >= limit:
            return ended_in_error(f"given up after {limit / 60:.0f} min: {why}")
        return Step("held", why=why)

    # -- what goes on in Duplicati -----------------------------------------------------------

    def _start(self, task, call):
        if call.backup_id in self._busy.values():
            return Step("waits", why=f"for another task of backup {call.backup_id}")
        follower = _Follower(self._list, task.task_id, self._busy)
        self._state = None
        try:
            document, _ = self._perform(call, follower)
        except DiskFullError:
            raise
        except RemotesError as error:
            if follower.was_noted and isinstance(error, UnavailableError) and error.maybe_done:
                why = f"{_said(error)}; whether it was started is not known"
                # The traces of a run are looked for; without any it is started anew, for a while.
                return self.held(task, why, is_patient=False) if task.operation == "run" \
                    else ended_in_error(why)
            if not _is_for_now(error):
                return ended_in_error(_said(error))
            if follower.was_noted:
                self._forget_start(task)
            return self._held(task, error)
        plan = task_calls.plan_of(document)
        if plan:
            self._list.note(task.task_id, sync=False, plan=plan)
        if self._list.fields(task.task_id).get("held_since") is not None:
            self._list.note(task.task_id, sync=False, held_since=None)
        return Step("waits", why="it was started")

    def _forget_start(self, task):
        """Nothing was started: the task is as it was when it was accepted."""
        self._busy.pop(task.task_id, None)
        self._list.note(task.task_id, state="accepted", phase=None, started=None)

    def _patiently(self, task, fields, look):
        """`look()` at what goes on; a server that is away meanwhile is outlived."""
        try:
            step = look()
        except DiskFullError:
            raise
        except WaitTimeoutError as error:
            return Step("waits", why=_said(error))
        except NotFoundError as error:  # the backup is gone
            return ended_in_error(_said(error))
        except RemotesError as error:
            if task.task_id in self._waits:
                self._waits[task.task_id][0].doubt()
            return self._held(task, error)
        is_known = step.state == "waits" and fields.get("phase") != "starting"
        if is_known and fields.get("held_since") is not None:
            self._list.note(task.task_id, sync=False, held_since=None)
        return step

    def _go_on(self, task, place, fields):
        """A look at the task in Duplicati that was started, or perhaps was, for this one."""
        from remotes.duplicati import adoption, outcomes, waiting

        server, started = self._performer.server, _started_of(fields)
        if fields["phase"] == "starting":
            if task.operation != "run":
                return ended_in_error(_CUT_OFF)
            started = self._adopted(started)
            if started is None:
                if 0 <= self._clock() - _started_of(fields).asked_at \
                        < _ON_ITS_WAY_SECONDS:
                    return Step("waits", why="whether it was started is not known yet")
                self._forget_start(task)
                return self._part(task, place)
            self._list.note(task.task_id, phase="started", started=started.kept())
        if task.task_id not in self._waits:
            self._waits[task.task_id] = waiting.Wait(server, started), started
        wait, started = self._waits[task.task_id]
        ending = wait.look(self._server_state())
        if ending is None:
            self._note_what_was_learnt(task, started)
            return Step("waits", why="it goes on")
        is_seen = ending.ran_at is not None or fields["started"].get("started_at") \
            or started.is_over
        if is_seen or task.operation != "run":
            outcome = outcomes.find(server, started, ending, time.monotonic())
        else:
            outcome = adoption.outcome(server, _started_of(fields), ending, time.monotonic())
        return self._ended(fields, started, outcome)

    def _note_what_was_learnt(self, task, started):
        """TaskStarted, and a number that was not told at the start: they tell it from others."""
        found = started.kept()
        if found != self._list.fields(task.task_id)["started"]:
            self._list.note(task.task_id, sync=False, started=found)

    def _adopted(self, started):
        from remotes.duplicati import adoption

        self._state = None
        return adoption.search(self._performer.server, started)

    def _ended(self, fields, started, outcome):
        """The Step of a task in Duplicati that is over."""
        if outcome.result == "unknown" and fields.get("cancelled"):
            # 2.1.0.5 leaves no trace of an abort
            outcome.result, outcome.why = "aborted", "it was aborted, and left no result"
        shown = task_calls.ending_shown(started, outcome, fields.get("plan"))
        if outcome.result == "warning":
            shown = {"Message": f"it ended with warnings: {shown['why']}", **shown}
        if outcome.result in ("success", "warning"):
            return Step("over", "completed", shown)
        return ended_in_error(shown["why"], **shown)

    # -- aborting ------------------------------------------------------------------------------

    def _abort(self, task, place):
        """Ends another task of this list; what waits in Duplicati's queue is ended when it runs,
        since servers ignore an abort of such a task, though they say OK."""
        target_id = task.resources[place].id
        target = self._list.fields(target_id)
        if target and target.get("cancelled") and not target.get("started") \
                and target.get("state") in ("done", "sent"):
            return Step("over", "completed", {"task": target_id, "state": "not begun"})
        if target is None or target.get("state") not in ("fetched", "accepted", "running") \
                or target_id == task.task_id:
            return ended_in_error(f"no task {target_id} is under way")
        if target.get("phase") in ("starting", "started") and _started_of(target).was_there:
            return ended_in_error(f"what task {target_id} waits for was not started by it, and goes"
                                  " on")
        if not target.get("cancelled"):
            self._list.note(target_id, cancelled=True)
        if target.get("phase") is None:
            return Step("over", "completed", {"task": target_id, "state": "not begun"})
        if target["phase"] == "changing":
            return ended_in_error(f"task {target_id} cannot be aborted: it is being done")
        return self._patiently(task, self._list.fields(task.task_id),
                               lambda: self._abort_running(task, target_id))

    def _abort_running(self, task, target_id):
        started = _started_of(self._list.fields(target_id))
        state = self._server_state()
        active = state.get("ActiveTask") or {}
        if started.number is not None and active.get("Item1") == started.number \
                and str(active.get("Item2")) == started.backup_id:
            self._state = None
            self._list.note(task.task_id, state="running", phase="changing")
            return self._performed(task, task_calls.abort_call(started.number,
                                                              _ABORT_WAIT_SECONDS))
        return Step("waits", why=f"for task {target_id}, which does not run yet")


def _started_of(fields):
    """What is noted of a task in Duplicati that was started, or about to be: a Started."""
    from remotes.duplicati.tasks import Started

    return Started.from_kept(fields["started"])


def _is_for_now(error):
    """Whether what failed may well be possible later."""
    if isinstance(error, ForeignServerError):
        return False
    return isinstance(error, (UnavailableError, LoginError, CertificateError, SettingsError))


def _said(error):
    """What went wrong, in the words of tasks where the actions speak of options."""
    return task_calls.in_words_of_tasks(str(error))
