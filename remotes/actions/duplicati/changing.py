"""Actions that change backups: edit, create, update.

Guards: that what changes is shown before, without a secret, and confirmed; that a backup
which somebody else has changed meanwhile is left alone; that what was sent is there
afterwards. Leaves alone: what a backup is (forms), how changes are said (editing).
"""

import contextlib

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION, naming
from remotes.actions.duplicati.acting import one_backup_id
from remotes.actions.duplicati.asking import require_yes
from remotes.errors import (
    ForeignServerError,
    LoginError,
    NotFoundError,
    RefusedError,
    UsageError,
)

_READ_AT_MOST = 64 << 20
_LONGEST_TEXT = 500


def duplicati_edit(context):
    with contextlib.closing(context.duplicati()) as server:
        backup_id = one_backup_id(context, server)
        before = server.backup(backup_id)
        if context.values["set"] is None and not _has_document(context, "patch"):
            from remotes.actions.duplicati.editor import edited_by_hand
            from remotes.duplicati.forms import editable

            with edited_by_hand(context, editable(before), backup_id) as edited:
                return _change(context, server, backup_id, before, edited)
        return _change(context, server, backup_id, before, _edited(context, before))


def _edited(context, before):
    """The completed form, with what --set and --patch change."""
    from remotes.duplicati.editing import with_patch
    from remotes.duplicati.forms import completed, editable

    edited = form = editable(before)
    if _has_document(context, "patch"):
        edited = with_patch(edited, _document(context, "patch"))
    return completed(_assigned(context, edited), form)


def _assigned(context, form):
    """The form with each --set."""
    from remotes.duplicati import documents
    from remotes.duplicati.editing import with_assignment

    for word in context.values["set"] or ():
        path, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--set {path} must be PATH=VALUE")
        form = with_assignment(form, path, _assigned_value(context, path, value),
                               documents.parse_yaml)
    return form


def _assigned_value(context, path, value):
    """`@FILE` stands for what is in the file, but for sources, which may begin with @."""
    from remotes import files
    from remotes.duplicati.masking import is_secret, masked_text

    if value.startswith("@") and not path.startswith("Sources."):
        if value.startswith("@@"):
            return value[1:]
        with naming(f"--set {path}"):
            return files.read_secret(value[1:], path)
    if is_secret(path.removeprefix("Settings."), value) or masked_text(value) != value:
        context.tell(f"--set {path}: a secret on a command line can be seen by everybody on this"
                     " host while the client runs: @FILE in its place reads it from a file")
    return value


# -- create, update ----------------------------------------------------------------------------

def duplicati_create(context):
    import re

    from remotes.duplicati.editing import new_form
    from remotes.duplicati.forms import completed, new_body

    document = _document(context, "file")
    metadata = _file_metadata(context, document)
    form = completed(_assigned(context, new_form(document)), {})
    with contextlib.closing(context.duplicati()) as server:
        try:
            answer = server.call("POST", "v1/backups", document=new_body(form, metadata))
        except RefusedError as error:
            raise _refused(error, form, "duplicati_update --id would change it") from error
        made = answer.get("ID") if isinstance(answer, dict) else None
        if not isinstance(made, (str, int)) or not re.fullmatch(r"[0-9A-Za-z-]+", str(made)):
            raise ForeignServerError(f"{server.base} makes a backup and does not name it",
                                     answer=answer)
        backup_id = str(made)
        document = {"id": backup_id, "name": form["Name"]}
        return _checked(context, server, backup_id, form, document, done="made")


def _refused(error, form, hint):
    """The server's no in its own words; a name that is taken as such, whatever it calls it."""
    from remotes.answer import one_line

    said = error.answer if isinstance(error.answer, dict) else {}
    text = one_line(str(said.get("Error") or said.get("Message") or ""), _LONGEST_TEXT)
    if not text:
        return error
    is_taken = "already exists" in text
    refused = RefusedError(f"there is a backup named {form['Name']!r} already: {hint}" if is_taken
                           else f"the server refuses the backup: {text}", answer=error.answer)
    refused.code = error.code
    return refused


def duplicati_update(context):
    from remotes.duplicati.editing import replaced
    from remotes.duplicati.forms import completed, editable

    document = _document(context, "file")
    metadata = _file_metadata(context, document)
    with contextlib.closing(context.duplicati()) as server:
        backup_id = one_backup_id(context, server)
        before = server.backup(backup_id)
        form = editable(before)
        edited = completed(_assigned(context, replaced(form, document)), form)
        return _change(context, server, backup_id, before, edited, metadata)


def _has_document(context, name):
    return context.values[name] is not None or name in context.documents


def _document(context, name):
    """What is in the file that the option `name` says: decrypted, JSON or YAML."""
    from remotes import files
    from remotes.duplicati import documents

    if name in context.documents:
        return context.documents[name]
    path = context.values[name]
    with naming(f"--{name}"), files.told("read", path), open(path, "rb") as stream:
        content = stream.read(_READ_AT_MOST + 1)
    if content.startswith(b"AES"):
        from remotes import aescrypt

        if aescrypt.is_container(content):
            if name != "file" or context.values["passphrase_file"] is None:
                raise UsageError(f"{path} is encrypted: --passphrase_file says with what")
            with naming("--passphrase_file"):
                passphrase = files.read_secret(context.values["passphrase_file"], "passphrase")
            content = aescrypt.decrypt(content, passphrase, path)
    document = documents.parse(content, path)
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds no backup: a mapping of names to values")
    return document


def _file_metadata(context, document):
    """The metadata that is to be written: that of the file, none ({}), or None: as it is."""
    values = context.values
    if values["import_metadata"] and values["strip_metadata"]:
        raise UsageError("--import_metadata and --strip_metadata exclude each other")
    if values["strip_metadata"]:
        return {}
    if not values["import_metadata"]:
        return None
    backup = document.get("Backup")
    found = backup.get("Metadata") if isinstance(backup, dict) else None
    if not isinstance(found, dict):
        raise UsageError(f"{values['file']} holds no metadata to import")
    return found


# -- from the edited form to the server ----------------------------------------------------------

def _change(context, server, backup_id, before, edited, metadata=None):
    """Shows what the completed form `edited` changes, asks, and sends it; a Reply."""
    from remotes.duplicati.editing import difference
    from remotes.duplicati.forms import editable
    from remotes.duplicati.masking import placeholders

    form = editable(before)
    lines = difference(form, edited)
    if set(placeholders(form)) - set(placeholders(edited)):
        lines = _with_secrets_compared(server, backup_id, form, edited, lines)
    if metadata is not None and metadata != before["Backup"].get("Metadata"):
        lines.append("+Metadata: " + ("as in the file" if metadata else "none"))
    document = {"status": "OK", "changed": False, "id": backup_id, "name": form.get("Name"),
                "difference": lines}
    if context.values["dry_run"]:
        document["dry_run"] = True
    if not lines:
        return Reply({**document, "message": "that is what it is already"})
    for line in lines:
        context.tell(line)
    if context.values["dry_run"]:
        return Reply(document)
    require_yes(context, f"Change backup {backup_id} {form.get('Name')!r}?",
                (str(form.get("Name")), backup_id))
    _send(server, backup_id, form, edited, metadata)
    del document["status"]
    return _checked(context, server, backup_id, edited, document, done="changed")


def _with_secrets_compared(server, backup_id, form, edited, lines):
    """The difference, with the secrets that the server hides compared, too; never shown.

    `lines` again where the server exports nothing: a secret that was written may be another.
    """
    from remotes.actions.duplicati.exporting import exported
    from remotes.duplicati.editing import difference, unmasked
    from remotes.duplicati.forms import editable
    from remotes.duplicati.masking import restored

    try:
        export = editable(exported(server, backup_id, with_passwords=True).json)
        form = unmasked(form, edited, export)
        return difference(form, restored(edited, form))
    except (RefusedError, NotFoundError, LoginError, ForeignServerError):
        return lines


def _send(server, backup_id, form, edited, metadata):
    """Replaces the backup, unless somebody has changed it since it was `form`."""
    from remotes.duplicati.editing import difference
    from remotes.duplicati.forms import body, editable

    now = server.backup(backup_id)
    present = editable(now)
    if _moved(present) != _moved(form):
        raise RefusedError(
            f"backup {backup_id} was changed by somebody else meanwhile: nothing was changed here;"
            " look at it again", document={"changed_meanwhile": difference(form, present)})
    if edited.get("Schedule") and present["Schedule"] \
            and edited["Schedule"].get("Time") == form["Schedule"].get("Time"):
        # The next run has moved on by itself.
        edited = {**edited, "Schedule": {**edited["Schedule"],
                                         "Time": present["Schedule"].get("Time")}}
    sent = body(now, edited)
    if metadata is not None:
        sent["Backup"]["Metadata"] = metadata
    try:
        server.call("PUT", f"v1/backup/{backup_id}", document=sent)
    except RefusedError as error:
        raise _refused(error, edited, "choose another name") from error


def _moved(form):
    """A form without what a server changes by itself: the time of the next run."""
    if not isinstance(form.get("Schedule"), dict):
        return form
    return {**form, "Schedule": {name: value for name, value in form["Schedule"].items()
                                 if name != "Time"}}


def _checked(context, server, backup_id, sent, document, *, done):
    """The Reply after a change: what the server has not taken as it was sent is told."""
    from urllib.parse import unquote_plus

    from remotes.duplicati.editing import difference
    from remotes.duplicati.forms import NOTHING, editable
    from remotes.duplicati.masking import masked

    def comparable(form):
        form = masked(_moved(form))
        # A server that masks a URL writes it anew.
        form["TargetURL"] = unquote_plus(str(form.get("TargetURL")))
        days = (form.get("Schedule") or {}).get("AllowedDays")
        if form.get("Schedule") is not None:
            form["Schedule"]["AllowedDays"] = sorted(map(str, days or ()))
        return form

    found = comparable(editable(server.backup(backup_id)))
    # What a new backup leaves out, the server fills in; what is empty it may not even have.
    sent = {name: value for name, value in comparable(sent).items()
            if name in found or value not in NOTHING}
    lines = difference(sent, {name: found.get(name) for name in sent})
    if not lines:
        return Reply({"status": "OK", **document, "changed": True})
    message = f"the server has {done} the backup, but not as it was told"
    context.tell(f"client: {context.values.action.name}: {message}:")
    for line in lines:
        context.tell(line)
    return Reply({"status": "ERROR", "exit": 3, "kind": "not_as_sent", "message": message,
                  **document, "changed": True, "not_as_sent": lines}, 3)


_FILE = ("passphrase_file", "import_metadata", "strip_metadata", "set")
ACTIONS = (
    Action("duplicati_edit", "change a backup: --set, --patch, or $EDITOR", DUPLICATI,
           ("id",), ("set", "patch", "confirm", "dry_run", *SESSION), duplicati_edit),
    Action("duplicati_create", "make a backup from a file", DUPLICATI,
           ("file",), (*_FILE, *SESSION), duplicati_create),
    Action("duplicati_update", "replace a backup by what is in a file", DUPLICATI,
           ("id", "file"), (*_FILE, "confirm", "dry_run", *SESSION), duplicati_update),
)
