"""daemon.py: when turns are made, that nothing ends the loop, and what signals do."""

import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotes.daemon import (
    BACKOFF_LIMIT_SECONDS,
    Monitor,
    Schedule,
    ServiceManager,
    StopFlag,
    place_in_interval,
    run,
)
from remotes.errors import Interrupted, LoginError, RemotesError, UnavailableError
from tests.conftest import PROJECT

PLACES = st.floats(0, 1, exclude_max=True)
INTERVALS = st.floats(0.1, 86400)
MOMENTS = st.floats(0, 1e9)


# -- when turns are made -----------------------------------------------------------------------

def test_the_place_is_a_hosts_own_and_always_the_same():
    """From 0 to 1, spread over a fleet."""
    places = sorted(place_in_interval(f"host {number}") for number in range(1000))
    assert places == sorted(place_in_interval(f"host {number}") for number in range(1000))
    assert 0 <= places[0] < 0.02 and 0.98 < places[-1] < 1
    assert 400 < sum(place < 0.5 for place in places) < 600


def test_the_second_turn_lies_at_the_place_and_then_one_in_each_interval():
    """The first began at 1000; the place is a quarter of 300 seconds."""
    schedule, began, turns = Schedule(300, 0.25), 1000.0, []
    for _ in range(4):
        began = schedule.after_success(began, began + 2)
        turns.append(began)
    assert [1075, 1375, 1675, 1975] == turns


@given(INTERVALS, PLACES, MOMENTS, st.lists(st.floats(0, 10), max_size=30))
def test_turns_do_not_drift(interval, place, first, lengths):
    """However long turns take (in intervals), each begins on the grid, after the one before
    has ended, and within one interval of that: what was missed is left out."""
    schedule, began = Schedule(interval, place), first
    for length in lengths:
        ended = began + length * interval
        began = schedule.after_success(began, ended)
        turns = (began - first) / interval - place
        assert abs(turns - round(turns)) < 1e-3 * max(1.0, first / interval / 1e9)
        assert ended - 1e-3 <= began <= ended + interval * 1.001 + 1e-3


@given(INTERVALS, MOMENTS, st.integers(1, 40), st.randoms(use_true_random=False))
def test_back_off_has_jitter_and_a_limit(interval, now, failures, random):
    """Never longer than 15 minutes, never at once, and further apart at its limit."""
    limits = []

    def draw(low, high):
        limits.append(high)
        return random.uniform(low, high)

    schedule = Schedule(interval, 0.5, draw)
    for _ in range(failures):
        pause = schedule.after_failure(now) - now
        assert 0 < pause + 1e-6 and pause <= BACKOFF_LIMIT_SECONDS + 1e-6
    assert limits == sorted(limits) and limits[-1] <= BACKOFF_LIMIT_SECONDS
    assert failures < 15 or limits[-1] == BACKOFF_LIMIT_SECONDS


def test_back_off_doubles_and_begins_anew_after_a_success():
    """Drawn here at its longest."""
    schedule = Schedule(10, 0.5, lambda low, high: high)
    pauses = [schedule.after_failure(0.0) for _ in range(9)]
    schedule.after_success(0.0, 0.0)
    assert [10, 20, 40, 80, 160, 320, 640, 900, 900, 10] == [*pauses, schedule.after_failure(0.0)]


@pytest.mark.parametrize("asked, expected", [(None, 10), (5, 10), (3600, 3600)])
def test_what_a_server_asked_for_is_heard(asked, expected):
    """Never sooner than its Retry-After, even beyond the limit of the back-off."""
    assert expected == Schedule(10, 0.5, lambda low, high: high).after_failure(0.0, asked)


def test_after_a_reload_the_next_turn_is_within_an_interval():
    """Another interval is heard in the pause that is under way, too."""
    schedule, turns = Schedule(3000.0, 0.5), []
    monitor = Monitor(lambda: False, schedule, tell=None, clock=lambda: 0.0)
    monitor.step(0.0)
    for schedule.interval_seconds in (3000.0, 60.0, 3000.0):
        monitor.shorten_pause(10.0)
        turns.append(monitor.next_turn)
    assert [1500.0, 70.0, 70.0] == turns


# -- turns ---------------------------------------------------------------------------------------

class World:
    """A Monitor with a clock that is a number: `outcomes` says what each turn does."""

    def __init__(self, *outcomes, interval=300.0):
        self.now = 0.0
        self.told, self.states, self.turns = [], [], []
        self._outcomes = list(outcomes)
        self.monitor = Monitor(self._turn, Schedule(interval, 0.0, lambda low, high: low),
                               tell=self.told.append, notify=self.states.append,
                               clock=lambda: self.now)

    def _turn(self):
        self.turns.append(self.now)
        outcome = self._outcomes.pop(0) if self._outcomes else False
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def pass_turns(self, count):
        for _ in range(count):
            self.now = max(self.now, self.monitor.next_turn)
            assert self.monitor.step(self.now)


def test_the_first_turn_is_at_once_and_none_before_its_time():
    """`step` says whether it made a turn."""
    world, steps = World(), []
    for world.now in (7.0, 7.1, 306.9, 307.0):
        steps.append(world.monitor.step(world.now))
    assert [True, False, False, True] == steps


def test_a_fault_is_told_when_it_begins_and_when_it_ends():
    """Not at each turn; a fault of another kind is another fault."""
    away = [UnavailableError(f"no answer {n}") for n in range(3)]
    world = World(*away, LoginError("refused"), LoginError("refused"), True, True)
    world.pass_turns(7)
    assert ["unreachable: no answer 0", "login_refused: refused",
            "the fault is over (login_refused)"] == world.told


def test_after_a_fault_comes_a_fault_again():
    """One that returns is told again."""
    world = World(UnavailableError("a"), True, UnavailableError("b"))
    world.pass_turns(3)
    assert 3 == len(world.told)


@pytest.mark.parametrize("error", [
    RemotesError(""), ValueError("x\ny"), RecursionError(), MemoryError(), OSError(5, "x"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "x"), AssertionError(), StopIteration(),
])
def test_no_exception_of_a_turn_ends_the_loop(error):
    """Ours or foreign: it is told, with its traceback if it is a fault of this program."""
    world = World(error, error, True)
    world.pass_turns(3)
    assert (3, 2) == (len(world.turns), len(world.told))
    assert isinstance(error, RemotesError) or "Traceback" in world.told[0]


@pytest.mark.parametrize("error", [Interrupted(15), KeyboardInterrupt(), SystemExit(1)])
def test_what_ends_the_program_ends_the_loop(error):
    """A second signal is no fault of a turn."""
    with pytest.raises(type(error)):
        World(error).monitor.step(0.0)


def test_a_servers_wish_reaches_the_schedule():
    """Retry-After, from the error of a turn."""
    world = World(UnavailableError("busy", retry_after_seconds=120.0))
    world.pass_turns(1)
    assert 120.0 == world.monitor.next_turn


def test_an_idle_monitor_says_so_once_an_hour():
    """Twelve turns of five minutes; work in between begins a new hour."""
    world = World(interval=300.0)
    world.pass_turns(1 + 24)
    assert ["idle: nothing to do in the last 12 turns"] * 2 == world.told
    world = World(*[False] * 10, True, interval=300.0)
    world.pass_turns(11 + 12)
    assert ["idle: nothing to do in the last 12 turns"] == world.told


def test_two_weeks_of_turns():
    """4032 turns of five minutes with faults of all kinds in between: each on its grid, and
    as many lines as there are hours and faults."""
    outcomes = [UnavailableError("away") if number % 500 == 499 else False
                for number in range(4032)]
    world = World(*outcomes)
    world.pass_turns(4032)
    faults = sum(line.startswith("unreachable") for line in world.told)
    assert (4032, 8, 8) == (len(world.turns), faults, sum("over" in line for line in world.told))
    assert 320 <= sum(line.startswith("idle") for line in world.told) <= 336
    on_grid = sum(moment % 300.0 == 0 for moment in world.turns)
    assert 4032 - 8 == on_grid


def test_the_service_manager_hears_of_faults_in_one_line():
    """Its status has no line ends."""
    world = World(ValueError("x\ny"), True)
    world.pass_turns(2)
    assert [1, 1] == [len(state.splitlines()) for state in world.states]
    assert [True, True] == [state.startswith("STATUS=") for state in world.states]


# -- the stop flag ---------------------------------------------------------------------------------

@pytest.fixture
def stop():
    former = {number: signal.getsignal(number)
              for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    flag = StopFlag()
    flag.listen()
    yield flag
    for number, handler in former.items():
        signal.signal(number, handler)
    flag.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_interrupts(stop, number):
    """The flag is set, everything that waits for it wakes up; then Interrupted with its number."""
    assert not stop.requested
    os.kill(os.getpid(), number)
    assert (True, number, [stop]) == (
        stop.requested, stop.number, select.select([stop], [], [], 0)[0])
    stop.wait(3600)
    with pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), number)
    assert number == caught.value.number


def test_a_hangup_asks_for_a_reload_and_ends_a_wait(stop):
    """It is no stop; as many as there are count as one."""
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGHUP)
    stop.wait(3600)
    assert (True, False) == (stop.reload_requested, stop.requested)


def test_a_signal_during_a_wait_ends_it(stop):
    """At once, not at the end of the wait."""
    with subprocess.Popen(["sh", "-c", f"kill -TERM {os.getpid()}"]):
        stop.wait(3600)
    assert signal.SIGTERM == stop.number


def test_a_wait_beats_and_ends_by_itself(stop):
    """The watchdog is told as often as it wants while nothing happens."""
    beats = []
    stop.beat, stop.beat_seconds = lambda: beats.append(1), 0.01
    began = time.monotonic()
    stop.wait(0.1)
    assert time.monotonic() - began >= 0.1
    assert 2 <= len(beats) <= 11


def test_a_wait_that_is_over_already_returns(stop):
    """A turn that took longer than its interval, and one that was never made."""
    stop.wait(-5)
    stop.wait(float("-inf"))


def test_many_words_into_a_full_pipe_do_not_block(stop):
    """A storm of signals before anybody reads."""
    for _ in range(70_000):
        stop._write(stop._wake_write)
    stop.reload_requested = False
    stop.wait(0.001)


# -- the loop ---------------------------------------------------------------------------

LOOP = """
import os, sys
from remotes.daemon import Monitor, Schedule, ServiceManager, StopFlag, run
manager = ServiceManager(os.environ)
stop = StopFlag(0.0, manager.beat, manager.beat_seconds)
stop.listen()
monitor = Monitor(lambda: print("turn", flush=True), Schedule(3600.0, 0.5), tell=print,
                  notify=manager.notify)
run(monitor, stop, lambda: print("reload", flush=True), manager.notify)
print("stopped by", stop.number)
"""


@pytest.fixture(params=["path", "abstract"])
def manager_socket(request, tmp_path):
    """(address for $NOTIFY_SOCKET, socket) of a service manager, of both kinds."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.settimeout(30)
        line.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        yield name, line


def hear(line, beginning, others=("WATCHDOG=1", "STATUS=")):
    """The next state that is none of `others`; it must have the `beginning`."""
    while (state := line.recv(4096).decode()).startswith(others):
        pass
    assert state.startswith(beginning), state
    return state


def test_a_service_manager_hears_everything(manager_socket):
    """READY, WATCHDOG, RELOADING with its moment, STOPPING; over either kind of socket."""
    name, line = manager_socket
    environ = {**os.environ, "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "100000"}
    environ.pop("WATCHDOG_PID", None)
    with subprocess.Popen([sys.executable, "-c", LOOP], cwd=PROJECT, text=True, env=environ,
                          stdout=subprocess.PIPE) as process:
        hear(line, "READY=1")
        assert "turn\n" == process.stdout.readline()
        hear(line, "WATCHDOG=1", others=("STATUS=",))
        process.send_signal(signal.SIGHUP)
        reloading = hear(line, "RELOADING=1\nMONOTONIC_USEC=")
        assert int(reloading.rpartition("=")[2]) <= time.monotonic_ns() // 1000
        assert "reload\n" == process.stdout.readline()
        hear(line, "READY=1")
        process.send_signal(signal.SIGTERM)
        hear(line, "STOPPING=1")
        assert "stopped by 15\n" == process.stdout.read()
    assert 0 == process.returncode


def test_a_loop_whose_stop_came_first_makes_no_turn(stop):
    """Asked to stop before it began."""
    stop.request()
    states = []
    run(None, stop, None, states.append)
    assert ["READY=1", "STOPPING=1"] == states


@pytest.mark.parametrize("environ, seconds", [
    ({}, None), ({"WATCHDOG_USEC": "30000000"}, 15.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
    ({"WATCHDOG_USEC": "x"}, None), ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "\u00b2"}, None),
])
def test_the_watchdog_is_told_twice_as_often_as_it_wants(environ, seconds):
    """If it is meant for this process, and has said something sensible."""
    assert seconds == ServiceManager(environ).beat_seconds


@pytest.mark.parametrize("address", ["", "/missing/socket", "@nobody-listens-here", "x" * 500])
def test_a_manager_that_is_away_is_no_fault_of_ours(address):
    """Nothing is raised, nothing is left open."""
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    descriptors = len(os.listdir("/proc/self/fd"))
    manager.notify("READY=1")
    manager.beat()
    assert descriptors == len(os.listdir("/proc/self/fd"))
