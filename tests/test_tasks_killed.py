"""Clients that are killed while they do tasks, and what the next one makes of it: the table
"found / does" of the protocol page, by real SIGKILLs.

Guards: that each task gets one final answer, that no run is started twice or lost, that nothing
is changed twice, wherever a client was killed. Leaves alone: what is torn inside a write
(test_tasklist), faults of servers and networks.
"""

import contextlib
import json
import random
import signal
import sys
import threading
from collections import Counter

import pytest
import yaml

from demo.duplicati_server.aftermath import database_of
from tests.conftest import PASSWORD, RELEASES, DuplicatiHost, job
from tests.killed_tasks import PAUSE, Clients
from tests.processes import eventually

ALL = pytest.mark.parametrize("release", RELEASES)
BACKUP = [{"Type": "backup", "ID": 1}]
RUN = "POST /api/v1/backup/1/run"
VERIFY = "POST /api/v1/backup/1/verify"
EDIT = "PUT /api/v1/backup/2"
FINAL = ("refused", "completed", "error")


class Scene:
    """A demo Duplicati with the backups Docs (1) and Other (2), a demo task server with `tasks`,
    and a host that knows both; until the end of a `with`.
    """

    def __init__(self, folder, release, tasks, **settings):
        from demo import duplicati, task_server

        folder.mkdir()
        self.duplicati = duplicati.Duplicati(
            release, PASSWORD, folder / "duplicati",
            {"jobs": [job("Docs", **settings), job("Other")]}, busy_seconds=0.2)
        self.tasks = task_server.State(tasks)
        self._servers = (duplicati.make_server(self.duplicati), task_server.make_server(self.tasks))
        self._threads = [threading.Thread(target=server.serve_forever, daemon=True)
                         for server in self._servers]
        for thread in self._threads:
            thread.start()
        (folder / "host").mkdir()
        self.host = DuplicatiHost(folder / "host")
        self.host.log_in(self._servers[0].url)
        for lock in self.host.folder.glob("*.lock"):
            lock.unlink()  # else it depends on the lengths of process numbers what is cut off
        self._point = None
        self._config = folder / "config.yml"
        self._config.write_text("policy: {tasks: [{allow: edit}]}")

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        if failure[0]:
            print(f"the client was killed at {self._point}")
        for server, thread in zip(self._servers, self._threads):
            server.shutdown()
            server.server_close()
            thread.join()
            server.state.close()

    # -- clients -------------------------------------------------------------------------

    @property
    def _words(self):
        return f"--tasks_url={self._servers[1].url}", f"--config={self._config}"

    def start(self, clients, **more):
        """`tasks_process --wait` begins; `more`: see Clients.start."""
        clients.start(["--action=tasks_process", f"--settings={self.host.settings}", "--wait",
                       *self._words], self.host.folder / "output", **more)

    def whole(self, clients, settles=(PAUSE,)):
        """The points of a client that nobody kills."""
        self.start(clients, settles=settles)
        status, points = clients.ended(self.settle)
        assert 0 == status, (self.host.folder / "output").read_text()
        return points

    def killed(self, clients, point, settles=(PAUSE,)):
        """A client that is killed at `point`; gives what it left on its list."""
        self._point = point
        self.start(clients, point=point, settles=settles)
        status, points = clients.ended(self.settle)
        assert -signal.SIGKILL == status, (point, status, points)
        return self.found()

    def settle(self):
        """Waits until Duplicati stands still: nothing is left to be done, or what is held is."""
        engine = self.duplicati.engine
        assert engine.wait_until(
            lambda: not engine.active.is_aborted and engine.reached if engine.active
            else not engine.queue, 30)

    def next_ends(self, clients):
        """The client that was started last comes to its end, and leaves nothing to be done."""
        status, _ = clients.ended()
        assert 0 == status, (self.host.folder / "output").read_text()
        answer = self.host.inside("tasks_status").answer
        assert (False, []) == (answer["has_tasks"], answer["tasks"])

    @contextlib.contextmanager
    def daemon(self):
        """A running `tasks_monitor`; it is killed at the end, if it has not ended."""
        process = self.host.start("tasks_monitor", "--interval=0.2", *self._words)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def found(self):
        """What the list holds of each task: ID -> its fields."""
        path, tasks = self.host.folder / "task-list.yml", {}
        text = path.read_text() if path.exists() else ""
        for line in yaml.safe_load_all(text[:text.rfind("\n") + 1]):  # not what is being written
            if "id" in line:
                tasks.setdefault(line["id"], {}).update(line)
        return tasks

    # -- what came of it -----------------------------------------------------------------

    def answers(self):
        """The final answer to each task: ID -> it. One that was sent again was the same, and that
        can have been one only, of the task at which the client was killed."""
        answers, again = {}, 0
        for post in self.tasks.posts("host"):
            if post["Status"] in FINAL:
                again += post["ID"] in answers
                assert post == answers.setdefault(post["ID"], post)
            else:
                assert post["ID"] not in answers
        assert again <= 1
        return answers

    def asked(self, request):
        """How often Duplicati was asked for this."""
        return [f"{method} {path}" for method, path in self.duplicati.requests].count(request)

    def rows(self):
        """How many rows each operation has left in the log of Docs."""
        database = database_of(self.duplicati.store.backup("1"))
        return Counter(json.loads(row["message"])["MainOperation"]
                       for row in database.log(None, 100))

    def runs(self):
        """How many runs of Docs Duplicati has taken."""
        return sum((task.operation, task.backup_id) == ("Backup", "1")
                   for task in self.duplicati.tasks.values())

    def has_looked(self):
        """Waits until a client that comes now has looked once at what Duplicati is at: it asks
        for the state three times in one look, at the most."""
        requests, mark = self.duplicati.requests, len(self.duplicati.requests)
        assert self.duplicati.engine.wait_until(
            lambda: sum("/serverstate" in path for _, path in requests[mark:]) > 3, 30)


@pytest.fixture
def clients():
    """Clients for one test."""
    with Clients() as clients:
        yield clients


# -- the matrix ------------------------------------------------------------------------------

TASKS = (
    {"ID": 1, "Operation": "get", "Resources": BACKUP},
    {"ID": "two", "Operation": "run", "Resources": BACKUP},
    {"ID": 3, "Operation": "edit", "Resources": [{"Type": "backup", "ID": "Other"}],
     "Changes": {"Settings": {"keep-versions": "5"}}},
    {"ID": 4, "Operation": "delete", "Resources": BACKUP},
    {"ID": 5, "Operation": "verify", "Resources": BACKUP},
)
UNDISTURBED = {1: "completed", "two": "completed", 3: "completed", 4: "refused", 5: "completed"}


def status_expected(task_id, found):
    """The status of a task of which `found` was on the list, by the protocol page's table."""
    fields = found.get(task_id, {})
    lost_phases = ("changing", "starting") if task_id == 5 else ("changing",)
    is_lost = fields.get("state") == "running" and fields.get("phase") in lost_phases
    return "error" if is_lost else UNDISTURBED[task_id]


def points_of(clients, folder, release):
    """The points of a client that nobody kills."""
    with Scene(folder, release, TASKS) as scene:
        points = scene.whole(clients)
        assert UNDISTURBED == {key: post["Status"] for key, post in scene.answers().items()}
        return points


def check_point(clients, folder, release, point):
    """A client is killed at `point`, and another one ends its tasks; gives the statuses."""
    with Scene(folder, release, TASKS) as scene:
        found = scene.killed(clients, point)
        for task_id, request in (("two", RUN), (3, EDIT), (5, VERIFY)):
            assert not scene.asked(request) or found[task_id]["phase"]  # it was noted before
        scene.start(clients)
        scene.next_ends(clients)
        answers = scene.answers()
        statuses = {task_id: post["Status"] for task_id, post in answers.items()}
        assert {task_id: status_expected(task_id, found) for task_id in UNDISTURBED} == statuses
        assert 1 == scene.asked(RUN) == scene.runs() == scene.rows()["Backup"]
        for task_id, request in ((3, EDIT), (5, VERIFY)):
            least = int(statuses[task_id] == "completed")
            assert least <= scene.asked(request) <= 1
            assert least or answers[task_id]["Data"]["Message"].startswith("interrupted")
        return statuses


def test_killed_at_any_point_each_task_is_done_once_and_answered_once(clients, tmp_path):
    """SIGKILL around the requests that change something, and at points all over the run (`make
    soak`: at every one, on each generation)."""
    points = points_of(clients, tmp_path / "counted", "2.3.0.4")
    telling = [max(place for place, name in enumerate(points) if name == f"{when} {request}")
               for when, request in (
                   ("sent", RUN), ("after", RUN), ("before", EDIT), ("sent", EDIT),
                   ("sent", VERIFY), ("after", "POST /api/tasks/two/result"))]
    others = sorted(set(range(len(points))) - set(telling))
    for point in telling + random.Random(5).sample(others, 6):
        check_point(clients, tmp_path / f"at-{point}", "2.3.0.4", point)


@pytest.mark.soak
@ALL
def test_killed_at_every_point_each_task_is_done_once_and_answered_once(clients, tmp_path, release):
    """The whole matrix."""
    points, ends = points_of(clients, tmp_path / "counted", release), Counter()
    for point in range(len(points)):
        statuses = check_point(clients, tmp_path / f"at-{point}", release, point)
        ends.update(str(task_id) for task_id in statuses
                    if statuses[task_id] != UNDISTURBED[task_id])
    assert {"3", "5"} == set(ends)
    print(f"\n{release}: killed at each of {len(points)} points; interrupted: {dict(ends)}",
          file=sys.stderr)


ABORT = ({"ID": 1, "Operation": "run", "Resources": BACKUP},
         {"ID": 2, "Operation": "abort", "Resources": [{"Type": "task", "ID": 1}]})
SETTLES = (PAUSE, f"after {RUN}", "after POST /api/v1/task/2/abort")


@pytest.mark.soak
@ALL
def test_killed_at_every_point_of_an_abort_both_tasks_end_once(clients, tmp_path, release):
    """A run that would not end by itself is aborted, or the abort says that it was cut off, and the
    run goes on to its end."""
    with Scene(tmp_path / "counted", release, ABORT) as scene:
        scene.duplicati.hold("Docs")
        points, ends = scene.whole(clients, SETTLES), Counter()
        assert ["completed", "error"] == [scene.answers()[key]["Status"] for key in (2, 1)]
    for point in range(len(points)):
        with Scene(tmp_path / f"at-{point}", release, ABORT) as scene:
            scene.duplicati.hold("Docs")
            found = scene.killed(clients, point, SETTLES)
            scene.start(clients)
            eventually(lambda: scene.tasks.state("host", 2) in FINAL, "an answer to the abort")
            scene.duplicati.release("Docs")
            scene.next_ends(clients)
            run, abort = (scene.answers()[key] for key in (1, 2))
        ends[abort["Status"], run["Status"]] += 1
        assert scene.asked(RUN) == scene.runs() <= 1, (point, points[point])
        is_cut_off = "changing" == found.get(2, {}).get("phase") and found[2]["state"] == "running"
        assert is_cut_off or "abort" in str(run["Data"]), (point, points[point])
        assert is_cut_off or "error" == run["Status"], (point, points[point])
        assert is_cut_off == str(abort["Data"].get("Message")).startswith("interrupted"), point
    print(f"\n{release}: killed at each of {len(points)} points; (abort, run): {dict(ends)}",
          file=sys.stderr)


# -- between the start and its number --------------------------------------------------------

def is_soak_but(*quick):
    """All releases, of which only some are looked at in short runs."""
    return pytest.mark.parametrize("release", [
        pytest.param(release, marks=() if release in quick else pytest.mark.soak)
        for release in RELEASES])


ENDS = {"success": "completed", "warning": "completed", "error": "error", "fatal": "error",
        "early": "error"}


def check_ended(scene, status, result):
    """The run was done once, and that is how it ended."""
    (answer,) = scene.answers().values()
    assert (status, result) == (answer["Status"], answer["Data"]["result"])
    assert 1 == scene.asked(RUN) == scene.runs()


@is_soak_but("2.0.8.1", "2.3.0.4")
def test_killed_before_the_number_was_noted_the_run_is_done_once_and_told(clients, tmp_path,
                                                                          release):
    """It never reached the server, waits in the queue, goes on, or is over in one of five ways."""
    with Clients() as others, Scene(tmp_path / "never", release, TASKS[1:2]) as never:
        found = never.killed(clients, f"before {RUN}")
        assert ("starting", 0) == (found["two"]["phase"], never.runs())
        never.start(clients)  # which waits some seconds before it starts the run
        for ending in ENDS:
            check_over(others, tmp_path / ending, release, ending)
        for busy in ("Docs", "Other"):
            check_under_way(others, tmp_path / busy, release, busy)
        never.next_ends(clients)
        check_ended(never, "completed", "success")


def check_over(clients, folder, release, ending):
    """The run has ended when the next client comes."""
    with Scene(folder, release, TASKS[1:2], ending=ending) as scene:
        found = scene.killed(clients, f"sent {RUN}")
        assert "starting" == found["two"]["phase"]
        scene.settle()
        scene.start(clients)
        scene.next_ends(clients)
        check_ended(scene, ENDS[ending], "error" if ENDS[ending] == "error" else ending)


def check_under_way(clients, folder, release, busy):
    """The run goes on (the backup `busy` is Docs), or waits for one of Other's."""
    with Scene(folder, release, TASKS[1:2]) as scene:
        scene.duplicati.hold(busy)
        if busy == "Other":
            assert 0 == scene.host.inside("duplicati_run", "--id=2").code
        scene.killed(clients, f"sent {RUN}")
        assert scene.duplicati.wait_reached(busy)
        scene.start(clients)
        scene.has_looked()
        scene.duplicati.release(busy)
        scene.next_ends(clients)
        check_ended(scene, "completed", "success")


# -- the daemon ------------------------------------------------------------------------------

@ALL
def test_a_daemon_that_is_killed_during_a_run_leaves_it_to_the_next_one(tmp_path, release):
    """The next one waits for the same task of Duplicati, and tells how it ended."""
    with Scene(tmp_path / "scene", release, TASKS[1:2]) as scene:
        scene.duplicati.hold("Docs")
        with scene.daemon() as daemon:
            eventually(lambda: scene.found().get("two", {}).get("phase") == "started", "a run")
            daemon.kill()
        noted = scene.found()["two"]["started"]
        assert scene.duplicati.wait_reached("Docs")
        with scene.daemon() as daemon:
            scene.has_looked()
            scene.duplicati.release("Docs")
            eventually(lambda: scene.tasks.state("host", "two") in FINAL, "its answer")
            daemon.terminate()
            events = [json.loads(line) for line in daemon.communicate(timeout=30)[0].splitlines()]
        assert ["completed"] == [one["status"] for one in events if one["event"] == "task"]
        check_ended(scene, "completed", "success")
        assert noted["number"] == scene.answers()["two"]["Data"]["task"] is not None
