"""Actions that read from a Duplicati server: lists, single things, logs."""

import contextlib
import time

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION
from remotes.actions.duplicati.acting import one_backup_id
from remotes.errors import NotFoundError, UsageError


def _chosen(context, choices):
    """The value of --type, which must be one of `choices` (a mapping or a tuple)."""
    from remotes.actions.options import nearest

    kind = context.values["type"]
    if kind not in choices:
        raise UsageError(f"--action={context.values.action.name} --type must be one of "
                         + ", ".join(choices) + nearest(str(kind), choices))
    return kind


# -- lists ---------------------------------------------------------------------------------

def duplicati_list(context):
    kind = _chosen(context, _LISTS)
    with contextlib.closing(context.duplicati()) as server:
        return Reply({"status": "OK", kind: _LISTS[kind](server)})


def _backups(server):
    return [_brief(row) for row in server.backups()]


def _brief(found):
    """A backup and its schedule in the few lines that people look for."""
    from remotes.duplicati import moments

    backup, schedule = found["Backup"], found.get("Schedule") or {}
    metadata = backup.get("Metadata") if isinstance(backup.get("Metadata"), dict) else {}
    finished = moments.parse(metadata.get("LastBackupFinished"))
    failed = moments.parse(metadata.get("LastErrorDate"))
    is_broken = failed is not None and (finished is None or failed > finished)
    return {
        "id": backup.get("ID"), "name": backup.get("Name"), "target": backup.get("TargetURL"),
        "last_backup": moments.iso(finished),
        "next_backup": moments.iso(moments.parse(schedule.get("Time"))),
        "versions": _number(metadata, "BackupListCount"),
        "source_bytes": _number(metadata, "SourceFilesSize"),
        "target_bytes": _number(metadata, "TargetFilesSize"),
        # Errors are not cleared by a later success: only one after the last backup counts.
        "error": metadata.get("LastErrorMessage") if is_broken else None,
    }


def _number(metadata, name):
    """A number of the metadata, which has them as texts; None if it is not there."""
    try:
        return int(metadata.get(name))
    except (TypeError, ValueError, OverflowError):
        return None


def _databases(server):
    return [{"id": row["Backup"].get("ID"), "name": row["Backup"].get("Name"),
             "path": row["Backup"].get("DBPath"),
             "is_there": row["Backup"].get("DBPathExists")} for row in server.backups()]


def _notifications(server):
    return [_brief_notification(row) for row in server.notifications()]


def _brief_notification(row):
    from remotes.duplicati import moments

    return {"id": row.get("ID"), "type": row.get("Type"), "title": row.get("Title"),
            "message": row.get("Message"), "backup": row.get("BackupID"),
            "at": moments.iso(moments.parse(row.get("Timestamp")))}


def _tasks(server):
    """The tasks that run and wait: alike on all releases, whose /tasks are not."""
    state = server.state()
    active = state.get("ActiveTask")
    rows = [{"task": active["Item1"], "state": "running", "backup": active.get("Item2")}] \
        if active else []
    return rows + [{"task": row["Item1"], "state": "queued", "backup": row.get("Item2")}
                   for row in state["SchedulerQueueIds"]]


_LISTS = {
    "backups": _backups, "databases": _databases, "notifications": _notifications,
    "serversettings": lambda server: server.server_settings(),
    "systeminfo": lambda server: server.system_info(), "tasks": _tasks,
}


# -- single things -------------------------------------------------------------------------

def duplicati_get(context):
    return _things(context, {"backup": _brief, "notification": _brief_notification})


def duplicati_describe(context):
    return _things(context, {"backup": _whole, "notification": lambda row: row})


def _whole(found):
    return {"Backup": found["Backup"], "Schedule": found.get("Schedule"),
            "DisplayNames": found.get("DisplayNames")}


def _things(context, views):
    """The things that --id names, each as its view shows it; 3 if some are not there."""
    kind, names = _chosen(context, views), context.values["id"]
    found, missing = [], []
    with contextlib.closing(context.duplicati()) as server:
        for name in names:
            try:
                thing = server.backup(server.find_backup(name)) if kind == "backup" \
                    else server.notification(_whole_number(name))
                found.append(views[kind](thing))
            except NotFoundError as error:
                if len(names) == 1:
                    raise
                missing.append({"id": name, "why": str(error)})
    if not found:
        raise NotFoundError("none of them is there: " + "; ".join(row["why"] for row in missing))
    if missing:
        message = "not all of them are there: " + "; ".join(row["why"] for row in missing)
        context.tell(f"client: {context.values.action.name}: {message}")
        return Reply({"status": "ERROR", "exit": 3, "kind": "some_missing", "message": message,
                      f"{kind}s": found, "missing": missing}, 3)
    return Reply({"status": "OK", f"{kind}s": found})


def _whole_number(name):
    if not (name.isascii() and name.isdigit()):
        raise UsageError(f"a notification has a number, not a name: {name:.40}")
    return name


# -- logs ----------------------------------------------------------------------------------

def duplicati_logs(context):
    """Rows of a log, newest last as in any log; with --follow a line for each new one."""
    from remotes.duplicati import logs

    kind = _chosen(context, _LOGS)
    with contextlib.closing(context.duplicati()) as server:
        log, names, show = _LOGS[kind](context, server)
        if context.values["follow"]:
            logs.follow(log, lambda row: context.emit({"event": "log", **show(row)}),
                        context.tell, stop=time.sleep)
        rows = [show(row) for row in log.newest()]
    return Reply({"status": "OK", "type": kind, **names, "lines": rows})


def _limits(context):
    """--lines and the moment of --since, as the logs take them."""
    from datetime import datetime, timezone

    from remotes.duplicati import moments

    since = context.values["since"]
    return context.values["lines"], None if since is None else moments.typed_time(
        since, datetime.now(timezone.utc), "--since")


def _backup_log(context, server):
    from remotes.duplicati import logs

    limits, backup_id = _limits(context), one_backup_id(context, server)
    return logs.BackupLog(server, backup_id, *limits), {"id": backup_id}, _shown_result


def _remote_log(context, server):
    from remotes.duplicati import logs

    limits, backup_id = _limits(context), one_backup_id(context, server)
    return logs.RemoteLog(server, backup_id, *limits), {"id": backup_id}, _shown


def _stored_log(context, server):
    from remotes.duplicati import logs

    return logs.StoredLog(server, *_limits(context)), {}, _shown


def _live_log(context, server):
    from remotes.duplicati import logs

    return logs.LiveLog(server, context.values["level"], *_limits(context)), {}, _shown


def _shown(row):
    """A row for people: its times as ISO 8601, SQL's NULL as null."""
    from remotes.duplicati import moments

    shown = {name: None if value == {} else value for name, value in row.items()}
    for name in ("Timestamp", "When"):
        if name in shown:
            shown[name] = moments.iso(moments.parse(shown[name]))
    return shown


def _shown_result(row):
    """A row of a backup's log: a result as mapping, in place of its text, with what it means."""
    from remotes.duplicati import outcomes

    shown = _shown(row)
    result = shown.pop("Result", None)
    if isinstance(result, dict):
        shown.pop("Message", None)
        outcome = outcomes.of_row(result)
        shown.update(Operation=result.get("MainOperation"), Outcome=outcome.result,
                     Why=outcome.why, Result=result)
    return shown


_LOGS = {"backup": _backup_log, "remote": _remote_log, "stored": _stored_log, "live": _live_log}


ACTIONS = (
    Action("duplicati_list", "list backups, databases, notifications, serversettings, systeminfo"
           " or tasks", DUPLICATI, ("type",), SESSION, duplicati_list),
    Action("duplicati_get", "show backups or notifications in brief", DUPLICATI,
           ("type", "id"), SESSION, duplicati_get),
    Action("duplicati_describe", "show all that there is of backups or notifications", DUPLICATI,
           ("type", "id"), SESSION, duplicati_describe),
    Action("duplicati_logs", "show the log of a backup, of its target (remote), of the server"
           " (stored), or the live one", DUPLICATI, ("type",),
           ("id", "lines", "level", "follow", "since", *SESSION), duplicati_logs),
)
