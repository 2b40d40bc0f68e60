"""browsing.py: versions and files, of every generation, as real servers answered.

Recorded exchanges are replayed over a socket to the client's side; any JSON at all is put
in their place.
"""

import json
import urllib.parse
from datetime import datetime, timedelta, timezone

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import client
from remotes.actions.duplicati import restoring as actions
from remotes.duplicati import browsing
from remotes.duplicati.browsing import Browser, Entry, Version, choose_version, list_files
from remotes.errors import (
    ForeignServerError,
    NotFoundError,
    RemotesError,
    UnavailableError,
)
from tests.conftest import RECORDINGS
from tests.rude import Rude, answer

UTC = timezone.utc
RECORDED = {
    name: json.loads((RECORDINGS / path).read_text(encoding="utf-8"))["exchanges"]
    for name, path in (
        ("2.0.6.3", "duplicati-2.0/exchanges-2.0.6.3.json"),
        ("2.0.8.1", "duplicati-2.0/exchanges-2.0.8.1.json"),
        ("2.1.0.5", "duplicati/exchanges-2.1.0.5.json"),
        ("2.3.0.4", "duplicati/exchanges-2.3.0.4.json"),
        ("today", "duplicati/exchanges.json"))
}
LEGACY = ("2.0.6.3", "2.0.8.1")
V2 = ("2.3.0.4", "today")
BOM = b"\xef\xbb\xbf"


def pieces(path, document=None):
    """A request as a path and what is asked, without what only cuts the answer into pages."""
    parts = urllib.parse.urlsplit(path)
    asked = {name: value for name, value in urllib.parse.parse_qsl(parts.query)}
    for name, value in (document or {}).items():
        if name not in ("Page", "PageSize", "ReturnExtended"):
            asked[name] = json.dumps(value)
    return urllib.parse.unquote(parts.path), asked


def replaying(exchanges, *, is_legacy=False):
    """A manner: the recorded answer to the request that comes, or 404 and nothing.

    A request may say more than the recorded one (`folder-contents=false`); of several that
    fit, the one that says most is meant.
    """
    def manner(server, connection, request):
        document = json.loads(request.body) if request.body[:1] == b"{" else None
        path, asked = pieces(request.path, document)
        fitting = []
        for exchange in exchanges:
            old = exchange["request"]
            sent = old["json"] if isinstance(old["json"], dict) else {}
            if sent.get("PageSize", 0) in (0, 100):  # whole in one page
                there, said = pieces(old["path"], sent)
                if (old["method"], there) == (request.method, path) \
                        and said.items() <= asked.items():
                    fitting.append((len(said), exchange["response"]))
        if not fitting:
            return answer(404)(server, connection, request)
        response = max(fitting, key=lambda pair: pair[0])[1]
        body = b"" if response["json"] is None else json.dumps(response["json"]).encode()
        return answer(response["status"], BOM + body if is_legacy else body)(
            server, connection, request)

    return manner


def after(release, name):
    """The recorded exchanges of a release from the one named `name` on."""
    names = [exchange["name"] for exchange in RECORDED[release]]
    return RECORDED[release][names.index(name):]


@pytest.fixture
def browser_at(tmp_path):
    """browser_at(url, is_legacy, **options of Browser): a Browser with a session of its own."""
    opened = []

    def make(url, *, is_legacy=False, backup_id="2", **options):
        session = {"generation": "cookie", "xsrf_token": "xsrf", "session_auth": "session"} \
            if is_legacy else {"generation": "token", "access_token": "token"}
        path = tmp_path / "settings.yml"
        path.write_text(yaml.safe_dump({"duplicati": {"servers": {
            "default": {"url": url, **session}}}}))
        path.chmod(0o600)
        action = next(one for one in actions.ACTIONS if one.name == "duplicati_versions")
        context = client.build_context(action, {"settings": str(path), "id": [backup_id]},
                                       {"REMOTES_CONFIG": ""}, print, print)
        server = context.duplicati()
        opened.append(server)
        return Browser(server, backup_id, **options)

    yield make
    for server in opened:
        server.close()


@pytest.fixture
def recorded(browser_at):
    """recorded(release, first exchange) -> a Browser on a server that replays the recording."""
    servers = []

    def make(release, name="filesets", **options):
        is_legacy = release in LEGACY
        server = Rude(replaying(after(release, name), is_legacy=is_legacy))
        servers.append(server.__enter__())
        options.setdefault("backup_id", "1" if is_legacy else "2")
        return browser_at(server.url, is_legacy=is_legacy, **options)

    yield make
    for server in servers:
        server.__exit__()


ANN = {release: [Entry("/home/ann/docs/", None, True), Entry("/home/ann/photos/", None, True),
                 Entry("/home/ann/a.txt", 120, False), Entry("/home/ann/link", None, False)]
       for release in ("2.1.0.5", *V2)}
ANN |= {release: [Entry("/home/ann/docs/", None, True), Entry("/home/ann/a.txt", 120, False),
                  Entry("/home/ann/photo.jpg", 400000, False)] for release in LEGACY}


def bare(entries):
    """Entries without their times, which v1 does not tell."""
    return [Entry(entry.path, entry.size, entry.is_folder) for entry in entries]


@pytest.mark.parametrize("release", RECORDED)
def test_versions_are_those_that_the_real_server_listed(recorded, release):
    """Newest first, with their times in UTC, whole, and their own time to ask with."""
    browser = recorded(release)
    versions = browser.versions()
    assert [0, 1] == [version.number for version in versions]
    assert [True, True] == [version.is_full for version in versions]
    assert versions[0].time > versions[1].time > datetime(2026, 11, 22, tzinfo=UTC)
    assert versions[0].time.utcoffset() == timedelta(0)
    newest = versions[0]
    sizes = {"2.0.6.3": (None, None, None), "2.0.8.1": (None, None, None),
             "2.1.0.5": (6, None, 470468)}
    assert sizes.get(release, (None, 11, 470468)) == (newest.files, newest.entries, newest.bytes)
    assert "whole" in newest.words() and "version 0 of 2026-11-22" in newest.words()


@pytest.mark.parametrize("release", RECORDED)
def test_roots_folders_and_searches_are_as_recorded(recorded, release):
    """The same folder on each release: folders first, sizes of files alone."""
    browser = recorded(release)
    newest = browser.versions()[0]
    assert [Entry("/home/ann/", None, True)] == bare(browser.roots(newest))
    assert ANN[release] == bare(browser.folder(newest, "/home/ann/"))
    size = 280 if release in LEGACY else 330
    pattern = "report" if release in V2 else "*report*"
    if release in V2:
        assert all(entry.modified for entry in browser.folder(newest, "/home/ann/"))
    found = _search(browser, newest, pattern)
    assert [Entry("/home/ann/docs/report.txt", size, False)] == bare(found)


def _search(browser, version, pattern):
    """A search whose recorded request said the time where ours says the version."""
    if not browser._has_v2:
        return browser.search(version, pattern)
    rows = browser._pages("v2/backup/search",
                          {"Paths": None, "Filters": [pattern], "Time": version.stamp})
    return [browsing._v2_entry(row) for row in rows if row["Version"] == version.number]


@pytest.mark.parametrize("release", RECORDED)
def test_a_typed_path_is_found_with_and_without_its_slash(recorded, release):
    """A root, a folder, a file, one above the roots; and None for what is not there."""
    browser = recorded(release)
    newest = browser.versions()[0]

    def found(path):
        entry = browser.find(newest, path)
        return entry and (entry.path, entry.is_folder)

    for typed in ("/home/ann/docs", "/home/ann/docs/"):
        assert ("/home/ann/docs/", True) == found(typed)
    for typed in ("/home/ann", "/home/ann/"):
        assert ("/home/ann/", True) == found(typed)
    for typed in ("/home", "/home/", "/"):
        assert (typed.rstrip("/") + "/", True) == found(typed)
    assert ("/home/ann/a.txt", False) == found("/home/ann/a.txt")
    for typed in ("/home/ann/a.txt/", "/home/ann/none", "/home/ann/DOCS"):
        assert found(typed) is None


@pytest.mark.parametrize("release", RECORDED)
def test_listing_nothing_in_particular_gives_the_roots(recorded, release):
    """No path: the roots. A folder: its children. A file: itself. Above: the roots below it."""
    browser = recorded(release)
    newest = browser.versions()[0]
    roots = [Entry("/home/ann/", None, True)]
    assert roots == bare(list_files(browser, newest))
    assert roots == bare(list_files(browser, newest, ["/home"]))
    assert ANN[release] == bare(list_files(browser, newest, ["/home/ann"]))
    assert [Entry("/home/ann/a.txt", 120, False)] == \
        bare(list_files(browser, newest, ["/home/ann/a.txt"]))
    with pytest.raises(NotFoundError):
        list_files(browser, newest, ["/home/ann", "/home/ann/none"])


@pytest.mark.parametrize("release", ["2.0.6.3", "2.0.8.1", "2.3.0.4", "today"])
def test_a_backup_that_never_ran_has_no_version(recorded, release):
    """`[]`, `folder-missing` or `FolderMissing`: each is an empty list, and 10 if one is asked."""
    browser = recorded(release, "filesets before the first run")
    assert [] == browser.versions()
    with pytest.raises(NotFoundError, match="has no version"):
        choose_version(browser.versions(), why_none=browser.why_none)


NEVER_RAN = {"GET /api/v1/backup/2/isactive": {"Status": "OK", "Active": False},
             "GET /api/v1/backup/2": {"Backup": {"ID": "2", "Metadata": {}}, "Schedule": None}}


def generic(said):
    """A manner of 2.1.0: `said` to what it names, 404 to v2, "An error occurred" to the rest."""
    def manner(server, connection, request):
        known = said.get(f"{request.method} {request.path.partition('?')[0]}")
        if "/v2/" in request.path:
            return answer(404)(server, connection, request)
        document = {"Error": "An error occurred", "Code": 500} if known is None else known
        return answer(500 if known is None else 200, document)(server, connection, request)

    return manner


def test_what_2_1_says_to_everything_is_told_apart(browser_at):
    """500 to `/filesets`: never ran, if its metadata know no backup; busy, if it is active; else
    it is a failure of the server."""
    with Rude(generic(NEVER_RAN)) as server:
        assert [] == browser_at(server.url).versions()
    busy = {**NEVER_RAN, "GET /api/v1/backup/2/isactive": {"Status": "OK", "Active": True}}
    with Rude(generic(busy)) as server, pytest.raises(UnavailableError) as caught:
        browser_at(server.url).versions()
    assert "busy" == caught.value.kind
    ran = {**NEVER_RAN, "GET /api/v1/backup/2": {"Backup": {"Metadata": {
        "LastBackupDate": "20261122T042100Z"}}}}
    with Rude(generic(ran)) as server, pytest.raises(UnavailableError) as caught:
        browser_at(server.url).versions()
    assert "server_error" == caught.value.kind


def test_an_unknown_backup_is_not_found(recorded):
    """v2 says so on HTTP 200; it is 10, and nothing else is asked."""
    with pytest.raises(NotFoundError):
        recorded("today", backup_id="999",
                 name="v2 list-filesets, unknown backup").versions()


def test_a_locked_database_is_for_now(recorded):
    """DatabaseLocked is 75, not "no version"."""
    browser = recorded("today", "filesets while running", backup_id="5")
    with pytest.raises(UnavailableError) as caught:
        browser.versions()
    assert ("database_locked", 75) == (caught.value.kind, caught.value.exit_code)


def test_a_version_that_is_being_made_is_partial(recorded):
    """2.3.0.4 lists it while its run goes on: partial, with what is in it so far."""
    versions = recorded("2.3.0.4", "v2 list-filesets while running", backup_id="5").versions()
    assert [(False, 35, 68000000)] == [
        (version.is_full, version.entries, version.bytes) for version in versions]
    assert "partial" in versions[0].words()


@pytest.mark.parametrize("release", ["2.1.0.5", *V2])
def test_a_temporary_backup_lists_the_versions_of_its_target(recorded, release):
    """Whether they are whole is not known from a target, whatever v1 says."""
    exchange = after(release, "filesets of a temporary one")[0]
    backup_id = exchange["request"]["path"].split("/")[4]
    browser = recorded(release, "filesets of a temporary one", backup_id=backup_id,
                       is_temporary=True)
    versions = browser.versions()
    assert [(0, None), (1, None)] == [(version.number, version.is_full) for version in versions]
    assert "does not say" in versions[0].words()


def paged(pages):
    """A manner of v2: `pages` of rows, with the PageInfo that real servers give."""
    def manner(server, connection, request):
        asked = json.loads(request.body)
        page = asked["Page"]
        rows = pages[page] if page < len(pages) else []
        total = len(rows) if page == 0 else -1
        return answer(200, {"Success": True, "StatusCode": "OK", "Data": rows, "PageInfo": {
            "Page": page, "PageSize": asked["PageSize"], "Total": total, "Pages": page == 0,
        }})(server, connection, request)

    return manner


def rows(first, count):
    return [{"Path": f"/home/{number:06}", "Size": number, "IsDirectory": False}
            for number in range(first, first + count)]


VERSION = Version(3, datetime(2026, 11, 22, tzinfo=UTC), True, None, None, None,
                  "2026-11-22T00:00:00Z")


@pytest.mark.parametrize("sizes", [(0,), (999,), (1000,), (1000, 1), (1000, 1000, 17)])
def test_a_folder_is_read_to_its_last_page(browser_at, sizes):
    """PageInfo is not believed: pages are asked for until one is not full."""
    pages = [rows(1000 * number, size) for number, size in enumerate(sizes)]
    with Rude(paged(pages)) as server:
        browser = browser_at(server.url)
        found = browser.folder(VERSION, "/home/")
        assert [row["Path"] for page in pages for row in page] == [entry.path for entry in found]
        assert len(sizes) + (sizes[-1] == 1000) == len(server.requests)
        assert found == browser.folder(VERSION, "/home/")  # without asking again
        assert len(sizes) + (sizes[-1] == 1000) == len(server.requests)
        asked = [json.loads(request.body) for request in server.requests]
        assert {"/home/"} == {path for one in asked for path in one["Paths"]}
        assert {"2026-11-22T00:00:00Z"} == {one["Time"] for one in asked}


def test_a_server_that_gives_one_page_without_end_is_no_such_server(browser_at):
    """The same full page twice would be read for ever."""
    page = rows(0, 1000)
    with Rude(paged([page] * 50)) as server, pytest.raises(ForeignServerError):
        browser_at(server.url).folder(VERSION, "/home/")


def test_of_a_search_only_the_version_counts(browser_at):
    """Items of other versions are left out, whatever their Time says (it is wrong: year 1)."""
    found = [{"Version": number, "Time": "0001-01-01T00:02:59.5315153Z", "Size": number,
              "Path": "/a/report", "IsDirectory": False} for number in (4, 3, 0)]
    with Rude(paged([found])) as server:
        assert [Entry("/a/report", 3, False)] == browser_at(server.url).search(VERSION, "report")
        asked = json.loads(server.requests[0].body)
        assert ([3], ["report"]) == (asked["Version"], asked["Filters"])


def test_a_regular_expression_is_asked_of_v1(browser_at):
    """v2 knows none."""
    with Rude(answer(200, {"Files": [{"Path": "/a/1.jpg", "Sizes": [5]}]})) as server:
        found = browser_at(server.url).search(VERSION, "[.*jpg]")
        assert [Entry("/a/1.jpg", 5, False)] == found
        parts = urllib.parse.urlsplit(server.requests[0].path)
        assert "/api/v1/backup/2/files" == parts.path
        asked = dict(urllib.parse.parse_qsl(parts.query))
        assert ("[.*jpg]", "2026-11-22T00:00:00Z") == (asked["filter"], asked["time"])


@pytest.mark.parametrize("folder, pattern", [
    ("/home/ann/", "/home/ann/*"), ("/a [x]/", "/a ?x?/*"), ("/a*b?/", "/a*b?/*"),
    ("@/s3/", "?/s3/*"), ("C:\\Users\\", "C:\\Users\\*"),
])
def test_a_tree_holds_what_is_below_its_folder_and_nothing_else(browser_at, folder, pattern):
    """A pattern may match too much, since names hold what patterns are made of."""
    found = [{"Version": 3, "Path": path, "Size": 1, "IsDirectory": False}
             for path in (f"{folder}x", f"{folder}y/z", f"other{folder}x", folder.upper() + "x")]
    with Rude(paged([found])) as server:
        paths = [entry.path for entry in browser_at(server.url).tree(VERSION, folder)]
        assert [f"{folder}x", f"{folder}y/z"] == paths
        assert [pattern] == json.loads(server.requests[0].body)["Filters"]


WINDOWS = {None: ["C:\\Users\\Ann\\"],
           "C:\\Users\\Ann\\": ["C:\\Users\\Ann\\Docs\\", "C:\\Users\\Ann\\A.txt"],
           "C:\\Users\\Ann\\Docs\\": ["C:\\Users\\Ann\\Docs\\Report.TXT"]}


def windows(server, connection, request):
    """A manner: a backup of a Windows system, whose folders must be spelled exactly."""
    folder = (json.loads(request.body)["Paths"] or [None])[0]
    found = [{"Path": path, "Size": 7, "IsDirectory": path.endswith("\\")}
             for path in WINDOWS.get(folder, [])]
    return answer(200, {"Success": True, "Data": found})(server, connection, request)


@pytest.mark.parametrize("typed, path", [
    ("C:\\Users\\Ann\\A.txt", "C:\\Users\\Ann\\A.txt"),
    ("c:\\users\\ann\\a.TXT", "C:\\Users\\Ann\\A.txt"),
    ("c:/users/ann/docs/report.txt", "C:\\Users\\Ann\\Docs\\Report.TXT"),
    ("c:/users/ann/docs", "C:\\Users\\Ann\\Docs\\"),
    ("c:/users/ann/docs/", "C:\\Users\\Ann\\Docs\\"),
    ("c:\\users\\ann", "C:\\Users\\Ann\\"), ("c:", "C:\\"), ("C:/Users/", "C:\\Users\\"),
    ("c:/users/bob/a.txt", None), ("d:/users/ann/a.txt", None), ("c:/users/ann/a.txt/", None),
])
def test_paths_of_windows_are_found_in_any_case_and_with_either_slash(browser_at, typed, path):
    """And are given back as the backup spells them, since a restore elsewhere needs that."""
    with Rude(windows) as server:
        entry = browser_at(server.url).find(VERSION, typed)
        assert path == (entry and entry.path)


def test_a_folder_whose_name_is_a_pattern_is_meant_as_it_stands(browser_at):
    """v1 takes a filter for a folder; `@` keeps it from being a pattern."""
    with Rude(answer(200, {"Files": []})) as server:
        browser = browser_at(server.url, is_legacy=True)
        browser.folder(VERSION, "/a*/")
        browser.folder(VERSION, "/ü b/")
        paths = [request.path.partition("?")[0] for request in server.requests]
        assert ["/api/v1/backup/2/files/%40%2Fa%2A%2F",
                "/api/v1/backup/2/files/%2F%C3%BC%20b%2F"] == paths


def version(number, time, is_full=True):
    return Version(number, time, is_full, None, None, None, "")


DAYS = [version(number, datetime(2026, 8, 22 - number, 12, tzinfo=UTC)) for number in range(4)]


def test_the_newest_version_at_or_before_a_time_is_chosen():
    """To the second: one that is a second younger is too young."""
    noon = datetime(2026, 8, 21, 12, tzinfo=UTC)
    assert DAYS[0] == choose_version(DAYS)
    assert DAYS[1] == choose_version(DAYS, at=noon)
    assert DAYS[2] == choose_version(DAYS, at=noon - timedelta(seconds=1))
    assert DAYS[0] == choose_version(DAYS, at=noon + timedelta(days=400))
    assert DAYS[3] == choose_version(DAYS, 3)


@pytest.mark.parametrize("which", [
    {"number": 4}, {"at": datetime(2026, 8, 19, 11, 59, 59, tzinfo=UTC)},
])
def test_a_version_that_is_not_there_is_told_with_those_that_are(which):
    """10, and the oldest and the newest are named."""
    with pytest.raises(NotFoundError) as caught:
        choose_version(DAYS, **which, backup="backup 3")
    assert "backup 3" in str(caught.value) and "there are 4, from version 3" in str(caught.value)


@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=1, max_size=8, unique=True),
       st.datetimes(timezones=st.just(UTC)))
def test_no_version_is_chosen_that_is_younger_than_the_time(times, at):
    """And none that is older than another one that would do."""
    versions = [version(number, time) for number, time in enumerate(sorted(times, reverse=True))]
    fitting = [time for time in times if time <= at]
    try:
        assert max(fitting, default=None) == choose_version(versions, at=at).time
    except NotFoundError:
        assert not fitting


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["Version", "Time", "IsFullBackup", "FileCount", "FileSizes", "Files",
                         "Path", "Size", "Sizes", "IsDirectory", "LastModified", "Data",
                         "Success", "StatusCode", "Error"]) | st.text(max_size=3),
        inner, max_size=4),
    max_leaves=10)


class AnyJson:
    """A manner that answers whatever `document` is now."""

    document = None

    def __call__(self, server, connection, request):
        return answer(200, self.document)(server, connection, request)


@pytest.mark.parametrize("is_legacy", [True, False])
def test_any_json_is_an_answer_or_an_error_of_ours(browser_at, is_legacy):
    """Whatever a server says of versions and files, nothing but an error of ours comes out."""
    manner = AnyJson()
    with Rude(manner) as server:
        browser = browser_at(server.url, is_legacy=is_legacy)

        @given(ANY_JSON)
        @example([{"Version": 0, "Time": "2026-11-22T00:00:00Z"}])
        @example({"Files": [{"Path": "/", "Sizes": None}]})
        @example({"Success": True, "Data": [{"Path": "", "Size": "1"}]})
        @example([{"Version": True, "Time": "2026-11-22T00:00:00Z"}])
        def ask(document):
            manner.document = document
            browser._listed.clear()
            for question in (browser.versions, lambda: browser.find(VERSION, "/a/b"),
                             lambda: list_files(browser, VERSION, ["/a"], "*"),
                             lambda: browser.tree(VERSION, "/a/")):
                try:
                    question()
                except RemotesError:
                    pass

        ask()
