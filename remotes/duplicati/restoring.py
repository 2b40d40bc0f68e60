"""Restores: what is chosen, how each generation is asked for it, and what came back.

Guards: that a restore goes nowhere but where it was told to, and overwrites nothing
unless told (each value is sent, since a server's own default differs by release; the old
generation gets a form, since it ignores JSON and puts everything back in place); that it
is of the version that was chosen, by its absolute time; that a selection which matches
nothing is known before anything starts. Leaves alone: waiting (tasks), and listing
(browsing).

Source: protocol page of Duplicati, §3.6, §3.7, and §2.7 for the old generation.
"""

import json
import re
import time
from dataclasses import dataclass, field, replace

from remotes.duplicati import outcomes, tasks
from remotes.duplicati.browsing import Entry, Version, logged_words
from remotes.errors import ForeignServerError, NotFoundError, RemotesError, UsageError

_ABSOLUTE = re.compile(r"/|[A-Za-z]:[\\/]|\\\\")
# What has a meaning in a regular expression of .NET, which is what servers match with.
_REGEX_SIGNS = re.compile(r"[\\*+?|{}\[\]()^$.#]")
# An abort is done within a second, or within some ten on 2.0.8.1.
_ABORT_SECONDS = 30.0
_ABORT_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Selection:
    """What of a version is to come back: `expressions` for the server ([] is everything),
    and the `entries` (files, and folders with all that is in them) and `patterns` behind them.
    """

    version: Version
    expressions: list[str]
    entries: list[Entry] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)


def select(browser, version, typed=()):
    """The Selection of the paths and patterns that a person typed; none is everything.

    A path is looked for as it stands; only if there is none, `*` and `?` make it a pattern.
    Errors: NotFoundError if one of them matches nothing.
    """
    entries, patterns, missing = [], [], []
    for path in typed:
        entry = browser.find(version, path)
        if entry is not None:
            entries.append(entry)
        elif re.search(r"[*?]", path) and browser.search(version, path):
            patterns.append(path)
        else:
            missing.append(path)
    if missing:
        raise NotFoundError(f"nothing is started: {version.words()} holds nothing of"
                            f" {', '.join(missing)}")
    if not typed and not browser.roots(version):
        raise NotFoundError(f"nothing is started: {version.words()} is empty")
    return Selection(version, [expression(entry) for entry in entries] + patterns,
                     entries, patterns)


def expression(entry):
    """The filter expression that matches an Entry, and of a folder all that is in it."""
    if not entry.is_folder:
        return f"@{entry.path}"
    return "[" + _REGEX_SIGNS.sub(r"\\\g<0>", entry.path) + ".*]"


def planned(browser, selection):
    """[Entry]: every file and folder that the selection would bring back, by path."""
    found = []
    if not selection.expressions:
        found = browser.tree(selection.version)
    for entry in selection.entries:
        found += [entry] if not entry.is_folder else browser.tree(selection.version, entry.path)
    for pattern in selection.patterns:
        found += browser.search(selection.version, pattern)
    by_path = {entry.path: entry for entry in found}
    return [by_path[path] for path in sorted(by_path)]


def checked_folder(typed):
    """A folder on the server's host to restore into. Errors: UsageError.

    A relative one would be the server's own affair, and `@…` is an address, not a folder.
    """
    if not _ABSOLUTE.match(typed) or "\0" in typed:
        raise UsageError(f"--restore_path must be an absolute path on the server's host, and not"
                         f" {typed!r:.80}")
    return typed


def restore_question(selection, restore_path, *, is_legacy, overwrite=False, skip_metadata=False,
                     passphrase=None):
    """What to POST to `/backup/{id}/restore`, as the arguments of a call.

    `restore_path` None: to where the files came from. `passphrase`: for a backup that
    keeps none.
    """
    values = {
        "paths": selection.expressions, "time": selection.version.stamp,
        "restore_path": restore_path, "overwrite": overwrite, "permissions": False,
        "skip_metadata": skip_metadata, "passphrase": passphrase,
    }
    return _question(values, is_legacy)


def repair_question(version, *, is_legacy, paths=None):
    """What to POST to `/repair` or `/repairupdate`, as the arguments of a call.

    `paths` None: the names of all files of the version, and nothing else of them.
    """
    values = {"only_paths": paths is None, "time": version.stamp, "paths": paths}
    return _question(values, is_legacy)


def _question(values, is_legacy):
    if not is_legacy:
        return {"document": values}
    form = {}
    for name, value in values.items():
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, list):
            value = json.dumps(value)
        if value is not None:
            form[name.replace("_", "-")] = value
    return {"form": form}


def came_back(result):
    """What the result row (mapping) of a restore says that came back, and what did not.

    Servers before 2.3 say less; what is not said is left out.
    """
    names = {"files": "RestoredFiles", "bytes": "SizeOfRestoredFiles",
             "folders": "RestoredFolders", "links": "RestoredSymlinks",
             "unchanged": "UnmodifiedFiles", "patched": "PatchedFiles"}
    found = {name: result[key] for name, key in names.items() if type(result.get(key)) is int}
    broken = []
    for key in ("BrokenLocalFiles", "BrokenRemoteFiles"):
        broken += [f"{path}" for path in result.get(key) or () if isinstance(path, str)] \
            if isinstance(result.get(key), list) else []
    found["not_restored"] = broken
    for name, key in (("errors", "Errors"), ("warnings", "Warnings")):
        lines = result.get(key)
        if isinstance(lines, list) and lines:
            found[name] = [f"{line}" for line in lines]
    return found


# -- without a job -------------------------------------------------------------------


def temporary_document(target_url, passphrase=None):
    """The document of a temporary backup on the bare target at `target_url`."""
    if passphrase is None:
        settings = [{"Name": "--no-encryption", "Value": "true"}]
    else:
        settings = [{"Name": "encryption-module", "Value": "aes"},
                    {"Name": "passphrase", "Value": passphrase}]
    return _temporary(target_url, settings)


def exported_document(export, passphrase=None):
    """The document of a temporary backup from an export: its target and its settings.

    `export`: what a server or this program exported, parsed; `passphrase` replaces its own,
    or fills in for one that was left out.
    Errors: UsageError if it is no export, or if the backup is encrypted and nobody knows how.
    """
    backup = export.get("Backup", export) if isinstance(export, dict) else None
    target = backup.get("TargetURL") if isinstance(backup, dict) else None
    settings = _named_settings(backup.get("Settings")) if isinstance(target, str) else None
    if settings is None:
        raise UsageError("--config_file is no exported backup: it has no target, or no settings")
    if "***" in target:
        raise UsageError("--config_file was exported without passwords, and its target needs one:"
                         " use --target_url, or export it with its passwords")
    # --dbpath names a file of the host that the export comes from.
    kept = {name: value for name, value in settings.items()
            if not _is_masked(value) and name.lstrip("-") != "dbpath"}
    if passphrase is not None:
        kept["passphrase"] = passphrase
    is_plain = f"{kept.get('--no-encryption', '')}".lower() == "true"
    if not is_plain and kept.get("encryption-module") and not kept.get("passphrase"):
        raise UsageError("--config_file holds no passphrase, and the backup is encrypted: say it"
                         " with --passphrase_file")
    return _temporary(target, [{"Name": name, "Value": value} for name, value in kept.items()])


def _named_settings(settings):
    """Settings by their names, from the list of an export or a mapping; None if they are none."""
    if isinstance(settings, (list, type(None))):
        rows = settings or []
        if not all(isinstance(row, dict) and isinstance(row.get("Name"), str) for row in rows):
            return None
        return {row["Name"]: row.get("Value") for row in rows}
    return settings if isinstance(settings, dict) else None


def _is_masked(value):
    return isinstance(value, str) and len(value) > 3 and not value.strip("*")


def _temporary(target_url, settings):
    return {"Backup": {"Name": "Restore", "Description": "", "Tags": [], "TargetURL": target_url,
                       "DBPath": None, "Sources": [], "Settings": settings, "Filters": [],
                       "Metadata": {}}, "Schedule": None}


class TemporaryBackups:
    """Backups that a server has for one restore alone; in a `with`, they go at its end.

    However it ends: a task that is still under way is aborted first, since nobody could
    come back to it without its backup. `tell` is called with lines for people.
    """

    def __init__(self, server, tell):
        self._server = server
        self._tell = tell
        self._backups = []
        self._busy = None  # the one that a task was asked for, until that is over
        self._task = None  # the task's number, once it is known

    def create(self, document):
        """A new one from a document (see temporary_document); gives its ID."""
        return self._keep(self._server.call("POST", "v1/backups", query={"temporary": True},
                                            document=document))

    def copy(self, backup_id):
        """A copy of one, without its database; gives its ID."""
        return self._keep(self._server.call("POST", f"v1/backup/{backup_id}/copytotemp"))

    def _keep(self, said):
        backup_id = said.get("ID") if isinstance(said, dict) else None
        if not isinstance(backup_id, str) or not re.fullmatch(r"[0-9A-Za-z-]+", backup_id):
            raise ForeignServerError("the server makes a temporary backup and does not name it",
                                     answer=said)
        self._backups.append(backup_id)
        return backup_id

    def run(self, backup_id, operation, question, wait):
        """Has the server do `repairupdate`, `repair` or `restore` on one, and waits for the
        end; gives the Outcome. `question`: arguments of a call; `wait(started)` -> Ending.
        """
        started = tasks.note(self._server, backup_id, tasks.OPERATIONS[operation])
        self._busy, self._task = backup_id, None
        tasks.start(self._server, started, lambda: self._server.call(
            "POST", f"v1/backup/{backup_id}/{operation}", **question))
        self._task = started.number
        ending = wait(started)
        self._busy = None
        outcome = outcomes.find(self._server, started, ending)
        return self._without_row(started, outcome) if outcome.result == "unknown" else outcome

    def _without_row(self, started, outcome):
        """A temporary backup may leave no row, and before 2.3 a task that failed is "Completed".
        What is left is the phase at its end (section 5.2; a repair has none of its own), and
        the warnings and errors that the live log keeps for who asks late (section 5.7).
        """
        progress = self._server.progress() or {}
        phase = str(progress.get("Phase")) if progress.get("TaskID") == started.number else None
        told = {"Warning": [], "Error": []}
        for entry in self._server.live_log(level="Warning", page_size=500):
            if str(entry.get("TaskID")) == str(started.number) and entry.get("Type") in told:
                told[entry["Type"]].append(logged_words(entry))
        lines = {"warnings": told["Warning"], "errors": told["Error"]}
        if phase == "Error":
            why = told["Error"][0] if told["Error"] else "the server tells no reason"
            return replace(outcome, result="error", why=why, **lines)
        if phase != "Restore_Complete" and not (phase and started.operation == "Repair"):
            return outcome
        if any(lines.values()):
            result = "error" if told["Error"] else "warning"
            return replace(outcome, result=result, why=(told["Error"] + told["Warning"])[0],
                           **lines)
        counts = {name: progress.get(key) for name, key in (
            ("RestoredFiles", "TotalFileCount"), ("SizeOfRestoredFiles", "TotalFileSize"))}
        return replace(outcome, result="success", why="it came to its end without a warning",
                       row=counts if started.operation == "Restore" else None)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        if self._busy is not None:
            self._abort()
        for backup_id in reversed(self._backups):
            try:
                self._server.call("DELETE", f"v1/backup/{backup_id}",
                                  query={"delete-local-db": True})
            except NotFoundError:
                continue  # the server was started anew, and has forgotten it
            except RemotesError as error:
                self._tell(f"the temporary backup {backup_id} stays until the server's next start:"
                           f" {error}")

    def _abort(self):
        """Ends the task that is under way, and waits until it has ended."""
        until = time.monotonic() + _ABORT_SECONDS
        try:
            # Cut off between the request and its answer, nobody knows the number yet.
            task = self._task or tasks.number_of(self._server.state(), self._busy)
            if task is None:
                return
            self._tell(f"task {task} of the server is aborted: its temporary backup goes")
            self._server.call("POST", f"v1/task/{task}/abort")
            while time.monotonic() < until:
                if self._server.task(task).get("Status") not in ("Running", "Waiting"):
                    return
                time.sleep(_ABORT_LOOK_SECONDS)
        except NotFoundError:
            return
        except RemotesError as error:
            self._tell(f"whether the task of {self._busy} has ended is not known: {error}")
