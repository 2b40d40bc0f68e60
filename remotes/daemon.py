"""A turn again and again: step(now), a stop flag, signals, and the service manager.

Guards: that nothing a turn does ends the loop; that a fleet does not turn in step;
that a fault is told when it begins and when it ends, not at each turn. Leaves alone:
what a turn is.
"""

import hashlib
import os
import random
import select
import signal
import socket
import time
import traceback

from remotes.errors import Interrupted, RemotesError

BACKOFF_LIMIT_SECONDS = 900.0
_IDLE_LINE_SECONDS = 3600.0


class StopFlag:
    """What signals set and everything that waits hears.

    The first SIGTERM or SIGINT requests a stop, the second raises Interrupted at once;
    SIGHUP requests that config and settings are read again. `grace_seconds` is what a
    running command may still take; `beat` is called while something is waited for.
    """

    def __init__(self, grace_seconds=0.0, beat=lambda: None, beat_seconds=None):
        self.grace_seconds = grace_seconds
        self.beat = beat
        self.beat_seconds = beat_seconds
        self.number = None  # of the signal that asked for the stop
        self.reload_requested = False
        self._stop_read, self._stop_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        for descriptor in (self._stop_write, self._wake_write):
            os.set_blocking(descriptor, False)

    @property
    def requested(self):
        return self.number is not None

    def fileno(self):
        """Readable from the moment a stop is requested."""
        return self._stop_read

    def listen(self):
        """Installs the handlers (in the main thread)."""
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._on_reload)

    def _on_stop(self, number, frame):
        if self.requested:
            raise Interrupted(number)
        self.request(number)

    def _on_reload(self, number, frame):
        self.reload_requested = True
        self._write(self._wake_write)

    def request(self, number=signal.SIGTERM):
        """Asks for the stop, as a signal does."""
        self.number = number
        self._write(self._stop_write)

    @staticmethod
    def _write(descriptor):
        try:
            os.write(descriptor, b"!")
        except BlockingIOError:
            pass  # it is full of such words already

    def wait(self, seconds):
        """Waits; ends at once when a stop or a reload is requested."""
        until = time.monotonic() + seconds
        while not self.requested and not self.reload_requested:
            left = until - time.monotonic()
            if left <= 0:
                return
            left = left if self.beat_seconds is None else min(left, self.beat_seconds)
            ready, _, _ = select.select([self._stop_read, self._wake_read], [], [], left)
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            self.beat()

    def close(self):
        for descriptor in (self._stop_read, self._stop_write, self._wake_read, self._wake_write):
            os.close(descriptor)


def place_in_interval(name):
    """Where in the interval a host's turns lie: 0 to 1, from a text that is its own."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Schedule:
    """When turns are made: the first at once, the next at the host's place in the
    interval, then one in each interval. All times are monotonic seconds.

    After a failure: back-off with full jitter, 15 minutes at the most, and never sooner
    than the server asked for.
    """

    def __init__(self, interval_seconds, place, draw=random.uniform):
        self.interval_seconds = interval_seconds  # may be changed between two turns
        self._place = place
        self._draw = draw
        self._first = None
        self._failures = 0

    def after_success(self, began, now):
        """The moment of the next turn, if the one that began at `began` went well."""
        self._failures = 0
        if self._first is None:
            self._first = began
        grid = self._first + self._place * self.interval_seconds
        turns = max(0, int((now - grid) // self.interval_seconds) + 1) if now >= grid else 0
        return grid + turns * self.interval_seconds

    def after_failure(self, now, retry_after_seconds=None):
        """The moment of the next turn after one that failed."""
        if self._first is None:
            self._first = now
        limit = min(BACKOFF_LIMIT_SECONDS, max(self.interval_seconds, 1.0) * 2.0 ** self._failures)
        self._failures = min(self._failures + 1, 16)
        pause = self._draw(min(1.0, self.interval_seconds), limit)
        return now + max(pause, retry_after_seconds or 0.0)


def _traced(error):
    return "a fault of this program: " + "".join(traceback.format_exception(error))


class Monitor:
    """Makes `turn()` when it is due. `turn` gives True if there was something to do.

    `look()`, if given, is made between the turns at what goes on meanwhile; it may fail like a
    turn. `next_look()` gives in how many seconds it is due, None if nothing goes on. `tell`
    writes a line for people, `emit` an event (mapping) for scripts, `notify` a state for the
    service manager.
    """

    def __init__(self, turn, schedule, *, tell, emit=lambda event: None,
                 notify=lambda state: None, clock=time.monotonic, look=lambda: None,
                 next_look=lambda: None):
        self._clock = clock
        self._look = look
        self._next_look = next_look
        self._look_at = float("inf")
        self.next_turn = float("-inf")
        self._turn = turn
        self._schedule = schedule
        self._tell = tell
        self._emit = emit
        self._notify = notify
        self._fault = None
        self._idle_since = None
        self._idle_turns = 0

    @property
    def next_step(self):
        """When there is something to do again, monotonic seconds."""
        return min(self.next_turn, self._look_at)

    def step(self, now):
        """Makes a turn if one is due at `now` (monotonic seconds), else a look if one is; whether
        it made a turn."""
        is_turn = now >= self.next_turn
        if is_turn:
            self._make_turn(now)
        elif now >= self._look_at:
            self._make_look()
        seconds = self._next_look()
        self._look_at = float("inf") if seconds is None else self._clock() + seconds
        return is_turn

    def _make_look(self):
        try:
            self._look()
        except RemotesError as error:
            self._begin_fault(f"{error.kind}: {error}", error.kind)
        except Exception as error:  # a fault of ours must not end the loop either
            self._begin_fault(_traced(error), repr(type(error)))

    def _make_turn(self, now):
        try:
            was_busy = self._turn()
        except RemotesError as error:
            self._begin_fault(f"{error.kind}: {error}", error.kind)
            retry_after = getattr(error, "retry_after_seconds", None)
            self.next_turn = self._schedule.after_failure(now, retry_after)
        except Exception as error:  # a fault of ours must not end the loop either
            self._begin_fault(_traced(error), repr(type(error)))
            self.next_turn = self._schedule.after_failure(now)
        else:
            self._end_fault()
            self.next_turn = self._schedule.after_success(now, self._clock())
            self._count_idle(was_busy, now)

    def shorten_pause(self, now):
        """After a reload: the next turn is no later than an interval from `now`."""
        self.next_turn = min(self.next_turn, now + self._schedule.interval_seconds)

    def _begin_fault(self, line, kind):
        if kind != self._fault:
            self._tell(line)
            self._emit({"event": "fault", "kind": kind, "message": line.splitlines()[0]})
        self._fault = kind
        self._notify(f"STATUS=fault: {line.splitlines()[0]}")

    def _end_fault(self):
        if self._fault is not None:
            self._tell(f"the fault is over ({self._fault})")
            self._emit({"event": "fault_over", "kind": self._fault})
        self._fault = None
        self._notify("STATUS=waiting for the next turn")

    def _count_idle(self, was_busy, now):
        if was_busy or self._idle_since is None:
            self._idle_since, self._idle_turns = now, 0
            return
        self._idle_turns += 1
        if now - self._idle_since >= _IDLE_LINE_SECONDS:
            self._tell(f"idle: nothing to do in the last {self._idle_turns} turns")
            self._idle_since, self._idle_turns = now, 0


def run(monitor, stop, reload, notify):
    """Steps `monitor` until a stop is requested; `reload` is called on SIGHUP."""
    notify("READY=1")
    while not stop.requested:
        if stop.reload_requested:
            stop.reload_requested = False
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            reload()
            monitor.shorten_pause(time.monotonic())
            notify("READY=1")
        stop.beat()
        monitor.step(time.monotonic())
        stop.wait(monitor.next_step - time.monotonic())
    notify("STOPPING=1")


class ServiceManager:
    """The line to the service manager that $NOTIFY_SOCKET names; silent if there is none.

    `beat_seconds` is how often its watchdog wants to hear from us, halved; or None.
    """

    def __init__(self, environ):
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        watchdog = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        is_wanted = watchdog.isdecimal() and int(watchdog) > 0 and is_ours
        self.beat_seconds = int(watchdog) / 2e6 if is_wanted else None

    def notify(self, state):
        """Sends `state` ("READY=1"); a manager that is away is no fault of ours."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.sendto(state.encode(), self._address)
        except (OSError, AttributeError):
            pass

    def beat(self):
        """Tells the watchdog that this process is alive."""
        if self.beat_seconds is not None:
            self.notify("WATCHDOG=1")
