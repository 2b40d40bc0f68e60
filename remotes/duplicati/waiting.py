"""Waiting for a task until it is over: long polls where the server can, polls else.

Guards: that the end is learnt at once and little is asked; that a server which is away
for a while, restarts, or forgets is outlived; and that a number which belongs to another
task by now is not taken for this one. Leaves alone: how the task ended (outcomes).

Source: protocol page of Duplicati, sections 3.1 (serverstate), 4.1, 4.2.
"""

import time
from collections import namedtuple

from remotes.duplicati import moments
from remotes.duplicati.tasks import number_of, numbers_of
from remotes.errors import NotFoundError, RefusedError, UnavailableError, WaitTimeoutError

# A long poll lasts so long (three of them are a minute); the server allows no less than the second.
POLL_SECONDS = 20
_LEAST_POLL_SECONDS = 10
# Where long polls do not work: from so often to so seldom.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 2.0
# A long poll that comes back sooner than that without news does not work.
_QUICK_SECONDS = 1.0
_QUICK_POLLS = 3
# So many long polls that break off, while the server answers others: something cuts them.
_CUT_POLLS = 2
# A server that has news all the time is not asked all the time: after so many, with pauses.
_BUSY_POLLS = 8
# A server that is away is asked again, from so often to so seldom, and no longer than that.
_AWAY_SECONDS, _LONGEST_AWAY_SECONDS, AWAY_LIMIT_SECONDS = 0.25, 15.0, 900.0
# TaskStarted is set twice (section 0.1): within the first; where there is reason to doubt that
# the server is still the same, within the second.
_SAME_START_SECONDS, _DOUBTED_START_SECONDS = 2.0, 0.05
# In a queue's change to running, a task is not known for a moment (section 4.1).
_UNKNOWN_LOOKS, _UNKNOWN_PAUSE_SECONDS = 3, 0.15

# How the waiting ended. state: "over" (task: what the server says of it), "forgotten" (the
# server does not know it any more), "restarted" (the server was, while it went on).
# seen_at: Unix seconds of the last look at which it surely ran or waited, or None. is_doubted:
# whether the server may have been started anew since, and this release does not tell. ran_at,
# over_at: Unix seconds of the first look at which it ran (or None), and of the last one.
# others: how many other tasks of the backup were seen from its start to its end.
Ending = namedtuple("Ending", "state task seen_at is_doubted ran_at over_at others",
                    defaults=(False, None, None, 0))


class Wait:
    """Waits for the task of `started` (tasks.Started).

    `on_look(place, state)` is called at each look that finds it "running" or "queued",
    with the serverstate. `tell` gets lines for people. `clock` and `pause` are monotonic
    seconds and a sleep.
    """

    def __init__(self, server, started, *, on_look=lambda place, state: None,
                 tell=lambda line: None, clock=time.monotonic, pause=time.sleep):
        self._server = server
        self._started = started
        self._on_look = on_look
        self._tell = tell
        self._clock = clock
        self._pause = pause
        self._event = started.event  # LastEventID of the last look
        self._seen = None  # the last look at which it surely was there, Unix seconds
        self._ran_at = None
        self._others = set(started.others)
        self._is_doubted = False  # whether the server may have been started anew
        self._polls_long = True
        # Long polls in a row that came back at once, that did so without news, that broke off.
        self._quick = self._idle = self._cut = 0
        self._is_away = False
        self._pause_seconds = _PAUSE_SECONDS
        self._renewals = server.session.renewals
        self._tells_times = True  # whether this release may say when a task began
        self._is_checked = False  # whether it is known that the number is this task's

    def until_over(self, timeout_seconds=None):
        """Waits to the end; gives the Ending.

        Errors: WaitTimeoutError after `timeout_seconds`, UnavailableError if the server
        is away for 15 minutes, LoginError.
        """
        deadline = None if timeout_seconds is None else self._clock() + timeout_seconds
        ending, state = self._outliving(lambda: self._look(self._server.state()), deadline)
        while ending is None:
            if deadline is not None and self._clock() >= deadline:
                raise WaitTimeoutError(f"{self._what()} is not over after {timeout_seconds:g} s"
                                       f" ({state}); it goes on")
            ending, state = self._outliving(lambda: self._look(self._news(deadline)), deadline)
        return ending

    def look(self, state):
        """One look, without waiting: the Ending, or None while it goes on.

        `state` is a serverstate; several waits may share one. Make the Wait before you ask for it:
        sessions that were forgotten meanwhile tell of a restart. Errors: those of the server, such
        as UnavailableError, after which `doubt` is called and a later look is as good.
        """
        return self._look(state)[0]

    def doubt(self):
        """The server was away: from now on it must be shown that the number is still this task's.
        """
        self._is_doubted, self._is_checked = True, False

    def _what(self):
        return f"task {self._started.number} of backup {self._started.backup_id}"

    # -- one look --------------------------------------------------------------------

    def _look(self, state):
        """(Ending or None, what it does in a word), from a serverstate."""
        if self._started.is_over:
            self._others.update(numbers_of(state, self._started.backup_id))
            return self._known_end(), "over"
        if self._server.is_legacy and self._server.session.renewals > self._renewals:
            self.doubt()  # a restart makes the old generation forget its sessions
        self._renewals = self._server.session.renewals
        event = state.get("LastEventID")
        if isinstance(event, int):
            began_anew = self._event is not None and event < self._event
            self._event = event
            if began_anew:
                self.doubt()
                return self._unless_ours(self._ending("restarted")), "lost"
        if self._started.number is None:
            self._started.number = number_of(state, self._started.backup_id)
        self._others.update(numbers_of(state, self._started.backup_id))
        place = self._place(state)
        if place == "foreign":
            return self._ending("restarted"), "lost"
        if place is None:
            return self._asked(state)
        if place == "running" and not self._is_checked and self._tells_times:
            task = self._task()
            if not self._is_ours(task):
                return self._ending("restarted"), "lost"
            self._tells_times = task is None or "TaskStarted" in task
        self._see(place, state)
        paused = " on a paused server" if state.get("ProgramState") == "Paused" else ""
        return None, {"running": "it runs", "queued": "it waits its turn"}[place] + paused

    def _known_end(self):
        """The Ending of a task that was over when it was found, even if the server has forgotten
        it since."""
        task = None if self._started.number is None else self._task()
        began = moments.parse((task or {}).get("TaskStarted"))
        return self._ending("over", task if began == self._started.started_at else None)

    def _place(self, state):
        """Where the task stands in a serverstate: running, queued, foreign, or None."""
        number, backup_id = self._started.number, self._started.backup_id
        active = state.get("ActiveTask")
        if active and active["Item1"] == number:
            return "running" if str(active.get("Item2")) == backup_id else "foreign"
        for task in state["SchedulerQueueIds"]:
            if task["Item1"] == number:
                return "queued" if str(task.get("Item2")) == backup_id else "foreign"
        return None

    def _asked(self, state):
        """The task is not in the state: what the server says of it by its number."""
        if self._started.number is None:
            return self._ending("over"), "over"
        task = self._task()
        if task is None:
            return self._ending("forgotten"), "forgotten"
        if not self._is_ours(task):
            return self._ending("restarted"), "lost"
        if task.get("Status") in ("Completed", "Failed"):
            return self._ending("over", task), "over"
        self._see("queued" if task.get("Status") == "Waiting" else "running", state)
        return None, "it goes on"

    def _task(self):
        """What the server says of the task; None if it does not know it."""
        for look in range(_UNKNOWN_LOOKS):
            try:
                return self._server.task(self._started.number)
            except NotFoundError:
                if look < _UNKNOWN_LOOKS - 1:
                    self._pause(_UNKNOWN_PAUSE_SECONDS)
        return None

    def _is_ours(self, task):
        """Whether the server's task of that number began when this one did."""
        began = moments.parse((task or {}).get("TaskStarted"))
        if began is None:
            return True  # this release does not tell, or it has not begun
        if self._started.started_at is None:
            if self._is_doubted:
                return True  # it cannot be told: the doubt goes with the ending
            self._started.started_at = began
        apart = abs((began - self._started.started_at).total_seconds())
        self._is_checked = apart <= (_DOUBTED_START_SECONDS if self._is_doubted
                                     else _SAME_START_SECONDS)
        self._is_doubted = self._is_doubted and not self._is_checked
        return self._is_checked

    def _unless_ours(self, ending):
        """The ending of a restart; None if the number is this task's all the same."""
        if self._started.started_at is None or self._started.number is None:
            return ending
        task = self._task()
        if task and moments.parse(task.get("TaskStarted")) and self._is_ours(task):
            return None
        return ending

    def _see(self, place, state):
        # What is seen in doubt may be another task: a run that was seen before has begun by then.
        self._is_doubted = self._is_doubted and self._ran_at is not None
        if not self._is_doubted:
            self._seen = time.time()
            if place == "running" and self._ran_at is None:
                self._ran_at = self._seen
        self._on_look(place, state)

    def _ending(self, state, task=None):
        return Ending(state, task, self._seen, self._is_doubted, self._ran_at, time.time(),
                      len(self._others - {self._started.number}))

    # -- between two looks -----------------------------------------------------------

    def _news(self, deadline):
        """The next serverstate: when something has happened, or some time is over."""
        if self._is_away:
            return self._server.state()  # whether it is back
        left = None if deadline is None else deadline - self._clock()
        longest = POLL_SECONDS if left is None else min(POLL_SECONDS, int(left))
        if not self._polls_long or self._event is None or longest < _LEAST_POLL_SECONDS:
            return self._polled(left)
        if self._quick >= _BUSY_POLLS:
            self._rest(left)
        asked, event = self._clock(), self._event
        try:
            state = self._server.state(after_event=event, wait_seconds=longest)
        except RefusedError:
            self._polls_long = False
            return self._polled(left)
        except UnavailableError:
            self._cut += 1
            self._polls_long = self._cut < _CUT_POLLS
            raise
        self._cut = 0
        is_quick = self._clock() - asked < _QUICK_SECONDS
        is_idle = is_quick and state.get("LastEventID") == event
        self._quick = self._quick + 1 if is_quick else 0
        self._idle = self._idle + 1 if is_idle else 0
        self._polls_long = self._idle < _QUICK_POLLS
        if not is_quick:
            self._pause_seconds = _PAUSE_SECONDS
        return state

    def _polled(self, left):
        self._rest(left)
        return self._server.state()

    def _rest(self, left):
        """A pause, longer each time, no longer than what is left."""
        pause = self._pause_seconds if left is None else max(0.0, min(self._pause_seconds, left))
        self._pause(pause)
        self._pause_seconds = min(self._pause_seconds * 1.5, _LONGEST_PAUSE_SECONDS)

    def _outliving(self, look, deadline):
        """`look()`, again and again while the server is away."""
        away_since, pause = None, _AWAY_SECONDS
        while True:
            try:
                found = look()
            except UnavailableError as error:
                now = self._clock()
                self._is_away = True
                if away_since is None:
                    away_since = now
                    self.doubt()
                    if error.kind not in ("time_out", "proxy_page"):
                        self._tell(f"waiting for {self._what()} goes on, though {error}")
                if now - away_since >= AWAY_LIMIT_SECONDS:
                    raise
                if error.kind in ("time_out", "proxy_page"):
                    self._polls_long = False  # something in between cuts long answers off
                if deadline is not None and now >= deadline:
                    raise WaitTimeoutError(f"whether {self._what()} is over is not known: {error}"
                                           ) from error
                left = pause if deadline is None else max(0.0, min(pause, deadline - now))
                self._pause(left)
                pause = min(pause * 2, _LONGEST_AWAY_SECONDS)
            else:
                self._is_away = False
                if away_since is not None:
                    self._tell(f"{self._server.base} answers again")
                return found
