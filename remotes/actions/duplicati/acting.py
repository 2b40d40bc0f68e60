"""Actions that have a Duplicati server do something, wait for it, and tell how it ended."""

import contextlib
import sys
import time

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION
from remotes.errors import (
    Interrupted,
    NotFoundError,
    RefusedError,
    RemotesError,
    UsageError,
    WaitTimeoutError,
)

# A line a minute; a long poll, by whose end it is told, may come back a little early.
_LINE_SECONDS = 59.0
_ABORT_WAIT_SECONDS = 60.0
_DAY_SECONDS = 86400
_WAIT = ("wait", "wait_timeout")


# -- starting, and what comes of it --------------------------------------------------------

def duplicati_run(context):
    return _operate(context, "run")


def duplicati_verify(context):
    return _operate(context, "verify")


def duplicati_compact(context):
    return _operate(context, "compact")


def duplicati_vacuum(context):
    return _operate(context, "vacuum")


def duplicati_repair(context):
    return _operate(context, "repair")


def _operate(context, verb):
    """Starts the operation `verb` of the backups that the options name."""
    server = context.duplicati()
    ids = backup_ids(context, server)
    with contextlib.closing(server):
        return begin_all(context, server, verb, ids,
                         lambda backup_id: server.call("POST", f"v1/backup/{backup_id}/{verb}"))


def backup_ids(context, server):
    """The IDs of the backups that --id or --all names, each once. Errors: UsageError and
    those of find_backup.
    """
    values = context.values
    named = values["id"] or []
    is_all = "all" in values.names and values["all"]
    if bool(named) == is_all:
        both = " or --all" if "all" in values.names else ""
        raise UsageError(f"--action={values.action.name} needs --id{both}"
                         + (", not both" if named else ""))
    if is_all:
        return [str(row["Backup"].get("ID")) for row in server.backups()]
    return list(dict.fromkeys(server.find_backup(name) for name in named))


def one_backup_id(context, server):
    """The ID of the one backup that --id names."""
    ids = backup_ids(context, server)
    if len(ids) > 1:
        raise UsageError(f"--action={context.values.action.name} takes one --id")
    return ids[0]


def begin(context, server, verb, backup_id, request, *, has_row=True):
    """Starts one task with `request()`, which gives the call's JSON; a Reply, with its end if
    --wait says so. `verb` is a key of tasks.OPERATIONS.
    """
    return begin_all(context, server, verb, [backup_id], lambda _: request(), has_row=has_row)


def begin_all(context, server, verb, ids, request, *, has_row=True):
    """Starts a task of each backup with `request(backup_id)`; a Reply over all of them."""
    from remotes.duplicati import tasks

    started, failed = [], []
    for backup_id in ids:
        try:
            noted = tasks.note(server, backup_id, tasks.OPERATIONS[verb], has_row=has_row)
            if context.follower is not None:
                context.follower.about_to_start(noted)
            task = tasks.start(server, noted, lambda backup_id=backup_id: request(backup_id))
        except RemotesError as error:
            if len(ids) == 1 or error.exit_code in (12, 14, 78):
                error.document["tasks"] = [task.answer() for task in started]
                raise
            context.tell(f"client: {context.values.action.name}: backup {backup_id}: {error}")
            failed.append({"id": backup_id, "result": "not started", "kind": error.kind,
                           "why": str(error)})
            continue
        _keep(context, server, task)
        started.append(task)
    if not context.values["wait"]:
        return _started_reply(context, server, started, failed)
    return follow(context, server, started, failed, changed=_has_started(started))


def _has_started(started):
    """Whether this run has started one of the tasks."""
    return any(not task.was_there for task in started)


def _keep(context, server, task):
    """Notes the task, so that a later run can wait for it. Without that it goes on, too."""
    if context.follower is not None:
        context.follower.has_started(task)
        return
    if task.number is None:
        return
    try:
        server.session.keeper.save_task(task.number, task.kept())
    except RemotesError as error:
        context.tell(f"the task goes on, but is not noted: {error}")


def _started_reply(context, server, started, failed):
    numbers = [task.number for task in started if task.number is not None]
    document = {"status": "OK", "changed": _has_started(started),
                "tasks": [task.answer() for task in started] + failed}
    if numbers:
        document["message"] = _come_back(server, numbers)
    if failed:
        message = f"{len(failed)} of {len(failed) + len(started)} could not be started"
        return Reply({**_failure(3, "some_failed", message), **_without_status(document)}, 3)
    return Reply(document)


def _come_back(server, numbers):
    words = [f"--action=duplicati_wait --task={number}{server.session.name_option()}"
             for number in numbers]
    return "to wait for " + ("it: " if len(words) == 1 else "them: ") + ", ".join(words)


def _failure(code, kind, message):
    return {"status": "ERROR", "exit": code, "kind": kind, "message": message}


def _without_status(document):
    return {name: value for name, value in document.items() if name != "status"}


# -- waiting -------------------------------------------------------------------------------

def duplicati_wait(context):
    from remotes.duplicati import tasks

    server = context.duplicati()
    number = context.values["task"]
    kept = (server.session.keeper.kept.get("tasks") or {}).get(str(number))
    with contextlib.closing(server):
        if isinstance(kept, dict) and kept.get("backup_id"):
            task = tasks.Started.from_kept(kept)
        else:
            task = tasks.adopt(server, number)
        return follow(context, server, [task], [], changed=False)


def follow(context, server, started, failed, *, changed):
    """Waits for the tasks one after another; a Reply with the truth about each."""
    rows = []
    for place, task in enumerate(started):
        try:
            outcome = _wait_for(context, server, task)
        except (Interrupted, RemotesError) as error:
            open_tasks = started[place:]
            for row in rows:
                del row["exit"]
            error.document.update(changed=changed,
                                  tasks=rows + [task.answer() for task in open_tasks] + failed)
            numbers = [task.number for task in open_tasks if task.number is not None]
            if numbers and isinstance(error, RemotesError):
                error.args = (f"{error}; {_come_back(server, numbers)}",)
            elif numbers:
                context.tell(_come_back(server, numbers))
            raise
        rows.append({**task.answer(outcome), "exit": outcome.exit_code})
    return ended_reply(context, rows, failed, changed=changed)


def ended_reply(context, rows, failed, *, changed=True):
    """0, 3 for warnings and for what could not be started, 4 for an error, an abort …"""
    code = max([row.pop("exit") for row in rows] + [3 for _ in failed], default=0)
    document = {"changed": changed, "tasks": rows + failed}
    if code == 0:
        return Reply({"status": "OK", **document})
    bad = [f"{row['operation']} of backup {row['id']} {row['name']!r}: {row['result']}:"
           f" {row['why']}" for row in rows if row["result"] != "success"]
    message = "; ".join(bad) or f"{len(failed)} could not be started"
    context.tell(f"client: {context.values.action.name}: {context.masked_text(message)}")
    kind = "warnings" if code == 3 and not failed else "some_failed" if code == 3 \
        else "task_failed"
    return Reply({**_failure(code, kind, message), **document}, code)


def _wait_for(context, server, task):
    """The Outcome of one task, shown while it goes on."""
    from remotes.duplicati import outcomes, waiting

    seconds = context.values["wait_timeout"]
    deadline = None if seconds is None else time.monotonic() + seconds
    with shown(context, server, task) as on_look:
        wait = waiting.Wait(server, task, on_look=on_look, tell=context.tell)
        ending = wait.until_over(seconds)
    return outcomes.find(server, task, ending, deadline)


def _bar():
    """The class of the bar; None where the library that draws it is not there."""
    try:
        from remotes.actions.duplicati.drawing import Bar
    except ImportError:
        return None
    return Bar


@contextlib.contextmanager
def shown(context, server, task):
    """Gives the `on_look` that shows a task: a bar on a terminal, a line a minute elsewhere."""
    if sys.stderr.isatty() and (Bar := _bar()) is not None:
        # Settings of its own: the bar's thread may renew the session, too.
        with Bar(lambda: context.reload().duplicati(), task) as bar:
            yield bar.look
        return
    from remotes.duplicati.progress import Beat

    beat = Beat(_LINE_SECONDS, time.monotonic())

    def look(place, state):
        if beat.is_due(time.monotonic()):
            context.tell(standing(server, task, place, state))

    yield look


def standing(server, task, place, state):
    """Where a task stands, in one line; `place` and `state` as Wait gives them to on_look."""
    from remotes.duplicati import progress
    from remotes.rendering import size_text

    what = f"{task.operation or task.likely} of backup {task.backup_id} {task.name!r}"
    pause = ", and the server is paused" if state.get("ProgramState") == "Paused" else ""
    if place == "queued":
        return f"{what} waits its turn{pause}"
    try:
        found = server.progress() or {}
    except RemotesError:
        found = {}  # the wait itself tells what is wrong
    if found.get("TaskID") != task.number:
        return f"{what} runs{pause}"
    how = progress.read(found)
    part = "" if how.part is None else f" {how.part:.0%}"
    size = f" of {size_text(how.total_bytes)}" if how.total_bytes else ""
    return f"{what}: {how.words}{part}{size}{pause}"


# -- aborting, pausing ---------------------------------------------------------------------

def duplicati_abort(context):
    from remotes.duplicati import outcomes, waiting

    server, number = context.duplicati(), context.values["task"]
    with contextlib.closing(server):
        task = _running(server, number)
        _ask_to_stop(server, number, context.values["graceful"])
        seconds = context.values["wait_timeout"] or _ABORT_WAIT_SECONDS
        if number in [row["Item1"] for row in server.state()["SchedulerQueueIds"]]:
            raise RefusedError(f"task {number} waits its turn, and the server ignores an abort of"
                               " such a task, though it says OK: abort it when it runs")
        try:
            ending = waiting.Wait(server, task, tell=context.tell).until_over(seconds)
        except WaitTimeoutError as error:
            raise WaitTimeoutError(f"{error}: the server said OK to the abort, and has not done it"
                                   " yet", document=error.document) from error
        outcome = outcomes.find(server, task, ending)
    row = task.answer(outcome)
    if outcome.result in ("success", "warning"):
        message = f"the server has ignored it: the task ran to its end ({outcome.result})"
        context.tell(f"client: duplicati_abort: {message}")
        return Reply({**_failure(3, "ignored", message), "changed": False, "tasks": [row]}, 3)
    if outcome.result == "unknown":  # 2.1.0.5 leaves no trace of an abort
        row["result"], row["why"] = "aborted", "it is over, and left no result"
    return Reply({"status": "OK", "changed": True, "tasks": [row]})


def _running(server, number):
    """A Started for a task that runs or waits. Errors: NotFoundError."""
    from remotes.duplicati import tasks

    state = server.state()
    for found in [state.get("ActiveTask"), *state["SchedulerQueueIds"]]:
        if found and found["Item1"] == number:
            return tasks.adopt(server, number)
    raise NotFoundError(f"{server.base} has no task {number} that runs or waits")


def _ask_to_stop(server, number, graceful):
    from remotes.duplicati.calls import is_missing_endpoint

    if not graceful:
        server.call("POST", f"v1/task/{number}/abort")
        return
    try:
        verb = "stopaftercurrentfile" if server.is_legacy else "stop"
        server.call("POST", f"v1/task/{number}/{verb}")
    except NotFoundError as error:
        if not is_missing_endpoint(error):
            raise
        server.call("POST", f"v1/task/{number}/stopaftercurrentfile")  # 2.1.0


def duplicati_pause(context):
    from remotes.duplicati import moments

    duration = context.values["duration"]
    typed = None if duration is None else moments.duration(duration)
    if typed is not None and moments.duration_seconds(typed) > _DAY_SECONDS:
        context.tell("the server resumes after 24 hours, whatever it says of longer pauses")
    return _change_state(context, "pause", {"duration": typed})


def duplicati_resume(context):
    return _change_state(context, "resume", None)


def _change_state(context, verb, query):
    from remotes.duplicati import moments

    server = context.duplicati()
    with contextlib.closing(server):
        before = server.state()
        server.call("POST", f"v1/serverstate/{verb}", query=query)
        after = server.state()
    until = moments.iso(moments.parse(after.get("EstimatedPauseEnd")))
    changed = [state.get("ProgramState") for state in (before, after)]
    is_changed = changed[0] != changed[1] or verb == "pause" and bool(query["duration"])
    return Reply({"status": "OK", "changed": is_changed,
                  "state": str(after.get("ProgramState")).lower(), "paused_until": until})


def _declared(name, summary, function, *, takes_all=False):
    takes = ("id", *(("all",) if takes_all else ()), *_WAIT, *SESSION)
    return Action(name, summary, DUPLICATI, (), takes, function)


ACTIONS = (
    _declared("duplicati_run", "run backups; with --wait, tell how they ended", duplicati_run,
              takes_all=True),
    Action("duplicati_wait", "wait for a task, whoever started it, and tell how it ended",
           DUPLICATI, ("task",), ("wait_timeout", *SESSION), duplicati_wait),
    Action("duplicati_abort", "end a task; --graceful lets it finish what it is at", DUPLICATI,
           ("task",), ("graceful", "wait_timeout", *SESSION), duplicati_abort),
    _declared("duplicati_verify", "check samples of a backup's remote files", duplicati_verify),
    _declared("duplicati_compact", "free space at a backup's target", duplicati_compact),
    _declared("duplicati_vacuum", "free space in a backup's local database", duplicati_vacuum),
    _declared("duplicati_repair", "repair a backup's local database", duplicati_repair),
    Action("duplicati_pause", "let the server start nothing, for a while or until resumed",
           DUPLICATI, (), ("duration", *SESSION), duplicati_pause),
    Action("duplicati_resume", "end a pause", DUPLICATI, (), SESSION, duplicati_resume),
)
