"""What operations of the demo Duplicati server leave behind: result rows, metadata,
notifications, lines of the server's logs (sections 2.7, 4.1, 5.5 and 8.1 of the protocol).

Guards: that each ending leaves what each release leaves of it, and nothing else.
Leaves alone: how an operation comes to its ending.
"""
from demo.duplicati_server import moments
from demo.duplicati_server.answers import EngineError
from demo.duplicati_server.engine import Engine, Task
from demo.duplicati_server.live import LiveLog
from demo.duplicati_server.releases import Release
from demo.duplicati_server.results import QUOTA, Report, row
from demo.duplicati_server.store import JobDatabase, Store

MAIN = "Duplicati.Library.Main"


class LeavesNoRowError(EngineError):
    """An exception so early that the log of the job does not know of it."""


def database_of(job: dict) -> JobDatabase:
    """The database of a job."""
    return JobDatabase(job["DBPath"])


def size_text(release: Release, size: int) -> str:
    """A size for people."""
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}{'iB' if release.sizes_in_ki else 'B'}"
    return f"{size} bytes"


class Aftermath:
    """Over a store; `engine` is told of what changes."""

    def __init__(self, release: Release, store: Store, live: LiveLog, engine: Engine):
        self.release, self.store, self.live, self.engine = release, store, live, engine

    def succeed(self, task: Task, report: Report) -> None:
        """What an operation that came to its end leaves behind."""
        is_run = task.operation == "Backup"
        if not (is_run and report.interrupted and not self.release.row_of_stop):
            if self.release.has_v2 or report.operation not in ("Compact", "Vacuum", "ListRemote",
                                                               "CreateLogDb"):
                self._add_row(task, report)
            self._save_metadata(task, self._metadata(task, report))
        if not report.interrupted or self.release.row_of_stop:
            self._notify_of_lines(task, report)
        for line in report.warnings + report.errors:
            self._tell_live(task, line)

    def fail(self, task: Task, report: Report, error: EngineError) -> None:
        """What an operation that ended by an exception leaves behind."""
        is_abort = task.is_aborted
        tag = f"{MAIN}.Controller-FailedOperation"
        name = error.kind.rpartition(".")[2]
        if is_abort and self.release.has_v2 and not self.release.tells_interrupted:
            report.line("Warning", f"{MAIN}.Operation.Backup.FileBlockProcessor.FileEntry-"
                        "FileProcessingFailed", f"Failed to process a path\n{error.message}")
        report.line("Error", tag, f"The operation {report.operation} has failed"
                    f"\n{name}: {error.message}")
        report.interrupted = is_abort
        report.parsed_result = self.release.row_of_abort if is_abort else "Fatal"
        if not is_abort:
            self.engine.progress.update(phase="Error", current=None, estimate=None, transfer=None)
        is_told = self.release.row_of_abort if is_abort else self.release.row_of_failure
        if is_told and not isinstance(error, LeavesNoRowError):
            self._add_row(task, report)
        if is_abort and not self.release.has_trace_of_abort:
            self._save_metadata(task, self._metadata(task, report))
            return
        self.note_failure(task.backup, task.operation, error, task.number)

    def note_failure(self, job: dict, operation: str, error: EngineError,
                     number: int | None = None) -> None:
        """Notification, LastErrorMessage and lines in the server's logs of an exception."""
        moment = moments.now()
        if not job.get("IsTemporary"):
            for one in self.store.notifications():
                if one["BackupID"] == job["ID"] and one["Type"] == "Error":
                    self.store.forget_notification(one["ID"])
            self.notify(job, "Error", error.message, error.trace, error.help_id)
            self._save_metadata_of(job["ID"], {"LastErrorDate": moments.stamp(moment),
                                               "LastErrorMessage": error.message})
        time = int(moment.timestamp())
        if number is not None and self.release.has_v2:
            self.store.add_error(job["ID"], "Error in worker", error.trace, time)
        self.store.add_error(job["ID"], f'Failed while executing {operation} "{job["Name"]}" '
                             f'(id: {job["ID"]})', error.trace, time)
        self.live.add("Error", f"{MAIN}.Controller-FailedOperation", f"The operation {operation} "
                      f"has failed", backup_id=job["ID"], task=number,
                      exception=(error.kind, error.trace))
        self.engine.tell(data=True, notification=True)

    def _add_row(self, task: Task, report: Report) -> None:
        database = database_of(task.backup)
        if not task.backup.get("IsTemporary") and database.exists:
            operation = task.arguments["operation_id"] or database.begin(report.operation)
            database.add_result(operation, int(moments.now().timestamp()),
                                row(self.release, report))

    def _tell_live(self, task: Task, line: str) -> None:
        head, _, message = line.partition("]: ")
        level, _, tag = head.partition("[")[2].partition("-")
        self.live.add(level, tag, message, backup_id=task.backup_id, task=task.number)

    def notify(self, job: dict | None, kind: str, message: str, exception: str = "",
                message_id: str | None = None, **other) -> None:
        """A new notification; `other`: fields that are not the usual ones."""
        word = {"Error": "Error", "Warning": "Warning"}.get(kind)
        self.store.add_notification({
            "Type": kind, "Title": f"{word} while running {job['Name']}" if word else "",
            "Message": message, "Exception": exception, "BackupID": job["ID"] if job else None,
            "Action": "backup:show-log", "Timestamp": moments.utc_text(
                moments.now().replace(microsecond=0)), "LogEntryID": None,
            "MessageID": message_id, "MessageLogTag": None} | other)
        self.engine.tell(notification=True)

    def _notify_of_lines(self, task: Task, report: Report) -> None:
        job = task.backup
        if job.get("IsTemporary"):
            return
        for kind, lines in (("Error", report.errors), ("Warning", report.warnings)):
            if lines:
                text = lines[0] if self.release.has_estimate else f"{kind}: {lines[0]}"
                if len(lines) > 1:
                    text = f"Encountered {len(lines)} {kind.lower()}s"
                self.notify(job, kind, text, MessageLogTag=None if self.release.has_estimate
                             else "backup:show-log")
                return
        if task.operation == "Backup" and self.release.has_v2 \
                and self.store.forget_notifications(job["ID"]):
            self.engine.tell(notification=True)

    def _metadata(self, task: Task, report: Report) -> dict[str, str]:
        """What changes in the metadata of a job after an operation."""
        ended = moments.now()
        prefix = {"Backup": "LastBackup", "Restore": "LastRestore", "Compact": "LastCompact",
                  "Vacuum": "LastVacuum"}.get(report.operation)
        if prefix is None or (report.interrupted and self.release.tells_interrupted):
            return {}
        times = {f"{prefix}Duration": moments.span_text(ended - report.started),
                 f"{prefix}Started": moments.stamp(report.started),
                 f"{prefix}Finished": moments.stamp(ended)}
        if report.operation != "Backup":
            return times
        times = {name: times[name] for name in (
            "LastBackupStarted", "LastBackupFinished", "LastBackupDuration")}
        last = moments.stamp(report.last_version) if report.last_version else "00010101T000000Z"
        known = report.traffic.get("KnownFileSize", 0)
        fields = {"LastBackupDate": last, "BackupListCount": str(report.versions),
                  **{name: str(value) for name, value in QUOTA.items()},
                  "TargetFilesSize": str(known),
                  "TargetFilesCount": str(report.traffic.get("KnownFileCount", 0))}
        if self.release.has_v2:
            fields["TargetFilesetsCount"] = str(report.versions)
        size = report.own.get("SizeOfExaminedFiles", 0)
        fields |= {"TargetSizeString": size_text(self.release, known),
                   "SourceFilesSize": str(size),
                   "SourceFilesCount": str(report.own.get("ExaminedFiles", 0)),
                   "SourceSizeString": size_text(self.release, size), **times}
        if "verified" in report.own:
            fields |= {"LastCompactDuration": "00:00:00.0010000",
                       "LastCompactStarted": moments.stamp(ended),
                       "LastCompactFinished": moments.stamp(ended)}
        return fields

    def _save_metadata(self, task: Task, changes: dict[str, str]) -> None:
        if changes and not task.backup.get("IsTemporary"):
            self._save_metadata_of(task.backup_id, changes)

    def _save_metadata_of(self, key: str, changes: dict[str, str]) -> None:
        job = self.store.backup(key)  # as it is now: it can have been edited, or be gone
        if job:
            job["Metadata"] = (job["Metadata"] or {}) | changes
            self.store.save_backup(key, job)
