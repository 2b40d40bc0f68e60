"""The demo task server, held against the page of its protocol; and its page, against what hosts
and people could write into it."""

import base64
import hashlib
import http.client
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo.serving import SiteError
from demo.task_files import read_text
from demo.task_server import Call, State
from tests.conftest import PROJECT

GET = {"ID": 1, "Operation": "get", "Resources": [{"Type": "backup", "ID": 3}]}
RUN = {"ID": 2, "Operation": "run", "Resources": [{"Type": "backup", "ID": 3}]}
ODD = "../x y/ü."
TOKENS = {name: f"token-of-{name}-0123456789" for name in ("web1", "db1")}


def call(server, method, path, document=None, token=None, **headers):
    """One request: (status, headers, what its JSON means, or its text)."""
    address = urlsplit(server if isinstance(server, str) else server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = document if isinstance(document, (bytes, type(None))) else json.dumps(document).encode()
    try:
        connection.request(method, address.path + path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    is_json = answer.headers.get("Content-Type") == "application/json"
    return answer.status, answer.headers, json.loads(text) if is_json else text


def post(server, identifier, status, text=None, token=None):
    """Posts a result; gives the answer's status."""
    result = {"ID": identifier, "Status": status, "Data": {"Message": text}}
    path = f"api/tasks/{quote(str(identifier), safe='').replace('.', '%2E')}/result"
    return call(server, "POST", path, result, token)[0]


def listed(server, token=None):
    """The IDs that a host is asked for."""
    return [task["ID"] for task in call(server, "GET", "api/tasks", token=token)[2]]


def write(path, text):
    """Replaces a file, as an editor does."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


class Seen(HTMLParser):
    """What a browser makes of a page: `tags` and `attributes` (names), `text`."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, text):
        self.text += text


# Over HTTP.

def test_a_task_is_listed_until_it_is_accepted_refused_or_ended(serve_tasks):
    """303 and the list go together; neither 303 nor 304 has a body."""
    server = serve_tasks(GET, RUN, {**RUN, "ID": ODD}, base_path="/some/where")
    for identifier, status, left in ((2, "accepted", [1, ODD]), (ODD, "refused", [1]),
                                     (1, "error", [])):
        assert (303, "") == call(server, "GET", "api/tasks/status")[::2]
        assert 200 == post(server, identifier, status)
        assert left == listed(server)
    status, headers, text = call(server, "GET", "api/tasks/status")
    assert (304, None, "") == (status, headers["Content-Length"], text)
    assert 200 == post(server, 2, "completed", "done")
    assert ["error", "completed", "refused", None] == [
        server.state.state("host", identifier) for identifier in (1, 2, ODD, "1")]
    assert {"ID": 2, "Status": "completed", "Data": {"Message": "done"}} == \
        server.state.posts("host")[-1]


@pytest.mark.parametrize(("form", "expected", "nothing"), [
    ("list", [GET, RUN], []), ("object", {"Tasks": [GET, RUN]}, {"Tasks": []}), ("bare", GET, [])])
def test_the_list_can_be_written_in_each_form_of_the_draft(serve_tasks, form, expected, nothing):
    """A list, an object with Tasks, one bare task; and 303 with Location, or without."""
    server = serve_tasks(GET, RUN, form=form, has_location=form == "bare")
    location = call(server, "GET", "api/tasks/status")[1]["Location"]
    assert ("../tasks" if form == "bare" else None) == location
    assert expected == call(server, "GET", "api/tasks")[2]
    server.state.replace([])
    assert nothing == call(server, "GET", "api/tasks")[2]


def test_a_host_gets_its_own_tasks_and_no_others(serve_tasks):
    """It is known by its token; without one, or with the page's, it gets and changes nothing."""
    server = serve_tasks(page_token="token-of-the-page", hosts={
        "web1": {"token": TOKENS["web1"], "tasks": [GET]},
        "db1": {"token": TOKENS["db1"], "tasks": [{**RUN, "ID": 1}]}})
    assert [1] == listed(server, TOKENS["db1"])
    assert 200 == post(server, 1, "accepted", token=TOKENS["db1"])
    assert ("new", "accepted") == (server.state.state("web1", 1), server.state.state("db1", 1))
    for token in (None, "token-of-the-page", TOKENS["web1"] + "x", TOKENS["web1"][:-1], "ü"):
        for method, path in (("GET", "api/tasks"), ("GET", "api/tasks/status"),
                             ("POST", "api/tasks/1/result")):
            status, headers, _ = call(server, method, path, token=token)
            assert (401, "Bearer") == (status, headers["WWW-Authenticate"])
    assert "new" == server.state.state("web1", 1)


def test_the_page_asks_a_browser_for_its_token(serve_tasks):
    """As a password, whatever the name; a token of a host does not open it."""
    server = serve_tasks(GET, token=TOKENS["web1"], page_token="päge-token")
    for given_token, expected in (("päge-token", 200), (TOKENS["web1"], 401), ("", 401)):
        words = base64.b64encode(f"ann:{given_token}".encode()).decode()
        for path in ("", "task?n=1"):
            assert expected == call(server, "GET", path, Authorization=f"Basic {words}")[0]
    status, headers, _ = call(server, "GET", "")
    assert (401, True) == (status, headers["WWW-Authenticate"].startswith("Basic "))


def test_whoever_is_not_on_this_machine_needs_tokens(serve_tasks, tmp_path):
    """Each host one, and the page; a task file that takes one away later is a mistake."""
    with pytest.raises(SiteError, match="its page"):
        serve_tasks(GET, token=TOKENS["web1"], bind="0.0.0.0")
    with pytest.raises(SiteError, match="'host' needs a token"):
        serve_tasks(GET, page_token="token-of-the-page", bind="0.0.0.0")
    with pytest.raises(SiteError, match="shorter than 16"):
        serve_tasks(GET, token="a", page_token="token-of-the-page", bind="0.0.0.0")
    path = tmp_path / "tasks.yml"
    write(path, f"token: {TOKENS['web1']}\ntasks: [{json.dumps(GET)}]")
    server = serve_tasks(path=path, page_token="token-of-the-page")
    server.state.want_tokens()
    write(path, "tasks: []")
    assert (401, [1]) == (call(server, "GET", "api/tasks")[0], listed(server, TOKENS["web1"]))
    with pytest.raises(SiteError, match="not the only one"):
        serve_tasks(hosts={"web1": {}, "db1": {"token": TOKENS["db1"]}})
    with pytest.raises(SiteError, match="the same token"):
        serve_tasks(hosts={"web1": {"token": "a"}, "db1": {"token": "a"}})


def test_a_web_page_that_reaches_the_loopback_can_do_nothing(serve_tasks):
    """Neither one whose name leads here, nor one that posts to here."""
    server = serve_tasks(GET)
    for path in ("", "api/tasks", "api/tasks/status"):
        for name, expected in (("evil.example", 403), ("[", 403)):
            assert expected == call(server, "GET", path, Host=name)[0]
    assert 200 == call(server, "GET", "", Host="localhost:8300")[0]
    result = {"ID": 1, "Status": "completed", "Data": {}}
    assert 403 == call(server, "POST", "api/tasks/1/result", result, Origin="null")[0]
    assert "new" == server.state.state("host", 1)


@pytest.mark.parametrize(("expected", "path", "body"), [
    (400, "1", b""), (400, "1", b"{"), (400, "1", b"[]"), (400, "1", b"\xff"),
    (400, "1", b'{"ID": 1}'), (400, "1", b'{"ID": 1, "Status": "done"}'),
    (400, "1", b'{"ID": 1, "Status": ["accepted"]}'), (400, "1", b'{"Status": "accepted"}'),
    (400, "1", b'{"ID": 2, "Status": "accepted"}'), (400, "1", b'{"ID": true, "Status": "error"}'),
    (400, "1", b'{"ID": 1, "Status": "error", "Data": NaN}'),
    (400, "1", b'{"ID": 1, "Status": "error", "Data": ' + b"[" * 200 + b"]" * 200 + b"}"),
    (400, "1", b'{"ID": 1, "Status": "error", "Data": ' + b"[" * 9999 + b"]" * 9999 + b"}"),
    (400, "%FF", b'{"ID": 1, "Status": "error"}'),
    (404, "1", b'{"ID": "1", "Status": "accepted"}'),
    (404, "3", b'{"ID": 3, "Status": "accepted"}'), (404, "", b""), (404, "a/b", b"")])
def test_what_is_no_result_is_refused_and_not_kept(serve_tasks, expected, path, body):
    """With a status that says whether it was the form or the task, and a message."""
    server = serve_tasks(GET, RUN)
    status, _, answer = call(server, "POST", f"api/tasks/{path}/result", body)
    assert (expected, str) == (status, type(answer["Message"]))
    assert ([], "new") == (server.state.posts("host"), server.state.state("host", 1))


def test_the_first_final_result_stays_and_others_are_kept_beside_it(serve_tasks):
    """They are answered 200, since sending them again would not help, and told on the page; that
    "accepted" came twice is not out of the ordinary."""
    server = serve_tasks(GET, RUN)
    assert [200, 200] == [post(server, 2, "accepted") for _ in range(2)]
    assert "again" not in Seen(call(server, "GET", "")[2]).text
    for status, text in (("accepted", None), ("accepted", None), ("completed", "one"),
                         ("completed", "one"), ("completed", "two"), ("error", None),
                         ("refused", None), ("accepted", None)):
        assert 200 == post(server, 1, status, text)
    assert ("completed", 10) == (server.state.state("host", 1), len(server.state.posts("host")))
    shown = Seen(call(server, "GET", "")[2]).text
    assert "the same result again: 1×" in shown and "another final result, too late: 3×" in shown
    assert "accepted after its end: 1×" in shown
    found = call(server, "GET", "task?n=1&json=1")[2]
    assert (["taken", "repeated", "taken", "repeated", "second", "second", "second", "late"], GET,
            {"ID": 1, "Status": "completed", "Data": {"Message": "one"}}) == (
        [one["Became"] for one in found["Results"]], found["Task"], found["Results"][2]["Result"])


def test_a_result_that_cannot_be_kept_is_not_received(serve_tasks):
    """503, so that it is sent again; then it is."""
    server = serve_tasks(GET)
    assert [1] == listed(server)
    server.state.store.rows("PRAGMA max_page_count = 1")
    status, headers, _ = call(server, "POST", "api/tasks/1/result", {
        "ID": 1, "Status": "completed", "Data": "x" * 100_000})
    assert (503, "30", "new", []) == (status, headers["Retry-After"], server.state.state("host", 1),
                                      server.state.posts("host"))
    server.state.store.rows("PRAGMA max_page_count = 10000")
    assert 200 == post(server, 1, "completed", "x" * 100_000)


def test_a_bad_request_is_told_and_harms_nothing(serve_tasks):
    """Other methods, addresses, and bodies that are too long or of no known length."""
    server = serve_tasks(GET, base_path="base")
    assert 404 == call(server.url.replace("base/", ""), "GET", "api/tasks")[0]
    assert [405, 405, 405, 404, 404] == [call(server, *words)[0] for words in (
        ("POST", "api/tasks"), ("GET", "api/tasks/1/result"), ("POST", ""), ("GET", "api/"),
        ("GET", "task?n=9"))]
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    for method, is_empty in (("HEAD", True), ("GET", False)):
        connection.request(method, "/base/")
        answer = connection.getresponse()
        assert (200, is_empty) == (answer.status, answer.read() == b"")
    connection.close()
    for headers, expected in (({"Content-Length": "9" * 30}, 413), ({"Content-Length": "-1"}, 411),
                              ({"Transfer-Encoding": "chunked"}, 411)):
        assert expected == call(server, "POST", "api/tasks/1/result", **headers)[0]
    assert [1] == listed(server)


# Task files.

def test_a_bad_task_file_changes_nothing_and_the_page_says_where_it_is(serve_tasks, tmp_path):
    """The former tasks of that file stay, those of others are read; then all is well again."""
    for name, token in TOKENS.items():
        write(tmp_path / f"{name}.yml", f"token: {token}\ntasks:\n  - {json.dumps(GET)}\n")
    server = serve_tasks(path=tmp_path)
    write(tmp_path / "web1.yml", f"token: {TOKENS['web1']}\ntasks:\n  - {{ID: 1\n  - [\n")
    write(tmp_path / "db1.yml", f"token: {TOKENS['db1']}\ntasks:\n  - {json.dumps(RUN)}\n")
    assert ([1], [2]) == tuple(listed(server, token) for token in TOKENS.values())
    assert f"{tmp_path / 'web1.yml'}: line 4: " in Seen(call(server, "GET", "")[2]).text
    assert not server.state.files.refresh()
    write(tmp_path / "web1.yml", f"token: {TOKENS['web1']}\ntasks: []\n")
    assert [] == listed(server, TOKENS["web1"])
    assert "has a mistake" not in call(server, "GET", "")[2]
    write(tmp_path / "web1.yml", f"token: {TOKENS['db1']}\ntasks: [{json.dumps(RUN)}]\n")
    assert [] == listed(server, TOKENS["web1"])
    assert "the same token" in Seen(call(server, "GET", "")[2]).text
    (tmp_path / "web1.yml").unlink()
    assert (401, [2]) == (call(server, "GET", "api/tasks", token=TOKENS["web1"])[0],
                          listed(server, TOKENS["db1"]))
    (tmp_path / "db1.yml").unlink()
    assert [2] == listed(server, TOKENS["db1"])
    assert "no file in this folder" in Seen(call(server, "GET", "")[2]).text
    write(tmp_path / "web1.yml", f"token: {TOKENS['web1']}\ntasks: [{json.dumps(RUN)}]\n")
    assert [2] == listed(server, TOKENS["web1"])
    assert "replaced there" in call(server, "GET", "?host=db1")[2]


def write_host(folder, name, *tasks, token=None):
    """The file of one host; `token`: None for its own, "" for none."""
    own = TOKENS.get(name) if token is None else token
    write(folder / f"{name}.yml", json.dumps({**({"token": own} if own else {}), "tasks": tasks}))


def test_a_mistake_in_a_file_holds_up_the_host_of_that_file_only(serve_tasks, tmp_path):
    """No token, that of another host, then no YAML: its last good content stays, also after all
    of them; the others go on, a new one as well."""
    lines = []
    for name in TOKENS:
        write_host(tmp_path, name, GET)
    server = serve_tasks(path=tmp_path, log=lines.append)
    number = 1
    for token, reason in (("", "'web1' needs a token"), (TOKENS["db1"], "have the same token"),
                          ("[", "line 1: ")):
        number += 1
        write_host(tmp_path, "web1", RUN, token=token)
        if token == "[":
            write(tmp_path / "web1.yml", "[")
        write_host(tmp_path, "db1", {**GET, "ID": number})
        write_host(tmp_path, f"new{number}", RUN, token=f"token-of-new{number}")
        assert ([1], [number], [2]) == tuple(listed(server, one) for one in (
            *TOKENS.values(), f"token-of-new{number}"))
        assert [str(tmp_path / "web1.yml")] == list(server.state.files.faults)
        assert reason in Seen(call(server, "GET", "")[2]).text
        assert reason in lines[-1] and lines[-1].endswith("the former tasks stay")
    write_host(tmp_path, "db1", RUN)
    assert ([2], 3) == (listed(server, TOKENS["db1"]), len(lines))
    write_host(tmp_path, "web1", RUN)
    assert ([2], {}) == (listed(server, TOKENS["web1"]), server.state.files.faults)


def test_of_hosts_with_one_token_only_the_one_that_had_it_is_served(serve_tasks, tmp_path):
    """If none had it, none is served with it, nor does it open what they had; two can exchange
    theirs, one after the other."""
    web1, db1 = TOKENS.values()
    for name in TOKENS:
        write_host(tmp_path, name, GET)
    server = serve_tasks(path=tmp_path)
    write_host(tmp_path, "web1", RUN, token="shared")
    write_host(tmp_path, "new", RUN, token="shared")
    assert (401, [1], [1]) == (call(server, "GET", "api/tasks", token="shared")[0],
                               listed(server, web1), listed(server, db1))
    assert ["new.yml", "web1.yml"] == [os.path.basename(name)
                                       for name in server.state.files.faults]
    assert "'new' and 'web1' have the same token" in Seen(call(server, "GET", "")[2]).text
    (tmp_path / "new.yml").unlink()
    assert ([2], 401) == (listed(server, "shared"), call(server, "GET", "api/tasks", token=web1)[0])
    write_host(tmp_path, "web1", RUN, token=db1)
    assert ([2], [1]) == (listed(server, "shared"), listed(server, db1))
    write_host(tmp_path, "db1", GET, token="shared")
    assert ([1], [2], {}) == (listed(server, "shared"), listed(server, db1),
                              server.state.files.faults)
    write(tmp_path / "db1.yaml", json.dumps({"token": "other", "tasks": [RUN]}))
    assert (401, [1]) == (call(server, "GET", "api/tasks", token="other")[0],
                          listed(server, "shared"))
    assert "'db1' has two files" in Seen(call(server, "GET", "")[2]).text


def test_a_mistake_in_a_file_keeps_no_other_host_from_the_start(serve_tasks, tmp_path):
    """The host waits, and its tasks in the database with it; if no host is left, all is told."""
    lines, database = [], str(tmp_path / "results.sqlite")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name in TOKENS:
        write_host(folder, name, GET, RUN)
    first = serve_tasks(path=folder, database=database)
    assert ([1, 2], 200) == (listed(first, TOKENS["web1"]),
                             post(first, 1, "accepted", token=TOKENS["web1"]))
    first.state.close()
    write_host(folder, "web1", GET, RUN, token="")
    (folder / "gone.yml").symlink_to(tmp_path / "nowhere")
    server = serve_tasks(path=folder, database=database, page_token="token-of-the-page",
                         log=lines.append)
    server.state.want_tokens()
    assert ([1, 2], 401) == (listed(server, TOKENS["db1"]),
                             call(server, "GET", "api/tasks", token=TOKENS["web1"])[0])
    page = server.state.answer(Call("GET", "/", {"authorization": "Basic " + base64.b64encode(
        b"ann:token-of-the-page").decode()}, b""))
    shown = Seen(page.body.decode()).text
    assert "held up by its file" in shown and "no longer in the files" not in shown
    for line, end in zip(lines, ("gone.yml: No such file or directory", "it is not the only one")):
        assert line.endswith(f"{end}; its host has to wait")
    write_host(folder, "web1", GET, RUN)
    assert [2] == listed(server, TOKENS["web1"])
    write_host(folder, "web1", token="short")
    write_host(folder, "db1", token="short")
    with pytest.raises(SiteError, match=r"db1\.yml: .*; .*gone\.yml: .*; .*web1\.yml: "):
        State(folder)


def test_a_task_that_a_host_has_fetched_is_not_changed_under_it(serve_tasks, tmp_path):
    """What is changed before is changed; what is changed later becomes a new task when the former
    has ended; what is taken away can still be answered."""
    path = tmp_path / "tasks.yml"

    def say(*tasks, tasks_left=True):
        write(path, json.dumps({"tasks": tasks}))
        assert (303 if tasks_left else 304) == call(server, "GET", "api/tasks/status")[0]
        return call(server, "GET", "api/tasks")[2]

    write(path, json.dumps([GET]))
    server = serve_tasks(path=path)
    second, third = {**GET, "Operation": "verify"}, {**GET, "Operation": "describe"}
    assert [RUN, second] == say(RUN, second)
    assert [second, RUN] == say(third, RUN)
    assert "changed in the file" in Seen(call(server, "GET", "")[2]).text
    assert 200 == post(server, 1, "refused")
    assert [third, RUN] == call(server, "GET", "api/tasks")[2]
    assert [third] == say(dict(reversed(third.items())))
    assert 200 == post(server, 2, "completed")
    assert 200 == post(server, 1, "accepted")
    assert "changed in the file" not in call(server, "GET", "")[2]
    assert [] == say(GET, tasks_left=False)
    assert 200 == post(server, 1, "error")
    assert [GET] == say(GET)
    assert [] == say(tasks_left=False)
    assert (3, "new", "completed") == (len(call(server, "GET", "")[2].split("task?n=")) - 2, *(
        server.state.state("host", identifier) for identifier in (1, 2)))


def test_a_late_result_is_not_taken_for_that_of_a_task_nobody_has_fetched(serve_tasks):
    """An ID that comes again with other content: until that is fetched, results are of the former
    one. What nobody has fetched and is taken away leaves nothing."""
    server = serve_tasks(GET)
    assert [1] == listed(server)
    assert 200 == post(server, 1, "refused")
    server.state.replace([{**GET, "Operation": "verify"}, RUN])
    assert (200, "new") == (post(server, 1, "refused"), server.state.state("host", 1))
    server.state.replace([])
    assert ("refused", None) == tuple(server.state.state("host", number) for number in (1, 2))
    server.state.add("host", GET)
    assert ([1], 200, "error") == (listed(server), post(server, 1, "error"),
                                   server.state.state("host", 1))
    with pytest.raises(TypeError):
        server.state.store.post("host", {"ID": 1, "Status": "error", "Data": {1, 2}})
    assert (200, 4) == (post(server, 1, "error"), len(server.state.posts("host")))


@pytest.mark.parametrize(("line", "text"), [
    (1, ""), (1, "tasks: {}"), (2, "token: a\ntasls: []"), (3, "tasks:\n- ID: 1\n  ID: 2"),
    (2, "tasks:\n- Operation: run"), (2, "tasks:\n- {ID: 1}"), (2, "tasks:\n- {ID: true}"),
    (2, "tasks:\n- {ID: '', Operation: run}"), (1, "token: 12"), (1, "token: 'a b'"),
    (3, "- {ID: 1, Operation: run}\n-\n  ID: 1\n  Operation: run"), (2, "hosts: {}\ntasks: []"),
    (2, "- {ID: 1, Operation: run}\n- !!python/object:os.system {}"), (2, "tasks:\n- text"),
    (1, "- {ID: 1, Operation: run, Time: !!timestamp 2026-01-01}"),
    (1, "- &a {ID: 1, Operation: run, Again: *a}"), (1, "tasks: [\x07]"),
    (1, "- {ID: 1, Operation: run, Lines: 1e999}"),
    (2, "- ID: 1\n  Changes: {a: 1, a: 2}\n  Operation: edit"), (2, "hosts:\n  a: {tokn: x}")])
def test_a_mistake_in_a_task_file_is_told_with_its_line(line, text):
    """One that YAML knows, and one of what a task needs."""
    with pytest.raises(SiteError) as raised:
        read_text(text, "web1" if text.startswith("token") else None)
    assert f"line {line}" == str(raised.value).partition(":")[0], raised.value


def test_values_in_a_task_file_mean_what_they_mean_in_json():
    """No dates, no numbers to the base of sixty, no yes that is true."""
    text = "[2026-01-01, 12:30:00, yes, 007, 0x1f, 7, -1.5, 1e3, true, null, ~, 'null', 1_000, .5]"
    found = read_text(f"- {{ID: 1, Operation: run, Paths: {text}}}", None)["host"].tasks[0]
    assert ["2026-01-01", "12:30:00", "yes", "007", "0x1f", 7, -1.5, 1000.0, True, None, None,
            "null", "1_000", ".5"] == found["Paths"]


# The page.

def test_the_page_shows_each_state_and_can_be_held_still(serve_tasks):
    """It refreshes itself with a script, or without; its script is the only one that may run."""
    server = serve_tasks(*({**GET, "ID": number} for number in range(1, 206)))
    for number, status in ((1, "accepted"), (2, "refused"), (3, "completed"), (4, "error")):
        assert 200 == post(server, number, status, f"words of {number}")
    _, headers, page = call(server, "GET", "")
    seen = Seen(page)
    for shown in ("new 201", "accepted 1", "refused 1", "completed 1", "error 1", "words of 4"):
        assert shown in seen.text
    assert 1 == seen.tags.count("script")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        text = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in headers["Content-Security-Policy"]
    assert '<noscript><meta http-equiv="refresh"' in page
    held = call(server, "GET", "?hold=1&state=error")[2]
    assert ("Go on" in held, "http-equiv" in held, "<script" in held, "words of 4" in held,
            "words of 3" in held) == (True, False, False, True, False)
    assert "The next 200" in seen.text
    assert "words of" not in call(server, "GET", "?after=200")[2]


def test_what_a_host_says_of_a_task_is_told_however_it_ended(serve_tasks):
    """A backup that was completed with warnings says so, too; one that says nothing shows none of
    what it gives."""
    server = serve_tasks(GET, RUN)
    for identifier, content in ((1, {"result": "Success"}),
                                (2, {"result": "Warning", "Message": "it ended with warnings"})):
        assert 200 == post(server, identifier, "accepted")
        result = {"ID": identifier, "Status": "completed", "Data": content}
        assert 200 == call(server, "POST", f"api/tasks/{identifier}/result", result)[0]
    told = [part.partition("</td>")[0]
            for part in call(server, "GET", "")[2].split('<td data-label="Told" role="cell">')]
    assert ["<bdi>it ended with warnings</bdi>", ""] == told[1:]


WORDS = st.one_of(st.text(max_size=8), st.sampled_from([
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</title></style><b>", "]]>",
    "'", "&lt;", "\u202e", "\x00\ud800", "javascript:alert(1)"]))
JSON = st.recursive(
    st.one_of(WORDS, st.none(), st.integers(), st.booleans()), lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)), max_leaves=6)
OF_A_PAGE = set(
    "html head meta link title style noscript body header h1 h2 h3 p a main nav span b table"
    " caption thead tbody tr th td bdi time em br dl div dt dd pre script".split())
RESULTS = st.tuples(JSON, JSON | st.just("error"), JSON).map(
    lambda values: dict(zip(("ID", "Status", "Data"), values)))


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(["ID", "Operation", "Resources"]), JSON), JSON, WORDS, WORDS)
@example({}, [], "\x00\ud800", "\x00\ud800")
def test_whatever_a_task_or_a_result_says_is_text_on_the_page(fields, content, message, query):
    """It makes no element and no attribute, and never breaks the page of the others."""
    name = "<script>alert(1)</script>"
    state = State({"hosts": {name: {"tasks": [GET, fields, content]}}})
    try:
        for document in ({"Message": message}, content):
            result = json.dumps({"ID": 1, "Status": "error", "Data": document}).encode()
            assert 200 == state.answer(Call("POST", "/api/tasks/1/result", {}, result)).status
        assert 200 == state.answer(Call("GET", "/api/tasks", {}, b"")).status
        for target in ("/", "/task?n=1", "/task?n=2", "/task?n=3", f"/?host={quote(name)}",
                       "/?host=" + quote(query, errors="replace"),
                       f"/?state={query}&after={query}"):
            answer = state.answer(Call("GET", target, {}, b""))
            assert answer.status in (200, 404)
            seen = Seen(answer.body.decode())
            assert (set(), 1) == (set(seen.tags) - OF_A_PAGE, seen.tags.count("script"))
            assert not [name for name in seen.attributes if name.startswith("on")]
            assert 404 == answer.status or name in seen.text
    finally:
        state.close()


@settings(max_examples=100)
@given(st.binary(max_size=30) | (JSON | RESULTS).map(lambda content: json.dumps(content).encode()),
       st.text(max_size=5))
def test_whatever_is_posted_is_answered(body, part):
    """200, 400 or 404."""
    state = State([GET])
    try:
        for path in (quote(part, errors="replace"), "1"):
            request = Call("POST", f"/api/tasks/{path}/result", {}, body)
            assert state.answer(request).status in (200, 400, 404)
    finally:
        state.close()


# The program.

@pytest.fixture
def start_program(tmp_path):
    """start_program(*words) -> (process, URL) of demo/task_server.py; killed with the test."""
    processes = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, PROJECT / "demo" / "task_server.py", "--port=0", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        line = process.stdout.readline()
        return process, line.partition(" at ")[2].strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_what_was_received_is_there_after_a_kill(start_program, tmp_path):
    """SIGKILL right after the 200: nothing is lost, and nothing that ended is listed again."""
    database = f"--database={tmp_path / 'results.sqlite'}"
    process, url = start_program(database)
    assert [1, 2, 3, 4] == listed(url)
    for identifier, status in ((1, "accepted"), (1, "completed"), (3, "refused")):
        assert 200 == post(url, identifier, status, "words")
    process.kill()
    process.wait()
    process, url = start_program(database)
    assert [2, 4] == listed(url)
    found = call(url, "GET", "task?n=1&json=1")[2]
    assert ("completed", ["accepted", "completed"]) == (
        found["State"], [one["Result"]["Status"] for one in found["Results"]])
    process.terminate()
    assert 0 == process.wait(30)


def test_the_database_is_its_owners_from_its_first_byte(tmp_path):
    """Whatever the umask; one that others could read is narrowed, and what is beside it."""
    code = """if True:
        import os, sys
        from demo.task_server import State
        database = sys.argv[1]
        def tell():
            print(*sorted(oct(entry.stat().st_mode & 0o777)
                          for entry in os.scandir(os.path.dirname(database))))
        sys.addaudithook(lambda event, _: event in ("os.chmod", "sqlite3.connect") and tell())
        os.umask(int(sys.argv[2], 8))
        state = State([{"ID": 1}], database)
        tell()
        os._exit(0)"""
    for umask, wider in ((0o000, False), (0o777, False), (0o000, True)):
        folder = tmp_path / f"{umask}{wider}"
        folder.mkdir()
        if wider:  # as a kill left it
            for left in (tmp_path / "0False").iterdir():
                (folder / left.name).write_bytes(left.read_bytes())
                (folder / left.name).chmod(0o664)
        ended = subprocess.run([sys.executable, "-c", code, folder / "results.sqlite", oct(umask)],
                               cwd=PROJECT, capture_output=True, text=True, check=True)
        before, *modes = [set(line.split()) for line in ended.stdout.splitlines()]
        assert {"0o664" if wider else "0o600" if umask == 0 else "0o0"} == before
        assert [{"0o600"}, {"0o600"}] == modes[-2:]
        assert 3 == len(list(folder.iterdir()))


def test_the_program_says_in_one_line_why_it_does_not_start(tmp_path):
    """A mistake in its task file, with the line; an address that others can reach; a file."""
    path = tmp_path / "tasks.yml"
    path.write_text("tasks:\n- ID: 1\n")
    missing = tmp_path / "nope.pem"
    for words, told in (((f"--tasks={path}",), f"{path}: line 2: a task needs an Operation"),
                        (("--bind=0.0.0.0",), "its page needs a token"),
                        ((f"--tasks={tmp_path / 'none.yml'}",), "No such file"),
                        ((f"--certificate={missing}",), f"start: {missing}: No such file"),
                        ((f"--certificate={path}", f"--key={missing}"), f"start: {missing}: No "),
                        ((f"--certificate={path}",), f"start: {path}: not a certificate")):
        ended = subprocess.run([sys.executable, PROJECT / "demo" / "task_server.py", "--port=0",
                                *words], capture_output=True, text=True, timeout=60, check=False)
        assert (1, 1, True) == (ended.returncode, ended.stderr.count("\n"), told in ended.stderr)


@pytest.mark.parametrize("program", ["django_remotes", "duplicati", "task_server"])
@pytest.mark.parametrize("port", ["80000", "-1"])
def test_a_port_that_is_none_is_usage(program, port):
    """Of each of the demo servers: one line behind the usage, no traceback."""
    ended = subprocess.run([sys.executable, PROJECT / "demo" / f"{program}.py", f"--port={port}"],
                           capture_output=True, text=True, timeout=60, check=False)
    assert (2, True) == (ended.returncode, f"from 0 to 65535, not {port}" in ended.stderr)


def test_the_server_imports_nothing_of_the_client():
    """Else both could share a mistake."""
    code = ("import sys, demo.task_server\n"
            "print([name for name in sys.modules if name.partition('.')[0] == 'remotes'])")
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True,
                           text=True, check=True)
    assert "[]\n" == ended.stdout
