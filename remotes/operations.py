"""What a task may be: the table of operations, and the task that an entry of a list is.

Guards: that any JSON at all is a Task, or refused with one line that says why; that no name is
passed over because it is not known (what misspells `Overwrite` means something else); that a
resource has one form, so that `03` does not slip by a rule for 3; that what cannot be written
down and read again as the same is no task. Leaves alone: what the owner of this host allows
(policy), where entries come from, and how a task is done.

Source: protocol page of the task server, "A task".
"""

import hashlib
import json
import math
import re
from collections import namedtuple

from remotes.errors import ForeignServerError, UsageError

# types: the resource Types that it may name. wants: "resources" (one or more), "type" (Type alone,
#   no ID), "none", "optional" (none, or some).
# fields: what else it carries, each with its kind, a key of _KINDS. is_allowed: by default.
# manner: "reads"; "changes"; "background": it goes on in the server while other tasks are done.
# needs: fields that it must carry. most: how many resources it takes.
Operation = namedtuple("Operation", "name types wants fields is_allowed manner needs most",
                       defaults=((), 100))
Resource = namedtuple("Resource", "type id")

_BACKUP = ("backup",)
_CONFIG = {"Config": "mapping"}
_RESTORE = {"Time": "time", "Paths": "texts", "RestorePath": "folder", "Overwrite": "flag"}

OPERATIONS = {operation.name: operation for operation in (
    Operation("list", ("backups", "databases", "notifications", "serversettings", "systeminfo"),
              "type", {}, True, "reads"),
    Operation("get", ("backup", "notification"), "resources", {}, True, "reads"),
    Operation("describe", ("backup", "notification"), "resources", {}, True, "reads"),
    Operation("logs", _BACKUP, "optional", {"Lines": "count", "Remote": "flag", "Level": "level"},
              True, "reads"),
    Operation("status", (), "none", {}, True, "reads"),
    Operation("versions", _BACKUP, "resources", {}, True, "reads"),
    Operation("files", _BACKUP, "resources", {"Time": "time", "Path": "paths", "Filter": "text"},
              True, "reads"),
    Operation("run", _BACKUP, "resources", {}, True, "background"),
    Operation("verify", _BACKUP, "resources", {}, True, "background"),
    Operation("abort", ("task",), "resources", {}, True, "changes"),
    Operation("pause", (), "none", {"Duration": "duration"}, False, "changes"),
    Operation("resume", (), "none", {}, False, "changes"),
    Operation("compact", _BACKUP, "resources", {}, False, "background"),
    Operation("vacuum", _BACKUP, "resources", {}, False, "background"),
    Operation("repair", _BACKUP, "resources", {}, False, "background"),
    Operation("edit", _BACKUP, "resources", {"Changes": "mapping"}, False, "changes",
              ("Changes",), 1),
    Operation("create", (), "none", _CONFIG, False, "changes", ("Config",)),
    Operation("update", _BACKUP, "resources", _CONFIG, False, "changes", ("Config",), 1),
    Operation("delete", ("backup", "database", "notification"), "resources", {}, False, "changes"),
    Operation("export", _BACKUP, "resources", {"Passwords": "flag"}, False, "reads"),
    Operation("restore", _BACKUP, "resources", _RESTORE, False, "background", ("RestorePath",), 1),
    Operation("dismiss", ("notification",), "resources", {}, False, "changes"),
)}

_ENTRY_NAMES = ("ID", "Operation", "Resources", "Expires")
_MOST_BYTES = 256 * 1024
_MOST_NESTED = 64
_LONGEST_ID = 200
_LONGEST_NAME = 1000
_LONGEST_TIME = 100  # characters; also keeps numbers shorter than Python converts
_LARGEST_ID = 2**63
_MOST_LINES = 10_000
_DAY_SECONDS = 86400
# As the option `level` has them, in remotes/actions/options.py, a layer above.
_LEVELS = ("Profiling", "Verbose", "Retry", "Information", "Warning", "Error")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_OFFSET = re.compile(r".*[T ]\d\d.*(?:[Zz]|[+-]\d\d(?::?\d\d)?)", re.ASCII)
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[\\/]|\\\\")


class Task(namedtuple("Task", "task_id operation resources fields expires document sha256")):
    """What is to be done: an entry that has been examined.

    `task_id`: int or str. `operation`: its name. `resources`: list of Resource; an `id` is a
    text, all digits for an ID, else a name; None for a Type alone; of a task as it came.
    `fields`: what else it carries, by name: paths are a list, a duration has its unit.
    `expires`: aware datetime or None. `document`: the entry. `sha256`: see content_hash.
    """

    __slots__ = ()

    @property
    def kind(self):
        return OPERATIONS[self.operation]


class _Unfit(Exception):
    """Why an entry is no task."""


# -- entries, whatever they are ------------------------------------------------------------

def tasks_of(document):
    """The entries of a list of tasks, as they came: a list, {"Tasks": […]} or one bare task.

    Errors: ForeignServerError for what is none of these.
    """
    if isinstance(document, dict):
        if "Tasks" in document:
            document = document["Tasks"]
        elif "ID" in document or "Operation" in document:
            document = [document]
    if not isinstance(document, list):
        raise ForeignServerError('no list of tasks came: neither a list, nor {"Tasks": […]}, nor'
                                 " one task")
    return document


def task_id(entry):
    """The ID by which a task can be answered, int or str; None if it has none of use."""
    said = entry.get("ID") if isinstance(entry, dict) else None
    if isinstance(said, int) and not isinstance(said, bool):
        return said if abs(said) <= _LARGEST_ID else None
    if not isinstance(said, str):
        return None
    return said if 0 < len(said) <= _LONGEST_ID and not _CONTROL.search(said) else None


def content_hash(entry):
    """SHA-256 (hex) of an entry's content: the same however its names are ordered.

    What is nested too deep for a task counts as deep as a task may be.
    """
    return hashlib.sha256(_canonical(entry)).hexdigest()


def keepable(entry):
    """An entry as it can be written down: itself, or its ID alone if it is too large or holds
    what does not read again as the same. `examine` refuses both of these.
    """
    if _unkept(entry, _canonical(entry)) is None:
        return entry
    known = task_id(entry)
    return {} if known is None else {"ID": known}


def nearest(name, names):
    """"; did you mean X?" for a name that is not known, or nothing."""
    import difflib

    spelt = {known.casefold(): known for known in names}
    close = difflib.get_close_matches(name[:100].casefold(), list(spelt), n=1)
    return f"; did you mean {spelt[close[0]]}?" if close else ""


def _canonical(entry):
    text = json.dumps(_cut(entry, _MOST_NESTED), sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _cut(value, levels):
    """`value` without what is nested deeper than `levels`."""
    if not isinstance(value, (dict, list)):
        return value
    if levels == 0:
        return "…"
    if isinstance(value, dict):
        return {name: _cut(inner, levels - 1) for name, inner in value.items()}
    return [_cut(inner, levels - 1) for inner in value]


def _unkept(entry, text):
    """Why an entry, `text` (bytes) as JSON, cannot be kept; None if it can."""
    if len(text) > _MOST_BYTES:
        return f"it is too large: {len(text)} bytes, and a task has {_MOST_BYTES} at most"
    return _oddity(entry, _MOST_NESTED)


def _oddity(value, levels):
    """What in `value` has no form in a file that reads again as the same; None if nothing."""
    if isinstance(value, str):
        return "it holds half of a character" if _SURROGATE.search(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else "it holds a number that JSON cannot write"
    if not isinstance(value, (dict, list)):
        return None
    if levels == 0:
        return f"it is nested deeper than {_MOST_NESTED} levels"
    inner = value if isinstance(value, list) else [*value, *value.values()]
    return next(filter(None, (_oddity(one, levels - 1) for one in inner)), None)


# -- entries that should be tasks ----------------------------------------------------------

def examine(entry, now):
    """(Task, None) for an entry, or (None, one line that says why it is refused).

    `now`: aware datetime, by which an entry that `Expires` is judged.
    """
    try:
        return _task(entry, now), None
    except _Unfit as unfit:
        return None, str(unfit)


def _task(entry, now):
    text = _canonical(entry)
    _require(isinstance(entry, dict), "a task is a mapping with ID and Operation")
    why = _unkept(entry, text)
    _require(why is None, why)
    known = task_id(entry)
    _require(known is not None, "its ID must be a whole number, or a text of 1 to"
                                f" {_LONGEST_ID} characters that can be printed")
    kind = _kind(entry)
    _check_names(kind.name, entry, (*_ENTRY_NAMES, *kind.fields))
    resources = _resources(kind, entry)
    fields = _fields(kind, entry, now)
    if kind.name == "logs":
        _require(resources or "Remote" not in fields, "logs takes Remote only with a backup")
        _require(not resources or "Level" not in fields, "logs takes Level only without a backup")
    expires = _expires(entry, now)
    return Task(known, kind.name, resources, fields, expires, entry,
                hashlib.sha256(text).hexdigest())


def _require(is_right, why):
    if not is_right:
        raise _Unfit(why)


def _kind(entry):
    said = entry.get("Operation")
    _require(isinstance(said, str), "it names no Operation" if said is None
             else "its Operation must be a text")
    if said not in OPERATIONS:
        raise _Unfit(f"there is no operation {_quoted(said)}{nearest(said, OPERATIONS)}")
    return OPERATIONS[said]


def _check_names(what, document, names):
    for name in document:
        if name not in names:
            raise _Unfit(f"{what} takes no {_quoted(name)}{nearest(name, names)}")


def _quoted(text):
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:60])
    return f'"{shown}{"…" if len(text) > 60 else ""}"'


def _resources(kind, entry):
    listed, what = entry.get("Resources", []), kind.name
    _require(isinstance(listed, list), 'Resources must be a list of {"Type": …, "ID": …}')
    if kind.wants == "none":
        _require(not listed, f"{what} takes no Resources")
    if kind.wants in ("resources", "type"):
        _require(listed, f"{what} needs Resources: one or more of type {' or '.join(kind.types)}")
    most = "one resource" if kind.most == 1 else f"{kind.most} resources at most"
    _require(len(listed) <= kind.most, f"{what} takes {most}, not {len(listed)}")
    found = []
    for one in listed:
        resource = _resource(kind, one)
        _require(resource not in found, f"a resource is named twice: {_shown(resource)}")
        found.append(resource)
    return found


def _shown(resource):
    return resource.type + ("" if resource.id is None else f" {_quoted(str(resource.id))}")


def _resource(kind, one):
    _require(isinstance(one, dict), 'a resource is a mapping: {"Type": …, "ID": …}')
    _check_names("a resource", one, ("Type", "ID"))
    said = one.get("Type")
    if said not in kind.types:
        named = f", not {_quoted(said)}{nearest(said, kind.types)}" if isinstance(said, str) else ""
        raise _Unfit(f"{kind.name} takes resources of Type {' or '.join(kind.types)}{named}")
    if kind.wants == "type":
        _require("ID" not in one, f"{kind.name} takes the Type of a resource alone, without ID")
        return Resource(said, None)
    known = task_id(one) if said == "task" else _thing_id(said, one.get("ID"))
    wanted = "whole number" if said == "notification" else "whole number or a text"
    _require(known is not None, f"a resource of Type {said} needs as ID a {wanted}")
    return Resource(said, known)


def _thing_id(of_type, said):
    """The text by which a thing of Duplicati is named: an ID in digits, or a name; or None."""
    if isinstance(said, int) and not isinstance(said, bool):
        said = str(said) if 0 <= said <= _LARGEST_ID else None
    if not isinstance(said, str) or len(said) > _LONGEST_NAME:
        return None
    if said.isascii() and said.isdigit():
        return said.lstrip("0") or "0"
    is_name = said.strip() and not _CONTROL.search(said) and of_type != "notification"
    return said if is_name else None


# -- what else a task carries --------------------------------------------------------------

def _fields(kind, entry, now):
    found = {}
    for name, field_kind in kind.fields.items():
        check, wanted = _KINDS[field_kind]
        _require(name in entry or name not in kind.needs, f"{kind.name} needs {name}: {wanted}")
        if name in entry:
            found[name] = check(entry[name], now)
            _require(found[name] is not None, f"{name} must be {wanted}")
    return found


def _count(said, now):
    is_count = isinstance(said, int) and not isinstance(said, bool)
    return said if is_count and 1 <= said <= _MOST_LINES else None


def _flag(said, now):
    return said if isinstance(said, bool) else None


def _level(said, now):
    return said if said in _LEVELS else None


def _text(said, now):
    return said if isinstance(said, str) and said.strip() and "\0" not in said else None


def _texts(said, now):
    is_list = isinstance(said, list) and said and all(_text(one, now) for one in said)
    return said if is_list else None


def _paths(said, now):
    return _texts(said if isinstance(said, list) else [said], now)


def _folder(said, now):
    return said if _text(said, now) and _ABSOLUTE.match(said) else None


def _mapping(said, now):
    return said if isinstance(said, dict) and said else None


def _time(said, now):
    from remotes.duplicati import moments

    if not isinstance(said, str) or len(said) > _LONGEST_TIME:
        return None
    try:
        moments.typed_time(said, now)
    except UsageError:
        return None
    return said


def _duration(said, now):
    from remotes.duplicati import moments

    if isinstance(said, int) and not isinstance(said, bool):
        return f"{said}s" if 1 <= said <= _DAY_SECONDS else None
    if not isinstance(said, str) or len(said) > _LONGEST_TIME:
        return None
    try:
        text = moments.duration(said)
    except UsageError:
        return None
    return text if moments.duration_seconds(text) <= _DAY_SECONDS else None


# Each kind of field: what gives the value of what is said (None if it is none), what is wanted.
_KINDS = {
    "count": (_count, f"a whole number from 1 to {_MOST_LINES}"),
    "flag": (_flag, "true or false"),
    "level": (_level, f"one of {', '.join(_LEVELS)}"),
    "text": (_text, "a text that is not empty"),
    "texts": (_texts, "a list of texts, none of them empty"),
    "paths": (_paths, "a path, or a list of paths"),
    "folder": (_folder, r"the whole path of a folder: /… or C:\…"),
    "mapping": (_mapping, "a mapping that is not empty"),
    "time": (_time, "a time (ISO 8601) or an age (3D, 1h30m)"),
    "duration": (_duration, "a duration of 24 hours at most: 90s, 1h30m, or a number of seconds"),
}


def _expires(entry, now):
    """The moment after which a task must not be begun, or None; once it is over, it is unfit."""
    if "Expires" not in entry:
        return None
    from remotes.duplicati import moments

    said = entry["Expires"]
    has_offset = isinstance(said, str) and _OFFSET.fullmatch(said)
    expires = moments.parse(said) if has_offset else None
    _require(expires is not None, "Expires must be a time with an offset (ISO 8601):"
                                  " 2026-08-22T12:00:00+02:00")
    _require(now <= expires, f"it has expired ({moments.iso(expires)})")
    return expires
