"""Versions and files of a backup, whatever the server's generation.

Guards: that a version is what its server says it is (whole, partial or not known), that
a path typed by a person is found as the backed-up system wrote it, that a folder is read
to its last page, and that any JSON gives an answer or an error of ours. Leaves alone:
sessions and what a call's failure means (calls), and what a selection is for (restoring).

Servers from 2.1.1 on have v2 calls, all others `/filesets` and `/files`; the oldest want
the filter of `/files` in its path. Each listing is an operation of the server's own: it
takes a moment, a task number and a row in the backup's log, so none is made twice.

Source: protocol page of Duplicati, §3.5, §3.7, and for the old generation §2.7.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from remotes.duplicati import moments
from remotes.duplicati.calls import is_missing_endpoint
from remotes.duplicati.masking import masked_text
from remotes.errors import ForeignServerError, NotFoundError, RefusedError, UnavailableError

PAGE_SIZE = 1000
# A backup without a version yet: no target folder, an empty one, no row in its database.
_NO_VERSION_CODES = ("FolderMissing", "EmptyRemoteFolder", "NoFilesetsFound",
                     "FolderMissingException")
_NO_VERSION_TEXT = "folder-missing"
_WINDOWS_PATH = re.compile(r"[A-Za-z]:([\\/]|$)|\\\\")


@dataclass(frozen=True)
class Version:
    """One version of a backup. What the server does not say is None.

    `number`: 0 is the newest. `time`: aware, UTC. `is_full`: False for a partial one.
    `files`: how many files (v1); `entries`: files, folders and links together (v2).
    `bytes`: the size of all files. `stamp`: its time in the server's own words, which are
    the ones to ask with: v2 knows a version by its time, to the second.
    """

    number: int
    time: datetime
    is_full: bool | None
    files: int | None
    entries: int | None
    bytes: int | None
    stamp: str

    def answer(self):
        """The version as it stands in an answer."""
        return {"version": self.number, "time": moments.iso(self.time), "full": self.is_full,
                "files": self.files, "entries": self.entries, "bytes": self.bytes}

    def words(self):
        """`version 0 of 2026-08-22 12:03:00 +0200 (whole)`, for people."""
        state = {True: "whole", False: "partial", None: "whole or partial, the server does not say"}
        return f"version {self.number} of {moments.local_text(self.time)} ({state[self.is_full]})"


@dataclass(frozen=True)
class Entry:
    """A file or a folder of a version; a folder's `path` ends with the separator.

    `size` in bytes, None for folders and links. `modified`: aware or None (v1 has none).
    """

    path: str
    size: int | None
    is_folder: bool
    modified: datetime | None = None

    def answer(self):
        """The entry as it stands in an answer."""
        return {"path": self.path, "bytes": self.size, "folder": self.is_folder,
                "modified": moments.iso(self.modified)}


def choose_version(versions, number=None, at=None, *, backup="the backup", why_none=None):
    """The Version of that `number`, else the newest at or before `at` (aware), else the newest.

    `backup` and `why_none` (what the server said) are for the message.
    Errors: NotFoundError, which names what there is.
    """
    if not versions:
        why = f"the server says {why_none}" if why_none else "it never ran to its end"
        raise NotFoundError(f"{backup} has no version: {why}")
    oldest = versions[-1]
    there = f"there are {len(versions)}, from {oldest.words()} to {versions[0].words()}" \
        if len(versions) > 1 else f"there is {oldest.words()} alone"
    if number is not None:
        for version in versions:
            if version.number == number:
                return version
        raise NotFoundError(f"{backup} has no version {number}: {there}")
    for version in versions:
        if at is None or version.time <= at:
            return version
    raise NotFoundError(f"{backup} has no version at or before {moments.local_text(at)}: {there}")


def separator_of(path):
    """The separator of the system that wrote `path`: a backslash for Windows, else a slash."""
    return "\\" if _WINDOWS_PATH.match(path) else "/"


class Browser:
    """The versions and files of backup `backup_id` (text) on `server` (Duplicati).

    `is_temporary`: a backup without a local database, whose versions are read from the
    target. `why_none`: what the server said when there were no versions, or None.
    """

    def __init__(self, server, backup_id, *, is_temporary=False):
        self.backup_id = backup_id
        self.why_none = None
        self._server = server
        self.is_temporary = is_temporary
        self._has_v2 = not server.is_legacy
        self._listed = {}  # (version's number, folder or None for the roots) -> [Entry]

    # -- versions ----------------------------------------------------------------

    def versions(self):
        """[Version], newest first; [] for a backup that has none yet.

        Errors: NotFoundError if there is no such backup; UnavailableError while its
        database is in use.
        """
        self.why_none = None
        try:
            rows = self._v2_versions() if self._has_v2 else None
            if rows is None:
                rows = self._v1_versions()
        except NotFoundError as error:
            raise self._server.unknown_backup(self.backup_id, error) from None
        except (RefusedError, UnavailableError) as error:
            if not self._means_no_version(error):
                raise
            self.why_none = str(error)
            rows = []
        return sorted((self._version(row) for row in _rows(rows, "versions")),
                      key=lambda version: version.number)

    def _v2_versions(self):
        """The rows of v2; None if this server has no v2, which is then remembered."""
        try:
            return self._server.call("POST", "v2/backup/list-filesets",
                                     document={"BackupId": self.backup_id})
        except NotFoundError as error:
            if not is_missing_endpoint(error):
                raise
            self._has_v2 = False
            return None

    def _v1_versions(self):
        return self._server.call("GET", f"v1/backup/{quote(self.backup_id, safe='')}/filesets",
                                 query={"include-metadata": not self.is_temporary,
                                        "from-remote-only": self.is_temporary})

    def _means_no_version(self, error):
        """Whether a failed listing means that the backup never ran to its end."""
        said = error.answer if isinstance(error.answer, dict) else {}
        if error.code in _NO_VERSION_CODES or said.get("Error") == _NO_VERSION_TEXT:
            return True
        if error.code or error.kind != "server_error":
            return False
        if self.is_temporary:
            return self._is_logged_so(error)
        # 2.1.0 has one answer for all: 500, "An error occurred". Its metadata know more.
        if self._server.is_active(self.backup_id):
            raise UnavailableError(
                f"backup {self.backup_id} has a task under way, and its server lists nothing"
                " meanwhile; try again later", kind="busy", answer=error.answer) from error
        metadata = self._server.backup(self.backup_id)["Backup"].get("Metadata")
        return isinstance(metadata, dict) and not metadata.get("LastBackupDate")

    def _is_logged_so(self, error):
        """For "An error occurred": whether the live log says so; else an error with its words."""
        for entry in reversed(self._server.live_log(level="Error", page_size=500)):
            if entry.get("BackupID") == self.backup_id:
                if any(code in str(entry.get("Exception")) for code in _NO_VERSION_CODES):
                    return True
                raise RefusedError(f"{error}: {logged_words(entry)}", answer=error.answer
                                   ) from error
        return False

    def _version(self, row):
        number, stamp, full = row.get("Version"), row.get("Time"), row.get("IsFullBackup")
        time = moments.parse(stamp) if isinstance(stamp, str) else None
        if type(number) is not int or time is None:
            raise ForeignServerError(f"a version without a number or a time: {row!r:.120}",
                                     answer=row)
        count = _count(row.get("FileCount"))
        if self.is_temporary and not self._has_v2:
            full = None  # v1 calls whatever it finds at a target whole
        return Version(number, time, None if full is None else bool(full),
                       None if self._has_v2 else count, count if self._has_v2 else None,
                       _count(row.get("FileSizes")), stamp)

    # -- files -------------------------------------------------------------------

    def roots(self, version):
        """[Entry]: the topmost folders of the version."""
        return self._listing(version, None)

    def folder(self, version, path):
        """[Entry]: what lies directly in the folder `path`, folders first.

        `path` ends with its separator and is spelled as in the backup; one that is not
        there has nothing in it.
        """
        return self._listing(version, path)

    def _listing(self, version, path):
        key = version.number, path
        if key not in self._listed:
            if self._has_v2:
                found = [_v2_entry(row) for row in self._pages("v2/backup/list-folder", {
                    "Paths": None if path is None else [path], "Time": version.stamp})]
            else:
                found = self._v1_files(version, None if path is None else _literal(path),
                                       is_folder=path is not None)
            self._listed[key] = sorted(found, key=lambda entry: not entry.is_folder)
        return self._listed[key]

    def search(self, version, pattern):
        """[Entry]: what `pattern` matches in the version.

        A plain text is looked for anywhere in a path; with `*` or `?` it must match the
        whole path; `[…]` is a regular expression for the whole path.
        """
        if self._has_v2 and not re.fullmatch(r"\[.*\]|\{.*\}", pattern, re.DOTALL):
            which = {"Version": [version.number]}
            if self.is_temporary:  # its database holds the one version, under a number of its own
                which = {"Time": version.stamp}
            rows = self._pages("v2/backup/search", {"Paths": None, "Filters": [pattern], **which})
            return [_v2_entry(row) for row in rows
                    if self.is_temporary or row.get("Version") == version.number]
        if not re.search(r"[*?]|^\[.*\]$|^\{.*\}$", pattern, re.DOTALL):
            pattern = f"*{pattern}*"
        return self._v1_files(version, pattern)

    def tree(self, version, path=None):
        """[Entry]: all that lies below the folder `path`, itself included if it is listed.

        Without a path: all of the version.
        """
        if path is None:
            return self.search(version, "*")
        # Nothing but wildcards has a meaning in a pattern that covers more than the folder;
        # what it finds too much is left out here.
        pattern = re.sub(r"[\[\]{}@]", "?", path) + "*"
        return [entry for entry in self.search(version, pattern) if entry.path.startswith(path)]

    def find(self, version, typed):
        """The Entry of the path that a person typed, or None.

        A folder is found with and without its separator, and also one above the roots.
        Paths of a Windows system are found in any case and with either slash.
        """
        roots = self.roots(version)
        separator = separator_of(roots[0].path if roots else typed)
        if separator == "\\":
            typed = typed.replace("/", "\\")
        bare = typed.rstrip(separator)
        folder = bare + separator
        for root in roots:
            if _same(root.path[:len(folder)], folder):  # it, or one above it
                return root if len(root.path) == len(folder) \
                    else Entry(root.path[:len(folder)], None, True)
        parent = self._spelled(version, roots, bare.rpartition(separator)[0] + separator)
        for entry in self.folder(version, parent) if parent else ():
            if _same(entry.path, folder) or (_same(entry.path, bare) and typed == bare):
                return entry
        return None

    def _spelled(self, version, roots, folder):
        """The folder as the backup spells it; None if a Windows path is not there."""
        if separator_of(folder) == "/":
            return folder
        for root in roots:
            if not _same(folder[:len(root.path)], root.path):
                continue
            spelled = root.path
            while spelled and len(spelled) < len(folder):
                spelled = next((entry.path for entry in self.folder(version, spelled)
                                if entry.is_folder and _same(folder[:len(entry.path)], entry.path)),
                               None)
            return spelled
        return None

    def _pages(self, path, question):
        """The rows of all pages. `PageInfo` is not to be believed (§3.5): a page that is not
        full is the last one."""
        rows, former, page = [], None, 0
        while True:
            batch = _rows(self._server.call("POST", path, document={
                "BackupId": self.backup_id, **question, "PageSize": PAGE_SIZE, "Page": page,
            }), path)
            rows += batch
            if len(batch) < PAGE_SIZE:
                return rows
            if batch == former:
                raise ForeignServerError(f"{path} gives the same page again and again")
            former, page = batch, page + 1

    def _v1_files(self, version, pattern, *, is_folder=False):
        """[Entry] of `/files`: `pattern` None for the roots; `is_folder`: its children."""
        path = f"v1/backup/{quote(self.backup_id, safe='')}/files"
        query = {"prefix-only": pattern is None, "folder-contents": is_folder,
                 "time": version.stamp}
        if self._server.is_legacy:
            path += "/*" if pattern is None else f"/{quote(pattern, safe='')}"
        elif pattern is not None:
            query["filter"] = pattern
        said = self._server.call("GET", path, query=query)
        rows = said.get("Files") if isinstance(said, dict) else None
        return [_v1_entry(row) for row in _rows(rows, path)]


def _literal(path):
    """A folder as a filter of v1 that means that folder and nothing else."""
    return f"@{path}" if re.search(r"[*?]|^[@\[{]", path) else path


def _same(one, other):
    """Whether two paths are the same one, by the rules of the system that wrote them."""
    return one == other or (separator_of(one) == "\\" and one.casefold() == other.casefold())


def _rows(said, what):
    if not isinstance(said, list) or not all(isinstance(row, dict) for row in said):
        raise ForeignServerError(f"{what}: the answer is no list of rows", answer=said)
    return said


def _count(number):
    return number if type(number) is int and number >= 0 else None


def _v2_entry(row):
    path = row.get("Path")
    if not isinstance(path, str):
        raise ForeignServerError(f"a file without a path: {row!r:.120}", answer=row)
    is_folder = row.get("IsDirectory") is True
    return Entry(path, None if is_folder else _count(row.get("Size")), is_folder,
                 moments.parse(row.get("LastModified")))


def _v1_entry(row):
    path, sizes = row.get("Path"), row.get("Sizes")
    if not isinstance(path, str) or not isinstance(sizes, (list, type(None))):
        raise ForeignServerError(f"a file without a path or sizes: {row!r:.120}", answer=row)
    is_folder = path.endswith(separator_of(path))
    # Of several versions, the order of the sizes is not to be relied on.
    known = {_count(size) for size in sizes or ()} - {None}
    return Entry(path, known.pop() if len(known) == 1 and not is_folder else None, is_folder)


def logged_words(entry):
    """What an entry of the live log (§5.7) says, in one line: its exception's message."""
    exception = entry.get("Exception")
    first = exception.splitlines()[0] if isinstance(exception, str) and exception else ""
    return masked_text(first.partition(": ")[2] or f"{entry.get('Message')}")


def list_files(browser, version, paths=(), pattern=None):
    """[Entry]: the roots; what lies in each of `paths` (a file: itself); what `pattern`
    matches, below `paths` if there are any.

    Errors: NotFoundError for a path that the version does not hold.
    """
    folders = []
    for path in paths:
        entry = browser.find(version, path)
        if entry is None:
            raise NotFoundError(f"{path} is not in {version.words()}")
        folders.append(entry)
    if pattern is not None:
        found = browser.search(version, pattern)
        return [entry for entry in found if not folders or any(
            entry.path.startswith(folder.path) for folder in folders)]
    if not folders:
        return browser.roots(version)
    found = []
    for entry in folders:
        found += _inside(browser, version, entry) if entry.is_folder else [entry]
    return found


def _inside(browser, version, folder):
    """What lies in a folder; of one above the roots, the roots below it."""
    roots = browser.roots(version)
    if any(root.path != folder.path and root.path.startswith(folder.path) for root in roots):
        return [root for root in roots if root.path.startswith(folder.path)]
    return browser.folder(version, folder.path)
