"""The rows of tasks: a turn with nothing to do, one with many tasks, and one with very many."""

import contextlib
import itertools
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from statistics import median

from duplicati_world import DuplicatiWorld
from measure import in_turns
from table import compare, megabytes, row
from world import HERE

BACKUPS = 10
FEW, MANY, MOST = 100, 1000, 10_000
IDLE_ROUNDS, MANY_ROUNDS, MOST_ROUNDS, MEMORY_ROUNDS = 20, 3, 1, 1
IDLE_AIM, EACH_AIM = 1.20, 1.10
# The server reads a file of tasks in its own time.
LOAD_SECONDS = 300.0


class TaskWorld:
    """A demo task server that runs as long as this is open; the host of a DuplicatiWorld knows it.

    `client` and `bare` are the command lines of the client's turn and of the bare script.
    """

    def __init__(self, duplicati):
        self._duplicati, self._last_id = duplicati, 1_000_000
        folder = duplicati.world.folder
        self._file = folder / "tasks.yml"
        self._kept = [folder / "duplicati" / name for name in ("task-list.yml", "audit.jsonl")]
        self._file.write_text("[]")
        self._server = subprocess.Popen(
            [sys.executable, str(HERE.parent / "demo" / "task_server.py"), "--port=0",
             f"--tasks={self._file}"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self._server.stdout.readline().rpartition(" ")[2].strip()
        self.client = duplicati.world.client("tasks_process", duplicati.settings)
        self.bare = [sys.executable, str(HERE / "bare_tasks.py"), duplicati.settings]
        keep = duplicati.world.client("tasks_status", duplicati.settings, f"--tasks_url={self.url}")
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.__exit__)
            duplicati.world.cost(*keep)
            on_failure.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._server.terminate()
        self._server.wait()
        self._server.stdout.close()

    def offer(self, number):
        """The server has so many new tasks, each a `get`; the host's list is empty."""
        ids = itertools.count(self._last_id + 1)
        self._last_id += number
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps([
            {"ID": task_id, "Operation": "get",
             "Resources": [{"Type": "backup", "ID": task_id % BACKUPS + 1}]}
            for task_id in itertools.islice(ids, number)]))
        beside.replace(self._file)
        for path in self._kept:
            path.unlink(missing_ok=True)
        until = time.monotonic() + LOAD_SECONDS
        while not self.has_tasks():
            if time.monotonic() > until:
                raise SystemExit("the task server does not read its tasks")
            time.sleep(0.05)

    def has_tasks(self):
        try:
            urllib.request.urlopen(self.url + "api/tasks/status", timeout=LOAD_SECONDS).close()
        except urllib.error.HTTPError as answer:  # 303 leads nowhere, and 304 is none to it
            return answer.code == 303
        raise SystemExit("the task server does not say whether there are tasks")

    def after(self, number, run, words):
        """What `run(*words)` gives where so many tasks have to be done; they are, after it."""
        self.offer(number)
        found = run(*words)
        if self.has_tasks():
            raise SystemExit(f"{words}: not all tasks were done")
        return found


def measure_tasks(world):
    """(7) A turn of tasks: an idle one; many tasks against a bare script that makes the same
    requests; very many against many.
    """
    with DuplicatiWorld(world, BACKUPS) as duplicati, TaskWorld(duplicati) as tasks:
        costs = in_turns({name: lambda words=words: world.cost(*words) for name, words in (
            ("client", tasks.client), ("bare", tasks.bare))}, IDLE_ROUNDS)
        compare("tasks_process, idle", costs, "client", "bare", "bare script", IDLE_AIM)
        costs = in_turns({name: lambda words=words: tasks.after(MANY, world.cost, words)
                          for name, words in (("client", tasks.client), ("bare", tasks.bare))},
                         MANY_ROUNDS)
        compare(f"{MANY:,} tasks in a turn", costs, "client", "bare", "bare script")
        _measure_most(duplicati, tasks, median(cost.seconds for cost in costs["client"]))


def _measure_most(duplicati, tasks, many_seconds):
    """What a task costs among very many, and how much memory they take."""
    most = tasks.after(MOST, duplicati.world.cost, tasks.client).seconds
    each = [seconds / number * 1000 for seconds, number in ((most, MOST), (many_seconds, MANY))]
    what = f"{MOST:,} tasks in a turn: "
    row(what + "time of each", f"{each[0]:.2f} ms", f"{MANY:,} tasks", f"{each[1]:.2f} ms",
        f"{each[0] / each[1]:.2f}", "", f"{EACH_AIM:.2f}", each[0] <= EACH_AIM * each[1])
    peaks = [tasks.after(number, duplicati.peak_memory, tasks.client) for number in (MOST, FEW)]
    row(what + "peak memory", megabytes(peaks[0]), f"{FEW} tasks", megabytes(peaks[1]),
        f"{peaks[0] / peaks[1]:.2f}")
