"""What the cookie generation of the demo Duplicati server does otherwise than the token
generation (sections 2.6 and 2.7 of the protocol): forms for bodies, wrapped replies, a run that
tells no number, a restore that ignores JSON, an import that answers with a page.

Guards: these forms.
Leaves alone: what is the same in both generations, and sessions.
"""
import json
import re

from demo.duplicati_server import backups as modern
from demo.duplicati_server import system
from demo.duplicati_server.aftermath import database_of
from demo.duplicati_server.answers import BYTE_ORDER_MARK, Answer, Call, EngineError, RefusedError
from demo.duplicati_server.browsing import list_files
from demo.duplicati_server.state import State

IMPORT_PAGE = (
    "<html><body><script type=\"text/javascript\">var jso = {}; var rp = null; try {{ rp = "
    "parent['{}']; }} catch (e) {{}}; if (rp) {{ rp('{}', jso); }} else {{ alert; rp('{}'); }};"
    "</script></body></html>")
FORMS = ("paths", "time", "restore-path", "passphrase", "overwrite", "permissions",
         "skip-metadata")


def is_true(text: str | None) -> bool:
    """A boolean as this generation reads one."""
    return (text or "").lower() in ("true", "1", "yes", "on")


def backup(server: State, call: Call) -> dict:
    """GET backup/N"""
    return {"success": True, "data": modern.backup(server, call)}


def _document(call: Call) -> object:
    """The JSON of a body, raw or in the form field `data`; its content type does not matter."""
    text = call.form().get("data") or call.body.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except ValueError as error:
        raise RefusedError(400, "Data object had no backup entry") from error


def post_backups(server: State, call: Call) -> dict:
    """POST backups"""
    is_temporary = is_true(call.form().get("temporary"))
    return {"status": "OK", "ID": modern.create(server, _document(call), is_temporary)}


def put_backup(server: State, call: Call) -> None:
    """PUT backup/N"""
    modern.replace(server, modern.find_job(server, call), _document(call))


def delete_backup(server: State, call: Call) -> dict:
    """DELETE backup/N: also of a job that runs; it is gone after the run."""
    job, form = modern.find_job(server, call), call.form()
    task = server.engine.add(
        job, "DeleteBackup", remote_files=is_true(form.get("delete-remote-files")),
        local_database=is_true(form.get("delete-local-db")))
    return {"Status": "OK", "ID": task.number}


def run(server: State, call: Call) -> None:
    """POST backup/N/run: no number of the task."""
    server.engine.add(modern.find_job(server, call), "Backup")


def unknown_word(server: State, call: Call) -> None:
    """POST task/N/WORD, for words that later releases have."""
    raise RefusedError(404, "Invalid or missing task id")


def restore(server: State, call: Call) -> dict:
    """POST backup/N/restore: what is no form is ignored, so that all goes to its place."""
    job, form = modern.find_job(server, call), call.form()
    fields = {name.replace("-", "_"): form.get(name) or None for name in FORMS}
    if fields["paths"]:
        try:
            fields["paths"] = json.loads(fields["paths"])
        except ValueError:
            fields["paths"] = fields["paths"].split(":")
    for name in ("overwrite", "skip_metadata"):
        fields[name] = is_true(fields[name])
    return {"TaskID": modern.start_restore(server, job, fields)}


def repair(server: State, call: Call) -> dict:
    """POST backup/N/repair and repairupdate"""
    job, form = modern.find_job(server, call), call.form()
    operation = "RepairUpdate" if call.path.endswith("repairupdate") else "Repair"
    task = server.engine.add(job, operation, time=modern.moment(form.get("time")))
    return {"Status": "OK", "ID": task.number}


def copy_to_temporary(server: State, call: Call) -> dict:
    """POST backup/N/copytotemp"""
    return {"status": "OK", "ID": modern.copy_to_temporary(server, call)["ID"]}


def export(server: State, call: Call) -> dict | Answer:
    """GET backup/N/export"""
    if is_true(call.query.get("cmdline")):
        return modern.export_command(server, call)
    if is_true(call.query.get("argsonly")):
        return modern.export_arguments(server, call)
    return modern.exported(server, call)


def import_backup(server: State, call: Call) -> Answer:
    """POST backups/import: always 200 and a page, in which OK or a message stands."""
    fields = call.multipart()
    text = {name: content.decode("utf-8", "replace") for name, content in fields.items()}
    shown, message = "'JSO'", "OK"
    try:
        document = modern.read_export(fields.get("config", b""), text.get("passphrase"))
        if is_true(text.get("direct")):
            modern.add_export(server, document, is_true(text.get("import_metadata")))
        else:
            shown = json.dumps(document)
    except (ValueError, RefusedError) as error:
        message = str(error).replace("'", "\\'")
    callback = re.sub(r"[^\w-]", "", text.get("callback", ""))
    page = IMPORT_PAGE.format(shown, callback, message, message)
    return Answer(200, [("Content-Type", "text/html")], BYTE_ORDER_MARK + page.encode())


def _logged(server: State, call: Call) -> None:
    """A job that never ran has no tables: an exception."""
    if not database_of(modern.find_job(server, call)).exists:
        raise EngineError("SQLite error\r\nno such table: LogData",
                          "Mono.Data.Sqlite.SqliteException")


def log(server: State, call: Call) -> list[dict]:
    """GET backup/N/log"""
    _logged(server, call)
    return modern.log(server, call)


def remote_log(server: State, call: Call) -> list[dict]:
    """GET backup/N/remotelog"""
    _logged(server, call)
    return modern.remote_log(server, call)


def files(server: State, call: Call) -> dict:
    """GET backup/N/files and files/FILTER; the query comes back with the reply."""
    expression = call.part("filter") if call.parts.get("filter") else call.query.get("filter")
    echo = {name: value for name, value in call.query.items() if name != "jsonp"}
    return echo | list_files(server, call, expression)


def patch_serversettings(server: State, call: Call) -> None:
    """PATCH serversettings: the password comes as hash and salt; nulls take it away."""
    document = _document(call)
    if not isinstance(document, dict):
        raise RefusedError(400, "Data object was not a JSON object")
    for name, value in document.items():
        if name not in ("last-webserver-port", "server-passphrase-trayicon"):
            server.store.save_setting(name, None if value is None else str(value))
    server.engine.tell(data=True)


def serversetting(server: State, call: Call) -> str | None:
    """GET serversetting/NAME: a name as properties in C# have it; no value if it is unset."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", call.part("name")).lower()
    if name not in system.setting_names(server.played) or call.part("name").islower():
        raise RefusedError(404, "Not found")
    return server.store.setting(name)


def put_serversetting(server: State, call: Call) -> None:
    """PUT serversetting/NAME: the value in the form field `data`."""
    serversetting(server, call)
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", call.part("name")).lower()
    server.store.save_setting(name, call.form().get("data"))
