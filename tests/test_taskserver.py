"""taskserver.py: what a task server's answers mean; one that keeps to the draft, rude ones."""

import json
import socket

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remotes.errors import ForeignServerError, LoginError, RemotesError, SettingsError
from remotes.taskserver import TaskServer, normalize
from remotes.transport import Transport
from tests import rude
from tests.rude import Rude, answer

TOKEN = "token-of-the-operator"
TASK = {"ID": 1, "Operation": "get", "Resources": [{"Type": "backup", "ID": 3}]}
RESULT = {"ID": 1, "Status": "completed", "Data": {"some": "json_result"}}
PAGE = b"<html><title>Sign in</title></html>"


def task_server(rude_server, token=TOKEN, path="", timeout_seconds=5.0):
    return TaskServer(Transport(timeout_seconds=timeout_seconds), rude_server.url + path, token)


def failures(server):
    """The errors in which the three requests end (status, list, result); None for one that ends
    well. Each tells the address of its request in one line.
    """
    errors = []
    for ask, path in ((server.has_tasks, "/status"), (server.fetch, ""),
                      (lambda: server.post(1, RESULT), "/1/result")):
        try:
            ask()
            errors.append(None)
        except RemotesError as error:
            assert [str(error)] == str(error).splitlines()
            assert f"{server.base}api/tasks{path} " in str(error)
            errors.append(error)
    server.close()
    return errors


def codes(server):
    """The exit codes of the three requests."""
    return tuple(error and error.exit_code for error in failures(server))


# -- a server that keeps to the draft -----------------------------------------------------

@pytest.mark.parametrize("status, expected", [(303, True), (304, False)])
@pytest.mark.parametrize("body", [b"", b"[]"], ids=["bare", "with a body"])
def test_the_status_is_never_followed(status, expected, body):
    """With a Location (another host, the list itself, no address at all) and without one."""
    with Rude(answer(200, [TASK])) as trap, Rude(answer()) as rude_server:
        server = task_server(rude_server, path="proxied/")
        places = [{}, {"Location": trap.url}, {"Location": rude_server.url + "proxied/api/tasks"},
                  {"Location": "http://["}, {"Location": ""}]
        for headers in places:
            rude_server.manner = answer(status, body, headers)
            assert expected == server.has_tasks()
        server.close()
        assert [] == trap.requests
        assert [("GET", "/proxied/api/tasks/status")] * len(places) == [
            (request.method, request.path) for request in rude_server.requests]


def test_304_may_tell_the_length_of_what_it_does_not_send():
    """HTTP allows it, and a cache before the server does so."""
    with Rude(answer(304, b"", length=500)) as rude_server:
        server = task_server(rude_server)
        assert not server.has_tasks()
        server.close()


@pytest.mark.parametrize("document, tasks", [
    ([TASK, {"ID": "x"}], [TASK, {"ID": "x"}]), ({"Tasks": [TASK]}, [TASK]), (TASK, [TASK]),
    ([], []), ({"Tasks": []}, []),
], ids=["a list", "Tasks", "one bare", "an empty list", "empty Tasks"])
def test_the_list_is_read_in_its_three_forms(document, tasks):
    """As they came: what a task may be is not for this module to say."""
    with Rude(answer(200, document)) as rude_server:
        server = task_server(rude_server)
        assert tasks == server.fetch()
        server.close()
        (request,) = rude_server.requests
        assert ("GET", "/api/tasks") == (request.method, request.path)


@pytest.mark.parametrize("document", ["tasks", 7, None, True, {}, {"Tasks": {}}, {"status": "OK"}])
def test_a_list_of_no_form_is_of_no_task_server(document):
    """78, and the line tells where."""
    with Rude(answer(200, document)) as rude_server:
        server = task_server(rude_server)
        with pytest.raises(ForeignServerError) as caught:
            server.fetch()
        server.close()
        assert f"{rude_server.url}api/tasks answers 200: " in str(caught.value)


def test_one_number_of_thousands_of_digits_leaves_the_other_tasks():
    """Whoever can write one task cannot stop all of them."""
    body = json.dumps([TASK, {"ID": 2, "Operation": "run"}]).encode()
    with Rude(answer(200, body.replace(b'"ID": 2', b'"ID": ' + b"2" * 5000))) as rude_server:
        server = task_server(rude_server)
        assert TASK == server.fetch()[0]
        server.close()


@pytest.mark.parametrize("body", [b"", b"OK", PAGE, b'{"status": "ERROR"}', b'{"half": '])
def test_200_means_received_whatever_is_said(body):
    """The draft says nothing of a body: a framework's page is as good as none."""
    with Rude(answer(200, body)) as rude_server:
        server = task_server(rude_server)
        assert server.post(1, RESULT) is None
        server.close()
        (request,) = rude_server.requests
        assert ("POST", "/api/tasks/1/result", RESULT) == (
            request.method, request.path, json.loads(request.body))


def test_the_demo_server_and_this_module_read_the_page_alike(serve_tasks):
    """Status, list and results of IDs of every kind, below a path, with the host's token."""
    tasks = [{**TASK, "ID": name} for name in (1, "..", ".", "../../status", "a/b ?#%2F", "ü")]
    demo = serve_tasks(hosts={"host": {"token": TOKEN, "tasks": tasks}}, base_path="/proxied/",
                       has_location=True)
    server = TaskServer(Transport(timeout_seconds=30), demo.url, TOKEN)
    assert (True, tasks) == (server.has_tasks(), server.fetch())
    for task in tasks:
        server.post(task["ID"], {**RESULT, "ID": task["ID"]})
        assert "completed" == demo.state.state("host", task["ID"])
    assert (False, []) == (server.has_tasks(), server.fetch())
    server.close()


# -- other answers ------------------------------------------------------------------------

@pytest.mark.parametrize("status, body, expected", [
    (200, {"status": "OK"}, (78, 78, None)), (200, PAGE, (75, 75, None)),
    (200, b"", (75, 75, None)), (201, {}, (78, 78, 1)), (202, b"", (78, 78, 1)),
    (204, b"", (78, 78, 1)), (301, b"", (78, 78, 78)), (302, PAGE, (78, 78, 78)),
    (303, b"", (None, 78, 78)), (304, b"", (None, 78, 78)), (307, b"", (78, 78, 78)),
    (308, b"", (78, 78, 78)), (400, {"detail": "no"}, (1, 1, 1)), (400, PAGE, (75, 75, 75)),
    (401, b"", (12, 12, 12)), (403, PAGE, (12, 12, 12)), (404, {"detail": "no"}, (78, 78, 1)),
    (404, PAGE, (78, 78, 1)), (405, b"", (78, 78, 1)), (407, PAGE, (78, 78, 78)),
    (409, b"", (1, 1, 1)), (413, PAGE, (1, 1, 1)), (418, b"", (1, 1, 1)), (429, b"", (75, 75, 75)),
    (500, PAGE, (75, 75, 75)), (502, b"", (75, 75, 75)), (503, {}, (75, 75, 75)),
    (504, b"", (75, 75, 75)), (599, b"", (75, 75, 75)), (999, b"", (75, 75, 75)),
])
def test_each_status_has_one_code_for_each_request(status, body, expected):
    """Of the status, the list and a result; None: no failure. The line tells where, and what."""
    with Rude(answer(status, body)) as rude_server:
        errors = failures(task_server(rude_server))
    assert expected == tuple(error and error.exit_code for error in errors)
    assert all(f" answers {status}" in str(error) for error in errors if error)


@pytest.mark.parametrize("manner", [
    rude.close_early, rude.reset, rude.dribble_body, rude.dribble_headers, rude.truncate,
    rude.speak_another_protocol,
], ids=lambda manner: manner.__name__)
def test_a_rude_server_is_for_now(manner):
    """Each request ends with a line, and a result that it may have is not known to be there."""
    with Rude(manner) as rude_server:
        errors = failures(task_server(rude_server, timeout_seconds=0.05))
    assert [(75, True)] * 3 == [(error.exit_code, error.maybe_done) for error in errors]


@pytest.mark.parametrize("manner", [rude.html, rude.half_json], ids=["a page", "half a JSON"])
def test_what_is_no_json_is_no_list(manner):
    """75: a proxy's page passes, and no list is made of a half one."""
    with Rude(manner) as rude_server:
        server = task_server(rude_server)
        with pytest.raises(RemotesError) as caught:
            server.fetch()
        server.close()
    assert ("proxy_page", 75) == (caught.value.kind, caught.value.exit_code)


def test_a_server_that_is_away_is_for_now():
    """75 for each, and known to have received nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # and does not listen
        base = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        errors = failures(TaskServer(Transport(timeout_seconds=5), base))
    assert [(75, False)] * 3 == [(error.exit_code, error.maybe_done) for error in errors]


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("asked, heard", [("120", 120), ("86400", 3600), ("9" * 30, 3600),
                                          ("soon", None), (None, None)])
def test_retry_after_is_heard_up_to_an_hour(status, asked, heard):
    """A server that is busy may slow us down, but not send us to sleep for days."""
    with Rude(answer(status, b"", {"Retry-After": asked} if asked else {})) as rude_server:
        errors = failures(task_server(rude_server))
    assert [(heard, status != 429)] * 3 == [
        (error.retry_after_seconds, error.maybe_done) for error in errors]


TEXTS = st.text(st.characters(), max_size=8)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        TEXTS | st.sampled_from(["Tasks", "ID", "Operation", "detail", "message", "Error"]), inner,
        max_size=4), max_leaves=10)


@pytest.fixture(scope="module")
def changing_server():
    """A Rude whose answer is whatever `manner` is at that moment, and a TaskServer that asks it."""
    with Rude(answer()) as rude_server:
        server = task_server(rude_server)
        yield rude_server, server
        server.close()


@settings(max_examples=120)
@given(st.sampled_from([200, 200, 200, 204, 302, 400, 401, 404, 413, 429, 500]), ANY_JSON)
def test_any_json_is_a_list_or_an_error_of_ours(changing_server, status, document):
    """Whatever a server says, no other exception than ours comes out, in one line."""
    rude_server, server = changing_server
    rude_server.manner = answer(status, document)
    try:
        tasks = server.fetch()
    except RemotesError as error:
        assert error.exit_code in (1, 12, 75, 78)
        assert len(str(error).splitlines()) == 1
    else:
        assert (200, list) == (status, type(tasks))


@pytest.mark.parametrize("status, expected", [(200, (78, None, None)), (503, (75, 75, 75))])
def test_deep_json_hides_no_status(status, expected):
    """Five hundred brackets can be read, but not be masked: the status counts all the same."""
    with Rude(answer(status, b"[" * 500 + b"]" * 500)) as rude_server:
        assert expected == codes(task_server(rude_server))


# -- the token ------------------------------------------------------------------------------

@pytest.mark.parametrize("token, header", [(TOKEN, f"Bearer {TOKEN}"), (None, None), ("", None)])
def test_the_token_goes_into_a_header(token, header):
    """With each request; and no header at all where the operator has none."""
    with Rude(rude.in_turn(answer(303), answer(200, []), answer(200))) as rude_server:
        server = task_server(rude_server, token)
        server.has_tasks(), server.fetch(), server.post(1, RESULT)
        server.close()
        assert [header] * 3 == [
            request.headers.get("authorization") for request in rude_server.requests]
        assert not any(TOKEN in request.path for request in rude_server.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_gets_the_token(status):
    """Neither on another host nor on the same one; the line names the place, without its query."""
    with Rude(answer(200, [TASK])) as other:
        with Rude(rude.redirect(other.url + "x?login=secret", status)) as rude_server:
            server = task_server(rude_server)
            for ask in (server.fetch, lambda: server.post(1, RESULT)):
                with pytest.raises(ForeignServerError, match="sends us to 'http") as caught:
                    ask()
                assert other.url in str(caught.value) and "secret" not in str(caught.value)
            server.close()
            assert 2 == len(rude_server.requests)
        assert [] == other.requests


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_server_that_repeats_the_token_is_not_quoted(status):
    """A framework's page of faults shows the headers; messages and answers are kept in logs."""
    document = {"message": f"nobody is called {TOKEN}", "headers": [TOKEN]}
    with Rude(answer(status, document)) as rude_server:
        server = task_server(rude_server)
        with pytest.raises(RemotesError) as caught:
            server.has_tasks()
        server.close()
    assert TOKEN not in json.dumps(caught.value.as_document())


def test_what_a_server_says_is_told_without_secrets():
    """For whoever looks for the reason; masked like all that is shown."""
    with Rude(answer(500, {"message": "no room", "password": "hunter2"})) as rude_server:
        server = task_server(rude_server)
        with pytest.raises(RemotesError, match="answers 500: no room") as caught:
            server.fetch()
        server.close()
    assert {"message": "no room", "password": "*" * 15} == caught.value.answer


def test_a_token_that_cannot_be_sent_is_a_fault_of_the_settings():
    """78, and nothing is sent."""
    with Rude(answer(303)) as rude_server:
        server = task_server(rude_server, "two\nlines")
        with pytest.raises(SettingsError) as caught:
            server.has_tasks()
        server.close()
        assert ([], False) == (rude_server.requests, "lines" in str(caught.value))


@pytest.mark.parametrize("token, hint", [(TOKEN, "is refused"), (None, "--tasks_token_file")])
def test_a_refusal_says_what_to_do(token, hint):
    """Another token, or one at all."""
    with Rude(answer(401)) as rude_server:
        server = task_server(rude_server, token)
        with pytest.raises(LoginError, match=hint):
            server.has_tasks()
        server.close()


# -- addresses --------------------------------------------------------------------------------

@settings(max_examples=60)
@given(st.integers(-10, 2**63)
       | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
       | st.text("./\\%?#;&+ 2EeFf", min_size=1, max_size=6))
@example(".")
@example("..")
@example("../../status")
@example("a/../b")
@example("%2E%2E")
@example("%2F")
@example("a?b#c;d")
@example("//evil.example/")
@example("ä\u2028 \n")
def test_an_id_is_one_segment_of_the_path(changing_server, task_id):
    """Whatever stands in it: the result goes to its own address, and can be read back from it."""
    rude_server, server = changing_server
    rude_server.manner = answer(200)
    server.post(task_id, RESULT)
    before, segment, after = rude_server.requests[-1].path.rsplit("/", 2)
    assert ("/api/tasks", "result") == (before, after)
    assert segment not in (".", "..")
    assert str(task_id) == bytes_of(segment).decode()


def bytes_of(segment):
    """A percent-encoded segment, decoded by a hand that is not the program's."""
    first, *parts = segment.encode("ascii").split(b"%")
    return first + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in parts)


@pytest.mark.parametrize("typed, base", [
    ("http://h", "http://h/"), (" https://h:8443/sub ", "https://h:8443/sub/"),
    ("http://h/api/tasks", "http://h/"), ("http://h/api/tasks/", "http://h/"),
    ("http://h/api/tasks/status", "http://h/"), ("http://h/sub/api/tasks/status/", "http://h/sub/"),
    ("http://h/api/", "http://h/"), ("http://h/tasks", "http://h/tasks/"),
    ("http://h/api/tasks?x=1", "http://h/"), ("http://h/my-api/tasks", "http://h/my-api/tasks/"),
])
def test_a_typed_address_becomes_a_base(typed, base):
    """As people type and paste it; and what is kept in the settings stays what it is."""
    assert base == normalize(typed)
    assert base == normalize(base)


@pytest.mark.parametrize("typed", ["h", "ftp://h/", "http://", "http://me:pw@h/api/tasks"])
def test_what_is_no_address_is_refused(typed):
    """78, and a password that was typed into it is not repeated."""
    with pytest.raises(SettingsError) as caught:
        TaskServer(Transport(), typed)
    assert "pw" not in str(caught.value)
