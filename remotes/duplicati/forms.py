"""Backups as servers give and take them, and the form in which people edit them.

Guards: that what is sent is what was there but for the edit. A server replaces a backup
by what it gets: a list that is left out is emptied, a schedule that is left out deleted
(protocol page, §3.3). So the body is made from the whole document that the server gave,
with fields of releases that nobody knows yet; settings keep their order, filter and
argument; weekdays are written in the one way that every release takes (§8.1). Leaves
alone: sockets, files, secrets (masking.py), how people say what to change (editing.py).

A document is what `GET /backup/ID` gives: {"Backup", "Schedule", …}. Its form has the
fields of the backup and `Schedule` side by side, without those that only the server
sets, and its settings as a mapping.
"""

import copy
import difflib

from remotes.duplicati.masking import restored
from remotes.errors import ForeignServerError, UsageError

# What only the server sets.
READ_ONLY = ("ID", "ExternalID", "DBPath", "DBPathExists", "Metadata", "IsTemporary",
             "IsUnencryptedOrPassphraseStored", "DisplayNames")
_SCHEDULE_READ_ONLY = ("ID", "Tags", "LastRun", "Rule")
KINDS = {"Name": str, "Description": str, "TargetURL": str, "OperationType": str,
         "Sources": list, "Tags": list, "Filters": list, "AdditionalTargetURLs": list,
         "Settings": dict, "Schedule": dict, "ConnectionStringID": int}
# What a field holds in releases that have it, and means nothing to those that have not.
NOTHING = (None, "", [], {}, -1, "Backup")
_NEVER_EMPTY = ("Name", "TargetURL")
LISTS_OF_TEXTS = ("Sources", "Tags")
SCHEDULE_FIELDS = ("Time", "Repeat", "AllowedDays")
_DAYS = {day[:3].lower(): day for day in (
    "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")}
_RULE = "AllowedWeekDays="
NEVER = "0001-01-01T00:00:00Z"


# -- document -> form --------------------------------------------------------------------------

def editable(document):
    """The form of a backup's document, as a deep copy; nothing in it is masked.

    Errors: ForeignServerError, if it is no backup's.
    """
    backup = document["Backup"]
    settings, schedule = backup.get("Settings"), document.get("Schedule")
    if not isinstance(settings, (list, type(None))) or not isinstance(schedule, (
            dict, type(None))) or not all(isinstance(item, dict) for item in settings or ()):
        raise ForeignServerError("the settings or the schedule of that backup are no Duplicati"
                                 " server's")
    form = {name: copy.deepcopy(value) for name, value in backup.items() if name not in READ_ONLY}
    form["Settings"] = {key: item.get("Value")
                        for key, item in _settings_by_name(settings or []).items()}
    form["Schedule"] = schedule if schedule is None else {
        name: short_days(value) if name == "AllowedDays" else copy.deepcopy(value)
        for name, value in schedule.items() if name not in _SCHEDULE_READ_ONLY}
    return form


def _settings_by_name(settings):
    """The items of a list of settings by their names; a name that comes twice gets a number."""
    found = {}
    for item in settings:
        name = key = str(item.get("Name"))
        number = 1
        while key in found:
            number += 1
            key = f"{name} ({number})"
        found[key] = item
    return found


def short_days(days):
    """Weekdays as `mon`, `tue`, …, each once. Servers give some twice, or by long names."""
    if not isinstance(days, list):
        return days
    short = [day[:3].lower() if isinstance(day, str) and _is_day(day) else day for day in days]
    return [day for number, day in enumerate(short) if day not in short[:number]]


def _is_day(text):
    return text.lower() in _DAYS or text.capitalize() in _DAYS.values()


def flat(document):
    """A form as it stands, and a document with `Backup` as a form; read-only fields go."""
    if not isinstance(document, dict):
        raise UsageError("a backup is a mapping of names to values")
    if isinstance(document.get("Backup"), dict):
        schedule = {"Schedule": document["Schedule"]} if "Schedule" in document else {}
        document = {**{name: value for name, value in document["Backup"].items()
                       if name not in READ_ONLY}, **schedule}
    if isinstance(document.get("Schedule"), dict):
        document = {**document, "Schedule": {
            name: value for name, value in document["Schedule"].items()
            if name not in _SCHEDULE_READ_ONLY}}
    return document


def settings_mapping(settings):
    if not all(isinstance(item, dict) and isinstance(item.get("Name"), str) for item in settings):
        raise UsageError("Settings is a mapping of names to values, or a list of Name and Value")
    return {name: item.get("Value") for name, item in _settings_by_name(settings).items()}


def nearest_of(name, names):
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1)
    found = [known for known in names if close and known.lower() == close[0]]
    return f"; did you mean {found[0]}?" if found else ""


# -- judging what was edited -------------------------------------------------------------------

def completed(edited, original):
    """The form `edited` with its secrets back from the form `original`, checked and made even.

    Settings become texts, empty ones go; weekdays get their short names. Errors:
    UsageError (a value of a kind that does not belong there), RefusedError (stars that
    stand for no secret).
    """
    form = restored(edited, original)
    # What was not touched is not judged: it is the server's.
    touched = [name for name in form if name not in original or form[name] != original[name]]
    for name in touched:
        if name in KINDS:
            _require_kind(form, name, KINDS[name])
    for name in _NEVER_EMPTY:
        if (name in touched or name not in form) and not str(form.get(name) or "").strip():
            raise UsageError(f"{name} must not be empty")
    if "Settings" in touched:
        before = original.get("Settings") or {}
        form["Settings"] = dict(_even_settings(form["Settings"], before))
    if "Schedule" in touched and form["Schedule"] is not None:
        form["Schedule"] = _even_schedule(form["Schedule"], original.get("Schedule"))
    for number, item in enumerate(form["Filters"] if "Filters" in touched else ()):
        if not isinstance(item, dict) or not isinstance(item.get("Expression"), str):
            raise UsageError(f"Filters.{number} must have an Expression, and Include (true or"
                             " false)")
        item.setdefault("Order", number)
        item.setdefault("Include", False)
    return form


def _require_kind(form, name, kind):
    value = form[name]
    if value is None:
        if name != "Schedule":
            form[name] = -1 if kind is int else kind()
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "a text", list: "a list", dict: "a mapping", int: "a whole number"}[kind]
        raise UsageError(f"{name} must be {wanted}")
    if name in LISTS_OF_TEXTS and not all(isinstance(item, str) for item in value):
        raise UsageError(f"{name} must be a list of texts")


def _even_settings(settings, before):
    for name, value in settings.items():
        if name in before and value == before[name] and type(value) is type(before[name]):
            yield name, value
        elif isinstance(value, (dict, list)):
            raise UsageError(f"Settings.{name} must be a text")
        elif isinstance(value, bool):
            yield name, str(value).lower()
        elif value not in (None, ""):
            yield name, str(value)


def _even_schedule(schedule, before):
    known = before or dict.fromkeys(SCHEDULE_FIELDS)
    for name in schedule:
        if name not in known and name not in SCHEDULE_FIELDS:
            raise UsageError(f"a schedule has no {name}" + nearest_of(name, SCHEDULE_FIELDS))
    for name in ("Time", "Repeat"):
        if not isinstance(schedule.get(name), str):
            raise UsageError(f"Schedule needs {name}, a text, as in --set"
                             " Schedule.Time=2030-01-01T13:00:00Z Schedule.Repeat=1D (the next run,"
                             " and how often)")
    if schedule.get("AllowedDays") is not None:
        schedule["AllowedDays"] = _even_days(schedule["AllowedDays"], known.get("AllowedDays"))
    return schedule


def _even_days(days, before):
    """Short names; in the order of before, if they are the same days."""
    days = short_days(days if isinstance(days, list) else [days])
    before = before if isinstance(before, list) else []
    for day in days:
        if day not in _DAYS and day not in before:
            raise UsageError(f"Schedule.AllowedDays: {day} is no weekday; they are called "
                             + ", ".join(_DAYS))
    return before if len(days) == len(before) and all(day in before for day in days) else days


# -- form -> body ------------------------------------------------------------------------------

def body(document, form):
    """What `PUT /backup/ID` gets: the document with what the form (from `completed`) says.

    The fields of the document that the form does not have go with it as they are.
    """
    before = editable(document)
    backup = copy.deepcopy(document["Backup"])
    for name, value in form.items():
        if name == "Schedule" or name in before and value == before[name]:
            continue
        if name == "Settings":
            value = _settings_list(backup.get("Settings") or [], value)
        backup[name] = copy.deepcopy(value)
    rest = {name: value for name, value in document.items()
            if name not in ("Backup", "Schedule", "DisplayNames")}
    return {**rest, "Backup": backup,
            "Schedule": _schedule(document.get("Schedule"), form.get("Schedule"))}


def _settings_list(settings, mapping):
    kept = []
    known = _settings_by_name(settings)
    for key, item in known.items():
        if key in mapping:
            kept.append(item if item.get("Value") == mapping[key]
                        else {**item, "Value": mapping[key]})
    return kept + [{"Filter": "", "Name": key, "Value": value, "Argument": None}
                   for key, value in mapping.items() if key not in known]


def _schedule(before, form):
    if form is None:
        return None
    former = before or {"ID": -1, "Tags": [], "LastRun": NEVER, "Rule": "", "AllowedDays": None}
    sent = {**copy.deepcopy(former), **copy.deepcopy(form)}
    days = sent["AllowedDays"] = short_days(sent.get("AllowedDays"))
    if days != short_days(former.get("AllowedDays")):
        # The two say the same: the rule of before would contradict the days of now.
        sent["Rule"] = _RULE + ",".join(_DAYS.get(day, day) for day in days) if days else ""
    return sent


def new_body(form, metadata=None):
    """What `POST /backups` gets for a form (from `completed`)."""
    backup = {"Description": "", "Tags": [], "Sources": [], "Filters": [], **copy.deepcopy(form),
              "DBPath": None, "Metadata": metadata or {}}
    schedule = backup.pop("Schedule", None)
    backup["Settings"] = _settings_list([], backup.get("Settings") or {})
    return {"Backup": backup, "Schedule": _schedule(None, schedule)}
