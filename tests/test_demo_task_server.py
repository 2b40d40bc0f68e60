"""The demo task server, held against the page of its protocol."""

import http.client
import json
from urllib.parse import quote, urlsplit

import pytest

GET = {"ID": 1, "Operation": "get", "Resources": [{"Type": "backup", "ID": 3}]}
RUN = {"ID": 2, "Operation": "run", "Resources": [{"Type": "backup", "ID": 3}]}


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


def test_a_task_is_listed_until_it_is_accepted_refused_or_ended(serve_tasks):
    """303 and the list go together; neither 303 nor 304 has a body."""
    refused = {**RUN, "ID": "../x y/ü."}
    server = serve_tasks(GET, RUN, refused)
    for identifier, status, left in ((2, "accepted", [1, refused["ID"]]),
                                     (refused["ID"], "refused", [1]), (1, "error", [])):
        assert (303, "") == call(server, "GET", "api/tasks/status")[::2]
        assert 200 == post(server, identifier, status)
        assert left == listed(server)
    assert (304, "") == call(server, "GET", "api/tasks/status")[::2]
    assert 200 == post(server, 2, "completed", "done")
    assert ["error", "completed", "refused"] == [
        server.state.state("host", identifier) for identifier in (1, 2, refused["ID"])]
    assert {"ID": 2, "Status": "completed", "Data": {"Message": "done"}} == \
        server.state.posts("host")[-1]


@pytest.mark.parametrize(("form", "expected"), [
    ("list", [GET, RUN]), ("object", {"Tasks": [GET, RUN]}), ("bare", GET)])
def test_the_list_can_be_written_in_each_form_of_the_draft(serve_tasks, form, expected):
    """A list, an object with Tasks, one bare task; then an empty one."""
    server = serve_tasks(GET, RUN, form=form, has_location=True)
    status, headers, _ = call(server, "GET", "api/tasks/status")
    assert (303, "../tasks") == (status, headers["Location"])
    assert expected == call(server, "GET", "api/tasks")[2]
