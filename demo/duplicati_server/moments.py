"""The ways in which Duplicati writes times and spans (sections 0.1 and 3.1 of the protocol).

Guards: one function for each way of writing, one for reading. Times are aware and in UTC inside.
Leaves alone: which field is written in which way.
"""
import re
from datetime import datetime, timedelta, timezone

UNITS = {"s": 1, "m": 60, "h": 3600, "D": 86400, "W": 7 * 86400, "M": 30 * 86400, "Y": 365 * 86400}


def now() -> datetime:
    """This moment."""
    return datetime.now(timezone.utc)


def _digits(moment: datetime) -> str:
    text = moment.isoformat(timespec="microseconds")[:26]
    return text.rstrip("0").rstrip(".")


def utc_text(moment: datetime) -> str:
    """2026-11-22T04:11:08.712902Z, zeros at the end left out."""
    return _digits(moment.astimezone(timezone.utc)) + "Z"


def local_text(moment: datetime) -> str:
    """2026-11-22T05:11:08.712902+01:00, in the zone of this machine."""
    local = moment.astimezone()
    return _digits(local) + local.isoformat()[-6:]


def stamp(moment: datetime) -> str:
    """20261122T041108Z, as in metadata and names of remote files."""
    return moment.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def span_text(span: timedelta) -> str:
    """00:03:20 or 1.02:03:04.5000000: seven digits, or none."""
    seconds = int(span.total_seconds())
    hours, minutes = seconds // 3600 % 24, seconds // 60 % 60
    text = f"{hours:02}:{minutes:02}:{seconds % 60:02}"
    if seconds >= 86400:
        text = f"{seconds // 86400}.{text}"
    return f"{text}.{span.microseconds:06}0" if span.microseconds else text


def log_text(moment: datetime) -> str:
    """2026-11-22 05:11:07 +01, as the lines of a result begin."""
    local = moment.astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S ") + local.strftime("%z")[:3]


def parse(text: str) -> datetime:
    """A time in ISO 8601 (without a zone: in that of this machine), `now`, a number of seconds
    from now, or a span from now. ValueError if it is none of them."""
    text = text.strip()
    if text.lower() == "now":
        return now()
    if re.match(r"\d{4}-\d", text):
        text = re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "+00:00"))
        text = re.sub(r"\.(\d{1,5})(?=\D|$)", lambda part: "." + part[1].ljust(6, "0"), text)
        return datetime.fromisoformat(text).astimezone(timezone.utc)
    return now() + timedelta(seconds=parse_span(text))


def parse_span(text: str) -> float:
    """Seconds of a span such as 90, 1h30m, 2D. ValueError if it is none."""
    if re.fullmatch(r"-?\d+", text):
        return float(text)
    if not re.fullmatch(r"(\d+[smhDWMY])+", text):
        raise ValueError(f"not a time span: {text}")
    return float(sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([smhDWMY])", text)))
