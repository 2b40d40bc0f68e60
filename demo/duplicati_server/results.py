"""Result rows: what an operation of the demo Duplicati server leaves in a job's log, field for
field as each release writes it (section 4.3 of the protocol).

Guards: the fields, their order and kinds, by release and operation.
Leaves alone: whether a row is written at all; that is the engine's to know.
"""
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from demo.duplicati_server.moments import local_text, log_text, now, span_text, utc_text
from demo.duplicati_server.releases import Release

KEPT_LINES = 20
ZERO = "0001-01-01T00:00:00"
QUOTA = {"TotalQuotaSpace": 270553174016, "FreeQuotaSpace": 80281796608,
         "AssignedQuotaSpace": -1}
COUNTS = ("DeletedFiles", "DeletedFolders", "ModifiedFiles", "ExaminedFiles", "OpenedFiles",
          "AddedFiles", "SizeOfModifiedFiles", "SizeOfAddedFiles", "SizeOfExaminedFiles",
          "SizeOfOpenedFiles", "NotProcessedFiles", "AddedFolders", "TooLargeFiles",
          "FilesWithError", "TimestampChangedFiles", "ModifiedFolders", "ModifiedSymlinks",
          "AddedSymlinks", "DeletedSymlinks")
COMPACTED = ("DeletedFileCount", "DownloadedFileCount", "UploadedFileCount", "DeletedFileSize",
             "DownloadedFileSize", "UploadedFileSize")


@dataclass
class Report:
    """What an operation has to tell: its own fields, lines by kind, and the traffic."""
    operation: str
    started: datetime
    own: dict = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    traffic: dict = field(default_factory=dict)
    last_version: datetime | None = None
    versions: int = 0
    interrupted: bool = False
    parsed_result: str | None = None  # None: what the lines say

    def line(self, kind: str, tag: str, text: str) -> str:
        """Add a line (Information, Warning or Error); gives it as it stands in the row."""
        line = f"{log_text(now())} - [{kind}-{tag}]: {text}"
        {"Information": self.messages, "Warning": self.warnings, "Error": self.errors}[
            kind].append(line)
        return line

    @property
    def verdict(self) -> str:
        """Success, Warning, Error or Fatal."""
        if self.parsed_result:
            return self.parsed_result
        if self.errors or self.own.get("FilesWithError"):
            return "Error"
        if self.warnings or self.own.get("PartialBackup"):
            return "Warning"
        return "Success"


def backend_statistics(release: Release, report: Report) -> dict:
    """The traffic, and, before today's release, fields of the operation that mean nothing."""
    last = local_text(report.last_version) if report.last_version else ZERO
    quota = QUOTA if report.traffic else dict.fromkeys(QUOTA, 0)
    fields = {name: report.traffic.get(name, 0) for name in (
        "RemoteCalls", "BytesUploaded", "BytesDownloaded", "FilesUploaded", "FilesDownloaded",
        "FilesDeleted", "FoldersCreated", "RetryAttempts", "UnknownFileSize",
        "UnknownFileCount", "KnownFileCount", "KnownFileSize")}
    if release.has_v2:
        fields["KnownFilesets"] = report.versions
    fields |= {"LastBackupDate": last, "BackupListCount": report.versions, **quota,
               "ReportedQuotaError": False, "ReportedQuotaWarning": False}
    is_today = release.has_estimate
    if not is_today:
        fields["MainOperation"] = report.operation
    fields |= {"ParsedResult": "Success", **_interrupted(release, False),
               "Version": release.result_version}
    if not is_today:
        fields |= {"EndTime": ZERO, "BeginTime": utc_text(report.started), "Duration": "00:00:00"}
    return fields | _lines([], None)


def _interrupted(release: Release, value: bool) -> dict:
    return {"Interrupted": value} if release.has_interrupted else {}


def _lines(lengths: list[int], lines: list[list[str]] | None) -> dict:
    names = ("Messages", "Warnings", "Errors")
    lengths = lengths or [0, 0, 0]
    return {**{f"{name}ActualLength": length for name, length in zip(names, lengths)},
            **{name: lines[place] if lines else None for place, name in enumerate(names)}}


def _common(release: Release, report: Report, verdict: str, ended: datetime,
            lines: bool) -> dict:
    all_lines = [report.messages, report.warnings, report.errors]
    return {
        "ParsedResult": verdict,
        **_interrupted(release, report.interrupted and release.tells_interrupted),
        "Version": release.result_version, "EndTime": utc_text(ended),
        "BeginTime": utc_text(report.started),
        "Duration": span_text(ended - report.started or timedelta(microseconds=1)),
        **(_lines([len(one) for one in all_lines], [one[:KEPT_LINES] for one in all_lines])
           if lines else _lines([], None)),
        "BackendStatistics": backend_statistics(release, report)}


def compact_fields(own: dict) -> dict:
    """What is a compacting's own."""
    return {**{name: own.get(name, 0) for name in COMPACTED}, "Dryrun": False,
            "VacuumResults": None}


def _nested(release: Release, report: Report, operation: str, own: dict) -> dict:
    """The result of an operation inside another one."""
    ended = now()
    return {**own, "MainOperation": operation,
            **_common(release, report, "Success", ended, lines=False)} if operation != "Test" \
        else {"MainOperation": operation, **own,
              **_common(release, report, "Success", ended, lines=False)}


def _backup_fields(release: Release, report: Report) -> dict:
    own = report.own
    counts = {name: own.get(name, 0) for name in COUNTS
              if name != "TimestampChangedFiles" or release.has_v2}
    is_whole = "verified" in own
    results = {"CompactResults": _nested(release, report, "Compact", compact_fields({}))
               if is_whole else None, "VacuumResults": None,
               "DeleteResults": None, "RepairResults": None,
               "TestResults": None}
    if is_whole or (release.is_legacy and own.get("PartialBackup")):
        results["TestResults"] = _nested(release, report, "Test",
                                         test_fields(own.get("verified", [])))
    if own.get("deleted"):
        deleted = [{"Item1": number, "Item2": local_text(time)} for number, time in own["deleted"]]
        results["DeleteResults"] = _nested(release, report, "Delete", {
            "DeletedSetsActualLength": len(deleted), "DeletedSets": deleted, "Dryrun": False,
            "CompactResults": results["CompactResults"]})
    if release.has_v2:
        results |= {"LockResults": None, "RemoteSynchronizationResults": []}
    return {**counts, "PartialBackup": own.get("PartialBackup", False), "Dryrun": False,
            "MainOperation": "Backup", **results}


def test_fields(names: list[str]) -> dict:
    """What is a verification's own: the remote files that were looked at, with no complaints."""
    return {"VerificationsActualLength": len(names),
            "Verifications": [{"Key": name, "Value": []} for name in names]}


def _restore_fields(release: Release, report: Report) -> dict:
    own, fields = report.own, {}
    if release.has_v2:
        fields = {"BrokenLocalFiles": own.get("BrokenLocalFiles", []),
                  "BrokenRemoteFiles": own.get("BrokenRemoteFiles", [])}
    fields |= {"RestoredFiles": own.get("RestoredFiles", 0),
               "SizeOfRestoredFiles": own.get("SizeOfRestoredFiles", 0)}
    if release.has_v2:
        fields["SizeOfRestoredData"] = own.get("SizeOfRestoredFiles", 0)
    fields |= {name: own.get(name, 0) for name in (
        "RestoredFolders", "RestoredSymlinks", "PatchedFiles", "DeletedFiles", "DeletedFolders",
        "DeletedSymlinks")}
    if release.has_v2:
        fields |= {"UnmodifiedFiles": own.get("UnmodifiedFiles", 0),
                   "SizeOfUnmodifiedFiles": own.get("SizeOfUnmodifiedFiles", 0),
                   "RestorePath": own.get("RestorePath")}
        fields |= {name: own[name] for name in ("TotalVolumesAccessed",) if name in own}
    return fields | {"MainOperation": "Restore", "RecreateDatabaseResults": None}


def row(release: Release, report: Report) -> str:
    """The Message of a row of Type Result: JSON in a string."""
    operation, own = report.operation, report.own
    if operation == "Backup":
        fields = _backup_fields(release, report)
    elif operation == "Restore":
        fields = _restore_fields(release, report)
    elif operation == "Test":
        fields = {"MainOperation": operation, **test_fields(own.get("verified", []))}
    elif operation == "Compact":
        fields = {**compact_fields(own), "MainOperation": operation}
    elif operation == "Repair":
        fields = {"MainOperation": operation, "RecreateDatabaseResults": None}
    elif operation == "List":
        fields = {"EncryptedFiles": False, "Filesets": own.get("Filesets"), "Files": None,
                  "MainOperation": operation}
    elif operation in ("ListRemote", "Delete"):
        fields = {**own, "MainOperation": operation}
    else:
        fields = {"MainOperation": operation, **own}
    fields |= _common(release, report, report.verdict, now(), lines=True)
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
