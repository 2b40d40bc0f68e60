"""Actions on the commands that the Django Remotes server has for this host."""

import contextlib
import time

from remotes.actions.context import Action, Reply
from remotes.errors import Interrupted, LockedError, NotFoundError, RemotesError

FAMILY = "commands"
_RUN_OPTIONS = ("output_limit", "journal_limit", "lock_wait")


def commands_list(context):
    answer, _ = context.server(context.host()).commands_list()
    return Reply(answer)


def command_get(context):
    with _commands_run(context) as run:
        with _reports_in_error(run):
            run.run_one(context.values["command"], force=context.values["force"])
        report = run.delivery.reports[-1]
    if report.delivery == "set aside":
        return Reply({**_failure(3, "set_aside", report.line()), **report.answer()}, 3)
    if report.ending != "completed":
        context.tell(f"client: command_get: {report.line()}")
        return Reply({**_failure(4, "command_failed", report.line()), **report.answer()}, 4)
    return Reply({"status": "OK", **report.answer()})


def _failure(code, kind, message):
    """What the answer of every failure begins with."""
    return {"status": "ERROR", "exit": code, "kind": kind, "message": message}


def command_post(context):
    with _commands_run(context) as run:
        with _reports_in_error(run):
            run.post_kept(context.values["command"])
        return _reply(run, context)


def commands_process(context):
    if context.values["dry_run"]:
        return _preview(context)
    if context.values["splay"]:
        import random

        time.sleep(random.uniform(0, context.values["splay"]))
    with _commands_run(context) as run:
        with _reports_in_error(run):
            run.process()
        return _reply(run, context)


def _preview(context):
    from remotes import commands, delivery

    host = context.host()
    server = context.server(host)
    results = delivery.Delivery(server, host, _journal(context, for_reading=True), None,
                                unclear_seconds=0, tell=context.tell)
    run = commands.CommandsRun(server, host, results, None, journal_limit=0, tell=context.tell)
    return Reply({"status": "OK", "dry_run": True, "commands": run.preview()})


def commands_pending(context):
    from remotes import delivery

    if context.values["drop"] is not None:
        return _drop(context, context.values["drop"])
    rows = []
    for key, entry in _journal(context, for_reading=True).entries.items():
        fields = entry.fields
        rows.append({
            "command": key[2], "group": fields.get("group"), "name": fields.get("name"),
            "state": fields.get("state"), "ending": fields.get("ending"),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(fields.get("at", 0))),
            "refusal": fields.get("refusal"), "server": key[0], "bytes": entry.size,
        })
    return Reply({"status": "OK", "pending": rows,
                  "journal": context.settings.beside(delivery.JOURNAL_NAME)})


def _drop(context, number):
    lock = _commands_lock(context)
    with lock.held(context.values["lock_wait"], "run of commands"):
        journal = _journal(context)
        keys = [key for key in journal.entries if key[2] == number]
        if not keys:
            raise NotFoundError(f"no result of command {number} is kept")
        for key in keys:
            journal.remove(key)
        journal.close()
    message = "its result is thrown away; if the server still lists it, it will be run again"
    return Reply({"status": "OK", "changed": True, "command": number, "message": message})


def commands_monitor(context):
    from remotes import daemon, files

    host = context.host()
    context.server(host)  # a service without a server or a host is told now, and ends (78)
    host.require_verified()
    manager = context.service_manager()
    stop = daemon.StopFlag(context.values["grace"], manager.beat, manager.beat_seconds)
    lock = files.Lock(context.settings.beside("commands-monitor.lock"))
    with lock.held(context.values["lock_wait"], "monitor of commands"):
        stop.listen()
        # The ciphertext serves as well as the UUID in it: one for each host, always the same.
        place = daemon.place_in_interval(str(context.settings.get("host", "uuid", "")))
        schedule = daemon.Schedule(context.values["interval"], place)
        turns = _MonitorTurns(context, stop, schedule)
        monitor = daemon.Monitor(turns.turn, schedule, tell=context.tell, emit=context.emit,
                                 notify=manager.notify)
        daemon.run(monitor, stop, turns.reload, manager.notify)
    code = 0 if stop.number == 15 else 128 + stop.number
    context.emit({"event": "stopped", "signal": stop.number})
    return Reply(None, code)


class _MonitorTurns:
    """The turns of a monitor: each reads the settings again if they were changed."""

    def __init__(self, context, stop, schedule):
        self._context = context
        self._stop = stop
        self._schedule = schedule

    def turn(self):
        context = self._context
        if context.settings.stamp_now() != context.settings.stamp:
            self.reload()
            context = self._context
        try:
            with _commands_run(context, self._stop) as run:
                run.process()
        except LockedError as error:
            context.verbose(f"this turn is left out: {error}")
            return True
        return bool(run.delivery.reports)

    def reload(self):
        """Config and settings as they are now; if they are bad, those that were."""
        try:
            self._context = self._context.reload()
            self._context.verbose("config and settings were read again")
            self._schedule.interval_seconds = self._context.values["interval"]
            self._stop.grace_seconds = self._context.values["grace"]
        except RemotesError as error:
            self._context.tell(f"the former config and settings stay in force: {error}")
            self._context.settings.stamp = self._context.settings.stamp_now()


@contextlib.contextmanager
def _commands_run(context, stop=None):
    """A CommandsRun under the lock of the commands, with all that it works with."""
    from remotes import audit, commands, delivery
    from remotes.runner import Runner

    values, settings = context.values, context.settings
    with contextlib.ExitStack() as stack:
        host = context.host(converts_ini=True)
        server = context.server(host)
        stack.callback(server.close)
        lock = _commands_lock(context)
        stack.enter_context(lock.held(values["lock_wait"], "run of commands"))
        journal = _journal(context)
        stack.callback(journal.close)
        command_runner = Runner(settings.path, output_limit=values["output_limit"],
                                environ=context.environ, stop=stop)
        stack.callback(command_runner.close)

        def on_report(report):
            if stop is None:
                context.verbose(report.line())
            else:
                context.tell(report.line())
                event = report.answer()
                del event["output"], event["result"]
                context.emit({"event": "command", **event})

        results = delivery.Delivery(
            server, host, journal, audit.Audit(settings.beside("audit.jsonl"), tell=context.tell),
            unclear_seconds=2 * values["http_timeout"], tell=context.tell, on_report=on_report,
        )
        yield commands.CommandsRun(
            server, host, results, command_runner, journal_limit=values["journal_limit"],
            tell=context.tell, stop_requested=(lambda: stop.requested) if stop else (lambda: False),
        )


def _commands_lock(context):
    from remotes import files

    return files.Lock(context.settings.beside("commands.lock"))


def _journal(context, *, for_reading=False):
    from remotes import delivery
    from remotes.journal import Journal

    path = context.settings.beside(delivery.JOURNAL_NAME)
    return Journal(path, "commands", delivery.JOURNAL_KEY, tell=context.tell,
                   for_reading=for_reading)


@contextlib.contextmanager
def _reports_in_error(run):
    """What was done before a failure belongs into its answer."""
    try:
        yield
    except (RemotesError, Interrupted) as error:
        error.document["commands"] = [report.answer() for report in run.delivery.reports]
        raise


def _reply(run, context):
    """The answer over all commands of a run: 3 if one was set aside, 4 if one failed."""
    reports = run.delivery.reports
    is_aside = any(report.delivery == "set aside" for report in reports)
    has_failed = any(report.ending != "completed" for report in reports)
    fails = "fail_on_command" in context.values.names and context.values["fail_on_command"]
    answers = [report.answer() for report in reports]
    if is_aside:
        message = "a result was set aside, or a command could not be read"
        return Reply({**_failure(3, "set_aside", message), "commands": answers}, 3)
    if has_failed and fails:
        message = "a command ended in an error"
        context.tell(f"client: commands_process: {message}")
        return Reply({**_failure(4, "command_failed", message), "commands": answers}, 4)
    return Reply({"status": "OK", "commands": answers})


ACTIONS = (
    Action("commands_list", "list the commands that wait for this host", FAMILY,
           (), (), commands_list),
    Action("command_get", "run one command and deliver its result", FAMILY,
           ("command",), ("force", *_RUN_OPTIONS), command_get),
    Action("command_post", "deliver the results that are kept, or that of one command", FAMILY,
           (), ("command", *_RUN_OPTIONS), command_post),
    Action("commands_process", "run all waiting commands and deliver their results", FAMILY,
           (), ("dry_run", "fail_on_command", "splay", *_RUN_OPTIONS), commands_process),
    Action("commands_monitor", "do commands_process again and again, as a service", FAMILY,
           (), ("interval", "grace", *_RUN_OPTIONS), commands_monitor),
    Action("commands_pending", "show the results that are kept; --drop throws one away", FAMILY,
           (), ("drop", "lock_wait"), commands_pending),
)
