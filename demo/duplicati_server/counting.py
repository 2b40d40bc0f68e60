"""What an operation of the demo Duplicati server counts: files, bytes, versions, and what was
said to the target.

Guards: that the numbers in results and logs are those of what was done.
Leaves alone: where they are written.
"""
import hashlib
import json
from base64 import b64encode
from datetime import datetime
from pathlib import Path

from demo.duplicati_server.moments import local_text
from demo.duplicati_server.results import Report
from demo.duplicati_server.versions import Entry, Restored, Target, Version


def remote_file(path: Path) -> dict:
    """A remote file as listings have it."""
    changed = local_text(datetime.fromtimestamp(path.stat().st_mtime).astimezone())
    return {"Name": path.name, "LastAccess": changed, "LastModification": changed,
            "Created": "0001-01-01T00:00:00", "Size": path.stat().st_size, "IsFolder": False,
            "IsArchived": False}


def _transfer(name: str, path: Path) -> tuple[str, str, str]:
    digest = b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
    return name, path.name, f'{{"Size":{path.stat().st_size},"Hash":"{digest}"}}'


def _listing(paths: list[Path]) -> tuple[str, str, str]:
    rows = ",\n".join(json.dumps(remote_file(path)) for path in paths)
    return "list", "", f"[\n{rows}\n]"


def said(target: Target, made: list[Path], lists_first: bool) -> list[tuple[str, str, str]]:
    """What a run said to the target: (operation, path, data), in order."""
    puts, files = [_transfer("put", path) for path in made], target.files()
    if lists_first:
        return [_listing([path for path in files if path not in made]), *puts, _listing(files)]
    return [*puts, _listing(files), *(_transfer("get", path) for path in made)]


def count_versions(report: Report, target: Target) -> None:
    """How many versions there are, and when the last whole one was made."""
    versions = target.versions()
    report.versions = len(versions)
    report.last_version = next((one.time for one in versions if one.is_full), None)


def count_run(report: Report, version: Version, earlier: dict[str, Entry], target: Target,
              made: list[Path]) -> None:
    """What a run found, compared with the version before (`earlier`: its entries by path)."""
    files, remote = version.files, target.files()
    added = [entry for entry in files if entry.path not in earlier]
    modified = [entry for entry in files
                if entry.path in earlier and entry.content != earlier[entry.path].content]
    uploaded = sum(path.stat().st_size for path in made)
    present = {entry.path for entry in version.entries}
    gone = [path for path in earlier if path not in present]
    new = [entry.kind for entry in version.entries if entry.path not in earlier]
    report.own |= {
        "ExaminedFiles": len(files), "SizeOfExaminedFiles": version.size,
        "OpenedFiles": len(added) + len(modified), "AddedFiles": len(added),
        "ModifiedFiles": len(modified),
        "SizeOfAddedFiles": sum(entry.size for entry in added),
        "SizeOfModifiedFiles": sum(entry.size for entry in modified),
        "SizeOfOpenedFiles": sum(entry.size for entry in added + modified),
        "AddedFolders": new.count("folder"), "AddedSymlinks": new.count("link"),
        "DeletedFiles": sum(not path.endswith("/") for path in gone),
        "DeletedFolders": sum(path.endswith("/") for path in gone)}
    report.traffic |= {
        "RemoteCalls": 2 * len(made) + 3, "BytesUploaded": uploaded,
        "BytesDownloaded": uploaded, "FilesUploaded": len(made),
        "FilesDownloaded": len(made), "KnownFileCount": len(remote),
        "KnownFileSize": sum(path.stat().st_size for path in remote)}
    count_versions(report, target)


def count_restored(report: Report, done: Restored, files: list[Entry]) -> None:
    """What a restore did; `files`: those that were chosen."""
    report.own |= {
        "RestoredFiles": done.files, "SizeOfRestoredFiles": done.size,
        "RestoredFolders": done.folders, "RestoredSymlinks": done.links,
        "UnmodifiedFiles": done.unmodified, "SizeOfUnmodifiedFiles": done.unmodified_size,
        "BrokenLocalFiles": done.broken}
    if files:
        report.own["TotalVolumesAccessed"] = min(len(files), 2)
    report.traffic |= {"RemoteCalls": 2, "FilesDownloaded": 1, "BytesDownloaded": done.size}
