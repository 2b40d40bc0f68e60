"""Versions at a target: the files of a job, walked, kept, listed, matched and given back.

Guards: that what is listed can be restored, byte for byte, also by another server that is given
the same target and nothing else. A version is a zip file with a list of its entries; the bytes
of files lie in other zip files, each once, by their SHA-256.
Leaves alone: Duplicati's own formats, and encryption: a target that was made with a passphrase
is not opened without it, but that is all.
"""
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import unquote

from demo.duplicati_server.answers import EngineError
from demo.duplicati_server.moments import stamp

FOLDER_MISSING = "Duplicati.Library.Interface.FolderMissingException"
WRONG_PASSPHRASE = "Failed to decrypt data (invalid passphrase?): Invalid password or " \
                   "corrupted data"


@dataclass(frozen=True)
class Entry:
    """A file, folder (its path ends with a slash) or link of a version. `size` -1 for what is
    no file; `modified` in Unix seconds; `content`: the SHA-256 of a file, what a link points to."""
    path: str
    kind: str
    size: int
    modified: float
    content: str = ""


@dataclass
class Version:
    """A version: its time (whole seconds), whether the run went to its end, and its entries."""
    time: datetime
    is_full: bool
    entries: list[Entry] = field(default_factory=list)

    @property
    def files(self) -> list[Entry]:
        """Its files, without folders and links."""
        return [entry for entry in self.entries if entry.kind == "file"]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry.size for entry in self.files)


def matcher(expression: str) -> Callable[[str], bool] | None:
    """What a filter expression matches (section 3.7); None for a named group."""
    if expression.startswith("@"):
        return lambda path: path == expression[1:]
    if expression.startswith("[") and expression.endswith("]"):
        pattern = re.compile(expression[1:-1], re.DOTALL)
        return lambda path: pattern.fullmatch(path) is not None
    if expression.startswith("{") and expression.endswith("}"):
        return None
    if "*" in expression or "?" in expression:
        pattern = re.compile("".join(
            ".*" if char == "*" else "." if char == "?" else re.escape(char)
            for char in expression), re.DOTALL)
        return lambda path: pattern.fullmatch(path) is not None
    return lambda path: path == expression


def _is_left_out(path: str, filters: list[tuple[bool, Callable]]) -> bool:
    """Whether the first filter that matches says so."""
    return not next((include for include, matches in filters if matches(path)), True)


def walk(sources: list[str], filters: list[dict]) -> Iterator[tuple[Entry, Path]]:
    """The entries that a run over these sources finds, each with its file; sources that are not
    there are left out. A folder that is left out is not entered."""
    rules = [(rule["Include"], matches) for rule in sorted(
        filters or [], key=lambda rule: rule["Order"])
        if (matches := matcher(rule["Expression"]))]
    for source in sources:
        place = Path(source.replace("%HOME%", str(Path.home())))
        if place.exists() or place.is_symlink():
            yield from _walk(place, rules)


def _walk(place: Path, rules: list) -> Iterator[tuple[Entry, Path]]:
    status = place.lstat()
    if place.is_symlink():
        entry = Entry(str(place), "link", -1, status.st_mtime, os.readlink(place))
    elif place.is_dir():
        entry = Entry(str(place) + "/", "folder", -1, status.st_mtime)
    else:
        entry = Entry(str(place), "file", status.st_size, status.st_mtime)
    if _is_left_out(entry.path, rules):
        return
    yield entry, place
    if entry.kind == "folder":
        for child in sorted(place.iterdir()):
            yield from _walk(child, rules)


def target_folder(url: str) -> Path:
    """The folder of a target URL; other targets than `file://` have none that exists."""
    if not url.startswith("file://"):
        return Path("/nowhere/but/in/the/real/server")
    return Path(unquote(url.removeprefix("file://").partition("?")[0]))


class Target:
    """The files at a target URL. `passphrase`: empty for a target without encryption."""

    def __init__(self, url: str, passphrase: str = ""):
        self.folder, self.passphrase = target_folder(url), passphrase
        self.suffix = ".zip.aes" if passphrase else ".zip"

    @property
    def exists(self) -> bool:
        """Whether the folder is there."""
        return self.folder.is_dir()

    def missing(self) -> EngineError:
        """The error of a folder that is not there."""
        return EngineError(f"The folder {self.folder} does not exist", FOLDER_MISSING,
                           "FolderMissing")

    def make(self) -> None:
        """Make the folder, but not its parent; EngineError if that is missing."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise self.missing() from error

    def files(self) -> list[Path]:
        """The remote files, by name."""
        return sorted(self.folder.glob("duplicati-*.zip*")) if self.exists else []

    def stamps(self) -> dict[str, Path]:
        """Stamp of each version -> its file."""
        return {path.name.split("-")[1].split(".")[0]: path for path in self.files()
                if ".dlist." in path.name}

    def _read(self, path: Path) -> dict:
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read("filelist.json"))
        salt, proof = document["proof"]
        if proof != _proof(salt, self.passphrase):
            raise EngineError(WRONG_PASSPHRASE, "System.Security.Cryptography."
                              "CryptographicException")
        return document

    def version(self, one: str) -> Version:
        """The version with that stamp. EngineError if the passphrase is not the right one."""
        document = self._read(self.stamps()[one])
        return Version(datetime.fromisoformat(document["time"]), document["is_full"],
                       [Entry(**entry) for entry in document["entries"]])

    def versions(self, known: set[str] | None = None) -> list[Version]:
        """The versions with those stamps (None: all), newest first."""
        return [self.version(one) for one in sorted(self.stamps(), reverse=True)
                if known is None or one in known]

    def _places(self) -> dict[str, Path]:
        """SHA-256 of each content -> the file that it lies in."""
        return {content: self.folder / path.name.replace("-i", "-b", 1).replace(
                    ".dindex.", ".dblock.")
                for path in self.files() if ".dindex." in path.name
                for content in zipfile.ZipFile(path).namelist()}

    def add(self, found: list[tuple[Entry, Path]], started: datetime, is_full: bool) -> list[Path]:
        """Keep a new version; the remote files that were made, in their order."""
        places, new, entries = self._places(), {}, []
        for entry, place in found:
            if entry.kind == "file":
                content = place.read_bytes()
                name = hashlib.sha256(content).hexdigest()
                entry = Entry(entry.path, "file", len(content), entry.modified, name)
                if name not in places:
                    new[name] = content
            entries.append(entry)
        time = started.replace(microsecond=0)
        while stamp(time) <= max(self.stamps(), default=""):  # runs in the same second
            time += timedelta(seconds=1)
        made = []
        if new:
            number = hashlib.md5("".join(sorted(new)).encode(), usedforsecurity=False).hexdigest()
            made += [self._write(f"b{number}.dblock", new),
                     self._write(f"i{number}.dindex", dict.fromkeys(new, b""))]
        salt = os.urandom(8).hex()
        document = {"time": time.isoformat(), "is_full": is_full,
                    "proof": [salt, _proof(salt, self.passphrase)],
                    "entries": [asdict(entry) for entry in entries]}
        return [*made, self._write(f"{stamp(time)}.dlist",
                                   {"filelist.json": json.dumps(document).encode()})]

    def _write(self, name: str, contents: dict[str, bytes]) -> Path:
        path = self.folder / f"duplicati-{name}{self.suffix}"
        beside = path.with_name("part-" + path.name)
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for part, content in contents.items():
                archive.writestr(part, content)
        beside.replace(path)
        return path

    def content(self, entry: Entry) -> bytes:
        """The bytes of a file. EngineError if they are no longer at the target."""
        try:
            with zipfile.ZipFile(self._places()[entry.content]) as archive:
                return archive.read(entry.content)
        except (KeyError, OSError) as error:
            raise EngineError(f"Missing remote data for {entry.path}",
                              "System.IO.FileNotFoundException") from error

    def delete_version(self, one: str) -> None:
        """Remove a version; the contents of its files stay."""
        self.stamps()[one].unlink()

    def delete_all(self) -> None:
        """Remove the remote files."""
        for path in self.files():
            path.unlink()


def _proof(salt: str, passphrase: str) -> str:
    return hashlib.sha256((salt + passphrase).encode()).hexdigest() if passphrase else ""


def select(versions: list[Version], time: datetime | None) -> Version | None:
    """The newest version at or before a time (None: the newest)."""
    return next((one for one in versions if time is None or one.time <= time), None)


def largest_prefix(entries: list[Entry]) -> str:
    """The longest folder that all entries lie in or are; "" if there is none."""
    if not entries:
        return ""
    folders = [entry.path[:entry.path.rfind("/") + 1] for entry in entries]
    common = os.path.commonprefix(folders)
    return common[:common.rfind("/") + 1]


def children(entries: list[Entry], folder: str) -> list[Entry]:
    """What lies directly in a folder (its path ends with a slash)."""
    return [entry for entry in entries if entry.path.startswith(folder) and entry.path != folder
            and "/" not in entry.path[len(folder):].rstrip("/")]


def tops(entries: list[Entry]) -> list[Entry]:
    """The entries that lie in no other one."""
    folders = {entry.path for entry in entries if entry.kind == "folder"}
    return [entry for entry in entries if not any(
        entry.path.startswith(folder) and entry.path != folder for folder in folders)]


def matching(entries: list[Entry], expressions: list[str] | None) -> list[Entry]:
    """The entries that one of the expressions matches; all if there are none."""
    if not expressions:
        return entries
    tests = [test for test in map(matcher, expressions) if test]
    return [entry for entry in entries if any(test(entry.path) for test in tests)]


@dataclass
class Restored:
    """What a restore did: counts, bytes, and lines about what failed."""
    files: int = 0
    size: int = 0
    folders: int = 0
    links: int = 0
    unmodified: int = 0
    unmodified_size: int = 0
    warnings: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def _free_name(path: Path, content: bytes, time: datetime) -> Path | None:
    """Where a file goes that is not to replace another; None if it is there already."""
    if not path.exists():
        return path
    day = time.astimezone().strftime("%Y-%m-%d")
    for number in range(1000):
        if path.read_bytes() == content:
            return None
        count = f" ({number})" if number else ""
        candidate = path.with_name(f"{path.stem}.{day}{count}{path.suffix}")
        if not candidate.exists():
            return candidate
        if candidate.read_bytes() == content:
            return None
    return None


def restore_entry(target: Target, entry: Entry, path: Path, overwrite: bool, time: datetime,
                  keep_times: bool, done: Restored) -> None:
    """Bring one entry back to `path`; what became of it is added to `done`."""
    if entry.kind == "folder":
        done.folders += not path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == "link":
        if not os.path.lexists(path):
            path.symlink_to(entry.content)
            done.links += 1
        return
    content = target.content(entry)
    place = path if overwrite else _free_name(path, content, time)
    if place is None or (overwrite and path.is_file() and path.read_bytes() == content):
        done.unmodified += 1
        done.unmodified_size += entry.size
        return
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        shutil.rmtree(place)
    place.write_bytes(content)
    if keep_times:
        os.utime(place, (entry.modified, entry.modified))
    done.files += 1
    done.size += entry.size


def moment_of(entry: Entry) -> datetime:
    """When an entry was last changed."""
    return datetime.fromtimestamp(entry.modified, timezone.utc)
