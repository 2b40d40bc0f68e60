"""What the tests of logins and sessions share: logging in, what the client says of a failure,
and proxies before a demo server, which change what passes, or hear it.
"""

import base64
import contextlib
import http.client
import resource
import ssl
import subprocess

import pytest
import yaml

from tests import inside
from tests.conftest import PASSWORD, RELEASES
from tests.rude import answer

ALL = pytest.mark.parametrize("release", RELEASES)
TOKENS = pytest.mark.parametrize("release", RELEASES[1:])
NONCES = pytest.mark.parametrize("release", RELEASES[2:])  # and pre-auth tokens


def run(host, action, *words, **environ):
    """The client within this process, with more in its environment."""
    return inside.run(f"--action={action}", f"--settings={host.settings}", *words,
                      environ={"HOME": str(host.folder), "REMOTES_CONFIG": "", **environ})


def log_in(host, server, *words, **environ):
    """A login with $DUPLICATI_PASSWORD: nothing is kept that could log in again."""
    return run(host, "duplicati_login", f"--url={server.url}", *words,
               **{"DUPLICATI_PASSWORD": PASSWORD, **environ})


def require_failure(result, code, *words):
    """One line on stderr, the same in one JSON document, that code, and those words in it."""
    said = result.answer
    assert (code, code, "ERROR") == (result.code, said["exit"], said["status"]), result
    assert 1 == result.err.count("\n") and result.err.endswith(f"{said['message']}\n"), result
    for word in words:
        assert word in said["message"], result


def change_kept(host, **changes):
    """Writes to what the settings keep of the default server."""
    document = host.document()
    document["duplicati"]["servers"]["default"].update(changes)
    host.settings.write_text(yaml.safe_dump(document))


def renewals(server, since=0):
    """How often the server was asked to renew a session, or to begin one."""
    return [path for _, path in server.state.requests[since:]
            if path.startswith(("/api/v1/auth/refresh", "/api/v1/auth/login", "/login.cgi"))]


def end_sessions(server):
    """Nothing that the server has given out is good any more."""
    server.state.expire_tokens()
    if server.state.release_name != "2.0.8.1":
        server.state.store.change("DELETE FROM families")


def forward(server, change=lambda request: None, hear=lambda request, got, body: None):
    """A manner: a proxy before a demo server. `change(request)` may change the request, or give
    the manner by which the proxy answers itself; `hear` gets what the server answered.
    """
    host, port = server.server_address[:2]

    def manner(proxy, connection, request):
        own = change(request)
        if own:
            return own(proxy, connection, request)
        headers = {name: value for name, value in request.headers.items() if name != "connection"}
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=60)) as line:
            line.request(request.method, request.path, request.body or None, headers)
            got = line.getresponse()
            body = got.read()
            hear(request, got, body)
            head = [f"HTTP/1.1 {got.status} {got.reason}", *(
                f"{name}: {value}" for name, value in got.getheaders()
                if name.lower() not in ("connection", "content-length"))]
            connection.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]
                                           ).encode("latin-1") + body)
        return True

    return manner


def no_room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))


def basic(server, login=b"ann:hunter22"):
    """A manner: a proxy that wants basic auth, and hands all on."""
    wanted = "Basic " + base64.b64encode(login).decode()

    def change(request):
        if request.headers.get("authorization") != wanted:
            return answer(401, b"<html>401</html>", {"WWW-Authenticate": 'Basic realm="nas"'})

    return forward(server, change)


def basic_words(host, password="hunter22"):
    path = host.folder / "basic"
    path.write_text(password)
    return ["--basic_user=ann", f"--basic_password_file={path}"]


def pin_of(server):
    """The SHA-256 of the certificate that a server shows, as openssl computes it."""
    certificate = ssl.get_server_certificate(server.server_address[:2])
    done = subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
                          input=certificate, capture_output=True, text=True, timeout=30)
    return done.stdout.strip().partition("=")[2]
