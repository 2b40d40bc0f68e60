"""Times, ages and spans of time: as Duplicati servers write them, and as people type them.

Guards: that each form a server uses is read as the same moment (aware, UTC), that what
means "not set" is None, and that an age is reckoned here: a server adds `3D` forward.
Leaves alone: the clock, which its callers hand in, and what a time is for.

Source: protocol page of Duplicati, §0.1 (dates, spans), §3.1 (durations), §3.6 (time).
"""

import re
from datetime import datetime, timedelta, timezone

from remotes.errors import UsageError

_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?)?"
    r"(?: ?(Z|z|[+-]\d\d(?::?\d\d)?))?", re.ASCII,
)
_STAMP = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)()(Z)", re.ASCII)
_SPAN = re.compile(r"(-?)(?:(\d+)\.)?(\d\d?):(\d\d):(\d\d(?:\.\d+)?)", re.ASCII)
_DURATION = re.compile(r"(?:\d+[smhDWMY])+", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "D": 86400, "W": 7 * 86400, "M": 30 * 86400,
                 "Y": 365 * 86400}
_UNITS = "s, m (minutes), h, D, W, M (30 days), Y (365 days)"


def parse(said):
    """The moment that a server gives, as an aware datetime in UTC; None if it is not set.

    `said`: ISO 8601 with up to seven digits of a fraction, with `Z`, an offset or neither
    (then it is UTC), a stamp of the metadata (`20260822T100300Z`), or Unix seconds, as in
    rows of a log. Not set: year 1, an empty text, None, `{}`, and what is no time at all.
    """
    if isinstance(said, (int, float)) and not isinstance(said, bool):
        return _from_seconds(said)
    if not isinstance(said, str):
        return None
    found = _ISO.fullmatch(said) or _STAMP.fullmatch(said)
    moment = found and _from_parts(found, timezone.utc)
    return moment if moment and moment.year > 1 else None


def _from_seconds(seconds):
    try:
        return datetime.fromtimestamp(seconds, timezone.utc) if seconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def _from_parts(found, zone):
    """The moment of a match, in UTC; `zone` is where it is if it does not say. None if there
    is no such day, hour or offset. `zone` None is the zone of this machine."""
    *numbers, fraction, offset = found.groups()
    try:
        moment = datetime(*(int(number or 0) for number in numbers),
                          int((fraction or "0").ljust(6, "0")[:6]))
        if offset:
            zone = _zone(offset)
        if zone is not None:
            moment = moment.replace(tzinfo=zone)
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def _zone(offset):
    if offset in "Zz":
        return timezone.utc
    hours, minutes = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
    if minutes > 59:
        raise ValueError("no such offset")
    span = timedelta(hours=hours, minutes=minutes)
    return timezone(-span if offset[0] == "-" else span)


def typed_time(typed, now, option="--time"):
    """The moment that a person means by `option`, as an aware datetime in UTC. `now`: aware.

    ISO 8601 (without an offset it is this machine's time; a day alone is its first
    moment), `now`, or an age such as `3D` or `1h30m`: so long before `now`.
    Errors: UsageError.
    """
    typed = typed.strip()
    if typed == "now":
        return now.astimezone(timezone.utc)
    if _DURATION.fullmatch(typed):
        try:
            return (now - timedelta(seconds=duration_seconds(typed))).astimezone(timezone.utc)
        except OverflowError:
            raise UsageError(f"{option} {typed}: so long ago there was no time") from None
    found = _ISO.fullmatch(typed) or _STAMP.fullmatch(typed)
    moment = _from_parts(found, None) if found else _rarer_form(typed)
    if moment is None:
        raise UsageError(
            f"{option} {typed:.40} is neither a time (2026-08-22T12:00:00+02:00, 2026-08-22) nor an"
            f" age (3D, 1h30m; units {_UNITS})"
        )
    return moment


def _rarer_form(typed):
    """ISO 8601 as few people write it (20260822, 2026-W34-6, 2026-08), or None."""
    if not re.match(r"\d{4}(-|\d{4}(T|$))", typed, re.ASCII):
        return None  # what the library below would take for a year or a century
    from dateutil import parser

    try:
        return parser.isoparse(typed).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def parse_span(said):
    """The seconds (float) of a `[-][d.]hh:mm:ss[.fffffff]`; None if `said` is no such text."""
    found = _SPAN.fullmatch(said) if isinstance(said, str) else None
    if found is None:
        return None
    sign, days, hours, minutes, seconds = found.groups()
    total = (int(days or 0) * 24 + int(hours)) * 3600 + int(minutes) * 60 + float(seconds)
    return -total if sign else total


def duration(typed):
    """What a person typed for a duration, as the server's grammar has it (`90` is `90s`).

    Errors: UsageError, also for one of no length: for a server that is "without end".
    """
    text = f"{typed}".strip()
    if re.fullmatch(r"\d+", text, re.ASCII):
        text += "s"
    if not _DURATION.fullmatch(text) or duration_seconds(text) == 0:
        raise UsageError(f"{text:.40} is no duration: whole numbers with units, such as 90s or"
                         f" 1h30m; units {_UNITS}")
    return text


def duration_seconds(text):
    """The seconds (int) of a duration such as `1h30m`, which `duration` gave."""
    return sum(int(number) * _UNIT_SECONDS[unit]
               for number, unit in re.findall(r"(\d+)([smhDWMY])", text))


def iso(moment):
    """`2026-08-22T10:03:00Z`: an aware datetime as this program and the servers write it.

    With a fraction only if there is one. None stays None.
    """
    if moment is None:
        return None
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat() + "Z"


def local_text(moment):
    """`2026-08-22 12:03:00 +0200`: an aware datetime for people, in this machine's zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
