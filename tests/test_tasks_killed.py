"""Clients that are killed while they do tasks, and what the next one makes of it: the table
"found / does" of the protocol page, by real SIGKILLs.

Guards: that each task gets one final answer, that no run is started twice or lost, that nothing
is changed twice, wherever a client was killed. Leaves alone: what is torn inside a write
(test_tasklist), faults of servers and networks.
"""

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
        self._config = folder / "config.yml"
        self._config.write_text("policy: {tasks: [{allow: edit}]}")

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        for server, thread in zip(self._servers, self._threads):
            server.shutdown()
            server.server_close()
            thread.join()
            server.state.close()

    # -- clients -------------------------------------------------------------------------

    def words(self, action):
        return (f"--tasks_url={self._servers[1].url}", f"--config={self._config}",
                *(["--wait"] if action == "tasks_process" else []))

    def start(self, clients, **more):
        """`tasks_process --wait`, as Clients.start; at its pauses Duplicati comes to rest, if it
        is to be killed or counted."""
        clients.start(["--action=tasks_process", f"--settings={self.host.settings}",
                       *self.words("tasks_process")], self.host.folder / "output", **more)

    def killed(self, clients, point, settles=(PAUSE,), settle=None):
        """A client that is killed at `point`; gives what it left on its list."""
        self.start(clients, point=point, settles=settles)
        status, points = clients.ended(settle or self.duplicati.wait_idle)
        assert -signal.SIGKILL == status, (point, status, points)
        return self.found()

    def next_ends(self, clients):
        """The client that was started last comes to its end, and nothing is left to be done."""
        status, _ = clients.ended()
        assert 0 == status, (self.host.folder / "output").read_text()
        answer = self.host.inside("tasks_status").answer
        assert (False, ["path"]) == (answer["has_tasks"], list(answer["list"]))

    def found(self):
        """What the list holds of each task: ID -> its fields."""
        path, tasks = self.host.folder / "task-list.yml", {}
        for line in yaml.safe_load_all(path.read_text()) if path.exists() else ():
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
        """How many runs Duplicati has begun."""
        return sum(task.operation == "Backup" for task in self.duplicati.tasks.values())

    def has_looked(self):
        """Waits until a client that comes now has asked what Duplicati is at."""
        requests, mark = self.duplicati.requests, len(self.duplicati.requests)
        return self.duplicati.engine.wait_until(
            lambda: any(path.endswith("/progressstate") for _, path in requests[mark:]), 30)


@pytest.fixture(scope="module")
def clients():
    """The Clients of these tests."""
    clients = Clients()
    yield clients
    clients.close()


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
    is_lost = fields.get("phase") == "changing" or task_id == 5 and fields.get("phase") == "starting"
    return "error" if fields.get("state") == "running" and is_lost else UNDISTURBED[task_id]


def points_of(clients, folder, release, tasks=TASKS):
    """The points of a client that nobody kills."""
    with Scene(folder, release, tasks) as scene:
        scene.start(clients, settles=[PAUSE])
        status, points = clients.ended(scene.duplicati.wait_idle)
        assert 0 == status, (scene.host.folder / "output").read_text()
        assert UNDISTURBED == {key: post["Status"] for key, post in scene.answers().items()}
        return points


def check_point(clients, folder, release, point):
    """A client is killed at `point`, and another one ends its tasks; gives the statuses."""
    with Scene(folder, release, TASKS) as scene:
        found = scene.killed(clients, point)
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
    telling = [points.index(f"{when} {request}") for when, request in (
        ("before", RUN), ("sent", RUN), ("after", RUN), ("sent", EDIT), ("sent", VERIFY),
        ("sent", "POST /api/tasks/3/result"))]
    others = sorted(set(range(len(points))) - set(telling))
    for point in telling + random.Random(5).sample(others, 6):
        try:
            check_point(clients, tmp_path / f"at-{point}", "2.3.0.4", point)
        except AssertionError as error:
            raise AssertionError(f"killed at {point}, {points[point]}") from error


@pytest.mark.soak
@ALL
def test_killed_at_every_point_each_task_is_done_once_and_answered_once(clients, tmp_path, release):
    """The whole matrix."""
    points, ends = points_of(clients, tmp_path / "counted", release), Counter()
    for point, name in enumerate(points):
        try:
            statuses = check_point(clients, tmp_path / f"at-{point}", release, point)
        except AssertionError as error:
            raise AssertionError(f"killed at {point}, {name}") from error
        ends.update(str(task_id) for task_id in statuses
                    if statuses[task_id] != UNDISTURBED[task_id])
    assert {"3", "5"} == set(ends)
    print(f"\n{release}: killed at each of {len(points)} points; interrupted: {dict(ends)}",
          file=sys.stderr)
