"""moments.py: every form in which a server or a person gives a time, and only those."""

import json
import os
import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from remotes.duplicati import moments
from remotes.errors import UsageError
from tests.conftest import RECORDINGS

TIME_NAMES = ("Time", "LastRun", "TaskStarted", "TaskFinished", "When", "BeginTime", "EndTime",
              "LastModified", "ServerTime", "EstimatedPauseEnd", "Timestamp", "LastBackupDate",
              "LastBackupStarted", "LastBackupFinished", "LastErrorDate")
UTC = timezone.utc
NOW = datetime(2026, 8, 22, 10, 3, tzinfo=UTC)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2), max_leaves=4)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# Years that a time zone cannot push out of the calendar, or into the year that means "not set".
YEARS = {"min_value": datetime(2, 1, 2), "max_value": datetime(9999, 12, 30)}
AWARE = st.datetimes(timezones=ZONES, **YEARS)


@pytest.fixture
def zone():
    """zone(name): this process lives in that time zone until the test ends."""
    former = os.environ.get("TZ")

    def move(name):
        os.environ["TZ"] = name
        time.tzset()

    yield move
    os.environ.pop("TZ", None)
    if former is not None:
        os.environ["TZ"] = former
    time.tzset()


@pytest.mark.parametrize("said, moment", [
    ("2026-08-22T10:03:00Z", NOW),
    ("2026-08-22T12:03:00+02:00", NOW),
    ("2026-08-22T04:33:00-05:30", NOW),
    ("2026-08-22T10:03:00", NOW),
    ("20260822T100300Z", NOW),
    (int(NOW.timestamp()), NOW),
    ("2026-11-22T03:39:16.6401428+01:00", datetime(2026, 11, 22, 2, 39, 16, 640142, UTC)),
    ("2026-11-22T02:39:16.6Z", datetime(2026, 11, 22, 2, 39, 16, 600000, UTC)),
])
def test_each_form_of_a_server_is_read_as_its_moment(said, moment):
    """ISO 8601 with Z, an offset or none, seven digits of a fraction, stamps, Unix seconds."""
    assert moment == moments.parse(said)
    assert UTC == moments.parse(said).tzinfo


@pytest.mark.parametrize("said", [
    "0001-01-01T00:00:00", "0001-01-01T00:00:00Z", "0001-01-01T00:02:59.5315153Z",
    "0001-01-01T00:00:00+02:00", "0001-01-01T00:00:00-11:00", "", None, {}, [], True, 0, -5,
    "13:00:00", "yesterday", "2026-02-30T00:00:00Z", "2026-08-22T25:00:00Z",
    "2026-08-22T10:03:00+99:99", "9999-12-31T23:59:59-01:00", float("nan"), float("inf"), 10**30,
    "२०२६-08-22T10:03:00Z",
])
def test_what_is_not_set_or_no_time_is_none(said):
    """Year 1, nothing, SQL's NULL and what no clock shows are None, not an error."""
    assert moments.parse(said) is None


@given(ANY_JSON)
@example("0001-01-01T00:00:00-00:01")
def test_any_json_is_a_moment_or_none(said):
    """Whatever a server sends for a time, reading it raises nothing."""
    moment = moments.parse(said)
    assert moment is None or moment.utcoffset() == timedelta(0)


@given(AWARE)
def test_a_moment_is_read_back_as_it_was_written(moment):
    """iso and parse are inverse, and so is the form with the offset."""
    assert moment == moments.parse(moments.iso(moment))
    assert moment == moments.parse(moment.isoformat())
    assert moments.iso(moment).endswith("Z")


@given(AWARE)
def test_a_metadata_stamp_is_the_moment_to_the_second(moment):
    """`yyyyMMddTHHmmssZ` is that moment in UTC."""
    moment = moment.astimezone(UTC).replace(microsecond=0)
    stamp = f"{moment.year:04}" + moment.strftime("%m%dT%H%M%SZ")
    assert moment == moments.parse(stamp)


@pytest.fixture(scope="module")
def recorded_exchanges():
    return [exchange for path in sorted(RECORDINGS.glob("duplicati*/*.json"))
            for exchange in json.loads(path.read_text(encoding="utf-8"))["exchanges"]]


@pytest.fixture(scope="module")
def recorded_times(recorded_exchanges):
    found = []

    def collect(node):
        if isinstance(node, list):
            for inner in node:
                collect(inner)
        elif isinstance(node, dict):
            for name, inner in node.items():
                if name in TIME_NAMES and isinstance(inner, str) and inner:
                    found.append(inner)
                else:
                    collect(inner)

    for exchange in recorded_exchanges:
        if exchange["name"] != "backupdefaults":  # whose Time is that of a clock
            collect(exchange["response"]["json"])
    return found


def test_every_time_of_the_recordings_is_read(recorded_times):
    """Each time that a recorded server gave under a name of a time is read, or is of year 1."""
    assert len(recorded_times) > 500
    for said in recorded_times:
        assert moments.parse(said) is not None or said.startswith(("0001-01-01T", "00010101T")), \
            said


@pytest.mark.parametrize("typed, age", [
    ("3D", timedelta(days=3)), ("1h30m", timedelta(minutes=90)), ("2W", timedelta(days=14)),
    ("1M", timedelta(days=30)), ("1Y", timedelta(days=365)), ("1m", timedelta(minutes=1)),
    ("30s", timedelta(seconds=30)), ("now", timedelta(0)), (" 3D ", timedelta(days=3)),
])
def test_an_age_is_reckoned_backward(typed, age):
    """`3D` is three days ago, never three days on."""
    assert NOW - age == moments.typed_time(typed, NOW)


@pytest.mark.parametrize("typed, moment", [
    ("2026-08-22T12:03:00+02:00", NOW), ("2026-08-22 10:03Z", NOW), ("20260822T100300Z", NOW),
    ("2026-08-22T10:03:00.000000Z", NOW), ("2026-08-22 12:03 +0200", NOW),
    ("2026-W34-6T10:03Z", NOW), ("20260822T1003Z", NOW),
])
def test_a_time_with_its_zone_is_that_moment(typed, moment):
    """ISO 8601 in the forms that people use, and in those that few use."""
    assert moment == moments.typed_time(typed, NOW)


def test_a_time_without_a_zone_is_the_local_one(zone):
    """What a person types is this machine's time; the same text of a server is UTC."""
    zone("Europe/Copenhagen")
    assert NOW == moments.typed_time("2026-08-22T12:03:00", NOW)
    assert datetime(2026, 8, 21, 22, tzinfo=UTC) == moments.typed_time("2026-08-22", NOW)
    assert datetime(2026, 8, 21, 22, tzinfo=UTC) == moments.typed_time("20260822", NOW)
    assert datetime(2026, 12, 31, 23, tzinfo=UTC) == moments.typed_time("2027-01-01", NOW)
    assert "2026-08-22 12:03:00 +0200" == moments.local_text(NOW)
    assert datetime(2026, 8, 22, 12, 3, tzinfo=UTC) == moments.parse("2026-08-22T12:03:00")


@pytest.mark.parametrize("typed", [
    "", "3d", "3", "3 D", "D", "-3D", "1.5h", "3D ago", "2026", "20", "202608", "2026-13-01",
    "2026-02-30", "yesterday", "99999999999Y", "2026-08-22T12:00+99:00", "0001-01-01T00:00:00+14",
    "३D", "2026-W99-1",
])
def test_what_is_neither_time_nor_age_is_a_usage_error(typed):
    """Units are case-sensitive, and nothing is guessed."""
    with pytest.raises(UsageError):
        moments.typed_time(typed, NOW)


@given(st.text(max_size=30))
@example("2026-08-22T24:00")
@example("0001-01-01")
@example("9999-12-31T23:59:59")
def test_any_typed_text_is_a_moment_or_a_usage_error(typed):
    """No text brings a traceback."""
    try:
        assert moments.typed_time(typed, NOW).utcoffset() == timedelta(0)
    except UsageError:
        pass


@pytest.mark.parametrize("said, seconds", [
    ("00:03:20", 200.0), ("1.02:03:04.5000000", 93784.5), ("-00:00:01", -1.0),
    ("00:00:00.0312000", 0.0312), ("0:00:00", 0.0),
    ("", None), ("3:20", None), (None, None), ({}, None), (7, None), ("00:03:20 ", None),
])
def test_a_span_is_read_in_seconds(said, seconds):
    """`[-][d.]hh:mm:ss[.fffffff]`; anything else is None."""
    assert seconds == moments.parse_span(said)


@given(st.timedeltas(min_value=timedelta(days=-9999), max_value=timedelta(days=9999)))
def test_any_span_of_time_is_read_to_the_microsecond(span):
    """A span written as .NET does is read as it was."""
    size = abs(span)
    hours, minutes, seconds = size.seconds // 3600, size.seconds // 60 % 60, size.seconds % 60
    text = f"{'-' if span < timedelta(0) else ''}{size.days}.{hours:02}:{minutes:02}:{seconds:02}" \
           f".{size.microseconds:06}0"
    assert abs(span.total_seconds() - moments.parse_span(text)) < 1e-5


@pytest.mark.parametrize("typed, text, seconds", [
    ("90", "90s", 90), (90, "90s", 90), ("1h30m", "1h30m", 5400), ("2D", "2D", 172800),
    ("1W", "1W", 604800), (" 5m ", "5m", 300),
])
def test_a_duration_is_given_as_the_server_wants_it(typed, text, seconds):
    """A plain number is seconds; units stay as they were."""
    assert text == moments.duration(typed)
    assert seconds == moments.duration_seconds(text)


@pytest.mark.parametrize("typed", [
    "", "0", "0s", "0h0m", "1H", "1d", "-5", "1.5h", "soon", "1h 5m",
])
def test_what_is_no_duration_is_a_usage_error(typed):
    """None without length either: a server takes it for "without end"."""
    with pytest.raises(UsageError):
        moments.duration(typed)


@given(st.lists(st.tuples(st.integers(1, 999), st.sampled_from("smhDWMY")), min_size=1,
                max_size=4))
def test_an_age_and_a_duration_of_the_same_text_are_as_long(parts):
    """One grammar for both."""
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert text == moments.duration(text)
    seconds = moments.duration_seconds(text)
    late = datetime(9000, 1, 1, tzinfo=UTC)
    assert timedelta(seconds=seconds) == late - moments.typed_time(text, late)
