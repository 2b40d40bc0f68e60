"""The promise of tasks, under random faults: none is lost, each ends once, no run starts twice."""

import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
import types

import pytest

from demo.duplicati_server.store import JobDatabase
from demo.duplicati_server.store import Store as Duplicatis
from demo.task_store import FINAL, Store
from remotes.actions.performing import Performer
from remotes.actions.running import build_context, find_action
from tests import faulty_tasks
from tests.conftest import RELEASES, DuplicatiHost, job
from tests.processes import eventually
from tests.test_tasks_model import Client

ENDINGS = ["success"] * 6 + ["warning", "error", "fatal", "early"]
# How a run that nothing has cut off ends, as its task is to be told.
TOLD = {"success": "completed", "warning": "completed"}
# What is told of a run whose server was started anew, and what stands in the way for good.
CUT_WORDS = ("started anew", "answers 303")
SLOW_SECONDS = 4.0  # unless it is aborted
MOST_OPEN = 12
CONFIG = """
policy:
  tasks:
    - {deny: all, names: Forbidden, reason: not that one}
    - {allow: [edit, create, compact]}
"""
# How the client may end: well, a server away, its answers foreign, something not over, killed,
# ended before it was a daemon, or with a login that is gone: the server was started anew twice.
CODES = {0, 75, 78, 124, -9, 143, 12}


class Plan:
    """`count` tasks of all kinds, drawn, and the `jobs` that they are about; each `run` has jobs of
    its own, so that it can be told what was started for it."""

    def __init__(self, draw, count):
        self.draw = draw
        self.jobs = [job("Forbidden"), job("Shared", seconds=0.1)]
        self.endings = {}  # name of a job -> how its run ends
        self.tasks = []
        self.runs = {}  # ID of a task -> names of the jobs that it runs
        self.groups = collections.defaultdict(list)  # kind -> IDs
        kinds = {"run": 30, "run_two": 5, "abort": 4, "verify": 7, "compact": 3, "edit": 4,
                 "create": 6, "read": 22, "refused": 8, "unknown": 4, "unusable": 2}
        while len(self.tasks) < count:
            kind = draw.choices(list(kinds), list(kinds.values()))[0]
            getattr(self, f"_{kind}")()

    def _add(self, kind, operation, *named, **more):
        task_id = len(self.tasks) + 1
        task_id = str(task_id) + "/é." if self.draw.random() < 0.2 else task_id
        entry = {"ID": task_id, "Operation": operation, **more}
        if named:
            entry["Resources"] = [{"Type": "backup", "ID": name} for name in named]
        self.tasks.append(entry)
        self.groups[kind].append(task_id)
        return task_id

    def _job(self, **settings):
        """A new job; its number, or at times its name."""
        name = f"Job {len(self.jobs)}"
        self.jobs.append(job(name, **settings))
        self.endings[name] = settings.get("ending", "success")
        return name, self.draw.choice([len(self.jobs), name])

    def _run(self, number=1):
        made = [self._job(ending=self.draw.choice(ENDINGS),
                          seconds=self.draw.choice([0, 0.05, 0.2, 0.5])) for _ in range(number)]
        task_id = self._add("run", "run", *(named for _, named in made))
        self.runs[task_id] = [name for name, _ in made]

    def _run_two(self):
        self._run(2)

    def _abort(self):
        name, named = self._job(seconds=SLOW_SECONDS)
        task_id = self._add("run", "run", named)
        self.runs[task_id] = [name]
        self._add("abort", "abort", Resources=[{"Type": "task", "ID": task_id}])

    def _verify(self):
        self._add("once", "verify", self._job()[1])

    def _compact(self):
        self._add("once", "compact", self._job()[1])

    def _edit(self):
        self._add("edit", "edit", self._job()[1], Changes={"Settings": {"keep-versions": "5"}})

    def _create(self):
        self._add("create", "create", Config={"Backup": {
            "Name": f"New {len(self.tasks)}", "TargetURL": "file:///nowhere/", "Sources": ["/tmp/"],
            "Settings": [{"Name": "--no-encryption", "Value": "true"}]}})

    def _read(self):
        operation = self.draw.choice(["get", "describe", "versions", "logs", "status", "list"])
        if operation == "status":
            self._add("read", operation)
        elif operation == "list":
            self._add("read", operation, Resources=[{"Type": "backups"}])
        else:
            self._add("read", operation, self.draw.choice(["Shared", 2]))

    def _refused(self):
        self._add("refused", *self.draw.choice([
            ("delete", "Shared"), ("run", "Forbidden"), ("run",), ("fly", 1), ("list", "Shared")]),
            **self.draw.choice([{}, {"Expires": "2020-01-01T00:00:00Z"}, {"Ressources": []}]))

    def _unknown(self):
        self._add("unknown", self.draw.choice(["run", "get", "verify"]), "Nobody's")

    def _unusable(self):
        self.tasks.append({"Operation": "run", "Note": len(self.tasks)})


class World:
    """Both servers behind proxies, and a client that is run again and again until all is over."""

    def __init__(self, folder, release, seed, count, faults, patience_seconds):
        self.folder, self.target = folder, faults
        self.patience_seconds = patience_seconds
        self.draw = random.Random(seed)
        self.plan = Plan(self.draw, count)
        self.waiting = list(self.plan.tasks)
        self.added = []  # as they were given to the server, one again with its ID included
        self.codes, self.kills = collections.Counter(), 0
        self.store = Store(str(folder / "tasks.sqlite"))
        self.runs = folder / "runs"
        duplicati = faulty_tasks.Program("duplicati", release, folder / "duplicati",
                                         json.dumps({"jobs": self.plan.jobs}), self.runs)
        self.programs = [duplicati, faulty_tasks.Program("tasks", folder / "tasks.sqlite")]
        self.faults = faulty_tasks.Faults(f"{seed} faults", lambda is_change: None)
        self.proxies = [
            faulty_tasks.Proxy(program, self.faults, where, self.kill_client,
                               1.3 * patience_seconds)
            for program, where in zip(self.programs, ("duplicati", "tasks"))]
        self.client, self.lock = None, threading.Lock()
        self.host = DuplicatiHost(folder)
        self._set_up()

    def _set_up(self):
        config = self.folder / "config.yml"
        config.write_text(CONFIG)
        config.chmod(0o600)
        self.words = [f"--config={config}", f"--tasks_url={self.proxies[1].url}"]
        self.host.log_in(self.proxies[0].url)
        self.faults.likelihood = self.likelihood

    def close(self):
        for proxy in self.proxies:
            proxy.end()
        for program in self.programs:
            program.kill()
        self.store.close()

    # -- what goes wrong -----------------------------------------------------------------

    def count(self):
        return len(self.faults.struck) + self.kills

    def likelihood(self, is_change):
        """Of a fault at a request: such that faults and tasks come to their end together, and what
        starts, changes or answers something suffers more often than the many looks."""
        if self.count() >= self.target:
            return None
        lags = self.count() * len(self.plan.tasks) < self.target * (
            len(self.plan.tasks) - len(self.waiting))
        return (0.24 if lags else 0.08) * (3 if is_change else 1)

    def kill_client(self):
        with self.lock:
            if self.client is not None:
                self.client.kill()

    # -- turns ---------------------------------------------------------------------------

    def states(self):
        """The state of each task that can be answered, one again with its ID included."""
        return [row["state"] for row in self.store.rows(
            "SELECT state FROM tasks WHERE key IS NOT NULL ORDER BY number")]

    def add_tasks(self):
        """Some more, while few are open and enough has gone wrong; at times one that was done."""
        states = self.states()
        number = states.count("new") + states.count("accepted")
        while number < MOST_OPEN and self.waiting:
            done = len(self.plan.tasks) - len(self.waiting)
            if self.count() * len(self.plan.tasks) < self.target * (done - MOST_OPEN):
                return
            again = self.draw.random() < 0.1 and self.relisted()
            entry = again or self.waiting.pop(0)
            self.store.add("host", entry)
            self.added.append(entry)
            number += 1

    def relisted(self):
        """A task that the server has the end of, to be listed once more, or None."""
        rows = self.store.rows("SELECT document, count(*) AS count, min(state) AS state FROM tasks"
                               " WHERE key IS NOT NULL GROUP BY key ORDER BY min(number)")
        done = [json.loads(row["document"]) for row in rows
                if row["count"] == 1 and row["state"] in FINAL]
        return self.draw.choice(done) if done else None

    def is_over(self):
        return not self.waiting and self.count() >= self.target and all(
            state in FINAL for state in self.states())

    def turn(self):
        """One run of the client: a turn, with or without waiting, or some turns of the daemon."""
        self.add_tasks()
        is_quiet = self.count() >= self.target
        action, *words = self.draw.choice([
            ("tasks_process",), ("tasks_process", "--wait", "--wait_timeout=3"),
            ("tasks_monitor", "--interval=0.5")])
        process = self.host.start(action, *words, *self.words,
                                  f"--http_timeout={10 if is_quiet else self.patience_seconds}",
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        with self.lock:
            self.client = process
        ending = (60, None) if action != "tasks_monitor" else (
            self.draw.uniform(1, 4) * self.patience_seconds, self.draw.choice([9, 15]))
        err = self.ended(process, *ending)
        with (self.folder / "stderr").open("a") as stream:
            stream.write(f"--- {time.time():.3f} {action} {process.returncode}\n{err}")
        assert process.returncode in CODES, err
        self.codes[process.returncode] += 1

    def ended(self, process, seconds, signal):
        """What the client has told when it is over; after so long it gets the signal."""
        try:
            try:
                return process.communicate(timeout=seconds)[1]
            except subprocess.TimeoutExpired:
                assert signal, "the client hangs"
                process.send_signal(signal)
                self.kills += signal == 9 and self.count() < self.target
                return process.communicate(timeout=60)[1]
        finally:
            with self.lock:
                self.client = None
                process.kill()

    def run(self):
        """Turns until all is over, and one more, which finds nothing to do."""
        for _ in range(100 + 4 * (self.target + len(self.plan.tasks))):
            if self.is_over():
                result = self.host.run("tasks_process", "--wait", *self.words)
                assert (0, []) == (result.code, result.answer["under_way"]), result
                return
            self.turn()
        raise AssertionError(f"it never came to an end: {collections.Counter(self.states())}")



class Truth:
    """What was begun and what came of it, by the servers' own accounts, once all is over."""

    def __init__(self, world):
        self.plan, self.folder = world.plan, world.folder
        rows = [json.loads(line) for line in world.runs.read_text().splitlines()]
        self.ends = {(process, number): what for what, process, number, _, _ in rows
                     if what != "start"}
        self.started = collections.defaultdict(list)  # (job, operation) -> [(process, number)]
        for what, process, number, operation, name in rows:
            if what == "start":
                self.started[name, operation].append((process, number))
        self.puts = collections.Counter(
            path for method, path in world.proxies[0].changes if method == "PUT")
        self.results = collections.defaultdict(list)  # ID -> (state, results) of each listing
        for row in world.store.rows("SELECT * FROM tasks WHERE key IS NOT NULL ORDER BY number"):
            self.results[json.loads(row["key"])].append((row["state"], [
                (result["became"], json.loads(result["document"]))
                for result in world.store.results(row["number"])]))
        self.cut = 0  # how many runs ended well, and were told to be cut off

    def of_jobs(self):
        """(name, how many runs its log tells of) of each job."""
        store = Duplicatis(self.folder / "duplicati" / "data")
        with contextlib.closing(store):
            for document in store.backups():
                rows = JobDatabase(document["DBPath"]).log(None, 1000)
                yield document["Name"], sum(json.loads(row["message"])["MainOperation"] == "Backup"
                                            for row in rows)

    def doubled(self):
        """What was done twice: a run only if the first was not cut off by Duplicati's own end,
        which leaves no trace of it."""
        found = [(name, operation, former, later)
                 for (name, operation), starts in self.started.items()
                 for former, later in zip(starts, starts[1:])
                 if operation != "Backup" or former in self.ends or former[0] == later[0]]
        jobs = list(self.of_jobs())
        found += [(name, count) for name, count in jobs if count > 1]
        return found + [(word, count) for counted in (
            self.puts, collections.Counter(name for name, _ in jobs))
            for word, count in counted.items() if count > 1]

    def lost(self):
        """Tasks without an end, those with two, and those whose later listing has another."""
        found = []
        for task_id, listings in self.results.items():
            ends = {json.dumps(document) for _, results in listings for _, document in results
                    if document["Status"] in FINAL}
            states = [state for state, _ in listings]
            if len(ends) != 1 or not set(states) <= set(FINAL):
                found.append((task_id, states, sorted(ends)))
        return found

    def is_well(self, name):
        """Whether the run of a job came to a good end."""
        starts = self.started.get((name, "Backup"), [])
        return bool(starts) and self.ends.get(starts[-1]) == "ended" \
            and TOLD.get(self.plan.endings[name]) == "completed"

    def wrong(self):
        """Tasks that were told otherwise than they ended: (ID, told, truth, message)."""
        found = []
        for kind, task_ids in self.plan.groups.items():
            for task_id in task_ids:
                document = next(document for _, document in self.results[task_id][0][1]
                                if document["Status"] in FINAL)  # "accepted" may come late
                expected = self._expected(kind, task_id)
                text = json.dumps(document["Data"])
                if document["Status"] in expected:
                    continue
                if document["Status"] == "error" and any(word in text for word in CUT_WORDS):
                    self.cut += 1  # how well that is told is for the tests of outcomes
                else:
                    found.append((kind, task_id, document, sorted(expected)))
        return found

    def _expected(self, kind, task_id):
        if kind == "run":
            is_well = all(self.is_well(name) for name in self.plan.runs[task_id])
            return {"completed"} if is_well else {"error"}
        return {"refused": {"refused"}, "unknown": {"error"}}.get(kind, {"completed", "error"})


def check_tasks(folder, release, seed, count, faults, patience_seconds=1.0):
    """The whole of it; prints the seed first, and what happened."""
    seed = int(os.environ.get("REMOTES_SEED", seed))
    print(f"\nREMOTES_SEED={seed} ({release})", file=sys.stderr)
    began = time.monotonic()
    world = World(folder, release, seed, count, faults, patience_seconds)
    try:
        world.run()
        truth = Truth(world)
    finally:
        world.close()
    struck = collections.Counter(f"{name} {stage}" for _, name, stage, _, _ in world.faults.struck)
    told = collections.Counter(state for listings in truth.results.values()
                               for state, _ in listings)
    print(f"{world.count()} faults over {len(world.added)} tasks in {sum(world.codes.values())}"
          f" runs, {time.monotonic() - began:.0f} s: {dict(struck)}, killed at random"
          f" {world.kills}; servers started {[one.starts for one in world.programs]}; exits"
          f" {dict(world.codes)}; told {dict(told)}; runs"
          f" {sum(len(starts) for (_, what), starts in truth.started.items() if what == 'Backup')}"
          , file=sys.stderr)
    assert (seed, []) == (seed, truth.doubled())
    assert (seed, []) == (seed, truth.lost())
    assert (seed, []) == (seed, truth.wrong())
    print(f"{truth.cut} runs ended well, and were told to be cut off", file=sys.stderr)
    assert (seed, []) == (seed, list(folder.glob("task-list.yml.*")))


def test_faults_neither_lose_a_task_nor_start_a_run_twice(tmp_path):
    """A sample: 60 faults over 20 tasks."""
    check_tasks(tmp_path, "2.3.0.4", 1, 20, 60, 0.5)


@pytest.fixture
def scene(play, operator, serve_tasks, tmp_path):
    """scene(release, choose) -> (client in this process, task server, Duplicati): one run of the
    job Docs is to be done; what `choose` gives for a path strikes on the way to Duplicati."""
    with contextlib.ExitStack() as opened:
        def make(release, choose):
            duplicati = play(release, job("Docs"), job("Other", ending="early"))
            server = serve_tasks(
                {"ID": 1, "Operation": "run", "Resources": [{"Type": "backup", "ID": 1}]})
            program = types.SimpleNamespace(port=duplicati.server_address[1])
            faults = types.SimpleNamespace(choose=lambda where, method, path: choose(path))
            proxy = faulty_tasks.Proxy(program, faults, "duplicati", lambda: None, 0.0)
            opened.callback(proxy.end)
            host = operator()
            host.log_in(proxy.url)
            context = build_context(find_action("tasks_process"),
                                    {"settings": str(host.settings)}, {}, print, print)
            performer = opened.enter_context(contextlib.closing(Performer(context)))
            client = opened.enter_context(contextlib.closing(
                Client(performer, context, tmp_path / "list.yml", server.url)))
            client.clock = time.time()
            return client, server, duplicati

        yield make


def make_turns_until_over(client):
    """Turns, one after another, until the list is empty."""
    eventually(lambda: client.turn() or not client.list.open(), "the end of all tasks")


def test_a_run_that_can_never_be_started_has_an_end(scene):
    """What stands before Duplicati lets all pass but the start: it is tried for 15 minutes."""
    def choose(path):
        tries.extend([path] * path.endswith("/run"))
        return ("error_500", "before") if path.endswith("/run") else None

    tries = []
    client, server, duplicati = scene("2.3.0.4", choose)
    client.turn()
    client.clock += 1000
    make_turns_until_over(client)
    result = server.state.posts()[-1]
    assert ("error", "given up after 15 min: POST") == (
        result["Status"], result["Data"]["Message"][:27])
    assert (True, {}) == (len(tries) > 1, duplicati.state.tasks)


@pytest.mark.parametrize("release, faults", [
    ("2.1.0.5", [("/systeminfo", ("error_502", "before"))]),
    ("2.3.0.4", [("/run", ("reset", "after")), ("/serverstate", ("redirect", "before"))]),
    ("2.0.8.1", [("/run", ("error_503", "after")), ("/log", ("page", "before"))]),
])
def test_a_fault_while_it_is_found_out_what_came_of_a_run_is_outlived(scene, release, faults):
    """Of the server's clock, of what runs, of the log: each is asked again."""
    def choose(path):
        is_noted = clients and "phase" in (clients[0].list.fields(1) or {})
        is_due = is_noted and left and path.endswith(left[0][0])
        return left.pop(0)[1] if is_due else None

    left, clients = list(faults), []
    client, server, duplicati = scene(release, choose)
    clients.append(client)
    make_turns_until_over(client)
    assert ([], "completed") == (left, server.state.posts()[-1]["Status"])
    assert 1 == sum(one.operation == "Backup" for one in duplicati.state.tasks.values())


@pytest.mark.parametrize("release", RELEASES)
def test_the_end_of_a_run_is_not_that_of_another_with_its_number(scene, release):
    """Duplicati is started anew when the run is over, before anybody looks, and the number of the
    run is that of one of another backup, which fails."""
    client, server, duplicati = scene(release, lambda path: None)
    client.turn()
    assert "started" == client.list.fields(1)["phase"]
    assert duplicati.state.wait_idle()
    duplicati.state.crash_and_restart()
    client.performer.server.call("POST", "v1/backup/2/run")
    assert duplicati.state.wait_idle()
    make_turns_until_over(client)
    result = server.state.posts()[-1]
    assert ("completed", "Docs") == (result["Status"], result["Data"]["name"])


@pytest.mark.soak
@pytest.mark.parametrize("release", RELEASES)
def test_a_thousand_faults_neither_lose_a_task_nor_start_a_run_twice(tmp_path, release):
    """1,000 faults over 300 tasks. REMOTES_SEED repeats a run."""
    check_tasks(tmp_path, release, random.SystemRandom().randrange(10**9), 300, 1000)
