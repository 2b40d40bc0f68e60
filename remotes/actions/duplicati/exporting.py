"""The action that writes backups to files; for tasks, that into an answer.

Guards: that files can be read by nobody else from their first byte, have safe names, and
overwrite nothing unasked. Leaves alone: what is in them (documents, aescrypt).
"""

import contextlib
import os
import time

from remotes.actions.context import DUPLICATI, Action, Reply
from remotes.actions.duplicati import SESSION, naming
from remotes.actions.duplicati.acting import backup_ids
from remotes.errors import ForeignServerError, RefusedError, RemotesError, UsageError

_SUFFIX = "-duplicati-config"


def duplicati_export(context):
    from remotes import files

    passphrase = None
    if context.values["passphrase_file"] is not None:
        with naming("--passphrase_file"):
            passphrase = files.read_secret(context.values["passphrase_file"], "passphrase")
    with contextlib.closing(context.duplicati()) as server:
        ids = backup_ids(context, server)
        names = {str(row["Backup"].get("ID")): str(row["Backup"].get("Name"))
                 for row in server.backups()}
        for backup_id in ids:
            if backup_id not in names:
                server.backup(backup_id)  # the error that says so
        paths = _paths(context, {backup_id: names.get(backup_id, backup_id) for backup_id in ids},
                       is_encrypted=passphrase is not None)
        written = []
        for backup_id, path in paths.items():
            try:
                content = _content(context, server, backup_id, passphrase)
                _write(path, content, force=context.values["force"])
            except RemotesError as error:
                error.document["files"] = written
                raise
            written.append({"id": backup_id, "name": names.get(backup_id), "path": path})
    return Reply({"status": "OK", "changed": bool(written), "files": written,
                  "has_passwords": not context.values["no_passwords"],
                  "is_encrypted": passphrase is not None})


def _content(context, server, backup_id, passphrase):
    """The export of one backup as bytes, in the wanted form."""
    content = _plain(context, server, backup_id)
    if passphrase is None:
        return content
    from remotes import aescrypt

    return aescrypt.encrypt(content, passphrase)


def _plain(context, server, backup_id):
    from remotes.duplicati import documents

    answer = exported(server, backup_id, with_passwords=not context.values["no_passwords"])
    if context.values["file_format"] == "json":
        return answer.body.removeprefix(b"\xef\xbb\xbf")
    return documents.yaml_text(documents.parse(answer.body, "the export")).encode()


def exported(server, backup_id, *, with_passwords):
    """The server's answer whose JSON is the export of a backup: {"Backup", "Schedule", …}.

    Errors: ForeignServerError and those of a call.
    """
    from remotes.duplicati import answers

    query = {"export-passwords": with_passwords}
    if not server.is_legacy:
        query["token"] = _token(server)
    answer = server.raw("GET", f"v1/backup/{backup_id}/export", query=query)
    document = answers.judge(answer, "GET")
    if not isinstance(document, dict) or not isinstance(document.get("Backup"), dict):
        raise ForeignServerError(f"{server.base} gives what is no export of a backup")
    return answer


def exported_documents(context):
    """What duplicati_export would write of each backup, as mappings: a Reply."""
    with contextlib.closing(context.duplicati()) as server:
        with_passwords = not context.values["no_passwords"]
        found = [exported(server, backup_id, with_passwords=with_passwords).json
                 for backup_id in backup_ids(context, server)]
    return Reply({"status": "OK", "backups": found, "has_passwords": with_passwords})


def _token(server):
    """A token for this one operation, which takes no other (section 1.8)."""
    answer = server.call("POST", "v1/auth/issuetoken/export")
    if not isinstance(answer, dict) or not isinstance(answer.get("Token"), str):
        raise ForeignServerError(f"{server.base} gives no token for an export")
    return answer["Token"]


def _paths(context, names, *, is_encrypted):
    """The path of each backup's file (ID -> path), none of which is there without --force."""
    values = context.values
    target = values["output_path"] or os.getcwd()
    if len(names) > 1 and not os.path.lexists(target):
        _make_folder(target)
    if os.path.isdir(target):
        paths = _paths_in(target, names, _ending(context, is_encrypted))
    elif len(names) == 1:
        paths = dict.fromkeys(names, target)
    else:
        raise UsageError(f"--output_path {target} must be a folder, for {len(names)} backups")
    for path in paths.values():
        if os.path.lexists(path) and not values["force"]:
            raise _is_there(path)
    return paths


def _make_folder(path):
    from remotes import files

    with files.told("make the folder", path), contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        files.sync_folder(path)


def _ending(context, is_encrypted):
    stamp = time.strftime("-%Y%m%dT%H%M%S") if context.values["timestamp"] else ""
    kind = {"yaml": "yml", "json": "json"}[context.values["file_format"]]
    return f"{_SUFFIX}{stamp}.{kind}" + (".aes" if is_encrypted else "")


def _paths_in(folder, names, ending):
    """Paths in a folder; names that are one for some file systems get their ID with them."""
    from remotes.duplicati.documents import safe_file_name

    safe = {backup_id: safe_file_name(name) for backup_id, name in names.items()}
    known = [name.casefold() for name in safe.values()]
    return {backup_id: os.path.join(
        folder, name + (f"-{backup_id}" if known.count(name.casefold()) > 1 else "") + ending)
        for backup_id, name in safe.items()}


def _write(path, content, *, force):
    from remotes import files

    if force:
        files.replace(path, content)
        return
    with files.told("write", path):
        beside = files.write_beside(path, content)
        try:
            files.rename_to_new(beside, path)
        except FileExistsError:
            raise _is_there(path) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        files.sync_folder(path)


def _is_there(path):
    return RefusedError(f"{path} is there: name another with --output_path, or --force overwrites"
                        " it")


ACTIONS = (
    Action("duplicati_export", "write backups to files, to create or update them from", DUPLICATI,
           (), ("id", "all", "file_format", "output_path", "timestamp", "no_passwords",
                "passphrase_file", "force", *SESSION), duplicati_export),
)
