"""Actions that destroy something on a Duplicati server: delete, dismiss.

Guards: that it is asked for by name, and that nothing of a backup goes while it runs:
servers of the old generation would not refuse that (protocol page, §2.7, 9). Leaves
alone: waiting (waiting).
"""

import contextlib

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION
from remotes.actions.duplicati.acting import begin, one_backup_id
from remotes.actions.duplicati.asking import require_name
from remotes.errors import (
    LoginError,
    NotFoundError,
    RefusedError,
    RemotesError,
    UsageError,
    WaitTimeoutError,
)

_SHORT_WAIT_SECONDS = 10.0
_CAPTCHA = ("this server wants a captcha solved before it deletes remote files: do that in its web"
            " interface, or leave out --delete_remote_files")


def duplicati_delete(context):
    from remotes.actions.options import nearest

    values, kind = context.values, context.values["type"]
    kinds = {"backup": _delete_backup, "database": _delete_database,
             "notification": _dismiss}
    if kind not in kinds:
        raise UsageError(f"--action=duplicati_delete --type must be one of {', '.join(kinds)}"
                         + nearest(str(kind), kinds))
    if values["recreate"] and kind != "database":
        raise UsageError("--recreate goes with --type=database")
    if values["delete_remote_files"] and kind != "backup":
        raise UsageError("--delete_remote_files goes with --type=backup")
    with contextlib.closing(context.duplicati()) as server:
        return kinds[kind](context, server)


# -- backups -----------------------------------------------------------------------------------

def _delete_backup(context, server):
    from remotes.duplicati import tasks

    remote_files = context.values["delete_remote_files"]
    if remote_files and server.is_legacy:
        raise RefusedError(_CAPTCHA)
    backup_id, name = _idle_backup(context, server)
    require_name(context, f"Delete backup {backup_id}"
                 + (" and all its files at the target?" if remote_files else "?"), name)
    _require_idle(server, backup_id, name)  # the question may have stood there for hours
    noted = tasks.note(server, backup_id, "Delete", has_row=False)
    try:
        started = tasks.start(server, noted, lambda: server.call(
            "DELETE", f"v1/backup/{backup_id}", query={
                "delete-local-db": True, "delete-remote-files": True if remote_files else None}))
    except LoginError as error:
        if "captcha" in str(error).lower():
            raise RefusedError(_CAPTCHA, answer=error.answer) from error
        raise
    return _deleted(context, server, started)


def _idle_backup(context, server):
    """(ID, name) of the backup that --id names, of which no task runs or waits."""
    backup_id = one_backup_id(context, server)
    name = str(server.backup(backup_id)["Backup"].get("Name"))
    _require_idle(server, backup_id, name)
    return backup_id, name


def _require_idle(server, backup_id, name):
    from remotes.duplicati import tasks

    number = tasks.number_of(server.state(), backup_id)
    if number is not None or server.is_active(backup_id):
        task = f" (task {number})" if number is not None else ""
        raise RefusedError(f"backup {backup_id} {name!r} runs, or waits for its turn{task}: nothing"
                           " of it is deleted before that is over")


def _deleted(context, server, started):
    """Waits a while for the task that deletes; a Reply that says whether it is done."""
    from remotes.duplicati import waiting

    values = context.values
    seconds = values["wait_timeout"] or (None if values["wait"] else _SHORT_WAIT_SECONDS)
    document = {"status": "OK", "changed": True, "id": started.backup_id, "name": started.name,
                "task": started.number}
    try:
        ending = waiting.Wait(server, started, tell=context.tell).until_over(seconds)
    except WaitTimeoutError as error:
        if values["wait_timeout"] is not None:
            error.document.update(document, status="ERROR")
            raise
        return Reply({**document, "state": "queued", "message": "the server will delete it when the"
                      " tasks before are over, or is at it"})
    try:
        server.backup(started.backup_id)
    except NotFoundError:
        return Reply({**document, "state": "deleted"})
    why = (ending.task or {}).get("ErrorMessage") or "the server does not say why"
    raise RemotesError(f"backup {started.backup_id} {started.name!r} is still there: {why}",
                       document={"changed": False, "task": started.number})


# -- databases -----------------------------------------------------------------------------------

def _delete_database(context, server):
    backup_id, name = _idle_backup(context, server)
    then = ", and make it anew from the target" if context.values["recreate"] else ""
    require_name(context, f"Delete the local database of backup {backup_id}{then}?", name)
    _require_idle(server, backup_id, name)
    was_there = server.backup(backup_id)["Backup"].get("DBPathExists")
    server.call("POST", f"v1/backup/{backup_id}/deletedb")
    deleted = {"id": backup_id, "name": name, "database": "deleted"}
    if not context.values["recreate"]:
        return Reply({"status": "OK", "changed": was_there is not False, **deleted})
    reply = begin(context, server, "repair", backup_id,
                  lambda: server.call("POST", f"v1/backup/{backup_id}/repair"))
    return Reply({**reply.document, **deleted, "changed": True}, reply.exit_code)


# -- notifications -------------------------------------------------------------------------------

def duplicati_dismiss(context):
    with contextlib.closing(context.duplicati()) as server:
        return _dismiss(context, server)


def _dismiss(context, server):
    """Takes away the notifications that --id names: numbers, or all."""
    names = list(dict.fromkeys(context.values["id"]))
    if names == ["all"]:
        names = [str(row.get("ID")) for row in server.notifications()]
    for name in names:
        if not (name.isascii() and name.isdigit()):
            raise UsageError(f"--id {name:.40}: a notification has a number; all of them: --id all")
    dismissed, missing = [], []
    for name in names:
        try:
            server.call("DELETE", f"v1/notification/{name}")
            dismissed.append(int(name))
        except NotFoundError as error:
            if len(names) == 1:
                raise NotFoundError(f"{server.base} has no notification {name}",
                                    answer=error.answer) from None
            missing.append(int(name))
    document = {"changed": bool(dismissed), "dismissed": dismissed}
    if not missing:
        return Reply({"status": "OK", **document})
    message = "there is no notification " + ", ".join(map(str, missing))
    context.tell(f"client: {context.values.action.name}: {message}")
    return Reply({"status": "ERROR", "exit": 3, "kind": "some_missing", "message": message,
                  **document, "missing": missing}, 3)


ACTIONS = (
    Action("duplicati_delete", "delete a backup, its local database, or notifications", DUPLICATI,
           ("type", "id"), ("confirm", "recreate", "delete_remote_files", "wait", "wait_timeout",
                            *SESSION), duplicati_delete),
    Action("duplicati_dismiss", "take away notifications, by number or all", DUPLICATI,
           ("id",), SESSION, duplicati_dismiss),
)
