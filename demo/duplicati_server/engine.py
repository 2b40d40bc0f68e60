"""The engine of the demo Duplicati server: tasks, their queue, the one that runs, its progress,
and the events that wake who waits.

Guards: what the rules of the protocol say about tasks (sections 4.1, 5.1 to 5.3): numbers from 2
at each start, one at a time, a running or queued job not queued twice, a queued task that neither
stop nor abort reaches, a paused server whose tasks wait and whose running task stands still.
Nothing here polls: whoever waits does so on one condition.
Leaves alone: what an operation does (operations.py), and what it looks like over HTTP.
"""
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from demo.duplicati_server.answers import EngineError
from demo.duplicati_server.moments import now
from demo.duplicati_server.releases import Release

KEPT_TASKS = 99
MIDDLE = "middle"
LONGEST_PAUSE_SECONDS = 86400  # a pause that is longer ends by itself after that


class ClosedError(Exception):
    """The server ends, as if it were killed: what runs leaves no trace."""


@dataclass
class Task:
    """A task. `arguments`: what its operation needs to know. `name`: that of its job."""
    number: int
    backup: dict
    operation: str
    arguments: dict = field(default_factory=dict)
    state: str = "Waiting"
    started: datetime | None = None
    finished: datetime | None = None
    error: EngineError | None = None
    is_aborted: bool = False
    is_stopped: bool = False
    is_deaf: bool = False  # neither abort nor stop changes anything

    @property
    def backup_id(self) -> str:
        """The ID of its job."""
        return self.backup["ID"]


def idle_progress(release: Release) -> dict:
    """What moves while a task runs, at its beginning."""
    return {"phase": release.initial_phase, "overall": 0.0, "files": 0, "size": 0,
            "total_files": 0, "total_size": 0, "counting": False, "transfer": None,
            "current": None, "estimate": None}


class Engine:
    """Tasks of a server. `perform(task)` does a task's work, in the thread of the engine; all
    that it leaves behind is there before the task is said to be over."""

    def __init__(self, release: Release, perform: Callable[[Task], None]):
        self.release, self.perform = release, perform
        self.changed = threading.Condition(threading.RLock())
        self.tasks: dict[int, Task] = {}
        self.queue: list[Task] = []
        self.active: Task | None = None
        self.progress: dict | None = None
        self.progress_task: Task | None = None
        self.held: dict[str, str] = {}  # name of a job -> the phase in which it is to stand
        self.reached: set[tuple[str, str]] = set()  # those that have come there
        self.is_paused, self.paused_until, self.pause_ends = False, None, None
        self.event, self.data_update, self.notification_update = 2, 1, 0
        self.closed = False
        self._last_number = 1
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to take tasks from the queue."""
        self._worker.start()

    def close(self) -> None:
        """End at once, as if killed; what runs is not told."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        if self._worker.is_alive() and self._worker is not threading.current_thread():
            self._worker.join()

    def tell(self, data: bool = False, notification: bool = False) -> None:
        """Something happened: wake those who wait for events."""
        with self.changed:
            self.event += 1
            self.data_update += data
            self.notification_update += notification
            self.changed.notify_all()

    def wake(self) -> None:
        """Let those who wait for something look again; no event."""
        with self.changed:
            self.changed.notify_all()

    def next_number(self) -> int:
        """A task number; listings use them up, too."""
        with self.changed:
            self._last_number += 1
            return self._last_number

    def add(self, backup: dict, operation: str, **arguments) -> Task:
        """Queue a task. A run of a job that runs or is queued is not queued again: that task."""
        with self.changed:
            if operation == "Backup":
                for task in [self.active, *self.queue]:
                    if task and task.operation == operation and task.backup_id == backup["ID"]:
                        return task
            task = Task(self.next_number(), backup, operation, arguments)
            self.tasks[task.number] = task
            for number in sorted(self.tasks)[:-KEPT_TASKS]:
                if self.tasks[number].finished:
                    del self.tasks[number]
            self.queue.append(task)
            self.tell()
            return task

    def wait_until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so, at most so many seconds; whether it is."""
        with self.changed:
            return self.changed.wait_for(lambda: is_so() or self.closed, seconds) and is_so()

    def is_active(self, backup_id: str) -> bool:
        """Whether a job runs or is queued."""
        with self.changed:
            return any(task.backup_id == backup_id
                       for task in [self.active, *self.queue] if task)

    def pause(self, seconds: float) -> None:
        """Pause; 0: until it is resumed."""
        with self.changed:
            self.is_paused = True
            self.paused_until = now() + timedelta(seconds=seconds) if seconds else None
            self.pause_ends = time.monotonic() + min(seconds, LONGEST_PAUSE_SECONDS) \
                if seconds else None
            self.tell()

    def resume(self) -> None:
        """Go on."""
        with self.changed:
            self.is_paused, self.paused_until, self.pause_ends = False, None, None
            self.tell()

    def hold(self, name: str, phase: str = MIDDLE) -> None:
        """Let tasks of jobs of that name stop in their middle, or where a phase begins. One
        that is held elsewhere goes on."""
        with self.changed:
            self.held[name] = phase
            self.reached = {pair for pair in self.reached if pair[0] != name}
            self.changed.notify_all()

    def release_job(self, name: str) -> None:
        """Let them go on."""
        with self.changed:
            self.held.pop(name, None)
            self.reached = {pair for pair in self.reached if pair[0] != name}
            self.changed.notify_all()

    def abort(self, task: Task) -> None:
        """End a running task; a queued one is not reached."""
        with self.changed:
            if task is self.active and not task.is_deaf:
                task.is_aborted = True
                self.changed.notify_all()

    def stop(self, task: Task) -> None:
        """Let a running task end with what it has; a queued one is not reached."""
        with self.changed:
            if task is self.active and not task.is_deaf:
                task.is_stopped = True
                self.changed.notify_all()

    # For the operations, in the thread of the engine.

    def pass_time(self, task: Task, seconds: float) -> None:
        """Let time pass; a pause does not count. EngineError if the task is aborted."""
        with self.changed:
            left = seconds
            while True:
                self._check(task)
                if self.is_paused:
                    self._wait(None)
                    continue
                if left <= 0 or task.is_stopped:
                    return
                began = time.monotonic()
                self._wait(left)
                left -= time.monotonic() - began

    def stand(self, task: Task, phase: str = MIDDLE) -> None:
        """Wait while jobs of that name are held here."""
        name = task.backup["Name"]
        with self.changed:
            try:
                while self.held.get(name) == phase and not task.is_stopped:
                    self._check(task)
                    if (name, phase) not in self.reached:
                        self.reached.add((name, phase))
                        self.changed.notify_all()
                    self._wait(None)
            finally:
                self.reached.discard((name, phase))

    def enter(self, task: Task, phase: str) -> None:
        """A phase of the task begins; it stands here if it is held here."""
        with self.changed:
            self.progress.update(phase=phase, current=None, estimate=None)
            self.stand(task, phase)

    def _check(self, task: Task) -> None:
        if self.closed:
            raise ClosedError
        if task.is_aborted:
            raise EngineError(self.release.cancellation, self.release.cancellation_type)

    def _wait(self, seconds: float | None) -> None:
        """Wait for a change, and end a pause whose time is over."""
        if self.pause_ends is not None:
            left = max(0.0, self.pause_ends - time.monotonic())
            seconds = left if seconds is None else min(seconds, left)
        self.changed.wait(seconds)
        if self.pause_ends is not None and time.monotonic() >= self.pause_ends:
            self.resume()

    def _work(self) -> None:
        while task := self._next():
            try:
                self.perform(task)
            except ClosedError:
                return
            except EngineError as error:
                task.error = error
            with self.changed:
                task.finished = now()
                task.state = "Failed" if task.error and self.release.tells_failure \
                    else "Completed"
                self.active = None
                self.tell(data=True)

    def _next(self) -> Task | None:
        """The next task, when there is one and the server is not paused; None at the end."""
        with self.changed:
            while not self.closed:
                if self.queue and not self.is_paused:
                    task = self.active = self.queue.pop(0)
                    task.state, task.started = "Running", now()
                    self.progress, self.progress_task = idle_progress(self.release), task
                    self.tell()
                    return task
                self._wait(None)
            return None
