"""answers.py, and every rule that reads an answer, against all that real servers answered."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotes.actions.duplicati.reading import _brief
from remotes.answer import Answer
from remotes.duplicati import outcomes, progress
from remotes.duplicati.answers import judge
from remotes.duplicati.calls import _parsed
from remotes.errors import (
    LoginError,
    NotFoundError,
    RefusedError,
    RemotesError,
    SettingsError,
    UnavailableError,
)
from tests import recorded
from tests.test_server import ANY_JSON

SECRETS = ("hunter22", "correct-horse", "preauth-token-1")


@pytest.mark.parametrize("release", recorded.FILES)
def test_every_recorded_answer_is_a_value_or_an_error_of_ours(release):
    """And an error says what was asked, what came, and no secret."""
    counted = 0
    for exchange in recorded.exchanges(release):
        answer = recorded.as_answer(exchange)
        try:
            judge(answer, exchange["request"]["method"])
            assert answer.status < 300, exchange["name"]
        except RemotesError as error:
            v2_says_no = isinstance(answer.json, dict) and answer.json.get("Success") is False
            is_page = answer.status == 200 and not isinstance(answer.json, (dict, list))
            assert answer.status >= 300 or v2_says_no or is_page, exchange["name"]
            said = f"{error} {json.dumps(error.answer)}"
            assert not any(secret in said for secret in SECRETS)
            assert "?" not in str(error).partition(" answers ")[0], "a query was told"
        counted += 1
    assert counted > 80


@pytest.mark.parametrize("release, name, kind, code", [
    ("today", "backup, unknown", NotFoundError, None),
    ("today", "log while running", UnavailableError, "DatabaseLocked"),
    ("today", "v2 list-filesets while running", UnavailableError, "DatabaseLocked"),
    ("today", "v2 list-filesets, unknown backup", NotFoundError, "HTTP-404"),
    ("today", "v2 list-filesets before the first run", RefusedError, "FolderMissing"),
    ("today", "v2 list-folder: no time, two versions", RefusedError, "MultipleFilesetsFound"),
    ("today", "create, name taken", RefusedError, None),
    ("today", "login, wrong password", LoginError, None),
    ("today", "login, unknown host name", SettingsError, None),
    ("today", "delete while running", RefusedError, None),
    ("today", "import without its passwords", RefusedError, None),
    ("today", "unknown path", NotFoundError, "NoSuchEndpoint"),
    ("today", "known path, wrong method", NotFoundError, "NoSuchEndpoint"),
    ("today", "files: no filter", UnavailableError, None),
    ("2.1.0.5", "stop a queued task", NotFoundError, "NoSuchEndpoint"),
    ("2.0.8.1", "log before the first run", RefusedError, "SqliteException"),
    ("2.0.8.1", "backup, unknown", NotFoundError, None),
    ("2.0.8.1", "unknown host", SettingsError, None),
    ("2.0.8.1", "v2 list-filesets", NotFoundError, "NoSuchEndpoint"),
    ("2.0.8.1", "pause, bad duration", RefusedError, None),
])
def test_what_went_wrong_is_told_apart(release, name, kind, code):
    """Each failure that a caller treats in its own way has its own error and code."""
    exchange = next(found for found in recorded.exchanges(release) if found["name"] == name)
    with pytest.raises(RemotesError) as caught:
        judge(recorded.as_answer(exchange), exchange["request"]["method"])
    assert (kind, code) == (type(caught.value), caught.value.code)


def results():
    """(name of the exchange, result) of every whole result row of all recordings."""
    for release, exchange in recorded.every():
        rows = exchange["response"]["json"]
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and row.get("Type") == "Result":
                found = _parsed(row["Message"])
                if found and found.get("ParsedResult"):
                    yield release, exchange["name"], found


def test_every_recorded_result_is_read():
    """Each kind of end is among them, and gets its exit code."""
    ends = {}
    for release, name, row in results():
        outcome = outcomes.of_row(row)
        answer = outcome.answer()
        assert answer["why"] and answer["began"] and answer["seconds"] is not None
        ends.setdefault(outcome.result, set()).add((release, name))
    assert {"success", "warning", "error", "aborted", "interrupted"} <= set(ends)
    assert ("today", "log after an abort") in ends["aborted"]
    assert ("2.0.8.1", "log after an abort") in ends["aborted"]
    assert ("today", "log after a stop") in ends["interrupted"]
    assert ("2.0.6.3", "log after a stop") in ends["interrupted"]


def test_every_recorded_progress_is_part_of_a_whole():
    """Between 0 and 1, with words; full only when the phase says so."""
    seen = 0
    for _, exchange in recorded.every():
        state = exchange["response"]["json"]
        if "progressstate" in exchange["request"]["path"] and isinstance(state, dict) \
                and "Phase" in state:
            found = progress.read(state)
            assert found.words
            assert found.part is None or 0 <= found.part <= 1
            assert (found.part == 1.0) <= ("Complete" in state["Phase"]
                                           or state["OverallProgress"] == 1)
            seen += 1
    assert seen > 25


def test_every_recorded_backup_is_shown_in_brief():
    """Name and number always; sizes are numbers, times are ISO 8601."""
    seen = 0
    for _, exchange in recorded.every():
        rows = exchange["response"]["json"]
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and isinstance(row.get("Backup"), dict) \
                    and "TaskID" not in row:
                brief = _brief(row)
                assert brief["id"] and brief["name"]
                assert brief["source_bytes"] is None or brief["source_bytes"] >= 0
                assert brief["last_backup"] is None or brief["last_backup"].endswith("Z")
                seen += 1
    assert seen > 40


FAILURES = st.fixed_dictionaries({}, optional={
    name: ANY_JSON | st.text(st.characters(), max_size=9)
    for name in ("Error", "Message", "Reason", "HelpId", "Type", "Success", "StatusCode", "Data")})


STATUSES = [200, 201, 204, 302, 400, 401, 403, 404, 405, 407, 409, 415, 429, 500, 502, 503, 504]


@given(ANY_JSON | FAILURES, st.sampled_from(STATUSES), st.booleans(), st.booleans())
def test_any_answer_at_all_is_a_value_or_an_error_of_ours(document, status, is_v2, is_json):
    """Whatever a server or what stands before it says."""
    content = json.dumps(document).encode() if is_json else b"<html>\xff</html>"
    answer = Answer(status, {}, content, f"http://h/api/v{2 if is_v2 else 1}/x", reason="Why")
    try:
        judge(answer, "GET")
    except RemotesError as error:
        assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"<html>Busy</html>", b'{"Error": "An error occurred"}'])
def test_only_a_429_says_that_nothing_was_done(content):
    """Some proxies say 503, too, of a server that had the request and broke off."""
    for status in (429, 500, 502, 503, 504):
        with pytest.raises(UnavailableError) as caught:
            judge(Answer(status, {}, content, "http://h/api/v1/backup/1/run"), "POST")
        assert (status, status != 429) == (status, caught.value.maybe_done)


@given(st.dictionaries(st.sampled_from(
    ["ParsedResult", "Interrupted", "PartialBackup", "Errors", "Warnings", "BeginTime", "EndTime",
     "ExaminedFiles", "BackendStatistics", "SizeOfAddedFiles"]), ANY_JSON))
def test_any_result_row_has_an_outcome(row):
    """Whatever stands in a log."""
    outcome = outcomes.of_row(row)
    assert outcome.exit_code in (0, 3, 4)
    json.dumps(outcome.answer())


@given(st.dictionaries(st.sampled_from(
    ["Phase", "OverallProgress", "StillCounting", "ProcessedFileCount", "ProcessedFileSize",
     "TotalFileCount", "TotalFileSize", "CurrentFileoffset", "CurrentFilecomplete"]), ANY_JSON))
def test_any_progressstate_can_be_read(state):
    """Whatever a server says of its progress."""
    found = progress.read(state)
    assert found.words and (found.part is None or 0 <= found.part <= 1)
