"""What the tasks of the demo Duplicati server do, for real: back up, restore, verify, repair,
delete.

Guards: that an operation does what it tells, and ends as the settings of its job say:
    --demo-seconds=N        how long a run takes; progress moves meanwhile
    --demo-ending=WORD      success, warning, error, fatal (an exception in its middle), early
                            (an exception before the job's database is made)
    --demo-ignores-abort=true   an abort or stop is heard and changes nothing
    --demo-restore-seconds, --demo-restore-ending, and likewise for verify, compact, vacuum, repair
Leaves alone: which task comes when (engine.py), what an ending leaves behind
(aftermath.py), and HTTP.
"""
from datetime import datetime, timedelta
from pathlib import Path

from demo.duplicati_server import jobs, moments
from demo.duplicati_server.aftermath import MAIN, Aftermath, LeavesNoRowError, database_of
from demo.duplicati_server.answers import EngineError
from demo.duplicati_server.counting import (
    count_restored,
    count_run,
    count_versions,
    remote_file,
    said,
)
from demo.duplicati_server.engine import ClosedError, Engine, Task
from demo.duplicati_server.live import LiveLog
from demo.duplicati_server.releases import Release
from demo.duplicati_server.results import Report
from demo.duplicati_server.store import JobDatabase, Store
from demo.duplicati_server.versions import (
    Entry,
    Restored,
    Target,
    Version,
    largest_prefix,
    matching,
    restore_entry,
    select,
    walk,
)

TICKS = 25
# Name of the operation in /tasks -> MainOperation of its result.
RESULT_NAMES = {"Verify": "Test", "RepairUpdate": "Repair", "CreateReport": "CreateLogDb"}
EXTRA_FILES = {
    True: "Found {} remote files that are not recorded in local storage. This can be caused by "
          "having two backups sharing a destination folder which is not supported. It can also "
          "be caused by restoring an old database. If you are certain that only one backup uses "
          "the folder and you have the most updated version of the database, you can use repair "
          "to delete the unknown files.",
    False: "Found {} remote files that are not recorded in local storage, please run repair"}


def target_of(job: dict, passphrase: str | None = None) -> Target:
    """The target of a job."""
    return Target(job["TargetURL"], jobs.passphrase(job) if passphrase is None else passphrase)


class Operations:
    """The work of the engine, over a store."""

    def __init__(self, release: Release, store: Store, live: LiveLog):
        self.release, self.store = release, store
        self.engine = Engine(release, self.perform)
        self.aftermath = Aftermath(release, store, live, self.engine)

    # One task, from its beginning to what it leaves behind.

    def perform(self, task: Task) -> None:
        """Do a task; EngineError if it ends by an exception."""
        report = Report(RESULT_NAMES.get(task.operation, task.operation), moments.now())
        report.line("Information", f"{MAIN}.Controller-StartingOperation",
                    f"The operation {report.operation} has started")
        task.arguments["operation_id"] = None
        task.is_deaf = jobs.settings_of(task.backup).get("--demo-ignores-abort") == "true"
        try:
            self.engine.enter(task, self.release.initial_phase)
            getattr(self, "_" + task.operation.lower())(task, report)
        except ClosedError:
            raise
        except EngineError as error:
            self.aftermath.fail(task, report, error)
            raise
        except Exception as fault:  # whatever else fails inside ends the task, not the server
            error = EngineError(str(fault), f"System.{type(fault).__name__}")
            self.aftermath.fail(task, report, error)
            raise error from fault
        if task.operation != "DeleteBackup":
            self.aftermath.succeed(task, report)

    def _begin(self, task: Task, report: Report) -> JobDatabase:
        """The job's database, made if it is missing, with the operation noted."""
        database = database_of(task.backup)
        database.make()
        task.arguments["operation_id"] = database.begin(report.operation)
        return database

    # Time and progress.

    def _option(self, task: Task, name: str) -> str:
        word = "" if task.operation == "Backup" else task.operation.lower() + "-"
        return jobs.settings_of(task.backup).get(f"--demo-{word}{name}", "")

    def _let_pass(self, task: Task, phase: str, share: float,
                  entries: list[Entry] | None = None) -> int:
        """Let a share of the task's time pass; the number of files that were come to when it
        ended, which is all unless the task was stopped. The middle of the task is where there
        are `entries`, if only an empty list."""
        seconds = float(self._option(task, "seconds") or 0) * share
        progress, files = self.engine.progress, entries or []
        total = sum(entry.size for entry in files)
        self.engine.enter(task, phase)
        if entries is not None:
            progress.update(total_files=len(files), total_size=total)
        for tick in range(1, TICKS + 1):
            self.engine.pass_time(task, seconds / TICKS)
            if entries is not None:
                self._show(task, files, total * tick // TICKS, len(files) * tick // TICKS)
                if progress["transfer"]:
                    progress["transfer"]["done"] = progress["transfer"]["size"] * tick // TICKS
                if self.release.has_estimate and phase == "Backup_ProcessingFiles":
                    left = timedelta(seconds=seconds * (TICKS - tick) / TICKS or 0.01)
                    progress["estimate"] = moments.span_text(left)
            if phase == "Verify_Running":
                progress["overall"] = tick / TICKS
            if tick == TICKS // 2 and entries is not None:
                self.engine.stand(task)
            if task.is_stopped:
                self.engine.pass_time(task, 0)  # not while the server is paused
                return progress["files"]
        return len(files)

    def _show(self, task: Task, entries: list[Entry], size: int, least: int) -> None:
        """Set the progress to so many bytes of these files."""
        done = before = 0
        while done < len(entries) and (before + entries[done].size <= size and done < least):
            before += entries[done].size
            done += 1
        is_told = done < len(entries) and task.operation == "Backup"
        current = entries[done] if is_told else None
        self.engine.progress.update(files=done, size=before, current=current and {
            "name": current.path, "size": current.size,
            "offset": max(0, min(size - before, current.size))})

    # The operations. Each takes its task and its report.

    def _backup(self, task: Task, report: Report) -> None:
        job, ending = task.backup, self._option(task, "ending")
        if ending == "early":
            self._let_pass(task, self.release.initial_phase, 1.0, [])
            raise LeavesNoRowError("The demo job ends before it has a database",
                                   "System.InvalidOperationException")
        target, database = target_of(job), self._begin(task, report)
        self._make_target(task, target, report)
        self._check_target(target, database, report)
        count_versions(report, target)
        found = self._find(job, report)
        files = [entry for entry, place in found if entry.kind == "file"]
        self.engine.progress["transfer"] = self._transfer("Put", target, files)
        try:
            reached = self._let_pass(task, "Backup_ProcessingFiles", 0.8, files)
        except EngineError:
            if self.release.has_v2 and files:  # what it came to stays, as a partial version
                target.add(found[:len(found) // 2], task.started, False)
                database.know(set(target.stamps()))
            raise
        self._end_as_told(report, ending, job["Sources"][0])
        is_partial = task.is_stopped
        if is_partial:
            self._note_stop(report)
            left_out = {entry.path for entry in files[reached:]}
            found = [pair for pair in found if pair[0].path not in left_out]
            if not self.release.row_of_stop:
                return
        self._upload(task, report, target, database, found, is_partial)

    def _make_target(self, task: Task, target: Target, report: Report) -> None:
        try:
            target.make()
        except EngineError as error:
            report.line("Warning", f"{MAIN}.BackendManager-FolderCreateError",
                        f"Failed to create folder: {error.message}")
            self._let_pass(task, self.release.initial_phase, 1.0, [])  # it tries again
            if self.release.row_of_missing_target:
                raise
            raise LeavesNoRowError(error.message, error.kind, error.help_id) from error

    def _end_as_told(self, report: Report, ending: str, source: str) -> None:
        """What the job is told to come across in its middle."""
        if ending == "fatal":
            raise EngineError("The demo job ends by an exception",
                              "System.InvalidOperationException")
        if ending == "warning":
            report.line("Warning", f"{MAIN}.Operation.Backup.FileEnumerationProcess-"
                        "PathProcessingError", f"Failed to process path: {source}x")
        if ending == "error":
            report.own["FilesWithError"] = 1
            report.line("Error", f"{MAIN}.Operation.Backup.FileBlockProcessor.FileEntry-"
                        "PathProcessingFailed", f"Failed to process path: {source}x")

    def _note_stop(self, report: Report) -> None:
        report.interrupted = report.own["PartialBackup"] = True
        report.line("Warning", f"{MAIN}.Operation.BackupHandler-CancellationRequested",
                    "Cancellation was requested by user.")

    def _check_target(self, target: Target, database: JobDatabase, report: Report) -> None:
        """Refuse a target with versions that the database does not know."""
        known = database.versions()
        extra = [path for one, path in target.stamps().items() if one not in known]
        if not extra:
            return
        count_versions(report, target)
        unknown = [path for path in target.files() if not known or path in extra]
        for path in unknown:
            report.line("Warning", f"{MAIN}.Operation.FilelistProcessor-ExtraUnknownFile",
                        f"Extra unknown file: {path.name}")
        raise EngineError(EXTRA_FILES[self.release.has_v2].format(len(unknown)),
                          "Duplicati.Library.Interface.RemoteListVerificationException",
                          "ExtraRemoteFiles")

    def _find(self, job: dict, report: Report) -> list[tuple[Entry, Path]]:
        """What there is to back up; EngineError for a source that is missing and must not be."""
        for source in job["Sources"]:
            is_there = Path(source.replace("%HOME%", str(Path.home()))).exists()
            if not is_there and jobs.settings_of(job).get("--allow-missing-source") != "true":
                raise EngineError(f"The source folder {source} does not exist, aborting backup",
                                  help_id="SourceFolderMissing")
        found = []
        for entry, place in walk(job["Sources"], job["Filters"]):
            try:
                if entry.kind == "file":
                    place.open("rb").close()
                found.append((entry, place))
            except OSError as error:
                report.line("Warning", f"{MAIN}.Operation.Backup.FileBlockProcessor.FileEntry-"
                            "PathProcessingFailed", f"Failed to process path: {place}"
                            f"\n{type(error).__name__}: {error.strerror}")
        return found

    def _transfer(self, action: str, target: Target, files: list[Entry]) -> dict:
        size = sum(entry.size for entry in files) + 500
        path = f"duplicati-b{'0' * 32}.dblock{target.suffix}"
        return {"action": action, "size": size, "done": size // 2, "speed": -1,
                "path": path if self.release.has_v2 else "ParallelUpload"}

    def _upload(self, task: Task, report: Report, target: Target, database: JobDatabase,
                found: list[tuple[Entry, Path]], is_partial: bool) -> None:
        """Keep the version, apply retention, verify, and count."""
        self._let_pass(task, "Backup_WaitForUpload", 0.1)
        before = next(iter(target.versions(database.versions())), None)
        earlier = {entry.path: entry for entry in before.entries} if before else {}
        made = []
        if is_partial or before is None or not _is_same(before, found):
            made = target.add(found, task.started, not is_partial)
        database.know(set(target.stamps()))
        for name, path, data in said(target, made, lists_first=self.release.has_v2):
            database.add_remote(task.arguments["operation_id"], int(moments.now().timestamp()),
                                name, path, data)
        for path in made:
            report.line("Information", f"{MAIN}.BasicResults-BackendEvent",
                        f"Backend event: Put - Completed: {path.name}")
        self._apply_retention(task, report, target, database)
        version = target.version(max(target.stamps()))
        count_run(report, version, earlier, target, made)
        got = {**self._transfer("Get", target, []), "path": target.files()[0].name}
        self.engine.progress["transfer"] = got
        if not is_partial:
            report.own["verified"] = [path.name for path in target.files()[-3:]]
            self._let_pass(task, "Verify_Running", 0.1)
        self.engine.progress["transfer"] = None if self.release.has_v2 else got
        self.engine.progress["overall"] = 1.0
        self.engine.enter(task, "Backup_Complete")

    def _apply_retention(self, task: Task, report: Report, target: Target,
                         database: JobDatabase) -> None:
        self.engine.progress["transfer"] = None
        kept = jobs.settings_of(task.backup).get("keep-versions", "")
        stamps = sorted(target.stamps(), reverse=True)
        if not kept:
            return
        self.engine.enter(task, "Backup_Delete")
        for number, one in list(enumerate(stamps))[int(kept):]:
            target.delete_version(one)
            report.own.setdefault("deleted", []).append((number, moments.parse(_iso(one))))
        database.know(set(target.stamps()))

    def known_versions(self, job: dict, passphrase: str | None = None,
                       from_remote: bool = False) -> list[Version]:
        """The versions that the database of a job knows, newest first; without a database, or
        `from_remote`, those at the target. EngineError if there is no such folder, or nothing
        in it."""
        target, database = target_of(job, passphrase), database_of(job)
        if not target.exists:
            raise target.missing()
        known = database.versions() if database.exists and not from_remote else None
        versions = target.versions(known)
        if not versions:
            raise EngineError("No filesets found on remote target", help_id="EmptyRemoteFolder")
        return versions

    def _restore(self, task: Task, report: Report) -> None:
        job, given = task.backup, task.arguments
        target = target_of(job, given["passphrase"] or None)
        if not job.get("IsTemporary"):
            self._begin(task, report)
        versions = self.known_versions(job, given["passphrase"] or None)
        count_versions(report, target)
        report.own["RestorePath"] = given["restore_path"]
        time = given["time"]
        version = select(versions, time)
        if version is None:
            version = versions[0]
            report.line("Warning", f"{MAIN}.Database.LocalRestoreDatabase-NoBackupAtDate",
                        "No backup was found at the given time, using the newest")
        chosen = matching(version.entries, given["paths"])
        files = [entry for entry in chosen if entry.kind == "file"]
        self.engine.progress["transfer"] = self._transfer("Get", target, files)
        self._let_pass(task, "Restore_DownloadingRemoteFiles", 1.0, files)
        done = Restored()
        if not chosen and self.release.fails_without_match:
            raise EngineError("Restore selection matched zero files, nothing to restore",
                              help_id="EmptyRestoreOperation")
        prefix = largest_prefix(chosen)
        for entry in chosen:
            self._restore_one(target, entry, prefix, given, version.time, done)
        if not done.files and not done.folders and not done.links and not done.unmodified:
            report.line("Warning", f"{MAIN}.Operation.RestoreHandler-NoFilesRestored",
                        "Restore completed without errors but no files were restored")
        for line in done.warnings:
            report.line("Warning", f"{MAIN}.Operation.RestoreHandler-RestoreFailed", line)
        count_restored(report, done, files)
        self.engine.progress["transfer"] = None
        self.engine.enter(task, "Restore_Complete")

    def _restore_one(self, target: Target, entry: Entry, prefix: str, given: dict,
                     time: datetime, done: Restored) -> None:
        path = Path(entry.path)
        if given["restore_path"]:
            path = Path(given["restore_path"]) / entry.path[len(prefix):]
        try:
            restore_entry(target, entry, path, given["overwrite"], time,
                          not given["skip_metadata"], done)
        except OSError as error:
            done.warnings.append(f"Failed to restore {path}: {error.strerror}")
            done.broken.append(str(path))

    def _work(self, task: Task, report: Report, phase: str | None = None) -> Target:
        """The part that the small operations share: a database, a target, time, an ending."""
        if not task.backup.get("IsTemporary"):
            self._begin(task, report)
        target = target_of(task.backup)
        if not target.exists:
            raise target.missing()
        self._let_pass(task, phase or self.release.initial_phase, 1.0, [])
        ending = self._option(task, "ending")
        if ending == "fatal":
            raise EngineError("The demo job ends by an exception",
                              "System.InvalidOperationException")
        if ending in ("warning", "error"):
            report.line(ending.title(), f"{MAIN}.Operation-Demo", f"The demo job has a {ending}")
        return target

    def _verify(self, task: Task, report: Report) -> None:
        target = self._work(task, report, "Verify_Running")
        files = target.files()
        report.own["verified"] = [path.name for path in files[-3:]]
        if files and not self.release.has_v2:
            self.engine.progress["transfer"] = {**self._transfer("Get", target, []),
                                                "path": files[0].name}
        count_versions(report, target)
        self.engine.progress.update(overall=1.0)

    def _compact(self, task: Task, report: Report) -> None:
        self._work(task, report)

    def _vacuum(self, task: Task, report: Report) -> None:
        self._work(task, report, "Vacuum_Running")

    def _repair(self, task: Task, report: Report) -> None:
        target = self._work(task, report)
        stamps = set(target.stamps())
        if not stamps:
            raise EngineError("No filesets found on remote target", help_id="EmptyRemoteFolder")
        target.version(next(iter(stamps)))  # with a wrong passphrase this is where it ends
        database_of(task.backup).know(stamps)
        count_versions(report, target)
        self.engine.progress.update(overall=1.0)

    def _repairupdate(self, task: Task, report: Report) -> None:
        target = self._work(task, report)
        time, database = task.arguments.get("time"), database_of(task.backup)
        version = select(target.versions(), time)
        if version is None:
            raise EngineError("No filesets found on remote target", help_id="EmptyRemoteFolder")
        database.know(database.versions() | {moments.stamp(version.time)})

    def _listremote(self, task: Task, report: Report) -> None:
        target = self._work(task, report)
        report.own["Files"] = [remote_file(path) for path in target.files()]

    def _createreport(self, task: Task, report: Report) -> None:
        self._begin(task, report)
        self.engine.enter(task, "BugReport_Running")
        report.own["TargetPath"] = "/var/tmp/dup-report.zip"
        self.aftermath.notify(None, "Information", "Bugreport is ready for download",
                     message_id="BugreportCreatedReady", Title="Bugreport ready",
                     Action="bug-report:created:1", MessageLogTag="")

    def _delete(self, task: Task, report: Report) -> None:
        """Delete versions, by their numbers."""
        target = self._work(task, report)
        database = database_of(task.backup)
        stamps = sorted(database.versions(), reverse=True)
        deleted = []
        for number in sorted(task.arguments["versions"]):
            if 0 <= number < len(stamps):
                target.delete_version(stamps[number])
                deleted.append({"Item1": number, "Item2": moments.local_text(
                    moments.parse(_iso(stamps[number])))})
        database.know(set(target.stamps()))
        report.own |= {"DeletedSetsActualLength": len(deleted), "DeletedSets": deleted,
                       "Dryrun": False, "CompactResults": None}

    def _deletebackup(self, task: Task, report: Report) -> None:
        """Delete a job."""
        job, given = task.backup, task.arguments
        if given["remote_files"]:
            target_of(job).delete_all()
        if given["local_database"]:
            database_of(job).delete()
        self.store.delete_backup(job["ID"])


def _is_same(version: Version, found: list[tuple[Entry, Path]]) -> bool:
    """Whether a run found what the version before it has: then no other is made."""
    def facts(entries):
        return [(entry.path, entry.kind, entry.size, entry.modified) for entry in entries]
    return version.is_full and facts(version.entries) == facts(entry for entry, place in found)


def _iso(one: str) -> str:
    """A stamp in ISO 8601."""
    return f"{one[:4]}-{one[4:6]}-{one[6:11]}:{one[11:13]}:{one[13:15]}Z"
