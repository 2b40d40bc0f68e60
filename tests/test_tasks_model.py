"""Any order of what can happen to a list and a task server, against a model of what must be there.

What a task does is done at a demo Duplicati; time comes in as an argument.
"""

import contextlib
import json
import threading
from datetime import datetime, timezone

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo import task_server
from demo.task_store import FINAL
from remotes import audit, executor, tasks
from remotes.actions.performing import Performer
from remotes.actions.running import build_context, find_action
from remotes.errors import RemotesError
from remotes.policy import Policy
from remotes.tasklist import TaskList
from remotes.taskserver import TaskServer
from tests.conftest import job

NOON, HOUR = 1_750_000_020, 3600
SOON = datetime.fromtimestamp(NOON + 6 * HOUR, timezone.utc).isoformat()
BACKUP = {"Resources": [{"Type": "backup", "ID": "Docs"}]}
# What a task says besides its ID -> how it ends.
CONTENTS = {
    "pause": ({"Operation": "pause", "Duration": "5m"}, "completed"),
    "resume": ({"Operation": "resume"}, "completed"),
    "get": ({"Operation": "get", **BACKUP}, "completed"),
    "get soon": ({"Operation": "get", **BACKUP, "Expires": SOON}, "completed"),
    "nobody's": ({"Operation": "get", "Resources": [{"Type": "backup", "ID": 99}]}, "error"),
    "delete": ({"Operation": "delete", **BACKUP}, "refused"),
    "no operation": ({"Operation": "fly", "Deep": [[["x"]]]}, "refused"),
    "no resource": ({"Operation": "run"}, "refused"),
}
RULES = {"tasks": [{"allow": ["pause", "resume"]}]}
IDS = [1, "1", "a/../b", 2]
# What becomes of the results of a turn. lost: the server has it, and its answer does not come;
# short: those that are long are too large (413), and a short one is taken.
POSTS = ["taken", "taken", "lost", "short", 403, 404, 413, 500, 202]
SHORT_BYTES = 300
ADD = st.tuples(st.just("add"), st.sampled_from(IDS), st.sampled_from(list(CONTENTS)))
TURN = st.tuples(st.just("turn"), st.sampled_from(POSTS), st.none())
STEP = st.one_of(
    ADD, ADD, TURN, TURN,
    st.tuples(st.just("add_again"), st.sampled_from(IDS)),
    st.tuples(st.just("add_unusable"), st.sampled_from([None, True, "", "\n", 1.5])),
    # It is stopped when it has done so many tasks.
    st.tuples(st.just("turn"), st.sampled_from(POSTS), st.sampled_from([1, 2])),
    # The server does not say whether there are tasks, or which.
    st.tuples(st.just("deaf_turn"), st.sampled_from(["status", "tasks"]),
              st.sampled_from([503, 200, "lost"])),
    st.tuples(st.just("crash"), st.binary(max_size=9)),
    st.tuples(st.just("pass_time"), st.sampled_from([1, HOUR, 12 * HOUR, -3 * HOUR])),
)


class Model:
    """What must be. `listed`: the client's list in its order, ID -> [content, result or None];
    `sent`: ID -> (content, result, at); `rows`: the server's tasks, [ID, content, was fetched, how
    it ended or None]; `done`: what was done, by contents; `unusable`: the entries that were seen.
    """

    def __init__(self):
        self.now = NOON
        self.listed, self.sent, self.rows = {}, {}, []
        self.done, self.waiting, self.unusable = [], set(), set()

    def can_add(self, task_id):
        """Not while the server waits for the end of another task of that ID."""
        return all(row[3] for row in self.rows if row[0] == task_id)

    def forget(self):
        """What was sent 12 hours ago; and what was sent in the future was sent now."""
        self.sent = {task_id: (content, result, min(at, self.now))
                     for task_id, (content, result, at) in self.sent.items()
                     if self.now - at < 12 * HOUR}

    def hand_out(self, is_heard):
        for row in self.rows:
            task_id, content, _, end = row
            row[2] = True
            if not is_heard or end or task_id in self.listed:
                continue  # what is on the list is the same task, whatever it says
            former = self.sent.pop(task_id, (None, None))
            self.listed[task_id] = [content, former[1] if former[0] == content else None]
        self.unusable |= self.waiting if is_heard else set()

    def do(self, most):
        """The first `most` that are not done yet (None: all)."""
        for row in [row for row in self.listed.values() if row[1] is None][:most]:
            is_late = row[0] == "get soon" and self.now > NOON + 6 * HOUR
            row[1] = "refused" if is_late else CONTENTS[row[0]][1]
            self.done.append(row[0])

    def receive(self, task_id, status, is_heard):
        """The server has got a result, which must be the one on the list."""
        assert self.listed[task_id][1] == status
        row = [row for row in self.rows if row[0] == task_id and row[2]][-1]
        assert row[3] in (None, status)
        row[3] = status
        if is_heard:
            content, result = self.listed.pop(task_id)
            self.sent[task_id] = content, result, self.now


class Client:
    """The client in this process, on the list `path`; a crash makes another of it."""

    def __init__(self, performer, context, path, url):
        self.clock, self.monotonic, self.told, self.most = NOON, 0.0, [], None
        self.performer, self.path = performer, path
        self.server = TaskServer(context.transport(), url)
        self.open()

    def open(self):
        self.list = TaskList(str(self.path), self.server.base, tell=self.told.append,
                             clock=lambda: self.clock)
        self.run = tasks.TasksRun(
            self.server, self.list, Policy.read(RULES, None),
            executor.Executor(self.performer, self.list, clock=lambda: self.clock),
            audit.Audit(str(self.path) + ".audit", tell=self.told.append), tell=self.told.append,
            clock=lambda: self.clock, monotonic=lambda: self.monotonic,
            stop_requested=self.stop_requested)

    def stop_requested(self):
        return self.most is not None and len(self.run.reports) >= self.most

    def turn(self, most=None):
        self.most = most
        self.run.reports.clear()
        with contextlib.suppress(RemotesError):
            self.run.process()

    def crash(self, torn):
        self.list.close()
        with self.path.open("ab") as stream:
            stream.write(torn.replace(b"\n", b""))
        self.open()

    def close(self):
        self.list.close()
        self.server.close()


class Story:
    """Steps, each done by client and server and by the model."""

    def __init__(self, client, state, server, duplicati):
        self.client, self.state, self.server, self.duplicati = client, state, server, duplicati
        self.model = Model()
        self.posts = 0
        self.asked = len(self.changes())

    def changes(self):
        return [target for method, target in self.duplicati.requests
                if method == "POST" and "/serverstate/" in target]

    def add(self, task_id, content):
        if self.model.can_add(task_id):
            self.state.add("host", {"ID": task_id, **CONTENTS[content][0]})
            self.model.rows.append([task_id, content, False, None])

    def add_again(self, task_id):
        former = [content for known, content, _, _ in self.model.rows if known == task_id]
        if former:
            self.add(task_id, former[-1])

    def add_unusable(self, task_id):
        self.state.add("host", {"ID": task_id, "Operation": "run"})
        self.model.waiting.add(repr(task_id))

    def turn(self, posts, most):
        self._fault("POST", "/result", posts)
        self._turn(posts, most, is_heard=True)

    def deaf_turn(self, word, failure):
        self._fault("GET", f"/{word}", failure)
        self._turn("taken", None, is_heard=False, is_handed=(word, failure) == ("tasks", "lost"))

    def _turn(self, posts, most, *, is_heard, is_handed=True):
        model = self.model
        model.forget()
        if is_handed and (model.waiting or any(not row[3] for row in model.rows)):
            model.hand_out(is_heard)
        model.do(most)
        self.client.turn(most)
        for row in self.state.store.rows("SELECT * FROM posts WHERE number > ? ORDER BY number",
                                         self.posts):
            self.posts = row["number"]
            assert row["became"] != "second"
            result = json.loads(row["document"])
            model.receive(result["ID"], result["Status"], posts in ("taken", "short"))

    def _fault(self, method, tail, failure):
        def strike(stage, handler):
            if failure == "taken" or (method, True) != (
                    handler.command, handler.path.endswith(tail)):
                return False
            if failure == "lost":
                return stage == "after"
            if failure == "short" and (len(handler.body) <= SHORT_BYTES or self.has(handler.body)):
                return False
            handler.wfile.write(b"HTTP/1.1 %d Fault\r\nContent-Length: 5\r\n"
                                b"Connection: close\r\n\r\nFault"
                                % (413 if failure == "short" else failure))
            return True

        self.server.fault = strike

    def has(self, body):
        """Whether the server has taken the result of that task before: it was short enough then."""
        return self.state.state("host", json.loads(body)["ID"]) in FINAL

    def crash(self, torn):
        self.client.crash(torn)
        order = self.client.list.open()
        self.model.listed = {task_id: self.model.listed[task_id] for task_id in order}

    def pass_time(self, seconds):
        self.model.now += seconds
        self.client.clock += seconds
        self.client.monotonic += max(seconds, 0)

    def check(self):
        model, told = self.model, self.client.told
        assert list(model.listed) == self.client.list.open()
        assert {task_id: row[1] for task_id, row in model.listed.items()} == {
            task_id: (self.client.list.result(task_id) or {}).get("Status")
            for task_id in model.listed}
        assert [word for word in model.done if word in ("pause", "resume")] == [
            "pause" if "pause" in target else "resume" for target in self.changes()[self.asked:]]
        assert len(model.unusable) == sum("without a usable ID" in line for line in told)
        assert [] == [line for line in told if "damaged" in line]

    def end(self):
        """All goes well from now on: what waited for its next try is over after some turns."""
        for _ in range(3):
            self.client.monotonic += HOUR
            self.turn("taken", None)
        self.check()
        assert [] == self.client.list.open()
        assert [end for _, _, _, end in self.model.rows] == [
            row["state"] for row in self.state.store.rows(
                "SELECT state FROM tasks WHERE key IS NOT NULL ORDER BY number")]
        assert all(end in FINAL for _, _, _, end in self.model.rows)


@contextlib.contextmanager
def served():
    """A task server without tasks, at its port."""
    server = task_server.make_server(task_server.State())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        server.state.close()


def check_story(steps, folder, performer, context, duplicati):
    """The steps, one after another, and a quiet end."""
    with served() as server, contextlib.closing(
            Client(performer, context, folder / "list.yml", server.url)) as client:
        story = Story(client, server.state, server, duplicati)
        for name, *values in steps:
            getattr(story, name)(*values)
            story.check()
        story.end()


@pytest.fixture
def scene(play, operator, tmp_path_factory):
    """scene(steps) -> they are checked; all with one Duplicati, each with a list of its own."""
    duplicati = play("2.3.0.4", job("Docs"))
    host = operator(duplicati)
    context = build_context(find_action("tasks_process"), {"settings": str(host.settings)}, {},
                            print, print)
    with contextlib.closing(Performer(context)) as performer:
        yield lambda steps: check_story(steps, tmp_path_factory.mktemp("story"), performer,
                                        context, duplicati.state)


WELL, LOST = ("turn", "taken", None), ("turn", "lost", None)


@example([("add", 1, "pause"), WELL, ("pass_time", 12 * HOUR - 1), ("add_again", 1), WELL,
          ("crash", b"--- {"), ("pass_time", 12 * HOUR), ("add_again", 1), WELL])
@example([("add", 1, "pause"), WELL, ("add", "1", "pause"), WELL, ("add", 1, "resume"), WELL])
@example([("add", 1, "pause"), LOST, ("add_again", 1), ("turn", 202, None), ("crash", b""), WELL])
@example([("add", 1, "get"), ("turn", 413, None), ("pass_time", HOUR), ("turn", "short", None),
          ("add_again", 1), WELL])
@example([("add", 2, "get"), ("add", 1, "get soon"), ("turn", 403, 1), ("pass_time", 12 * HOUR),
          WELL])
@settings(max_examples=15)
@given(st.lists(STEP, min_size=5, max_size=15))
def test_whatever_happens_each_task_is_done_and_answered_once(scene, steps):
    """A sample."""
    scene(steps)


@pytest.mark.soak
@settings(max_examples=1000, derandomize=False)
@given(st.lists(STEP, max_size=40))
def test_whatever_happens_for_long_each_task_is_done_and_answered_once(scene, steps):
    """1,000 stories of up to 40 steps, other ones each time."""
    scene(steps)
