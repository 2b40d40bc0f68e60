"""transport.py: a whole answer, or an error of ours; against servers without manners."""

import datetime
import email
import email.policy
import inspect
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse

import pytest
import requests
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st

from remotes import transport
from remotes.answer import NOT_JSON, Answer, one_line
from remotes.errors import (
    CertificateError,
    ForeignServerError,
    RemotesError,
    SettingsError,
    UnavailableError,
)
from remotes.transport import Transport
from tests import rude
from tests.certificates import Authority
from tests.conftest import PROJECT
from tests.rude import Rude, answer


def exchange(url, *, method="GET", timeout_seconds=5.0, document=None, form=None, parts=None,
             headers=None, patience_seconds=0.0, **options):
    """One exchange over a connection of its own."""
    line = Transport(timeout_seconds=timeout_seconds, **options)
    try:
        return line.exchange(method, url, document=document, form=form, parts=parts,
                             headers=headers, patience_seconds=patience_seconds)
    finally:
        line.close()


def failure(url, **options):
    """The error of ours with which an exchange ends."""
    with pytest.raises(RemotesError) as caught:
        exchange(url, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def contexts(authority):
    """The SSLContext of a server at 127.0.0.1, and one that wants a client's certificate."""
    return authority.context(), authority.context(wants_client=True)


@pytest.fixture
def whole(monkeypatch):
    """whole(factor): a whole answer may take this many times as long as one read of it. So that
    the one time-out strikes while the other is far off, however busy the machine is.
    """
    return lambda factor: monkeypatch.setattr(transport, "ANSWER_TIMEOUT_FACTOR", factor)


# -- manners ---------------------------------------------------------------------------

@pytest.mark.parametrize("manner", [
    rude.reset, rude.close_early, rude.truncate, rude.truncate_chunks,
    rude.speak_another_protocol, rude.many_headers, rude.gzip_rubbish,
], ids=lambda manner: manner.__name__)
def test_a_broken_answer_is_for_now_and_perhaps_done(manner):
    """75 and `maybe_done`: after the request was sent, nobody knows what came of it."""
    with Rude(manner) as server:
        error = failure(server.url)
    assert (UnavailableError, 75, True) == (type(error), error.exit_code, error.maybe_done)


@pytest.mark.parametrize("manner", [
    rude.dribble_headers, rude.dribble_one_header, rude.dribble_continue, rude.dribble_body,
    rude.dribble_chunks,
], ids=lambda manner: manner.__name__)
def test_a_dribbled_answer_ends_with_the_time_for_the_whole(manner, whole):
    """Each byte comes in time, the whole never does: a multiple of the time-out is the end."""
    whole(1 / 60)
    with Rude(manner) as server:
        begun = time.monotonic()
        error = failure(server.url, timeout_seconds=60)
    assert ("time_out", True, True) == (error.kind, error.maybe_done, error.still_working)
    assert 0.9 < time.monotonic() - begun < 50


def test_headers_that_break_off_are_an_answer_without_a_body():
    """The standard library takes them for whole; that there is no JSON tells who asked."""
    with Rude(rude.truncate_headers) as server:
        got = exchange(server.url)
    assert (200, b"", NOT_JSON) == (got.status, got.body, got.json)


def test_a_handshake_that_breaks_off_is_for_now():
    """A restart of what ends TLS is no reason to call the settings wrong."""
    with Rude(lambda server, connection, request: connection.recv(1), is_deaf=True) as server:
        error = failure(server.url.replace("http:", "https:"))
    assert (UnavailableError, 75) == (type(error), error.exit_code)


def test_an_answer_dribbled_over_tls_ends_too(authority, contexts, whole):
    """The guard reaches the socket under TLS."""
    whole(1 / 60)
    with Rude(rude.dribble_body, ssl_context=contexts[0]) as server:
        error = failure(server.url, timeout_seconds=60, ca_file=authority.ca_file)
    assert ("time_out", 75) == (error.kind, error.exit_code)


def test_a_dribbled_handshake_ends_too():
    """TLS that never gets ready: the beginning of a long record, byte by byte."""
    def handshake(server, connection, request):
        connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
        server.trickle(connection, b"\x00")

    with Rude(handshake, is_deaf=True) as server:
        error = failure(server.url.replace("http:", "https:"), timeout_seconds=0.1)
    assert 75 == error.exit_code


def test_a_stalled_answer_ends_with_the_time_out_of_a_read(whole):
    """Nothing comes at all: one time-out, not that for the whole."""
    whole(1000)
    with Rude(rude.stall) as server:
        begun = time.monotonic()
        error = failure(server.url, timeout_seconds=0.3)
    assert ("time_out", True, True) == (error.kind, error.maybe_done, error.still_working)
    assert 0.3 <= time.monotonic() - begun < 200


def test_after_a_time_out_the_next_exchange_works(whole):
    """A cut connection is not used again."""
    whole(1 / 60)
    with Rude(rude.in_turn(rude.dribble_body, answer(200, {"n": 2}))) as server:
        line = Transport(timeout_seconds=60)
        with pytest.raises(UnavailableError):
            line.exchange("GET", server.url)
        whole(1)
        assert {"n": 2} == line.exchange("GET", server.url).json
        line.close()


def test_no_connection_means_that_nothing_was_done():
    """Refused: not `maybe_done`, so that whoever asked may simply ask again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # and does not listen
        error = failure(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    assert ("unreachable", 75, False) == (error.kind, error.exit_code, error.maybe_done)
    assert "Connection refused" in str(error)


def test_a_name_that_is_not_known_is_for_now():
    """A resolver that is away looks the same: 75."""
    error = failure("http://no-such-host.invalid/")
    assert (75, False) == (error.exit_code, error.maybe_done)


def test_patience_is_for_the_beginning_of_an_answer(whole):
    """A server that is asked to answer later may; one that says nothing for longer than both ends
    with a time-out, and without patience so does the first.
    """
    def late(server, connection, request):
        server.ended.wait(0.6)
        return answer(200, {"n": 1})(server, connection, request)

    with Rude(late) as server:
        assert {"n": 1} == exchange(server.url, timeout_seconds=0.2, patience_seconds=60).json
        assert "time_out" == failure(server.url, timeout_seconds=0.2).kind
    whole(1000)
    with Rude(rude.stall) as server:
        begun = time.monotonic()
        error = failure(server.url, timeout_seconds=0.2, patience_seconds=0.4)
    assert ("time_out", True) == (error.kind, error.still_working)
    assert 0.6 <= time.monotonic() - begun < 150


def test_patience_is_for_one_exchange_only(whole):
    """The next one over the same connection has none."""
    whole(1000)
    with Rude(rude.in_turn(answer(200, {}), rude.stall)) as server:
        line = Transport(timeout_seconds=0.2)
        line.exchange("GET", server.url, patience_seconds=120)
        begun = time.monotonic()
        with pytest.raises(UnavailableError):
            line.exchange("GET", server.url)
        line.close()
    assert time.monotonic() - begun < 100


def test_a_dribbled_answer_ends_in_spite_of_patience(whole):
    """The time for the whole grows by what was granted, and by no more."""
    whole(1 / 60)
    with Rude(rude.dribble_body) as server:
        begun = time.monotonic()
        error = failure(server.url, timeout_seconds=60, patience_seconds=0.5)
    assert ("time_out", True) == (error.kind, error.still_working)
    assert 1.4 < time.monotonic() - begun < 50


def test_the_length_that_304_tells_is_not_that_of_its_answer():
    """A cache tells how long the answer would be that it need not send again."""
    with Rude(answer(304, b"", length=100)) as server:
        assert (304, b"") == (exchange(server.url).status, exchange(server.url).body)


def test_an_answer_that_is_no_json_is_an_answer():
    """What it means is not for the transport to say."""
    with Rude(rude.html) as server:
        page = exchange(server.url)
    assert (200, NOT_JSON, "Welcome to nginx!") == (
        page.status, page.json, page.summary())


@pytest.mark.parametrize("status", [200, 204, 301, 404, 500, 503])
def test_every_status_is_an_answer(status):
    """Neither a redirect nor an error is followed or raised here."""
    with Rude(answer(status, b"", {"Location": "/elsewhere"})) as server:
        assert status == exchange(server.url).status
        assert ["/"] == [request.path for request in server.requests]


_MEASURED = """
import sys
sys.path.insert(0, sys.argv[1])
import client
from tests.processes import peak_kilobytes
code = client.main(sys.argv[2:])
print(peak_kilobytes() // 1024, file=sys.stderr)
raise SystemExit(code)
"""


@pytest.mark.parametrize("manner", [rude.gigabyte, rude.gzip_bomb],
                         ids=lambda manner: manner.__name__)
def test_a_gigabyte_is_refused_in_bounded_memory(manner, tmp_path):
    """78, and the client never holds more than the limit and what it is made of."""
    with Rude(manner) as server:
        process = subprocess.run(
            [sys.executable, "-c", _MEASURED, str(PROJECT), "--action=status",
             f"--url={server.url}", f"--settings={tmp_path / 'settings.yml'}"],
            capture_output=True, text=True, timeout=60)
    *told, megabytes = process.stderr.splitlines()
    assert (78, 1) == (process.returncode, len(told)), process
    assert "more than 64 MiB" in told[0]
    assert int(megabytes) < 160


_REDIRECTED = """
import sys
sys.path.insert(0, sys.argv[1])
from remotes.errors import ForeignServerError
from remotes.transport import Transport
from tests.processes import peak_kilobytes
try:
    Transport().exchange("GET", sys.argv[2])
except ForeignServerError as error:
    print(error)
print(peak_kilobytes() // 1024)
"""


def test_a_redirect_of_a_gigabyte_is_refused_in_bounded_memory():
    """requests reads the body of a redirect whole, followed or not; and the message shows no
    query, where tokens for one export stand.
    """
    def redirect(server, connection, request):
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nConnection: close\r\n\r\n")
        for _ in range(rude.GIGABYTE >> 20):
            connection.sendall(bytes(1 << 20))

    with Rude(redirect) as server:
        process = subprocess.run(
            [sys.executable, "-c", _REDIRECTED, str(PROJECT), f"{server.url}export?token=secret"],
            capture_output=True, text=True, timeout=60)
    told, megabytes = process.stdout.splitlines()
    assert (0, "") == (process.returncode, process.stderr)
    assert told.startswith(f"{server.url}export answers with more than 64 MiB")
    assert "secret" not in told
    assert int(megabytes) < 160


@pytest.mark.parametrize("location", ["http://[::1", "http://evil.example:99999/", "\xff", ""])
def test_a_redirect_to_what_is_no_address_is_an_answer(location):
    """Where it leads is not for the transport to say, or to stumble over."""
    with Rude(answer(302, b"there", {"Location": location})) as server:
        got = exchange(server.url)
    assert (302, b"there") == (got.status, got.body)


# -- translation -------------------------------------------------------------------------

def classes_of(module):
    """The exceptions that a module defines; warnings are not raised."""
    return [found for found in vars(module).values()
            if inspect.isclass(found) and issubclass(found, Exception)
            and not issubclass(found, Warning) and found.__module__ == module.__name__]


def made(kind):
    """An instance of an exception class, whatever its constructor wants."""
    for arguments in (("told",), (), (1, 2), (None, "told"), ("told", "", 0), (None, None, "told"),
                      ("told", None, None, None), (urllib3.HTTPResponse(), b"told")):
        try:
            error = kind(*arguments)
            str(error), repr(error)
            return error
        except (TypeError, AttributeError):
            continue
    raise AssertionError(f"{kind} cannot be made")


@pytest.mark.parametrize("kind", dict.fromkeys([
    *classes_of(requests.exceptions), *classes_of(urllib3.exceptions),
    ssl.SSLError, ssl.SSLCertVerificationError, socket.gaierror, OSError, ConnectionResetError,
    BrokenPipeError, TimeoutError, PermissionError, UnicodeError, ValueError,
]), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_foreign_exception_is_translated(monkeypatch, kind):
    """Nothing of requests or urllib3 gets past the one module that imports them."""
    def fail(*arguments, **more):
        raise made(kind)

    monkeypatch.setattr(requests.Session, "send", fail)
    error = failure("http://login:secret@127.0.0.1:1/path?token=secret")
    assert error.exit_code in (14, 75, 78)
    assert "secret" not in str(error)
    assert "http://127.0.0.1:1/path" in str(error)


@pytest.mark.parametrize("url", [
    "http://", "http:///path", "//127.0.0.1/", "127.0.0.1:80", "ftp://127.0.0.1/", "http://[::1/",
    "http://a..b/", "http://*.example/", "http://127.0.0.1:99999/", "http://" + "a" * 300 + "/",
    "http://\ud800/", "http://127.0.0.1:1/\ud800",
], ids=ascii)
def test_an_address_that_cannot_be_asked_is_an_error_of_ours(url):
    """Whatever stands in the settings, it ends with a line."""
    assert failure(url).exit_code in (75, 78)


@pytest.mark.parametrize("value", ["Token a\r\nX-Evil: 1", "Token \u2603", "Token \ud800",
                                   " Token"], ids=ascii)
def test_a_header_that_cannot_be_written_is_an_error_of_ours(value):
    """A token with a line end or a snowman in it is a fault of the settings; nothing is sent."""
    with Rude(answer(200, {})) as server:
        error = failure(server.url, headers={"Authorization": value})
        assert (78, []) == (error.exit_code, server.requests)
        assert "the token cannot stand in a header" in str(error)


# -- what the environment and the user say -------------------------------------------------

def test_netrc_does_not_replace_our_authorization(monkeypatch, tmp_path):
    """requests would take the login of ~/.netrc in place of the token."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Rude(answer(200, {})) as server:
        exchange(server.url, headers={"Authorization": "Token ours"})
        exchange(server.url)
        assert ["Token ours", None] == [
            request.headers.get("authorization") for request in server.requests]


def test_the_proxy_of_the_environment_is_heard(monkeypatch):
    """$http_proxy gets the whole address; $no_proxy excepts a host."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Rude(answer(200, {"by": "proxy"})) as proxy, Rude(answer(200, {"by": "server"})) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert {"by": "proxy"} == exchange("http://remotes.test/api/status/").json
        assert ["http://remotes.test/api/status/"] == [item.path for item in proxy.requests]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert {"by": "server"} == exchange(server.url).json


@pytest.mark.parametrize("manner", [rude.close_early, answer(407, b""), answer(502, b""),
                                    rude.reset], ids=["closes", "407", "502", "resets"])
def test_a_proxy_that_gives_no_tunnel_is_for_now(monkeypatch, manner):
    """https through a proxy that does not connect: nothing was done."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Rude(manner) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        error = failure("https://remotes.test/api/status/")
        assert ("CONNECT", 75) == (proxy.requests[0].method, error.exit_code)


@pytest.mark.parametrize("manner", [rude.close_early, rude.reset], ids=["closes", "resets"])
def test_what_breaks_behind_a_proxy_may_have_been_done(monkeypatch, manner):
    """The request was sent: the server may have it, whatever urllib3 calls the fault."""
    monkeypatch.setenv("no_proxy", "")
    with Rude(manner) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        error = failure("http://remotes.test/api/status/")
        assert (75, True) == (error.exit_code, error.maybe_done)


def test_a_dribble_through_a_proxy_ends_too(monkeypatch):
    """The connection to a proxy is guarded like any other."""
    monkeypatch.setenv("no_proxy", "")
    with Rude(rude.dribble_headers) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert "time_out" == failure("http://remotes.test/", timeout_seconds=0.1).kind


def test_one_connection_serves_many_exchanges():
    """Opened once; opened anew when the server has closed it between two."""
    connections = set()

    def count(server, connection, request):
        connections.add(connection.getpeername())
        return answer(200, {})(server, connection, request)

    with Rude(count) as server:
        line = Transport()
        for _ in range(5):
            line.exchange("GET", server.url)
        assert 1 == len(connections)
        line.close()
        line.exchange("GET", server.url)
        assert 2 == len(connections)
        line.close()


@pytest.mark.parametrize("is_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("manner", [rude.close_early, rude.reset], ids=["closes", "resets"])
@pytest.mark.parametrize("method, kept, breaks, patience, requests_made, works", [
    ("GET", 1, 1, 0.0, 3, True), ("GET", 1, 2, 0.0, 3, False), ("GET", 0, 1, 0.0, 1, False),
    ("POST", 1, 1, 0.0, 2, False), ("GET", 1, 1, 9.0, 2, False),
])
def test_a_kept_connection_that_ends_as_it_is_used_again_costs_a_get_nothing(
        authority, contexts, manner, is_tls, method, kept, breaks, patience, requests_made, works):
    """It is asked once more, on a new one. What may have been done is not, nor a long poll, nor
    what broke on a connection that was new."""
    good = answer(200, {"n": 1})
    manners = [good] * kept + [manner] * breaks + [good]
    with Rude(rude.in_turn(*manners), ssl_context=contexts[0] if is_tls else None) as server:
        line = Transport(ca_file=authority.ca_file)
        for _ in range(kept):
            line.exchange(method, server.url)
        if works:
            assert {"n": 1} == line.exchange(method, server.url, patience_seconds=patience).json
        else:
            with pytest.raises(UnavailableError) as caught:
                line.exchange(method, server.url, patience_seconds=patience)
            assert (True, False) == (caught.value.maybe_done, caught.value.still_working)
        line.close()
    assert requests_made == len(server.requests)


@pytest.mark.parametrize("path", ["a/%2E%2E/b", "a/%2E/b?c=/../d", "a/%2e%2e", "a/..%2Fb"])
def test_a_segment_of_dots_stays_what_it_is(monkeypatch, path):
    """Percent-encoded, it is a name; written plainly, by us or by requests, it is another path."""
    with Rude(answer(200, {})) as server:
        exchange(server.url + path)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", server.url)
        exchange(f"http://remotes.test/{path}")
        plain, by_proxy = [request.path for request in server.requests]
    kept = path.replace("%2e", "%2E")
    assert (f"/{kept}", f"http://remotes.test/{kept}") == (plain, by_proxy)


def test_what_is_sent_is_json_with_our_headers():
    """A document as JSON; the headers of the transport and those of the exchange."""
    with Rude(answer(201, {})) as server:
        line = Transport(headers={"CLIENT-AGENT": "Remotes"})
        line.exchange("POST", server.url, document={"a": "ä"}, headers={"Authorization": "T"})
        line.close()
        request = server.requests[0]
    assert ("POST", "application/json", "T", "Remotes") == (
        request.method, request.headers["content-type"], request.headers["authorization"],
        request.headers["client-agent"])
    assert b'{"a": "\\u00e4"}' == request.body


def test_a_form_is_sent_as_a_browser_does():
    """What must be escaped is: `+`, `/`, `=`, `&`, and letters of any script."""
    form = {"get-nonce": "1", "password": "a+b/c==&d", "name": "pässwörd %"}
    with Rude(answer(200, {})) as server:
        exchange(server.url, method="POST", form=form)
        (request,) = server.requests
    assert "application/x-www-form-urlencoded" == request.headers["content-type"]
    assert form == dict(urllib.parse.parse_qsl(request.body.decode("ascii"), strict_parsing=True))


def test_an_empty_document_is_one_and_none_is_no_body():
    """`{}` is sent as it is; nothing at all where there is nothing to send."""
    with Rude(answer(200, {})) as server:
        exchange(server.url, method="POST", document={})
        exchange(server.url, method="POST")
        first, second = server.requests
    assert (b"{}", "application/json") == (first.body, first.headers["content-type"])
    assert (b"", "0", None) == (second.body, second.headers.get("content-length"),
                                second.headers.get("content-type"))


def test_parts_are_a_form_with_files():
    """Multipart, read back by the standard library: a field without a file's name, one with."""
    content = bytes(range(256)) + b"\r\n--boundary\r\n"
    with Rude(answer(200, {})) as server:
        exchange(server.url, method="POST", parts={
            "passphrase": (None, "päss".encode()), "config": ("backup.json", content)})
        (request,) = server.requests
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + request.body, policy=email.policy.HTTP)
    found = {part.get_param("name", header="content-disposition"):
             (part.get_filename(), part.get_payload(decode=True)) for part in message.iter_parts()}
    assert {"passphrase": (None, "päss".encode()), "config": ("backup.json", content)} == found


# -- certificates ----------------------------------------------------------------------------

def sha256_of(server):
    """The SHA-256 of the certificate that a server shows, by openssl's reckoning."""
    certificate = ssl.get_server_certificate(("127.0.0.1", server.port))
    done = subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
                          input=certificate, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip().partition("=")[2].replace(":", "").lower()


def test_a_pinned_certificate_is_trusted_whoever_signed_it(contexts):
    """Nobody has to vouch for it; its name and its end do not matter either."""
    with Rude(answer(200, {"n": 1}), ssl_context=contexts[0]) as server:
        pin = sha256_of(server)
        for options in ({"pin": pin}, {"pin": pin, "is_insecure": True}):
            assert {"n": 1} == exchange(server.url, **options).json


@pytest.mark.parametrize("options", [{}, {"is_insecure": True}], ids=["alone", "and insecure"])
def test_another_certificate_than_the_pinned_one_is_14(authority, contexts, options):
    """Also one that an authority vouches for; the message tells its SHA-256, nothing was sent."""
    with Rude(answer(200, {}), ssl_context=contexts[0]) as server:
        pin = sha256_of(server)
        error = failure(server.url, pin="0" * 64, ca_file=authority.ca_file, **options)
        assert (CertificateError, 14, []) == (type(error), error.exit_code, server.requests)
    assert "is not the pinned one" in str(error) and pin in str(error)


def test_a_pinned_certificate_that_has_ended_or_is_of_another_name_will_do(tmp_path):
    """Appliances show such ones for years."""
    own = Authority(tmp_path)
    context = own.context("elsewhere.test", end=datetime.datetime(2001, 1, 1))
    with Rude(answer(200, {"n": 1}), ssl_context=context) as server:
        assert {"n": 1} == exchange(server.url, pin=sha256_of(server)).json


def test_insecure_trusts_any_certificate_without_a_warning(contexts, recwarn):
    """It was asked for; a warning at each request tells nobody anything new."""
    with Rude(answer(200, {"n": 1}), ssl_context=contexts[0]) as server:
        assert {"n": 1} == exchange(server.url, is_insecure=True).json
    assert [] == list(recwarn)


def test_insecure_and_a_pin_beat_the_authorities_of_the_environment(
        contexts, monkeypatch, tmp_path):
    """$REQUESTS_CA_BUNDLE names others, or a file that is not there."""
    for path in (Authority(tmp_path, "other").ca_file, str(tmp_path / "missing.pem")):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", path)
        with Rude(answer(200, {}), ssl_context=contexts[0]) as server:
            assert 200 == exchange(server.url, is_insecure=True).status
            assert 200 == exchange(server.url, pin=sha256_of(server)).status


def test_a_fingerprint_is_that_of_the_certificate_shown(contexts):
    """As openssl reckons it; no request is made for it."""
    with Rude(answer(200, {}), ssl_context=contexts[0]) as server:
        assert sha256_of(server) == transport.fingerprint(server.url, 5)
        assert [] == server.requests


@pytest.mark.parametrize("manner", [rude.close_early, rude.speak_another_protocol, rude.stall],
                         ids=lambda manner: manner.__name__)
def test_where_there_is_no_certificate_there_is_no_fingerprint(manner):
    """None: no TLS, no answer within the time, no server, no address."""
    with Rude(manner, is_deaf=True) as server:
        assert transport.fingerprint(server.url.replace("http:", "https:"), 0.3) is None
    for url in ("https://127.0.0.1:1/", "https://no-such-host.invalid/", "https:///", "https://a:b/",
                "no URL"):
        assert transport.fingerprint(url, 1) is None



def test_a_certificate_that_is_not_trusted_is_14(contexts):
    """And the message names --ca_file."""
    with Rude(answer(200, {}), ssl_context=contexts[0]) as server:
        error = failure(server.url)
        assert (CertificateError, 14, []) == (type(error), error.exit_code, server.requests)
    assert "--ca_file" in str(error)


def test_a_certificate_of_a_named_authority_is_trusted(authority, contexts, monkeypatch):
    """By the option, and by the environment's $REQUESTS_CA_BUNDLE."""
    with Rude(answer(200, {"n": 1}), ssl_context=contexts[0]) as server:
        assert {"n": 1} == exchange(server.url, ca_file=authority.ca_file).json
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_file)
        assert {"n": 1} == exchange(server.url).json


def test_the_option_for_authorities_beats_the_environment(authority, contexts, monkeypatch,
                                                          tmp_path):
    """What was named for this server counts."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", Authority(tmp_path, "other").ca_file)
    with Rude(answer(200, {}), ssl_context=contexts[0]) as server:
        assert 200 == exchange(server.url, ca_file=authority.ca_file).status


@pytest.mark.parametrize("name, end", [
    ("elsewhere.test", datetime.datetime(9999, 12, 31)),
    ("127.0.0.1", datetime.datetime(2001, 1, 1)),
], ids=["of another host", "expired"])
def test_a_certificate_that_does_not_fit_is_14(tmp_path, name, end):
    """Signed by an authority that is trusted, and yet not this server's, or too old."""
    own = Authority(tmp_path)
    with Rude(answer(200, {}), ssl_context=own.context(name, end=end)) as server:
        assert 14 == failure(server.url, ca_file=own.ca_file).exit_code


def test_a_server_that_wants_a_certificate_gets_it(authority, contexts):
    """With --client_certificate and --client_key it answers; without, 14 that names them."""
    with Rude(answer(200, {"n": 1}), ssl_context=contexts[1]) as server:
        own = authority.sign("client")
        assert {"n": 1} == exchange(server.url, ca_file=authority.ca_file, certificate=own).json
        error = failure(server.url, ca_file=authority.ca_file)
    assert 14 == error.exit_code
    assert "--client_certificate" in str(error)


def test_files_that_are_no_certificates_are_settings(authority, contexts, tmp_path):
    """78, whichever of the three it is."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no PEM")
    certificate, key = authority.sign("client")
    with Rude(answer(200, {}), ssl_context=contexts[1]) as server:
        for options in ({"ca_file": str(wrong)}, {"certificate": (str(wrong), key)},
                        {"certificate": (certificate, str(wrong))},
                        {"ca_file": str(tmp_path / "missing")},
                        {"certificate": (certificate, str(tmp_path / "missing"))}):
            error = failure(server.url, **{"ca_file": authority.ca_file, **options})
            assert (SettingsError, 78) == (type(error), error.exit_code), options


def test_tls_to_a_server_without_tls_is_a_foreign_server():
    """https:// typed for http://: 78, and the line says so."""
    with Rude(lambda server, connection, request: connection.sendall(b"HTTP/1.0 400 No\r\n\r\n"),
              is_deaf=True) as server:
        error = failure(server.url.replace("http:", "https:"))
    assert ForeignServerError is type(error)
    assert "does not speak TLS" in str(error)


# -- texts -------------------------------------------------------------------------------------

@given(st.text(st.characters()), st.integers(2, 300))
def test_one_line_is_one_printable_line(text, longest):
    """No line end and no control character of a server gets into a message."""
    line = one_line(text, longest)
    assert len(line) <= longest
    assert [line] == (line.splitlines() or [""])
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.text(max_size=9), lambda inner: st.dictionaries(
        st.sampled_from(["detail", "message", "Error", "x"]), inner)).map(
            lambda value: repr(value).encode()))
def test_any_body_has_a_summary(body):
    """A line of 200 characters at the most."""
    summary = Answer(500, {}, body, "http://a/").summary()
    assert len(summary) <= 200 and len(summary.splitlines()) <= 1


@settings(max_examples=50)
@given(st.text(max_size=8) | st.integers(-10, 10**12).map(str))
def test_retry_after_is_seconds_of_a_day_or_nothing(value):
    """A server cannot send us to sleep for longer than a day, nor break us with a text."""
    seconds = Answer(503, {"Retry-After": value}, b"", "http://a/").retry_after_seconds()
    assert seconds is None or 0 <= seconds <= 86400


def test_deep_json_is_no_json():
    """A hundred thousand brackets do not break the parser's stack."""
    assert NOT_JSON is Answer(200, {}, b"[" * 100_000, "http://a/").json


@pytest.mark.parametrize("digits", [1, 17, 4300, 4301, 100_000])
def test_a_number_of_any_length_leaves_the_rest_readable(digits):
    """Whole as far as Python reads it, else infinite: one number is not the whole answer."""
    body = b'{"id": 7, "n": [' + b"9" * digits + b", -" + b"9" * digits + b"]}"
    said = Answer(200, {}, body, "http://a/").json
    large = int("9" * digits) if digits <= 4300 else float("inf")
    assert {"id": 7, "n": [large, -large]} == said
    assert int is type(said["id"])
    assert NOT_JSON is Answer(200, {}, body[:-1], "http://a/").json
