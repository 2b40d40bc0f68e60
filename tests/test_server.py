"""server.py: what a Django Remotes server's answers mean; recorded ones, any JSON, any path.

Each recorded exchange is replayed to the client's side, and put to the demo server, which
must say the same.
"""

import base64
import http.client
import json
import socket
import urllib.parse

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remotes import keys
from remotes.commands import FetchedCommand
from remotes.errors import ForeignServerError, NotFoundError, RemotesError, SettingsError
from remotes.server import Server, is_same_host, join, normalize_url
from remotes.transport import Transport
from tests import rude
from tests.certificates import Authority
from tests.conftest import OAEP, RECORDINGS, site
from tests.rude import Rude, answer

FOLDER = RECORDINGS / "django-remotes"
RECORDED = json.loads((FOLDER / "exchanges.json").read_text())
EXCHANGES = RECORDED["exchanges"]
ENDPOINTS = next(item for item in EXCHANGES if item["name"] == "discover")[
    "response"]["json"]["endpoints"]
UUID, TOKEN = RECORDED["host"]["uuid"], RECORDED["host"]["token"]
# The recorded server's commands 51 to 60 are in `plain_commands`; these are the others.
HIDDEN = {61: {"active": False}, 62: {}, 63: {}}


def recorded_body(exchange):
    response = exchange["response"]
    if response["json"] is not None:
        return json.dumps(response["json"]).encode()
    return (response["text"] or "").encode()


def replay(server, connection, request):
    """A manner: the recorded answer of the exchange that the server's `exchange` names."""
    response = server.exchange["response"]
    return answer(response["status"], recorded_body(server.exchange), response["headers"])(
        server, connection, request)


def server_at(rude_server, endpoints=ENDPOINTS):
    line = Transport(timeout_seconds=5)
    return Server(line, rude_server.url, endpoints, lambda: TOKEN)


def ask(server, path):
    """Calls the method that belongs to a recorded path."""
    number = int(path.rstrip("/").rpartition("/")[2]) if path[-2].isdigit() else None
    calls = {
        "/api/status": server.status, "/api/status/": server.status,
        "/api/v1/discover/": lambda: server.discover(path),
        ENDPOINTS["host_register"]: lambda: server.host_register("PEM", "token"),
        ENDPOINTS["host_verify"]: lambda: server.host_verify(UUID, "signature", "token"),
        ENDPOINTS["host_status"]: server.host_status,
        ENDPOINTS["commands_list"]: lambda: server.commands_list()[0],
        f"{ENDPOINTS['command_get']}{number}/": lambda: server.command_get(number),
        f"{ENDPOINTS['command_post']}{number}/": lambda: server.command_post(number, {}),
    }
    return calls[path]()


def expected_code(exchange):
    """The exit code that the design gives to a recorded answer."""
    response = exchange["response"]
    if response["status"] == 403 and "detail" not in response["json"]:
        return 1  # the server does not take it; the token is good
    return {200: 0, 201: 0, 301: 78, 400: 1, 401: 12, 403: 12, 404: 10, 405: 1, 500: 75}[
        response["status"]]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange["name"])
def test_a_recorded_answer_is_an_answer_or_the_right_error(exchange):
    """What a real server said, replayed: its JSON comes back whole, or the code is right."""
    with Rude(replay) as rude_server:
        rude_server.exchange = exchange
        server = server_at(rude_server)
        try:
            said = ask(server, exchange["request"]["path"])
        except RemotesError as error:
            assert expected_code(exchange) == error.exit_code
            assert exchange["response"]["json"] == error.answer
        else:
            assert 0 == expected_code(exchange)
            assert said in (exchange["response"]["json"], None)
        finally:
            server.close()
        path = rude_server.requests[0].path.rstrip("/")
        assert exchange["request"]["path"].rstrip("/") == path


def test_the_recorded_redirect_leads_to_the_recorded_status():
    """`api/status` without its slash answers 301: followed, and the base stays."""
    redirect, status = EXCHANGES[:2]
    with Rude(rude.in_turn(*(answer(item["response"]["status"], recorded_body(item),
                                    item["response"]["headers"])
                             for item in (redirect, status)))) as rude_server:
        server = server_at(rude_server)
        assert status["response"]["json"] == server.status()
        assert rude_server.url == server.base
        server.close()


@pytest.fixture(scope="module")
def recorded_key(tmp_path_factory):
    """A copy: loading a key that others can read changes its mode."""
    path = tmp_path_factory.mktemp("recorded") / "host.key"
    path.write_bytes((FOLDER / "host_private_key.pem").read_bytes())
    return keys.load(str(path))


@pytest.mark.parametrize("number", RECORDED["plain_commands"])
def test_a_recorded_command_decrypts_to_what_it_was(recorded_key, number):
    """With the recorded host's key: name, source, settings, variables and time-out."""
    document = next(item for item in EXCHANGES
                    if item["name"] == f"command get {number}")["response"]["json"]
    fetched = FetchedCommand(document, recorded_key)
    assert RECORDED["plain_commands"][number] == {
        "name": fetched.name, "command": fetched.source, "settings": fetched.settings,
        "variables": fetched.variables, "timeout": fetched.timeout_seconds}


def test_recorded_uuid_and_token_decrypt_to_what_they_were(recorded_key):
    """The settings hold ciphertext as it came; what was posted can be read with the UUID."""
    host = RECORDED["host"]
    assert UUID == recorded_key.decrypt_text(host["uuid_encrypted"], "the UUID")
    assert TOKEN == recorded_key.decrypt_text(host["token_encrypted"], "the token")
    body = next(item for item in EXCHANGES
                if item["name"] == "post: blank output")["request"]["json"]
    assert "" == keys.ResultKey(UUID).decrypt(body)[0]


# -- the demo server, held against the recordings ------------------------------------------

def recorded_site():
    """The site of the server that was recorded."""
    listed = next(item for item in EXCHANGES if item["name"] == "commands list")
    plain = {int(number): command for number, command in RECORDED["plain_commands"].items()}
    shown = next(item for item in EXCHANGES if item["name"].endswith("variables set by a result"))
    groups = {}
    for row in listed["response"]["json"]["results"]:
        command = {**plain[row["command"]], "id": row["command"]}
        command["settings"] = list(command["settings"])
        command["variables"] = list(command["variables"])
        command["results"] = {"platform": 0, "version": 1} if row["command"] == 53 else {}
        groups.setdefault(row["group"], []).append(command)
    rows = [{"id": number, "name": str(number), "order": order, "commands": commands}
            for order, (number, commands) in enumerate(groups.items())]
    for number, more in HIDDEN.items():
        rows.append({"id": number, "name": "", "order": number, "expired": number == 63,
                     "foreign": number == 62, "commands": [
                         {"id": number, "name": "", "command": "pass", **more}]})
    return {"registration_token": RECORDED["registration_token"],
            "server_url": "http://127.0.0.1:8900/",
            "settings": {"global message": "Hello everyone \u2603"},
            "variables": dict.fromkeys([*shown["response"]["json"]["variables"], "version"]),
            "groups": rows}


def shape(value):
    """JSON with each value replaced by the name of its type."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


def put(server, request, tokens):
    """Sends a recorded request to the demo server: (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    headers = dict(request["headers"])
    token = headers.get("Authorization", "").removeprefix("Token ")
    if token:
        headers["Authorization"] = f"Token {tokens.get(token, token)}"
    document = request["json"]
    if document and document.get("output", "").startswith("<"):
        fernet = Fernet(base64.urlsafe_b64encode(UUID.replace("-", "").encode()))
        document = {**document, "output": fernet.encrypt(bytes(b"x" * 3_000_000)).decode()}
    body = request["raw"] if document is None else json.dumps(document)
    try:
        connection.request(request["method"], request["path"], body and body.encode(), headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_the_demo_server_answers_as_the_recorded_one(serve):
    """Status, type, headers and names of each answer, in the recorded order; errors to the word."""
    server = serve(recorded_site())
    earlier = next(item for item in EXCHANGES if item["name"].endswith("earlier verification"))
    tokens = {}
    server.state.add_host((FOLDER / "host_public_key.pem").read_text(), UUID,
                          earlier["request"]["headers"]["Authorization"].removeprefix("Token "))
    private = serialization.load_pem_private_key(
        (FOLDER / "host_private_key.pem").read_bytes(), None, unsafe_skip_rsa_key_validation=True)
    for exchange in EXCHANGES:
        response, name = exchange["response"], exchange["name"]
        status, headers, body = put(server, exchange["request"], tokens)
        assert (name, response["status"]) == (name, status)
        ours = {key: headers[key] for key in headers if key not in ("Content-Length", "Connection")}
        assert (name, response["headers"]) == (name, ours)
        if response["json"] is None:
            continue
        said = json.loads(body)
        if name.startswith("verify") and status == 200:
            tokens[TOKEN] = private.decrypt(base64.b64decode(said["encrypted"]), OAEP).decode()
        assert (name, shape(response["json"])) == (name, shape(said))
        if status >= 400 or exchange["request"]["path"] in (
                "/api/status/", "/api/v1/discover/", ENDPOINTS["commands_list"]):
            assert (name, response["json"]) == (name, said)


# -- any answer at all ------------------------------------------------------------------------

TEXTS = st.text(st.characters(), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from(
    ["OK", "ERROR", "http://127.0.0.1/", "//evil.example/", "http://[", "/\t/evil.example/x"])
ANY_JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    TEXTS | st.sampled_from([
        "status", "server_url", "discover", "endpoints", "encrypted", "results", "command",
        "group", "id", "name", "settings", "variables", "timeout", "encryption_key", "detail",
        "message", "commands_list"]), inner, max_size=6), max_leaves=12)
GOOD = {item["name"]: item["response"]["json"] for item in EXCHANGES
        if item["name"] in ("status", "discover", "verify", "commands list", "command get 54",
                            "host status")}


@st.composite
def almost_good(draw):
    """A good answer with one of its values, at any depth, replaced by anything."""
    document = json.loads(json.dumps(GOOD[draw(st.sampled_from(sorted(GOOD)))]))
    place = document
    while True:
        name = draw(st.sampled_from(sorted(place) if isinstance(place, dict)
                                    else range(len(place))))
        if not isinstance(place[name], (dict, list)) or not place[name] or draw(st.booleans()):
            break
        place = place[name]
    place[name] = draw(ANY_JSON)
    return document


STATUSES = st.sampled_from([200, 200, 200, 201, 204, 301, 302, 400, 401, 403, 404, 405, 407, 413,
                            418, 429, 500, 502, 503, 504])
LOCATIONS = st.sampled_from([
    "", "/api/status/", "/elsewhere", "//evil.example/", "http://[", "http://127.0.0.1:port/",
    "http://127.0.0.1:99999/", "https://127.0.0.1/", "ftp://127.0.0.1/", "javascript:alert(1)",
    "http://", "?", "http://127.0.0.1:1/"])


@pytest.fixture(scope="module")
def changing_server():
    """A Rude whose answer is whatever `manner` is at that moment, and a Server that asks it."""
    with Rude(answer()) as rude_server:
        server = server_at(rude_server)
        yield rude_server, server
        server.close()


@settings(max_examples=300)
@given(st.sampled_from(["/api/status/", "/api/v1/discover/", *ENDPOINTS.values()]),
       STATUSES, ANY_JSON | almost_good(), LOCATIONS)
@example("/api/status/", 302, None, "http://127.0.0.1:port/")
@example("/api/status/", 302, None, "http://[")
def test_any_json_is_an_answer_or_an_error_of_ours(changing_server, recorded_key, path, status,
                                                   document, location):
    """Whatever a server says, no other exception than ours comes out."""
    rude_server, server = changing_server
    rude_server.manner = answer(status, document, {"Location": location})
    server.base = rude_server.url
    try:
        said = ask(server, path + ("7/" if path in (ENDPOINTS["command_get"],
                                                    ENDPOINTS["command_post"]) else ""))
        if path == ENDPOINTS["command_get"]:
            FetchedCommand(said, recorded_key)
    except RemotesError as error:
        assert error.exit_code in (1, 10, 12, 75, 78)
        assert "\n" not in str(error)


@pytest.mark.parametrize("manner, code", [
    (rude.html, 75), (rude.half_json, 75), (rude.truncate_headers, 75), (answer(200, b""), 75),
    (answer(200, ["a", "list"]), 78), (answer(200, {"status": "ERROR"}), 1),
    (answer(302, b"", {"Location": "/login/"}), 78), (answer(404, b"<html>"), 78),
    (answer(400, b"<html>"), 75), (answer(403, b"<html>"), 75), (answer(407, b""), 78),
    (answer(413, b""), 1), (answer(429, b""), 75), (answer(500, b"<html>"), 75),
    (answer(502, b""), 75), (answer(503, b""), 75), (answer(504, b""), 75),
], ids=lambda value: "" if callable(value) else str(value))
def test_what_comes_from_between_is_told_apart(manner, code):
    """A proxy's page is for now; the server's own no, and another server, are for good."""
    with Rude(manner) as rude_server:
        server = server_at(rude_server)
        with pytest.raises(RemotesError) as caught:
            server.command_post(1, {})
        server.close()
    assert code == caught.value.exit_code
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("manner", [
    rude.html, rude.half_json, answer(200, {"status": "OK"}), answer(200, [1]), answer(200, b""),
    answer(404, b"<html>"), answer(404, {"detail": "Not found."}),
    rude.redirect("/{path}"), rude.redirect("{path}"), rude.redirect("http://evil.example/"),
], ids=lambda manner: manner.__name__)
def test_what_is_no_such_server_is_told_at_first_contact(manner):
    """78: a typed address at which something else answers; a redirect to itself ends."""
    with Rude(manner) as rude_server:
        server = server_at(rude_server)
        with pytest.raises(ForeignServerError):
            server.status()
        server.close()
        assert len(rude_server.requests) <= 5


@pytest.mark.parametrize("status, seconds", [(429, 120), (503, 120), (500, 120)])
def test_retry_after_is_heard(status, seconds):
    """What a server that is busy asks for goes with the error."""
    with Rude(answer(status, b"", {"Retry-After": "120"})) as rude_server:
        server = server_at(rude_server)
        with pytest.raises(RemotesError) as caught:
            server.commands_list()
        server.close()
    assert seconds == caught.value.retry_after_seconds
    assert (status != 429) == caught.value.maybe_done


def test_a_command_that_is_not_offered_is_not_found():
    """404 in JSON is the server's own: 10."""
    with Rude(answer(404, {"detail": "Not found."})) as rude_server:
        server = server_at(rude_server)
        with pytest.raises(NotFoundError):
            server.command_get(7)
        server.close()


# -- where requests go ------------------------------------------------------------------------

@given(st.text(st.characters(), max_size=12) | st.text("/\\:.@?#\t\n\r evil%", max_size=12),
       st.sampled_from(["http://host.example/", "https://host.example:8443/",
                        "http://host.example/proxied/"]))
@example("/\t/evil.example/", "http://host.example/")
@example("\n//evil.example/", "http://host.example/")
@example("/../../x", "http://host.example/proxied/")
@example("/[", "http://host.example/")
def test_an_endpoint_never_leaves_the_server(path, base):
    """Whatever a server calls a path, the request goes to that server or nowhere."""
    try:
        url = join(base, path)
    except ForeignServerError:
        return
    old, new = urllib.parse.urlsplit(base), urllib.parse.urlsplit(url)
    assert (old.scheme, old.netloc) == (new.scheme, new.netloc)
    assert new.path.startswith(old.path)


@pytest.mark.parametrize("base, path, url", [
    ("http://h/", "/api/v1/x/", "http://h/api/v1/x/"),
    ("http://h/", "api/v1/x/", "http://h/api/v1/x/"),
    ("http://h/sub/", "/api/v1/x/", "http://h/sub/api/v1/x/"),
    ("http://h/sub/", "/sub/api/v1/x/", "http://h/sub/api/v1/x/"),
    ("http://h/sub/", "/subway/", "http://h/sub/subway/"),
])
def test_an_endpoint_keeps_the_path_of_the_base(base, path, url):
    """A proxy may serve the server under a path that the server does not know."""
    assert url == join(base, path)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_never_gets_the_token(status):
    """Neither to another host nor on the same one: 78, and nobody else hears of the token."""
    with Rude(answer(200, {"status": "OK", "results": []})) as other:
        with Rude(rude.redirect(other.url + "{path}", status)) as rude_server:
            server = server_at(rude_server)
            with pytest.raises(ForeignServerError):
                server.commands_list()
            with pytest.raises(ForeignServerError):
                server.command_post(1, {})
            server.close()
            assert 2 == len(rude_server.requests)
        assert [] == other.requests


def test_a_redirect_of_the_status_to_another_host_is_not_followed():
    """First contact: the message says where it points, so that a person can decide."""
    with Rude(answer(200, GOOD["status"])) as other:
        with Rude(rude.redirect(other.url + "api/status/")) as rude_server:
            server = server_at(rude_server)
            with pytest.raises(ForeignServerError, match=other.url):
                server.status()
            server.close()
        assert [] == other.requests


def tunnel(port):
    """A manner for a proxy: https of any name goes to `port` on loopback, http to https."""
    def manner(server, connection, request):
        if request.method != "CONNECT":
            there = request.path.replace("http:", "https:", 1)
            return answer(301, b"", {"Location": there})(server, connection, request)
        with socket.create_connection(("127.0.0.1", port)) as beyond:
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            server.beside(copy, connection, beyond)
            copy(beyond, connection)

    return manner


def copy(source, target):
    try:
        while block := source.recv(65536):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_http_that_leads_to_https_is_followed_and_kept(monkeypatch, tmp_path, serve):
    """http://name typed, the server says https://name: the base is https from then on."""
    own = Authority(tmp_path)
    tls = serve(site(server_url="https://remotes.test/"),
                ssl_context=own.context("remotes.test"))
    monkeypatch.setenv("no_proxy", "")
    with Rude(tunnel(tls.server_address[1])) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("https_proxy", proxy.url)
        server = Server(Transport(ca_file=own.ca_file), "http://remotes.test/", ENDPOINTS)
        assert "https://remotes.test/" == server.status()["server_url"]
        assert "https://remotes.test/" == server.base
        server.close()


def test_https_that_leads_to_http_is_not_followed(tmp_path):
    """A downgrade is refused, whoever asks for it."""
    own = Authority(tmp_path)
    with Rude(rude.redirect("http://127.0.0.1/api/status/"), ssl_context=own.context()) as server_:
        server = Server(Transport(ca_file=own.ca_file), server_.url, ENDPOINTS)
        with pytest.raises(ForeignServerError):
            server.status()
        server.close()
        assert 1 == len(server_.requests)


@pytest.mark.parametrize("typed, said, same", [
    ("http://h/", "http://h/", True), ("http://h/", "http://H/", True),
    ("http://h/", "https://h/", True), ("http://h:80/", "https://h:443/", True),
    ("https://h/", "http://h/", False), ("https://h/", "https://h:8443/", False),
    ("http://h:8000/", "http://h:8000/sub/", True), ("http://h:8000/", "http://h/", False),
    ("http://h/", "http://inner/", False), ("http://h/", "http://h.evil/", False),
    ("http://[::1]:8/", "http://[::1]:8/", True), ("http://h/", "http://me@h/", True),
    ("http://h:443/", "https://h/", False), ("http://h/", "http://h:443/", False),
])
def test_the_same_host_is_name_and_port_and_never_less_than_https(typed, said, same):
    """The default ports count as one, http may become https, not the other way round."""
    assert same == is_same_host(typed, said)


@pytest.mark.parametrize("typed, base", [
    ("http://h", "http://h/"), (" http://h/ ", "http://h/"), ("HTTP://h/x", "http://h/x/"),
    ("http://h/api/status", "http://h/"), ("http://h/api/status/", "http://h/"),
    ("http://h/api/", "http://h/"), ("http://h/sub/api/status/", "http://h/sub/"),
    ("http://h/?a=b#c", "http://h/"), ("https://[::1]:8900", "https://[::1]:8900/"),
])
def test_a_typed_address_becomes_a_base(typed, base):
    """As people type and paste it."""
    assert base == normalize_url(typed)


@pytest.mark.parametrize("typed", ["h", "//h/", "ftp://h/", "http://", "http:///x", "http://[", "",
                                   "http://h:port/", "http://h:99999/", "http://me:pw@h/"])
def test_what_is_no_address_is_refused(typed):
    """78, and a password that was typed into it is not repeated."""
    with pytest.raises(SettingsError) as caught:
        normalize_url(typed)
    assert "pw" not in str(caught.value)


@given(st.text(st.characters(), max_size=20) | st.text("htp:/[]@?#.%0 \t", max_size=20))
def test_any_text_is_an_address_or_an_error_of_ours(typed):
    """And an address can be joined with a path."""
    try:
        base = normalize_url(typed)
    except SettingsError:
        return
    join(base, "/api/")
