"""What the demo Duplicati server does with jobs when it is asked: list, show, create, change,
delete, run, restore, export, import (sections 3.3 and 3.6 of the protocol), as the token
generation does it.

Guards: which request has which effect, with the answers of each release.
Leaves alone: the forms of the cookie generation (legacy.py), what tasks do.
"""
import json
from base64 import b64decode
from datetime import datetime
from urllib.parse import quote
from uuid import uuid4

from demo.duplicati_server import jobs
from demo.duplicati_server.aescrypt import decrypt, encrypt
from demo.duplicati_server.aftermath import database_of
from demo.duplicati_server.answers import Answer, BareError, Call, EngineError, RefusedError
from demo.duplicati_server.moments import parse
from demo.duplicati_server.state import State
from demo.duplicati_server.versions import target_folder
from demo.duplicati_server.views import offset, page_size

OPERATIONS = {"run": "Backup", "start": "Backup", "verify": "Verify", "compact": "Compact",
              "vacuum": "Vacuum", "report-remote-size": "ListRemote",
              "createreport": "CreateReport"}
LOCKED = ("The backup database is currently in use by another operation and cannot be accessed "
          "concurrently. Please wait for the running operation to finish and try again.")


def find_job(server: State, call: Call) -> dict:
    """The job that a path names; 404 if there is none."""
    job = server.store.backup(call.part("backup"))
    if job is None:
        raise RefusedError(404, "Invalid or missing backup id" if server.played.is_legacy
                           else "Backup not found")
    return job


def check_lock(server: State, job: dict) -> None:
    """400 DatabaseLocked while a task has the database of the job, where releases say so."""
    with server.engine.changed:
        active = server.engine.active
        if server.played.locks_database and active and active.backup_id == job["ID"]:
            raise RefusedError(400, LOCKED, "DatabaseLocked")


def _order(call: Call, rows: list[dict]) -> list[dict]:
    """By the names in orderBy; those that are not known are passed over."""
    keys = {"name": lambda row: row["Backup"]["Name"], "id": lambda row: int(row["Backup"]["ID"]),
            "lastrun": lambda row: row["Backup"]["Metadata"].get("LastBackupStarted", ""),
            "nextrun": lambda row: (row["Schedule"] or {}).get("Time", ""),
            "sourcesize": lambda row: int(row["Backup"]["Metadata"].get("SourceFilesSize", 0))}
    for part in reversed(call.query.get("orderby", "").split(",")):
        key = keys.get(part.strip("+- ").lower())
        if key:
            rows.sort(key=key, reverse=part.strip().startswith("-"))
    return rows


def backups(server: State, call: Call) -> list[dict]:
    """GET backups"""
    release, store = server.played, server.store
    schedules = store.schedules()
    rows = [jobs.listed(release, job, schedules.get(job["ID"])) for job in store.backups()]
    return _order(call, rows) if release.has_v2 else rows


def backup(server: State, call: Call) -> dict:
    """GET backup/N"""
    job = find_job(server, call)
    return jobs.shown(server.played, job, server.store.schedule(job["ID"]))


def taken(server: State, document: object) -> tuple[dict, dict | None]:
    """The job and the schedule of a request."""
    if not isinstance(document, dict):
        raise BareError(400)
    given = {name.lower(): value for name, value in document.items()}
    if given.get("backup") is None:
        raise BareError(400)
    return jobs.take_job(given["backup"]), jobs.take_schedule(server.played,
                                                              given.get("schedule"))


def _check_name(server: State, name: str, key: str | None = None) -> None:
    if any(job["Name"] == name and job["ID"] != key for job in server.store.backups()):
        raise RefusedError(409, f"There already exists a backup with the name: {name}")


def create(server: State, document: object, is_temporary: bool) -> str:
    """A new job; its ID."""
    job, schedule = taken(server, document)
    job["Metadata"] = job["Metadata"] or {}
    if is_temporary:
        return add_temporary(server, job)
    if job["TargetURL"] is None:
        job["TargetURL"] = ""
    jobs.check_job(job, schedule)
    _check_name(server, job["Name"])
    return add(server, job, schedule)


def add(server: State, job: dict, schedule: dict | None) -> str:
    """Keep a new job that was checked; its ID."""
    key = server.store.add_backup(job)
    server.store.save_schedule(key, schedule)
    server.engine.tell(data=True)
    return key


def add_temporary(server: State, job: dict) -> str:
    """Keep a job in memory only; its GUID. Its database is a file of its own."""
    key = str(uuid4())
    path = server.store.folder / f"temporary-{key}.sqlite"
    server.store.temporary[key] = {**job, "TargetURL": job["TargetURL"] or "", "ID": key,
                                   "Name": job["Name"] or "", "IsTemporary": True,
                                   "DBPath": str(path)}
    return key


def post_backups(server: State, call: Call) -> dict:
    """POST backups"""
    is_temporary = call.flag("temporary")
    return {"ID": create(server, call.document(), is_temporary),
            "Temporary": is_temporary and server.played.tells_temporary}


def replace(server: State, job: dict, document: object) -> None:
    """Replace a job by what a request says: what is left out is empty afterwards."""
    given, schedule = taken(server, document)
    if given["TargetURL"] is None:
        raise RefusedError(500, "Unable to save backup or schedule: newUrl is null or empty")
    if server.played.masks_secrets:
        given = jobs.with_stored_secrets(given, job)
    jobs.check_job(given, schedule)
    _check_name(server, given["Name"], job["ID"])
    if given["Metadata"] is None:
        given["Metadata"] = job["Metadata"]
    server.store.save_backup(job["ID"], {**job, **given})
    if not job.get("IsTemporary"):
        server.store.save_schedule(job["ID"], schedule)
    server.engine.tell(data=True)


def put_backup(server: State, call: Call) -> None:
    """PUT backup/N"""
    job = find_job(server, call)
    replace(server, job, call.document())


def delete_backup(server: State, call: Call) -> dict | Answer:
    """DELETE backup/N: a queued task; a job that runs is refused."""
    job, engine = find_job(server, call), server.engine
    arguments = {"remote_files": call.flag("delete-remote-files"),
                 "local_database": call.flag("delete-local-db")}
    is_forced = call.flag("force")
    with engine.changed:
        active = engine.active
        if active and active.backup_id == job["ID"]:
            if not is_forced:
                return Answer(500, [("Content-Type", "application/json; charset=utf-8")],
                              json.dumps({"Status": "failed", "Reason": "backup-in-progress",
                                          "ID": active.number}).encode())
            engine.abort(active)
        task = engine.add(job, "DeleteBackup", **arguments)
    return {"Status": "OK", "Reason": None, "ID": task.number}


def begin(server: State, call: Call) -> dict:
    """POST backup/N/run and the other operations without a body."""
    job = find_job(server, call)
    if server.played.has_v2:
        call.flag("skipQueue")
    task = server.engine.add(job, OPERATIONS[call.path.rpartition("/")[2].lower()])
    return {"Status": "OK", "ID": task.number}


def moment(text: str | None) -> datetime | None:
    """The time that a request names; None for the newest version. EngineError if it is none."""
    if not text or text.lower() == "now":
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise EngineError(f"Failed to parse the time: {text}", "System.FormatException") from error


def repair(server: State, call: Call) -> dict:
    """POST backup/N/repair and repairupdate"""
    job = find_job(server, call)
    fields = call.fields("time", "version", "paths", "only_paths", optional=True)
    is_update = call.path.lower().endswith("repairupdate")
    task = server.engine.add(job, "RepairUpdate" if is_update else "Repair",
                             time=moment(fields["time"]))
    return {"Status": "OK", "ID": task.number}


def start_restore(server: State, job: dict, fields: dict) -> int:
    """Queue a restore; the number of its task. `fields` as in a request of the token
    generation; booleans that are missing or null are false."""
    return server.engine.add(
        job, "Restore", paths=fields.get("paths"), time=moment(fields.get("time")),
        restore_path=fields.get("restore_path"), passphrase=fields.get("passphrase"),
        overwrite=bool(fields.get("overwrite")),
        skip_metadata=bool(fields.get("skip_metadata"))).number


def restore(server: State, call: Call) -> dict:
    """POST backup/N/restore"""
    job = find_job(server, call)
    fields = call.fields("paths", "time", "restore_path", "passphrase", "overwrite",
                         "permissions", "skip_metadata")
    return {"Status": "OK", "ID": start_restore(server, job, fields)}


def delete_versions(server: State, call: Call) -> dict:
    """POST v2 backup/delete-versions"""
    fields = call.fields(required=("BackupId", "Versions"))
    job = server.store.backup(str(fields["BackupId"]))
    if job is None:
        raise RefusedError(404, "Backup not found")
    if not fields["Versions"]:
        raise RefusedError(400, "No versions supplied")
    task = server.engine.add(job, "Delete", versions=fields["Versions"])
    return {"Status": "OK", "ID": task.number}


def delete_database(server: State, call: Call) -> None:
    """POST backup/N/deletedb"""
    database_of(find_job(server, call)).delete()
    server.engine.tell(data=True)


def copy_to_temporary(server: State, call: Call) -> dict:
    """POST backup/N/copytotemp"""
    return {"ID": add_temporary(server, find_job(server, call)), "Temporary": True}


def is_active(server: State, call: Call) -> dict:
    """GET backup/N/isactive"""
    job = find_job(server, call)
    return {"Status": "OK", "Active": server.engine.is_active(job["ID"])}


def is_database_shared(server: State, call: Call) -> dict:
    """GET backup/N/isdbusedelsewhere"""
    job = find_job(server, call)
    return {"inuse": any(other["DBPath"] == job["DBPath"] and other["ID"] != job["ID"]
                         for other in server.store.backups())}


# Export and import.

def file_name(server: State, job: dict, is_encrypted: bool) -> str:
    """What an export would be called."""
    dot = "." if server.played.has_v2 or server.played.is_legacy else "%2E"
    return f"{quote(job['Name'])}-duplicati-config{dot}json" + (".aes" if is_encrypted else "")


def exported(server: State, call: Call) -> Answer:
    """The answer to an export, encrypted if the call has a passphrase."""
    job, passphrase = find_job(server, call), call.query.get("passphrase")
    document = jobs.exported(server.played, job, server.store.schedule(job["ID"]),
                             call.flag("export-passwords"))
    content = json.dumps(document, indent=2, ensure_ascii=False).encode()
    if passphrase:
        content = encrypt(content, passphrase, f"SharpAESCrypt v{server.played.version}")
    return Answer(200, [
        ("Content-Disposition",
         f"attachment; filename={file_name(server, job, bool(passphrase))}"),
        ("Content-Type", "application/octet-stream")], content)


def export(server: State, call: Call) -> Answer:
    """GET backup/N/export: with a token of its own in the query, whoever asks."""
    server.sessions.check_operation(call, "export")
    return exported(server, call)


def export_arguments(server: State, call: Call) -> dict:
    """GET backup/N/export-argsonly"""
    return jobs.command_line(server.played, find_job(server, call),
                             call.flag("export-passwords"))


def export_command(server: State, call: Call) -> dict:
    """GET backup/N/export-cmdline"""
    parts = export_arguments(server, call)
    words = [parts["Backend"], *parts["Arguments"], *parts["Options"]]
    quoted = [f'"{word}"' if set(word) & set(" &*") else word for word in words]
    return {"Command": " ".join(["duplicati-cli backup", *quoted])}


def read_export(content: bytes, passphrase: str | None) -> dict:
    """The document in an export. ValueError with the reason if it is none."""
    if content[:3] == b"AES":
        content = decrypt(content, passphrase or "")
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        first = content[:1].decode("latin-1")
        raise ValueError(f"Unexpected character encountered while parsing value: {first}. "
                         "Path '', line 0, position 0.") from error
    if not isinstance(document, dict) or not isinstance(document.get("Backup"), dict):
        raise ValueError("No backup found in document")
    return document


def add_export(server: State, document: dict, with_metadata: bool) -> str:
    """Make a job of an export; its ID. A name that is taken gets a number."""
    days = (document.get("Schedule") or {}).get("AllowedDays")
    if days:  # exports have long names, which some releases do not read elsewhere
        short = list(dict.fromkeys(day[:3].lower() for day in days))
        document = {**document, "Schedule": {**document["Schedule"], "AllowedDays": short}}
    job, schedule = taken(server, document)
    job["Metadata"] = (job["Metadata"] or {}) if with_metadata else {}
    jobs.check_job(job, schedule)
    names, name, number = {one["Name"] for one in server.store.backups()}, job["Name"], 0
    while job["Name"] in names:
        number += 1
        job["Name"] = f"{name} ({number})"
    return add(server, job, schedule)


def import_backup(server: State, call: Call) -> dict:
    """POST backups/import: every failure is 500."""
    fields = call.fields("import_metadata", "direct", "passphrase", "temporary",
                         required=("config",))
    try:
        content = b64decode(fields["config"] or "", validate=True)
    except ValueError as error:
        raise RefusedError(500, "An error occurred") from error
    try:
        document = read_export(content, fields["passphrase"])
        if fields["direct"] or fields["temporary"]:
            key = create(server, document, True) if fields["temporary"] else add_export(
                server, document, bool(fields["import_metadata"]))
            return {"Id": key, "data": None}
        return {"Id": None, "data": _preview(server, document, bool(fields["import_metadata"]))}
    except (ValueError, RefusedError) as error:
        raise RefusedError(500, f"Failed to import backup: {error}") from error


def _preview(server: State, document: dict, with_metadata: bool) -> dict:
    """An export as it would come in, with nothing kept."""
    job = {**jobs.take_job(document["Backup"]), "ID": None, "DBPath": None}
    job["Metadata"] = (job["Metadata"] or {}) if with_metadata else {}
    schedule = document.get("Schedule")
    if schedule:
        days = [day[:3].lower() for day in schedule.get("AllowedDays") or []]
        kept = jobs.take_schedule(server.played, {**schedule, "AllowedDays": days}) | {"ID": -1}
        schedule = {**jobs.shown_schedule(server.played, "", kept),
                    "Tags": schedule.get("Tags")}
    shown = jobs.exported(server.played, {**job, "DBPath": "x"}, None, True)
    return {**shown, "CreatedByVersion": document.get("CreatedByVersion"), "Schedule": schedule,
            "Backup": {**shown["Backup"], "DBPath": None}}


# Logs of a job, and its destination.

def _null(server: State) -> object:
    return {} if server.played.null_is_object else None


def log(server: State, call: Call) -> list[dict]:
    """GET backup/N/log"""
    job = find_job(server, call)
    check_lock(server, job)
    return [{"ID": one["id"], "OperationID": one["operation"], "Timestamp": one["time"],
             "Type": "Result", "Message": one["message"], "Exception": _null(server)}
            for one in database_of(job).log(offset(call), page_size(call))]


def remote_log(server: State, call: Call) -> list[dict]:
    """GET backup/N/remotelog"""
    job = find_job(server, call)
    check_lock(server, job)
    return [{"ID": one["id"], "OperationID": one["operation"], "Timestamp": one["time"],
             "Operation": one["name"], "Path": one["path"],
             "Data": _null(server) if one["data"] is None else one["data"]}
            for one in database_of(job).remote(offset(call), page_size(call))]


def test_destination(server: State, call: Call) -> None:
    """POST remoteoperation/test"""
    fields = call.fields(required=("path",))
    if not target_folder(fields["path"] or "").is_dir():
        raise RefusedError(500, "missing-folder")
