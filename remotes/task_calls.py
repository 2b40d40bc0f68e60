"""Which action of the client does what a task asks for, with which options; and what its answer
becomes in the task's result.

Guards: that one table says what each operation means; that a backup is named by the number that
was judged. Leaves alone: doing it (executor), what a task may carry (operations).

Source: protocol page of the task server, "A task", "A result".
"""

import re
from collections import namedtuple

# action and options as in the option table; documents in place of files; backup_id: None where
# it is of no backup; is_masked: whether secrets are taken out of the answer.
Call = namedtuple("Call", "action options documents backup_id is_masked",
                  defaults=(None, None, True))
_PLAN = ("version", "paths", "restore_path", "in_place", "overwrite")
# Options in the messages of actions -> what a task calls them.
_WORDS = {"--id": "ID", "--type": "Type", "--time": "Time", "--path": "Paths", "--filter": "Filter",
          "--restore_path": "RestorePath", "--overwrite": "Overwrite", "--duration": "Duration",
          "--lines": "Lines", "--level": "Level", "--patch": "Changes", "--file": "Config"}
_WORD = re.compile(r"--[a-z_]+")


def pins_of(task, server, *, with_names):
    """[{"id", "name"}] for the resources of a task: what they are now. `server()` gives the
    Duplicati, which is asked for the name `with_names` only, or where it is all that is said.
    Errors: NotFoundError, RefusedError (no or two backups of that name), those of the server.
    """
    return [_pin(resource, server, with_names) for resource in task.resources]


def _pin(resource, server, with_names):
    is_backup = resource.type in ("backup", "database")
    if not is_backup or resource.id is None or not with_names and resource.id.isdigit():
        return {"id": resource.id, "name": None}
    backup_id = server().find_backup(resource.id)
    name = server().backup(backup_id)["Backup"].get("Name")
    return {"id": backup_id, "name": None if name is None else str(name)}


def call_of(task, place, pins):
    """The Call for the resource at `place` of a Task; `pins`: what its resources are."""
    resource = task.resources[place] if task.resources else None
    named = pins[place] if resource is not None and pins else {"id": None, "name": None}
    return _CALLS[task.operation](task.fields, resource, named)


def abort_call(number, wait_seconds):
    """The Call that ends Duplicati's task `number`."""
    return Call("duplicati_abort", {"task": number, "wait_timeout": wait_seconds})


def _words(value):
    """One text or several, as options that take several have them."""
    return value if isinstance(value, list) or value is None else [value]


def _given(**options):
    return {name: value for name, value in options.items() if value is not None}


def _list(fields, resource, named):
    return Call("duplicati_list", {"type": resource.type})


def _get(fields, resource, named):
    return Call("duplicati_get", {"type": resource.type, "id": [str(named["id"])]})


def _describe(fields, resource, named):
    return _get(fields, resource, named)._replace(action="duplicati_describe")


def _logs(fields, resource, named):
    kind = "live" if "Level" in fields else "stored"
    if resource is not None:
        kind = "remote" if fields.get("Remote") else "backup"
    return Call("duplicati_logs", _given(
        type=kind, lines=fields.get("Lines"), level=fields.get("Level"),
        id=None if resource is None else [named["id"]]))


def _status(fields, resource, named):
    return Call("duplicati_status", {})


def _versions(fields, resource, named):
    return Call("duplicati_versions", {"id": [named["id"]]})


def _files(fields, resource, named):
    return Call("duplicati_files", _given(
        id=[named["id"]], time=fields.get("Time"), path=_words(fields.get("Path")),
        filter=fields.get("Filter")))


def _task_of_a_backup(action):
    def call(fields, resource, named):
        return Call(action, {"id": [named["id"]]}, backup_id=named["id"])

    return call


def _pause(fields, resource, named):
    said = fields.get("Duration")
    return Call("duplicati_pause", _given(duration=None if said is None else str(said)))


def _resume(fields, resource, named):
    return Call("duplicati_resume", {})


def _edit(fields, resource, named):
    return Call("duplicati_edit", {"id": [named["id"]], "confirm": "yes"},
                {"patch": fields["Changes"]})


def _create(fields, resource, named):
    return Call("duplicati_create", {}, {"file": fields["Config"]})


def _update(fields, resource, named):
    return Call("duplicati_update", {"id": [named["id"]], "confirm": "yes"},
                {"file": fields["Config"]})


def _delete(fields, resource, named):
    return Call("duplicati_delete", _given(type=resource.type, id=[str(named["id"])],
                                           confirm=named["name"]))


def _export(fields, resource, named):
    wants_passwords = fields.get("Passwords", False)
    return Call("duplicati_export", {"id": [named["id"]], "no_passwords": not wants_passwords},
                is_masked=not wants_passwords)


def _restore(fields, resource, named):
    return Call("duplicati_restore", _given(
        id=[named["id"]], time=fields.get("Time"), path=_words(fields.get("Paths")),
        restore_path=fields["RestorePath"], overwrite=fields.get("Overwrite")),
        backup_id=named["id"])


def _dismiss(fields, resource, named):
    return Call("duplicati_dismiss", {"id": [str(named["id"])]})


_CALLS = {
    "list": _list, "get": _get, "describe": _describe, "logs": _logs, "status": _status,
    "versions": _versions, "files": _files, "pause": _pause, "resume": _resume, "edit": _edit,
    "create": _create, "update": _update, "delete": _delete, "export": _export,
    "restore": _restore, "dismiss": _dismiss,
    **{name: _task_of_a_backup(f"duplicati_{name}")
       for name in ("run", "verify", "compact", "vacuum", "repair")},
}


# -- what comes of it --------------------------------------------------------------------

def plan_of(document):
    """What the answer of an action that started a restore says of it, to be told at its end."""
    return {name: document[name] for name in _PLAN if name in document}


def ending_shown(started, outcome, plan):
    """The Data of a task in Duplicati that is over: what the action prints with --wait."""
    from remotes.duplicati import masking, restoring

    shown = {**(plan or {}), **started.answer(outcome)}
    if started.operation == "Restore":
        shown["restored"] = restoring.came_back(outcome.row) if outcome.row else None
    return masking.masked(shown)


def in_words_of_tasks(message):
    """An action's message as whoever wrote the task understands it."""
    return _WORD.sub(lambda found: _WORDS.get(found[0], found[0]), message)
