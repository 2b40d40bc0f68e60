"""Jobs of the demo Duplicati server as documents: taken in, checked, shown, masked, exported
(sections 3.3 and 3.3.1 of the protocol).

Guards: which fields a job has on which release and in which form (the list, one job, an export,
a raw task), what makes a job invalid, where its secrets are, and what becomes of placeholders.
Leaves alone: where jobs are kept.
"""
import re
from datetime import timezone
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from demo.duplicati_server.answers import BareError, RefusedError
from demo.duplicati_server.moments import parse, parse_span, utc_text
from demo.duplicati_server.releases import Release

DAYS = {"sun": "Sunday", "mon": "Monday", "tue": "Tuesday", "wed": "Wednesday",
        "thu": "Thursday", "fri": "Friday", "sat": "Saturday"}
SECRET = re.compile(r"passphrase|password|authid|secret|token|-key$", re.IGNORECASE)
ZERO = "0001-01-01T00:00:00Z"
JOB_FIELDS = ("Name", "Description", "Tags", "TargetURL", "Sources", "Settings", "Filters",
              "Metadata")
SCHEDULE_FIELDS = ("Time", "Repeat", "LastRun", "Rule", "AllowedDays")


def _named(given: object, names: tuple[str, ...]) -> dict:
    """Properties by these names, whatever their case; 400 if it is no object."""
    if not isinstance(given, dict):
        raise BareError(400)
    found = {name.lower(): value for name, value in given.items()}
    return {name: found[name.lower()] for name in names if name.lower() in found}


def take_job(given: object) -> dict:
    """The document of a job from a request; what is left out is empty, Metadata None."""
    job = _named(given, JOB_FIELDS)
    settings = [_named(one, ("Filter", "Name", "Value")) for one in job.get("Settings") or []]
    rules = [_named(one, ("Order", "Include", "Expression")) for one in job.get("Filters") or []]
    return {
        "Name": job.get("Name"), "Description": job.get("Description") or "",
        "Tags": job.get("Tags") or [], "TargetURL": job.get("TargetURL"),
        "Sources": job.get("Sources") or [],
        "Settings": [{"Filter": one.get("Filter") or "", "Name": one.get("Name"),
                      "Value": one.get("Value"), "Argument": None} for one in settings],
        "Filters": [{"Order": one.get("Order", 0), "Include": one.get("Include", False),
                     "Expression": one.get("Expression") or ""} for one in rules],
        "Metadata": job.get("Metadata")}


def take_schedule(release: Release, given: object) -> dict | None:
    """A schedule from a request, None for none; 400 for days that the release does not read."""
    if given is None:
        return None
    schedule = _named(given, SCHEDULE_FIELDS)
    rule = schedule.get("Rule") or ""
    if schedule.get("AllowedDays") is not None:
        rule = _rule(release, schedule["AllowedDays"])
    return {"Time": _utc(schedule.get("Time")), "Repeat": schedule.get("Repeat") or "",
            "LastRun": _utc(schedule.get("LastRun")), "Rule": rule}


def _rule(release: Release, days: object) -> str:
    if not isinstance(days, list) or not all(isinstance(day, str) for day in days):
        raise BareError(400)
    long_names = {name.lower(): name for name in DAYS.values()}
    allowed = dict(DAYS) if release.doubles_days else {**DAYS, **long_names}
    if any(day.lower() not in allowed for day in days):
        raise BareError(400)
    names = list(dict.fromkeys(allowed[day.lower()] for day in days))
    return "AllowedWeekDays=" + ",".join(names) if names else ""


def _utc(text: str | None) -> str:
    if not text or text.startswith("0001"):
        return ZERO
    try:
        return utc_text(parse(text).astimezone(timezone.utc))
    except ValueError as error:
        raise BareError(400) from error


def settings_of(job: dict) -> dict[str, str]:
    """The settings of a job as names and values."""
    return {one["Name"]: one["Value"] or "" for one in job["Settings"]}


def is_encrypted(job: dict) -> bool:
    """Whether a job says that it is."""
    return settings_of(job).get("--no-encryption", "").lower() != "true"


def passphrase(job: dict) -> str:
    """That of a job; empty if it needs none or stores none."""
    return settings_of(job).get("passphrase", "") if is_encrypted(job) else ""


def _is_placeholder(text: str | None) -> bool:
    return bool(text) and len(text) > 3 and not text.strip("*")


def check_job(job: dict, schedule: dict | None) -> None:
    """400 with the server's words if a job or its schedule cannot be."""
    settings = settings_of(job)
    if not job["Name"]:
        raise RefusedError(400, "Missing a name")
    if job["TargetURL"] == "":
        raise RefusedError(400, "Missing a target")
    if any(_is_placeholder(value) for name, value in _query(job["TargetURL"] or "")):
        raise RefusedError(400, "TargetURL is password placeholder value")
    if any(_is_placeholder(value) for value in settings.values()):
        raise RefusedError(400, "Settings is password placeholder value")
    if not job["Sources"] or not all(job["Sources"]):
        raise RefusedError(400, "Invalid source list")
    if is_encrypted(job) and not settings.get("passphrase"):
        raise RefusedError(400, "Missing passphrase")
    _check_retention(settings)
    if schedule:
        _check_span(schedule["Repeat"], "Schedule repetition time")


def _check_retention(settings: dict) -> None:
    if settings.get("keep-time"):
        _check_span(settings["keep-time"], "Retention value")
    kept = settings.get("keep-versions")
    if kept and not (kept.isdecimal() and int(kept) > 0):
        raise RefusedError(400, "Retention value must be a positive integer")


def _check_span(text: str, what: str) -> None:
    try:
        seconds = parse_span(text)
    except ValueError as error:
        raise RefusedError(400, f"{what} must be a valid timespan") from error
    if seconds <= 300:
        raise RefusedError(400, f"{what} must be more than 5 minutes")


# Secrets.

def _query(url: str) -> list[tuple[str, str]]:
    return parse_qsl(url.partition("?")[2], keep_blank_values=True)


def _with_query(url: str, query: list[tuple[str, str]]) -> str:
    base = url.partition("?")[0]
    return f"{base}?{urlencode(query, safe='*')}" if query else base


def masked_url(release: Release, url: str) -> str:
    """A target URL with stars for its secrets."""
    if not any(SECRET.search(name) for name, value in _query(url)):
        return url
    return _with_query(url, [(name, "*" * release.stars if SECRET.search(name) and value else value)
                             for name, value in _query(url)])


def _without_secrets(job: dict) -> dict:
    url = job["TargetURL"]
    if any(SECRET.search(name) for name, value in _query(url)):
        url = _with_query(url, [(name, value) for name, value in _query(url)
                                if not SECRET.search(name)])
    return {**job, "TargetURL": url, "Settings": [
        one for one in job["Settings"] if not SECRET.search(one["Name"])]}


def masked(release: Release, job: dict) -> dict:
    """A job with stars for its secrets."""
    settings = [{**one, "Value": "*" * release.stars}
                if SECRET.search(one["Name"]) and one["Value"] else one
                for one in job["Settings"]]
    return {**job, "TargetURL": masked_url(release, job["TargetURL"]), "Settings": settings}


def with_stored_secrets(given: dict, stored: dict) -> dict:
    """What was given, placeholders replaced by what is stored under the same names."""
    known, query = settings_of(stored), dict(_query(stored["TargetURL"]))
    url = given["TargetURL"]
    if url and any(_is_placeholder(value) for name, value in _query(url)):
        url = _with_query(url, [(name, query.get(name, value) if _is_placeholder(value) else value)
                                for name, value in _query(url)])
    return {**given, "TargetURL": url, "Settings": [
        {**one, "Value": known.get(one["Name"], one["Value"])}
        if _is_placeholder(one["Value"]) else one for one in given["Settings"]]}


# Out.

def _shown(release: Release, job: dict, is_short: bool) -> dict:
    fields = {"ID": job["ID"]}
    if release.has_later_fields:
        fields["ExternalID"] = "" if is_short else None
    fields |= {name: job[name] for name in ("Name", "Description", "Tags", "TargetURL")}
    if release.has_later_fields:
        fields["ConnectionStringID"] = -1
    if release.has_operation_type:
        fields["OperationType"] = "Backup"
    fields["DBPath"] = job.get("DBPath")
    if release.has_later_fields:
        fields["DBPathExists"] = bool(job.get("DBPath")) and Path(job["DBPath"]).is_file()
    if is_short:
        fields |= {"Sources": [] if release.lists_sources else None, "Settings": None,
                   "Filters": None}
    else:
        fields |= {name: job[name] for name in ("Sources", "Settings", "Filters")}
    return fields | {"Metadata": job["Metadata"] or {},
                     "IsTemporary": job.get("IsTemporary", False)}


def listed(release: Release, job: dict, schedule: dict | None) -> dict:
    """A job as the list has it: the short form, its target in clear."""
    is_safe = not is_encrypted(job) or bool(passphrase(job))
    backup, schedule = _shown(release, job, True), shown_schedule(release, job["ID"], schedule)
    if release.is_legacy:
        return {"IsUnencryptedOrPassphraseStored": is_safe, "Schedule": schedule,
                "Backup": backup}
    backup["IsUnencryptedOrPassphraseStored"] = is_safe
    return {"Backup": _with_additional(release, backup), "Schedule": schedule}


def _with_additional(release: Release, backup: dict) -> dict:
    return {**backup, "AdditionalTargetURLs": []} if release.has_later_fields else backup


def raw(release: Release, job: dict) -> dict:
    """A job as an old server's tasks show it: all of it, in clear."""
    return _shown(release, job, False)


def shown(release: Release, job: dict, schedule: dict | None) -> dict:
    """A job by itself, as GET backup/N has it."""
    if release.masks_secrets:
        job = masked(release, job)
    backup = _shown(release, job, False)
    if not release.is_legacy:
        backup["IsUnencryptedOrPassphraseStored"] = False
    return {"Schedule": shown_schedule(release, job["ID"], schedule),
            "Backup": _with_additional(release, backup), "DisplayNames": display_names(job)}


def display_names(job: dict) -> dict[str, str]:
    """What the web page calls the sources."""
    return {source: source.rstrip("/").rpartition("/")[2] or source for source in job["Sources"]}


def _days(schedule: dict) -> list[str]:
    return [name for name in schedule["Rule"].partition("AllowedWeekDays=")[2].split(",") if name]


def shown_schedule(release: Release, key: str, schedule: dict | None,
                   long_days: bool = False) -> dict | None:
    """A schedule as the server shows it. `long_days`: as in exports of the token generation."""
    if schedule is None:
        return None
    days = []
    for day in _days(schedule):
        days += [day] if long_days else [day[:3].lower()]
        if release.doubles_days and not long_days:
            days.append(day)
    return {"ID": schedule["ID"], "Tags": [f"ID={key}"], "Time": schedule["Time"],
            "Repeat": schedule["Repeat"], "LastRun": schedule["LastRun"],
            "Rule": schedule["Rule"], "AllowedDays": days or None}


def exported(release: Release, job: dict, schedule: dict | None, with_secrets: bool) -> dict:
    """The document of an export."""
    job = job if with_secrets else _without_secrets(job)
    fields = _shown(release, job, False)
    fields.pop("DBPathExists", None)
    if release.has_later_fields:
        fields |= {"AdditionalTargetURLs": []}
    if release.exports_database_name:
        fields["DBPath"] = Path(fields["DBPath"]).name
    return {"CreatedByVersion": release.version,
            "Schedule": shown_schedule(release, job["ID"], schedule, not release.is_legacy),
            "Backup": fields, "DisplayNames": display_names(job)}


def command_line(release: Release, job: dict, with_secrets: bool) -> dict:
    """The parts of a command line that would do what the job does."""
    job = job if with_secrets else _without_secrets(job)
    options = [f"--backup-name={job['Name']}", f"--dbpath={job['DBPath']}"]
    options += [f"--backup-id=DB-{job['ID']}"] if release.has_interrupted else []
    options += [f"--{one['Name'].removeprefix('--')}={one['Value']}" for one in job["Settings"]]
    options += ["--disable-module=console-password-input"]
    options += [f"--{'include' if one['Include'] else 'exclude'}={one['Expression']}"
                for one in job["Filters"]]
    return {"Backend": job["TargetURL"], "Arguments": job["Sources"], "Options": options}
