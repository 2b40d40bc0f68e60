"""Many tasks, and weeks of turns: tasks.py, executor.py, tasklist.py and journal.py together, with
both demo servers.

What a task costs is counted, never timed: lines of the client that are executed, calls of any
Python function, writes, bytes, syncs, requests. Time comes in as an argument.
"""

import contextlib
import gc
import os
import sys
import threading
from collections import Counter
from types import FunctionType, ModuleType

import pytest

from remotes import audit, executor, tasks
from remotes.actions.performing import Performer
from remotes.actions.running import build_context, find_action
from remotes.daemon import Monitor, Schedule
from remotes.duplicati.tasks import Started
from remotes.policy import Policy
from remotes.tasklist import TaskList
from remotes.taskserver import TaskServer
from remotes.transport import Transport
from tests.conftest import PROJECT, job
from tests.processes import WAIT_LIMIT_SECONDS, eventually

NOON = 1_750_000_000
MINUTE, HOUR, DAY = 60, 3600, 86400
GET = {"Operation": "get", "Resources": [{"Type": "backup", "ID": 1}]}
DELETE = {"Operation": "delete", "Resources": [{"Type": "backup", "ID": 1}]}
MISSPELT = {"Operation": "run", "Ressources": []}
RUN = {"Operation": "run", "Resources": [{"Type": "backup", "ID": 1}]}


class Turns:
    """The tasks that `server` has for `host`, in this process, at the time `now`; told lines in
    `told`. The clock stands still but for whoever sets it.
    """

    def __init__(self, host, server):
        self.now, self.told, self.host, self.server = NOON, [], host, server
        self.path = host.folder / "task-list.yml"
        with contextlib.ExitStack() as opened:
            context = build_context(find_action("tasks_process"), {"settings": str(host.settings)},
                                    {}, self.told.append, print)
            task_server = opened.enter_context(
                contextlib.closing(TaskServer(context.transport(), server.url)))
            performer = opened.enter_context(contextlib.closing(Performer(context)))
            self.list = opened.enter_context(contextlib.closing(TaskList(
                str(self.path), task_server.base, tell=self.told.append, clock=self.clock)))
            self.executor = executor.Executor(performer, self.list, clock=self.clock)
            self.run = tasks.TasksRun(
                task_server, self.list, Policy.read({}), self.executor,
                audit.Audit(str(host.folder / "audit.jsonl"), tell=self.told.append),
                tell=self.told.append, clock=self.clock, monotonic=self.clock)
            self.close = opened.pop_all().close
        self._last_id = 1_000_000  # all IDs have the same length

    def clock(self):
        return self.now

    def offer(self, *entries):
        """The server has these tasks, with new IDs, and no others."""
        offered = []
        for entry in entries:
            self._last_id += 1
            offered.append({"ID": self._last_id, **entry})
        self.server.state.replace(offered)

    def add(self, *entries):
        """These tasks are new at the server."""
        for entry in entries:
            self.server.state.add("host", entry)

    def turn(self):
        self.run.reports.clear()
        return self.run.process()

    def cost(self, *entries):
        """What a turn costs in which these tasks are new at the server: a Counter."""
        self.offer(*entries)
        with counting() as counts:
            self.turn()
        assert len(entries) == sum(report.is_delivered for report in self.run.reports)
        return counts


@pytest.fixture
def turns(play, operator, serve_tasks):
    server = play("2.3.0.4", job("Documents"), token_seconds=float(DAY))
    with contextlib.closing(Turns(operator(server), serve_tasks())) as found:
        found.duplicati = server
        yield found


@contextlib.contextmanager
def counting():
    """Gives a Counter of what this thread does meanwhile: "lines" of the client, "calls" of any
    Python function, "writes" to files, "bytes", "syncs", "requests".

    Lines of transport.py are left out: it reads an answer as the system gives it.
    """
    counts, package = Counter(), str(PROJECT / "remotes")
    transport = os.path.join(package, "transport.py")
    mine = threading.get_ident()

    def line(frame, event, arg):
        if event == "line":
            counts["lines"] += 1
        return line

    def call(frame, event, arg):
        counts["calls"] += 1
        place = frame.f_code.co_filename
        return line if place.startswith(package) and place != transport else None

    def counted(function, count):
        def call(*given, **more):
            if threading.get_ident() == mine:
                count(*given)
            return function(*given, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", counted(os.write, lambda descriptor, content: counts.update(
            writes=1, bytes=len(content))))
        patch.setattr(os, "fsync", counted(os.fsync, lambda descriptor: counts.update(syncs=1)))
        patch.setattr(Transport, "exchange", counted(
            Transport.exchange, lambda *given: counts.update(requests=1)))
        former = sys.gettrace()
        sys.settrace(call)
        try:
            yield counts
        finally:
            sys.settrace(former)


# -- what a task costs ---------------------------------------------------------------------------

def assert_linear(costs, counts):
    """`costs`: number -> Counter, of 1, 2 and larger numbers. Each costs what the first two
    promise, in all that is to be exact.
    """
    for number, cost in costs.items():
        expected = {name: costs[1][name] + (number - 1) * (costs[2][name] - costs[1][name])
                    for name in counts}
        assert (number, expected) == (number, {name: cost[name] for name in counts})


EXACT = ("lines", "writes", "bytes", "syncs", "requests")


def assert_tasks_are_linear(turns, few, many):
    """Pairs of a `get` and a refused task; the larger the list grows, the same they cost."""
    turns.cost(GET, DELETE, MISSPELT)  # what is imported and connected once
    costs = {number: turns.cost(*[GET, DELETE] * number) for number in (1, 2, few, many)}
    assert_linear(costs, EXACT)
    assert (3 * many + 2, 2 * many + 1) == (costs[many]["requests"], costs[many]["syncs"])
    calls = [costs[number]["calls"] / number for number in (few, many)]
    assert calls[1] < calls[0] * 1.02, calls
    again = turns.cost(*[GET, DELETE] * 2)
    assert [costs[2][name] for name in EXACT] == [again[name] for name in EXACT]
    assert [] == turns.told


def test_the_hundredth_task_of_a_turn_costs_what_the_second_does(turns):
    """100 or 400 in a turn, and 500 that are remembered: each the same."""
    assert_tasks_are_linear(turns, 50, 200)


@pytest.mark.soak
def test_the_ten_thousandth_task_of_a_turn_costs_what_the_second_does(turns):
    """Likewise 1,000 and 10,000."""
    assert_tasks_are_linear(turns, 500, 5000)


# -- what is left of a task ------------------------------------------------------------------------

def test_a_task_that_this_release_does_not_know_leaves_its_backup_free(turns):
    """Another release has begun it: it is answered, and the next run of the backup is done."""
    turns.offer(RUN)
    turns.list.note(7, state="fetched", sha256="aa", task={"ID": 7, "Operation": "polish"})
    turns.list.note(7, state="running", phase="started", started=Started(1, "1").kept())
    turns.close()
    with contextlib.closing(Turns(turns.host, turns.server)) as later:
        later.turn()
        eventually(lambda: later.run.next_look() is None or later.run.look(), "the end of the run")
        [over, ran] = later.run.reports
    assert [(7, "error"), (1_000_001, "completed")] == [
        (report.task_id, report.status) for report in (over, ran)]


# -- weeks -------------------------------------------------------------------------------------

# What it leads to is everything.
_SHARED = (type, ModuleType, FunctionType)


def bytes_of(root, others):
    """Bytes of an object and all that it leads to, but for `others`."""
    sizes, waiting = {id(other): 0 for other in others}, [root]
    while waiting:
        part = waiting.pop()
        if id(part) not in sizes and not isinstance(part, _SHARED):
            sizes[id(part)] = sys.getsizeof(part)
            waiting += gc.get_referents(part)
    return sum(sizes.values())


class Held:
    """What is held: `bytes` by the run of tasks, `blocks` of memory, open `files` and `threads` by
    this process.
    """

    def __init__(self, turns):
        turns.duplicati.state.requests.clear()  # what the demo servers remember is theirs
        turns.server.requests.clear()
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):  # of an exchange that is over
                thread.join(WAIT_LIMIT_SECONDS)
        gc.collect()
        self.bytes = bytes_of(turns.run, [turns])
        self.blocks = sys.getallocatedblocks()
        self.files = len(os.listdir("/proc/self/fd"))
        self.threads = threading.active_count()


def days(turns, minutes, entries):
    """Two weeks of a daemon that polls each so many minutes; `entries(hour)` are new in each hour.
    Gives for each day what is held at its end, and the largest that task-list.yml was.
    """
    monitor = Monitor(turns.turn, Schedule(minutes * MINUTE, 0.0), tell=turns.told.append,
                      clock=turns.clock, look=turns.run.look, next_look=turns.run.next_look)
    for day in range(14):
        size = 0
        for hour in range(day * 24, day * 24 + 24):
            turns.add(*entries(hour))
            while turns.now < NOON + (hour + 1) * HOUR:
                monitor.step(turns.now)
                turns.now = monitor.next_step
                size = max(size, turns.path.stat().st_size)
        yield Counter(vars(Held(turns)), size=size)


def most(held):
    return {name: max(day[name] for day in held) for name in held[0]}


def assert_flat(turns, minutes, entries):
    """Days 10 to 14 are as days 3 to 7: no more is held; and all tasks were done, each once."""
    held = list(days(turns, minutes, entries))
    early, late = most(held[2:7]), most(held[9:])
    allowed = {"bytes": 1.05, "blocks": 1.01, "files": 1.0, "threads": 1.0, "size": 1.1}
    assert {} == {name: (early[name], late[name]) for name in allowed
                  if late[name] > early[name] * allowed[name]}
    expected = Counter("refused" if entry["Operation"] == "delete" else "completed"
                       for hour in range(14 * 24) for entry in entries(hour) if "ID" in entry)
    posts = [said["Status"] for said in turns.server.state.posts() if said["Status"] != "accepted"]
    assert (expected, 1) == (Counter(posts), len(turns.told)), turns.told


def entries_of(hour, tasks_per_hour, hours_between_runs):
    """Some IDs come again each night, others never; one entry has no ID, and stays."""
    yield {"ID": f"refused at {hour % 24}", **DELETE}
    for number in range(tasks_per_hour - 1):
        yield {"ID": hour * 100 + number, **GET}
    if hour % hours_between_runs == 20:
        yield {"ID": f"run {hour}", **RUN}
    if hour == 3:
        yield GET


def test_two_weeks_of_hourly_polls_leave_nothing_behind(turns):
    """Two tasks in each hour, and a run each two days."""
    assert_flat(turns, 60, lambda hour: entries_of(hour, 2, 48))


@pytest.mark.soak
def test_two_weeks_of_polls_leave_nothing_behind(turns):
    """Each five minutes one; a task for each, and a run each day."""
    assert_flat(turns, 5, lambda hour: entries_of(hour, 12, 24))
