"""Versions and files of jobs at the demo Duplicati server: v1 filesets and files, v2
list-filesets, list-folder, search and list-versions (section 3.5 of the protocol).

Guards: the shapes, and the bugs that a client has to live with: totals that lie, times of year
1, sizes of all versions in the other order. Each listing uses up a task number and, on later
releases, leaves a row in the job's log.
Leaves alone: how versions are kept.
"""
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from demo.duplicati_server.aftermath import MAIN, database_of
from demo.duplicati_server.answers import BareError, Call, EngineError, RefusedError
from demo.duplicati_server.backups import check_lock, find_job, moment
from demo.duplicati_server.moments import local_text, now, parse, utc_text
from demo.duplicati_server.operations import target_of
from demo.duplicati_server.results import Report, row
from demo.duplicati_server.state import State
from demo.duplicati_server.versions import (
    Entry,
    Version,
    children,
    largest_prefix,
    matcher,
    matching,
    moment_of,
    select,
    tops,
)

MOST_ITEMS = 1000  # of a page whose size is null
SECONDS_AS_TICKS = datetime(1, 1, 1)  # search writes times as if Unix seconds were ticks
NO_LOCAL_DATABASE = EngineError("No local database found", help_id="NoLocalDatabase")


def browse(server: State, job: dict, operation: str, logged_as: str,
           look: Callable[[Report], Any]) -> Any:
    """Do a listing as an operation of the engine, but at once and outside of its queue."""
    server.engine.next_number()
    release, database = server.played, database_of(job)
    report = Report(operation, now())
    report.line("Information", f"{MAIN}.Controller-StartingOperation",
                f"The operation {operation} has started")
    try:
        found = look(report)
    except EngineError as error:
        report.parsed_result = "Fatal"
        if release.row_of_listing != "none":
            _add_row(server, job, database, report)
        server.operations.aftermath.note_failure(job, logged_as, error)
        raise
    if release.row_of_listing == "all":
        _add_row(server, job, database, report)
    server.engine.tell()
    return found


def _add_row(server: State, job: dict, database, report: Report) -> None:
    if database.exists and not job.get("IsTemporary"):
        fields = {"ListFilesets": {"Filesets": None, "EncryptedFiles": None},
                  "ListFolder": {"Entries": None}, "SearchFiles": {"FileVersions": None},
                  "ListFileVersions": {"FileVersions": None}, "List": {"Filesets": None}}
        report.own = fields[report.operation] | report.own
        database.add_result(database.begin(report.operation), int(now().timestamp()),
                            row(server.played, report))


# v1.

def _fileset(number: int, version: Version, with_counts: bool) -> dict:
    return {"Version": number, "IsFullBackup": int(version.is_full),
            "Time": local_text(version.time),
            "FileCount": len(version.files) if with_counts else -1,
            "FileSizes": version.size if with_counts else -1}


def _running(server: State, job: dict) -> list[Version]:
    """What listings show of a run that is going on: a version in the making, or an answer of
    its own."""
    engine, way = server.engine, server.played.busy_database
    with engine.changed:
        active = engine.active
        if not active or active.backup_id != job["ID"] or active.operation != "Backup":
            return []
        if way == "partial":
            started = active.started.replace(microsecond=0)
            return [Version(started, False, [])]
    seconds = server.busy_seconds if way == "fails" else float(2**31)
    if not engine.wait_until(lambda: engine.active is not active, seconds):
        raise EngineError("database is locked", "Microsoft.Data.Sqlite.SqliteException")
    return []


def filesets(server: State, call: Call) -> list[dict]:
    """GET backup/N/filesets"""
    job, with_counts = find_job(server, call), call.flag("include-metadata")
    from_remote = call.flag("from-remote-only")
    check_lock(server, job)

    def look(report: Report) -> list[dict]:
        making = _running(server, job)
        try:
            versions = server.operations.known_versions(job, from_remote=from_remote)
        except EngineError as error:
            is_empty = error.help_id in ("FolderMissing", "EmptyRemoteFolder")
            if making or (server.played.is_legacy and is_empty):
                versions = []
            else:
                raise
        report.own["Filesets"] = [_fileset(number, version, with_counts)
                                  for number, version in enumerate(making + versions)]
        return report.own["Filesets"]
    try:
        return browse(server, job, "List", "List", look)
    except EngineError as error:
        if error.help_id == "FolderMissing" and server.played.has_v2:
            raise RefusedError(500, "folder-missing") from error
        raise


def files(server: State, call: Call) -> dict:
    """GET backup/N/files"""
    return list_files(server, call, call.query.get("filter"))


def list_files(server: State, call: Call, expression: str | None) -> dict:
    """Roots, a folder, or what an expression matches; of one version or of all."""
    job = find_job(server, call)
    is_all, is_roots = call.flag("all-versions"), call.flag("prefix-only")
    if not is_all and not call.query.get("time"):
        raise RefusedError(400, "Invalid or missing time")
    time = None if is_all else moment(call.query["time"])
    check_lock(server, job)
    if not expression and not is_roots and not server.played.is_legacy:
        raise RefusedError(500, "An error occurred")
    is_literal = (expression or "").startswith("@")

    def look(report: Report) -> dict:
        _running(server, job)
        if not expression and server.played.is_legacy:
            raise EngineError("Cannot extract simple list when the type is: Empty",
                              "System.InvalidOperationException")
        versions = list(enumerate(server.operations.known_versions(job)))
        if is_roots and not expression:
            shown = [pair for pair in versions if time is None or pair[1].time <= time]
            chosen = shown[:1]
        elif is_all or (server.played.is_legacy and is_literal):
            shown = chosen = versions
        else:
            newest = select([version for number, version in versions], time) or versions[0][1]
            shown = chosen = [pair for pair in versions if pair[1] is newest]
        found = _found([version for number, version in chosen], expression, is_roots,
                       call.flag("folder-contents"))
        return {"Filesets": [_fileset(number, version, True) for number, version in shown],
                "Files": found}
    return browse(server, job, "List", "List", look)


def _found(versions: list[Version], expression: str | None, is_roots: bool,
           is_folder: bool) -> list[dict]:
    if is_roots:
        entries = [entry for version in versions for entry in version.entries]
        return [{"Path": largest_prefix(entries), "Sizes": []}]
    sizes: dict[str, list[int]] = {}
    oldest_first = list(reversed(versions))
    for place, version in enumerate(oldest_first):
        entries = children(version.entries, expression) if is_folder else matching(
            version.entries, [expression])
        for entry in entries:
            sizes.setdefault(entry.path, [-1] * len(versions))[place] = entry.size
    paths = sorted(sizes, key=lambda path: (not path.endswith("/"), path))
    return [{"Path": path, "Sizes": sizes[path]} for path in paths]


# v2: envelopes.

def envelope(data: list, page: int, size: int, total: int) -> dict:
    """A page of data; its totals are those of the real server, which mean nothing."""
    pages = 0 if total <= 0 else -(-total // max(size, 1))
    return {"PageInfo": {"Page": page, "PageSize": size, "Total": total, "Pages": pages},
            "Data": data, "Success": True, "Error": None, "StatusCode": "OK"}


def _page(items: list, fields: dict, report: Report, name: str) -> dict:
    """A page in its envelope; as the row of the operation has it, it is noted as `name`."""
    size, page = fields["PageSize"], fields["Page"] or 0
    size = MOST_ITEMS if size is None else int(size)
    data = items[page * size:(page + 1) * size] if size else items
    reply = envelope(data, page, size or len(items), len(data) if page == 0 else -1)
    report.own[name] = {"Page": page, "PageSize": size, "TotalPages": reply["PageInfo"]["Pages"],
                        "TotalCount": reply["PageInfo"]["Total"], "Items": data}
    return reply


def _v2_job(server: State, fields: dict) -> dict:
    job = server.store.backup(str(fields["BackupId"]))
    if job is None:
        raise RefusedError(404, "Backup not found")
    check_lock(server, job)
    return job


def list_filesets(server: State, call: Call) -> dict:
    """POST v2 backup/list-filesets"""
    fields = call.fields("ForceRemoteListing", required=("BackupId",))
    job = _v2_job(server, fields)

    def look(report: Report) -> dict:
        from_remote = bool(fields["ForceRemoteListing"] or job.get("IsTemporary")
                           or not database_of(job).exists)
        making = _running(server, job)
        target = target_of(job)
        if not target.exists:
            raise EngineError("Remote folder is missing",
                              "Duplicati.Library.Interface.FolderMissingException",
                              "FolderMissing")
        versions = target.versions() if from_remote else [
            *making, *target.versions(database_of(job).versions())]
        if not versions:
            raise EngineError("No filesets found on remote target", help_id="EmptyRemoteFolder")
        shown = [{"Version": number, "Time": utc_text(version.time),
                  "IsFullBackup": None if from_remote else version.is_full,
                  "FileCount": None if from_remote else len(version.entries),
                  "FileSizes": None if from_remote else version.size}
                 for number, version in enumerate(versions)]
        report.own["Filesets"] = [{"ID": len(shown) - one["Version"], **one} for one in shown]
        return envelope(shown, 1, len(versions), len(versions))
    return browse(server, job, "ListFilesets", "ListFilesets", look)


def _local_versions(server: State, job: dict) -> list[Version]:
    database = database_of(job)
    if not database.exists:
        raise NO_LOCAL_DATABASE
    versions = target_of(job).versions(database.versions())
    if not versions:
        raise EngineError("No filesets found", help_id="NoFilesetsFound")
    return versions


def _shown(entry: Entry) -> dict:
    return {"Path": entry.path, "Size": entry.size, "IsDirectory": entry.kind == "folder",
            "IsSymlink": entry.kind == "link", "LastModified": utc_text(moment_of(entry)),
            "Metadata": None}


def list_folder(server: State, call: Call) -> dict:
    """POST v2 backup/list-folder"""
    fields = call.fields("ReturnExtended", required=(
        "BackupId", "Paths", "Time", "PageSize", "Page"))
    job = _v2_job(server, fields)

    def look(report: Report) -> dict:
        versions = _local_versions(server, job)
        if fields["Time"]:
            time = _time(fields["Time"])
            versions = [one for one in versions if one.time == time.replace(microsecond=0)]
        if len(versions) != 1:
            raise EngineError("Multiple filesets found, please specify a single version or time",
                              help_id="MultipleFilesetsFound")
        entries = versions[0].entries
        paths = [path for path in fields["Paths"] or [] if path]
        found = [entry for path in paths if path.endswith("/")
                 for entry in children(entries, path)] if paths else tops(entries)
        return _page([_shown(entry) for entry in sorted(found, key=lambda one: one.path)],
                     fields, report, "Entries")
    return browse(server, job, "ListFolder", "ListFolderContents", look)


def _time(text: str) -> datetime:
    try:
        return parse(text)
    except ValueError as error:
        raise BareError(400) from error


def search(server: State, call: Call) -> dict:
    """POST v2 backup/search"""
    fields = call.fields("Time", "Version", "CaseSensitiveSearch", "ReturnExtended", required=(
        "BackupId", "Paths", "Filters", "PageSize", "Page"))
    job = _v2_job(server, fields)

    def look(report: Report) -> dict:
        tests = [_search_test(text) for text in fields["Filters"] or []]
        versions = list(enumerate(_local_versions(server, job)))
        if fields["Time"]:
            time = _time(fields["Time"])
            versions = [pair for pair in versions if pair[1].time <= time]
        if fields["Version"]:
            versions = [pair for pair in versions if pair[0] in fields["Version"]]
        paths = [path for path in fields["Paths"] or [] if path]
        return _page([{
            "Version": number, "Time": _wrong_time(version.time), **_shown(entry)}
            for number, version in reversed(versions)
            for entry in sorted(version.entries, key=lambda one: one.path)
            if any(test(entry.path) for test in tests or [bool])
            and (not paths or any(entry in children(version.entries, path) for path in paths))],
            fields, report, "FileVersions")
    return browse(server, job, "SearchFiles", "SearchEntries", look)


def _search_test(text: str) -> Callable[[str], bool]:
    """What a filter of a search means: a part of the path, or a glob over all of it."""
    for first, last, name in (("[", "]", "Regexp"), ("{", "}", "Group")):
        if text.startswith(first) and text.endswith(last):
            raise EngineError(f"Filter type {name} is not supported.",
                              help_id="FilterTypeNotSupported")
    if "*" in text or "?" in text:
        return matcher(text)
    return lambda path: text.lower() in path.lower()


def _wrong_time(time: datetime) -> str:
    moment_in_year_1 = SECONDS_AS_TICKS + timedelta(microseconds=time.timestamp() / 10)
    return moment_in_year_1.isoformat(timespec="microseconds").rstrip("0") + "Z"


def list_versions(server: State, call: Call) -> dict:
    """POST v2 backup/list-versions: compares folders only, so that a file is never found."""
    fields = call.fields(required=("BackupId", "Paths", "PageSize", "Page"))
    job = _v2_job(server, fields)

    def look(report: Report) -> dict:
        versions = list(enumerate(_local_versions(server, job)))
        wanted = {path for path in fields["Paths"] or [] if path.endswith("/")}
        return _page([{"Version": number, "Time": _wrong_time(version.time), **_shown(entry)}
                      for number, version in reversed(versions) for entry in version.entries
                      if entry.path in wanted], fields, report, "FileVersions")
    return browse(server, job, "ListFileVersions", "ListFileVersions", look)
