"""Actions on the tasks that a task server has for this host."""

import contextlib
import time

from remotes.actions.context import TASKS, Action, Reply
from remotes.actions.duplicati import SESSION
from remotes.actions.task_parts import (
    KeepingServer,
    keep,
    policy_of,
    task_server,
    tasklist_of,
    tasks_lock,
)
from remotes.errors import (
    Interrupted,
    LoginError,
    PolicyError,
    RemotesError,
    UnavailableError,
    UsageError,
    WaitTimeoutError,
)

_SERVER = ("tasks_url", "tasks_token", "tasks_token_file")


def tasks_status(context):
    with contextlib.closing(task_server(context)) as server:
        has_tasks = server.has_tasks()
        keep(context, server)
        with tasklist_of(context, server.base, for_reading=True) as tasklist:
            rows = [_standing(task_id, tasklist.fields(task_id)) for task_id in tasklist.open()]
            path = tasklist.path
    return Reply({"status": "OK", "url": server.base, "has_tasks": has_tasks, "list": path,
                  "tasks": rows})


def _standing(task_id, fields):
    """Where a task of the local list stands, for people."""
    task, started = fields.get("task") or {}, fields.get("started") or {}
    return {"id": task_id, "operation": task.get("Operation"), "state": fields["state"],
            "since": fields.get("at"), "backup": started.get("name"), "task": started.get("number"),
            "not_taken": fields.get("failures")}


def tasks_list(context):
    """What the server has, and what the policy says to it; nothing is answered, or noted."""
    from datetime import datetime, timezone

    from remotes import operations

    policy = policy_of(context)
    with contextlib.closing(task_server(context)) as server:
        entries = server.fetch()
        keep(context, server)
        judge = _Judge(context, policy)
        with contextlib.closing(judge), \
                tasklist_of(context, server.base, for_reading=True) as tasklist:
            rows = [_row(judge, tasklist, entry, datetime.now(timezone.utc),
                         operations) for entry in entries]
    return Reply({"status": "OK", "url": server.base, "tasks": rows})


def _row(judge, tasklist, entry, now, operations):
    """What would become of one task, for people."""
    task_id = operations.task_id(entry)
    named = entry if isinstance(entry, dict) else {}
    row = {"id": task_id, "operation": named.get("Operation"), "resources": named.get("Resources")}
    if task_id is None:
        return {**row, "verdict": "left out", "why": "it has no usable ID"}
    fields = tasklist.fields(task_id)
    if fields is not None and fields["state"] != "sent":
        return {**row, "verdict": fields["state"], "why": "it is on the local list"}
    if tasklist.former(task_id, operations.content_hash(entry)):
        return {**row, "verdict": "answered", "why": "it was done within the last 12 hours"}
    task, why = operations.examine(entry, now)
    verdict, why = ("refused", why) if task is None else judge.verdict(task)
    return {**row, "verdict": verdict, "why": why}


class _Judge:
    """Verdicts on tasks that nothing is done with; Duplicati is asked for names if need be."""

    def __init__(self, context, policy):
        from remotes.actions.performing import Performer

        self._policy = policy
        self._performer = Performer(context)

    def verdict(self, task):
        """("accepted" or "refused" or "unclear", why) for a Task."""
        from remotes.task_calls import pins_of
        from remotes.tasks import verdicts

        try:
            pins = pins_of(task, lambda: self._performer.server,
                           with_names=self._policy.needs_names)
        except RemotesError as error:
            return "unclear", str(error)
        for verdict in verdicts(self._policy, task, pins, time.time()):
            if not verdict.is_allowed:
                return "refused", verdict.message
        return "accepted", verdict.message

    def close(self):
        self._performer.close()


def tasks_policy(context):
    """What the policy says to an operation, and which rule does."""
    from remotes import operations

    values = context.values
    policy = policy_of(context)
    name, passwords = values["operation"], False
    if name == "export_passwords":
        name, passwords = "export", True
    kind = operations.OPERATIONS.get(name)
    if kind is None:
        raise UsageError(f"--operation {name} is none" + operations.nearest(
            name, (*operations.OPERATIONS, "export_passwords")))
    rows = [_asked(context, policy, kind, passwords, thing) for thing in values["id"] or [None]]
    refused = [row for row in rows if row["verdict"] == "refused"]
    document = {"status": "OK", "operation": values["operation"], "config": values.config.path,
                "verdicts": rows}
    if refused:
        raise PolicyError(f"{values['operation']} is {refused[0]['why']}", document=document | {
            "status": "ERROR"})
    return Reply(document)


def _asked(context, policy, kind, passwords, thing):
    """The verdict on one resource that --type and --id name."""
    from datetime import datetime

    from remotes.actions.performing import Performer

    type_ = context.values["type"]
    if type_ is not None and type_ not in kind.types:
        raise UsageError(f"--type of {kind.name} must be one of {', '.join(kind.types)}"
                         if kind.types else f"{kind.name} takes no --type")
    if thing is not None and kind.wants in ("none", "type"):
        raise UsageError(f"{kind.name} takes no --id")
    if type_ is None and len(kind.types) == 1:
        type_ = kind.types[0]
    ids, name = (() if thing is None else (thing,)), None
    if thing is not None and type_ in ("backup", "database") \
            and (policy.needs_names or not thing.isdigit()):
        performer = Performer(context)
        with contextlib.closing(performer):
            ids = (performer.server.find_backup(thing),)
            name = str(performer.server.backup(ids[0])["Backup"].get("Name"))
    verdict = policy.verdict(kind.name, type_, ids, name, datetime.now(), passwords)
    return {"type": type_, "id": ids[0] if ids else None, "name": name,
            "verdict": "allowed" if verdict.is_allowed else "refused", "rule": verdict.rule,
            "why": verdict.message}


# -- doing -----------------------------------------------------------------------------------

def tasks_process(context):
    values = context.values
    if values["splay"]:
        import random

        time.sleep(random.uniform(0, values["splay"]))
    with tasks_lock(context).held(values["lock_wait"], "run of tasks"), \
            _World(context) as world, _reports_in_error(world):
        world.run.process()
        if values["wait"]:
            _wait(context, world)
        return _reply(world)


def _wait(context, world):
    """Looks at what goes on until nothing does."""
    seconds = context.values["wait_timeout"]
    deadline = None if seconds is None else time.monotonic() + seconds
    while (pause := world.run.next_look()) is not None:
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            if world.run.away_error is not None:
                raise world.run.away_error
            raise WaitTimeoutError(f"{_counted(world.run.under_way, 'task')} not over after"
                                   f" {seconds:g} s; the next turn goes on with what is left")
        time.sleep(min(pause, left))
        world.run.look()


def _counted(things, what):
    return f"1 {what} is" if len(things) == 1 else f"{len(things)} {what}s are"


@contextlib.contextmanager
def _reports_in_error(world):
    """What was done before a failure belongs into its answer."""
    try:
        yield
    except (RemotesError, Interrupted) as error:
        error.document.update(_document(world))
        raise


def _document(world):
    return {"tasks": [report.answer() for report in world.run.reports],
            "under_way": world.run.under_way}


def _reply(world):
    kept, error = world.run.undelivered()
    if kept and isinstance(error, LoginError):
        raise error
    if kept:
        raise UnavailableError(
            f"{_counted(kept, 'result')} kept, since the task server does not take"
            f" {'it' if len(kept) == 1 else 'them'}: {error or 'it was asked a moment ago'}",
            kind="not_delivered")
    if world.run.away_error is not None:
        raise world.run.away_error
    return Reply({"status": "OK", **_document(world)})


def tasks_monitor(context):
    from remotes import daemon

    # A service without a server, a login or a good policy is told now, and ends (78).
    task_server(context).close()
    policy_of(context)
    context.duplicati().close()
    manager = context.service_manager()
    stop = daemon.StopFlag(0.0, manager.beat, manager.beat_seconds)
    with tasks_lock(context).held(context.values["lock_wait"], "run of tasks"):
        stop.listen()
        place = daemon.place_in_interval(context.settings.path + _host_name())
        schedule = daemon.Schedule(context.values["interval"], place)
        with contextlib.closing(_Turns(context, stop, schedule)) as turns:
            monitor = daemon.Monitor(turns.turn, schedule, tell=context.tell, emit=context.emit,
                                     notify=manager.notify, look=turns.look,
                                     next_look=turns.next_look)
            daemon.run(monitor, stop, turns.reload, manager.notify)
    code = 0 if stop.number == 15 else 128 + stop.number
    context.emit({"event": "stopped", "signal": stop.number})
    return Reply(None, code)


def _host_name():
    import socket

    return socket.gethostname()


class _Turns:
    """The turns of the daemon, and the looks between them: the list stays open from one to the
    next; config and settings are read again when they were changed.
    """

    def __init__(self, context, stop, schedule):
        self._context = context
        self._stop = stop
        self._schedule = schedule
        self._world = None

    def turn(self):
        context = self._context
        if context.settings.stamp_now() != context.settings.stamp:
            self.reload()
        if self._world is None:
            world = _World(self._context, self._stop)
            world.open()
            self._world = world
        return self._made(self._world.run.process)

    def look(self):
        self._made(self._world.run.look)

    def _made(self, step):
        """What `step()` gives; after a fault of ours all is made anew, from what was noted."""
        self._world.run.reports.clear()
        try:
            return step()
        except RemotesError:
            raise
        except Exception:
            self.close()
            raise

    def next_look(self):
        return None if self._world is None else self._world.run.next_look()

    def reload(self):
        """Config and settings as they are now; if they are bad, those that were."""
        try:
            context = self._context.reload()
            policy_of(context)
            task_server(context).close()
            context.duplicati().close()
        except RemotesError as error:
            self._context.tell(f"the former config and settings stay in force: {error}")
            self._context.settings.stamp = self._context.settings.stamp_now()
            return
        self.close()
        self._context = context
        self._schedule.interval_seconds = context.values["interval"]
        context.verbose("config and settings were read again")

    def close(self):
        if self._world is not None:
            self._world.close()
            self._world = None


class _World:
    """A TasksRun, as `run`, with all that it works with, under the lock that the caller holds."""

    def __init__(self, context, stop=None):
        self._context = context
        self._stop = stop
        self._open = contextlib.ExitStack()
        self.run = None

    def __enter__(self):
        self.open()
        return self

    def __exit__(self, *failure):
        self.close()

    def open(self):
        from remotes import audit, executor, tasks
        from remotes.actions.performing import Performer

        context, stop = self._context, self._stop
        with contextlib.ExitStack() as opened:
            policy = policy_of(context)
            server = opened.enter_context(contextlib.closing(task_server(context)))
            performer = opened.enter_context(contextlib.closing(Performer(context)))
            performer.server  # noqa: B018  (without a login nothing is fetched: 78)
            tasklist = opened.enter_context(tasklist_of(context, server.base))
            if others := tasklist.open_elsewhere():
                context.tell("tasks of another task server are open, and are answered when"
                             f" --tasks_url names it again: {', '.join(others)}")
            self.run = tasks.TasksRun(
                KeepingServer(server, lambda: keep(context, server)), tasklist, policy,
                executor.Executor(performer, tasklist),
                audit.Audit(context.settings.beside("audit.jsonl"), tell=context.tell),
                tell=context.tell, on_report=self._report,
                on_wait=context.tell if stop else context.verbose,
                stop_requested=(lambda: stop.requested) if stop else (lambda: False),
                beat=stop.beat if stop else (lambda: None),
                kept_limit=context.values["journal_limit"])
            self._open = opened.pop_all()

    def close(self):
        self._open.close()

    def _report(self, report):
        if self._stop is None:
            self._context.verbose(report.line())
            return
        self._context.tell(report.line())
        self._context.emit({"event": "task", **report.answer()})


_RUN = (*_SERVER, "lock_wait", "journal_limit", *SESSION)
ACTIONS = (
    Action("tasks_status", "ask the task server whether there are tasks, and keep its address",
           TASKS, (), _SERVER, tasks_status),
    Action("tasks_list", "show the tasks of the server, and what the policy says to each", TASKS,
           (), (*_SERVER, *SESSION), tasks_list),
    Action("tasks_process", "take the tasks of the server, do them, and answer; one turn", TASKS,
           (), ("splay", "wait", "wait_timeout", *_RUN), tasks_process),
    Action("tasks_monitor", "do tasks_process again and again, as a service", TASKS,
           (), ("interval", *_RUN), tasks_monitor),
    Action("tasks_policy", "show what the policy says to an operation, and which rule does", TASKS,
           ("operation",), ("type", "id", *SESSION), tasks_policy),
)
