"""Sessions with Duplicati servers of four releases: every way to log in, what renews a session
by itself, what ends it, and what else can answer at an address.

The servers are the demo's, rude ones, and proxies of this file before the demo's.
"""

import base64
import http.client
import json
import os
import pty
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from remotes.errors import EXIT_CODES
from tests import inside, rude
from tests.certificates import Authority
from tests.conftest import PASSWORD, PROJECT, RELEASES, DuplicatiHost, Result, job
from tests.processes import eventually
from tests.rude import Rude, answer
from tests.test_duplicati_waiting import meanwhile, waits

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
        line = http.client.HTTPConnection(host, port, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name != "connection"}
        line.request(request.method, request.path, request.body or None, headers)
        got = line.getresponse()
        body = got.read()
        hear(request, got, body)
        head = [f"HTTP/1.1 {got.status} {got.reason}", *(
            f"{name}: {value}" for name, value in got.getheaders()
            if name.lower() not in ("connection", "content-length"))]
        connection.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]
                                       ).encode("latin-1") + body)
        line.close()
        return True

    return manner


# -- logging in ----------------------------------------------------------------------------

@ALL
@pytest.mark.parametrize("way", ["file", "environment", "config", "file in the config"])
def test_a_password_is_heard_from_everywhere_and_kept_nowhere(play, operator, release, way):
    """The path of its file is kept, the password never; the settings can be read by nobody else."""
    server, host = play(release), operator()
    secret = host.folder / "password"
    secret.write_bytes(b"\xef\xbb\xbf" + PASSWORD.encode() + b"\r\n")
    config = host.folder / "config.yml"
    words, environ = {
        "file": ([f"--password_file={secret}"], {}),
        "environment": ([], {"DUPLICATI_PASSWORD": PASSWORD}),
        "config": ([f"--config={config}"], {}),
        "file in the config": ([], {"REMOTES_CONFIG": str(config)}),
    }[way]
    config.write_text(json.dumps({"options": {"password_file": str(secret)} if "file" in way
                                  else {"password": PASSWORD}}))
    result = run(host, "duplicati_login", f"--url={server.url}", *words, **environ)
    assert (0, "", "OK", True) == (result.code, result.err, result.answer["status"],
                                   result.answer["changed"]), result
    assert {"server": "default", "url": server.url, "version": server.state.played.version,
            "generation": "cookie" if release == "2.0.8.1" else "token"}.items() \
        <= result.answer.items()
    assert PASSWORD not in host.settings.read_text()
    assert 0o600 == host.settings.stat().st_mode & 0o777
    assert (str(secret) if "file" in way else None) == host.kept().get("password_file")
    assert 0 == host.inside("duplicati_status").code


def at_terminal(host, typed, *words):
    """A login at a terminal, where `typed` (bytes) is typed at the prompt; a Result."""
    leader, follower = pty.openpty()
    try:
        process = host.start("duplicati_login", *words, stdin=follower, start_new_session=True)
        os.close(follower)
        prompt = ""
        while not prompt.endswith(": "):
            letter = process.stderr.read(1)
            assert letter, prompt
            prompt += letter
        os.write(leader, typed)
        out, err = process.communicate(timeout=30)
    finally:
        os.close(leader)
    return Result(process.returncode, out, prompt + err)


@ALL
def test_a_person_is_asked_for_the_password(play, operator, release):
    """At a terminal; what is typed is not shown. A wrong one is 12, none is 2."""
    server, host = play(release), operator()
    for typed, code in ((PASSWORD.encode() + b"\n", 0), (b"wrong\n", 12), (b"\x04", 2), (b"\n", 2)):
        result = at_terminal(host, typed, f"--url={server.url}")
        assert code == result.code, result
        assert f"password of {server.url}: " in result.err
        assert PASSWORD not in result.err + result.out and "wrong" not in result.out
    assert 0 == host.inside("duplicati_status").code  # the failures cost nothing


@ALL
def test_without_a_terminal_a_password_must_be_given(play, operator, release):
    """2, and the message names the ways."""
    host = operator()
    process = host.run("duplicati_login", f"--url={play(release).url}", stdin=subprocess.DEVNULL)
    require_failure(process, 2, "--password_file", "$DUPLICATI_PASSWORD", "--login_token_file")


def test_an_old_server_without_a_password_is_just_entered(play, operator):
    """2.0 only; and never asked for a nonce, to which it would not answer."""
    server, host = play("2.0.8.1", password=None), operator()
    result = run(host, "duplicati_login", f"--url={server.url}")
    assert (0, "open") == (result.code, result.answer["session"]["kind"])
    assert [] == renewals(server)
    assert 0 == host.inside("duplicati_status").code
    server.state.crash_and_restart()
    assert 0 == host.inside("duplicati_status").code
    assert 0 == host.inside("duplicati_logout").code


@TOKENS
@pytest.mark.parametrize("shape", ["{}", "{}\n", "http://127.0.0.1:8200/signin.html?token={}",
                                   "https://nas/ngclient/signin.html?x=1&token={}&theme=dark#top"])
def test_a_sign_in_token_logs_in_also_as_the_page_that_bears_it(play, operator, release, shape):
    """As the server prints it at its start; it can be renewed like any other session."""
    server, host = play(release), operator()
    secret = host.folder / "token"
    secret.write_text(shape.format(server.state.sessions.signin_token()))
    result = run(host, "duplicati_login", f"--url={server.url}", f"--login_token_file={secret}")
    assert (0, "refresh") == (result.code, result.answer["session"]["kind"]), result
    server.state.expire_tokens()
    status = host.inside("duplicati_status")
    assert (0, False) == (status.code, status.answer["session"]["logs_in_again"])


@TOKENS
def test_a_wrong_sign_in_token_is_refused(play, operator, release):
    """12: forged, and one of another server; what the server says is told."""
    server, host, other = play(release), operator(), play(release)
    good = server.state.sessions.signin_token()
    for token in (good[:-4] + "AAAA", other.state.sessions.signin_token()):
        result = run(host, "duplicati_login", f"--url={server.url}", f"--login_token={token}")
        require_failure(result, 12, "refuses the sign-in token", "Failed to sign in")
    over = server.state.sessions._sign({"typ": "SigninToken", "sid": "web-api"}, -60)
    result = run(host, "duplicati_login", f"--url={server.url}", f"--login_token={over}")
    assert 12 == result.code and "refuses the sign-in token" in result.err
    assert not host.settings.exists()


@NONCES
def test_a_pre_auth_token_needs_no_login(play, operator, release):
    """It is kept, and goes with each request; a wrong one is 12."""
    server, host = play(release, job("Home"), pre_auth=("pre-auth-token-1",)), operator()
    require_failure(run(host, "duplicati_login", f"--url={server.url}",
                        "--login_token=pre-auth-token-2"), 12)
    result = run(host, "duplicati_login", f"--url={server.url}", "--login_token=pre-auth-token-1")
    assert (0, "pre_auth") == (result.code, result.answer["session"]["kind"]), result
    assert 0 == host.inside("duplicati_run", "--id=Home", "--wait").code
    assert [] == renewals(server)
    logout = host.inside("duplicati_logout")
    assert (0, True) == (logout.code, logout.answer["changed"])
    assert "keeps no session" in logout.answer["message"]


@TOKENS
def test_a_forever_token_is_issued_once(play, operator, release):
    """--forever: kept in place of the session, which is ended; the second time 1, and the session
    that was there goes on. Not enabled: 1. It can be given as a token elsewhere.
    """
    server, host, second, third = play(release, enable_forever_token=True), *(
        operator() for _ in range(3))
    first = log_in(host, server, "--forever")
    assert (0, "forever") == (first.code, first.answer["session"]["kind"]), first
    assert [] == server.state.store.rows("SELECT * FROM families")
    before = host.settings.read_text()
    again = log_in(host, server, "--forever")
    require_failure(again, 1, "issues no forever token", "restart the server")
    assert before == host.settings.read_text()
    token = host.kept()["access_token"]
    (second.folder / "token").write_text(token)
    given = run(second, "duplicati_login", f"--url={server.url}",
                f"--login_token_file={second.folder / 'token'}")
    assert (0, "forever") == (given.code, given.answer["session"]["kind"])
    for one in (host, second):
        assert 0 == one.inside("duplicati_status").code
    other = play(release)
    require_failure(log_in(third, other, "--forever"), 1, "Forever tokens are not enabled")


def test_an_old_server_takes_no_tokens(play, operator):
    """2: neither given nor issued; and nobody has logged in for it."""
    server, host = play("2.0.8.1"), operator()
    require_failure(run(host, "duplicati_login", f"--url={server.url}", "--login_token=abc"), 2)
    require_failure(log_in(host, server, "--forever"), 2, "leave --forever out")
    assert [] == renewals(server)


@ALL
def test_a_login_that_fails_costs_no_session(play, operator, release):
    """12 for the password, 78 and 75 for others: the settings are as they were, byte by byte."""
    server = play(release)
    host, secret = operator(server), "wrong"
    (host.folder / secret).write_text("not the password")
    before = host.settings.read_text()
    result = run(host, "duplicati_login", f"--url={server.url}",
                 f"--password_file={host.folder / secret}")
    require_failure(result, 12, "refuses the password")
    with Rude(rude.html) as page, Rude(rude.reset) as broken:
        for url, code in ((page.url, 78), (broken.url, 75)):
            require_failure(run(host, "duplicati_login", f"--url={url}"), code)
    assert before == host.settings.read_text()
    assert 0 == host.inside("duplicati_status").code


@ALL
def test_a_login_that_could_not_be_kept_is_none(play, operator, release):
    """No room for the settings: 75, before the server has begun a session."""
    server, host = play(release), operator()
    result = host.run("duplicati_login", f"--url={server.url}", preexec_fn=_no_room,
                      env={**host.environ, "DUPLICATI_PASSWORD": PASSWORD})
    require_failure(result, 75, "no room left")
    assert [] == renewals(server)


def _no_room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))


@ALL
def test_what_is_known_of_tasks_outlives_a_login(play, operator, release):
    """A run that goes on is still waited for after the session has ended and begun anew."""
    server, host = play(release, job("Home", ending="warning")), operator()
    assert 0 == log_in(host, server).code
    server.state.hold("Home")
    number = host.inside("duplicati_run", "--id=Home").answer["tasks"][0]["task"]
    known = host.kept()["tasks"]
    end_sessions(server)
    assert 12 == host.inside("duplicati_wait", f"--task={number}").code
    assert 0 == log_in(host, server).code
    assert known == host.kept()["tasks"]
    server.state.release("Home")
    assert 3 == host.inside("duplicati_wait", f"--task={number}").code
    other = play(release)
    assert 0 == log_in(host, other).code
    assert "tasks" not in host.kept()


# -- proxies that want a login, and that log in ----------------------------------------------

@NONCES
def test_a_proxy_that_logs_in_needs_nothing_of_us(play, operator, release):
    """It puts its own token into each request: nothing to log in to, no password sent."""
    server, host = play(release, job("Home"), pre_auth=("of-the-proxy",)), operator()

    def let_in(request):
        request.headers.setdefault("authorization", "PreAuth of-the-proxy")

    with Rude(forward(server, let_in)) as proxy:
        result = log_in(host, proxy)
        assert (0, "open") == (result.code, result.answer["session"]["kind"]), result
        assert 0 == host.inside("duplicati_run", "--id=Home", "--wait").code
        assert [] == renewals(server)
        assert 0 == host.inside("duplicati_logout").code


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


def test_basic_auth_before_an_old_server_is_passed(play, operator):
    """Both logins; the path of the proxy's password is kept, so that the next actions pass, too."""
    server, host = play("2.0.8.1", job("Home")), operator()
    with Rude(basic(server)) as proxy:
        require_failure(log_in(host, proxy), 12, "basic auth", "--basic_user")
        wrong = log_in(host, proxy, *basic_words(host, "other"))
        require_failure(wrong, 12, "refuses --basic_user")
        require_failure(log_in(host, proxy, "--basic_user=ann"), 78, "--basic_password_file")
        assert [] == renewals(server)
        result = log_in(host, proxy, *basic_words(host))
        assert 0 == result.code, result
        assert 0 == host.inside("duplicati_run", "--id=Home", "--wait").code
        basic_words(host, "changed")
        require_failure(host.inside("duplicati_status"), 78, "--basic_user")
        assert "hunter22" not in host.settings.read_text()


def test_a_password_that_is_no_utf_8_is_sent_as_it_is(play, operator):
    """What the environment holds are bytes."""
    server, host = play("2.0.8.1"), operator()
    with Rude(basic(server, b"ann:\xe4\xff")) as proxy:
        result = log_in(host, proxy, "--basic_user=ann", DUPLICATI_BASIC_PASSWORD="\udce4\udcff")
        assert 0 == result.code, result
        require_failure(log_in(host, proxy, "--basic_user=ann", DUPLICATI_PASSWORD="\udce4",
                               DUPLICATI_BASIC_PASSWORD="\udce4\udcff"), 12)


@TOKENS
def test_basic_auth_before_a_token_server_cannot_be(play, operator, release):
    """78 that says why; the server's password is not sent, and no session is begun."""
    server, host = play(release), operator()
    with Rude(basic(server)) as proxy:
        result = log_in(host, proxy, *basic_words(host))
        require_failure(result, 78, "both cannot be sent in one header")
        token = server.state.sessions.signin_token()
        require_failure(log_in(host, proxy, *basic_words(host), f"--login_token={token}"), 78)
    assert [] == server.state.store.rows("SELECT * FROM families")
    assert not host.settings.exists()


# -- renewing ------------------------------------------------------------------------------

@ALL
def test_a_session_that_is_over_is_begun_anew_from_the_password_file(play, operator, release):
    """Without one it is 12, in one line that says what to do."""
    server = play(release)
    host, other = operator(server), operator()
    assert 0 == log_in(other, server).code
    end_sessions(server)
    result = host.inside("duplicati_status")
    assert (0, True) == (result.code, result.answer["session"]["logs_in_again"]), result
    seen = len(server.state.requests)
    assert 0 == host.inside("duplicati_status").code
    assert [] == renewals(server, seen)
    refused = other.inside("duplicati_status")
    require_failure(refused, 12, "has ended", "--action=duplicati_login")
    assert ("refused", True) == (refused.answer["state"], refused.answer["logged_in"])
    (host.folder / "password").write_text("another")
    end_sessions(server)
    require_failure(host.inside("duplicati_status"), 12, "refuses the password")
    (host.folder / "password").unlink()
    require_failure(host.inside("duplicati_status"), 78, "cannot read the password file")


@ALL
def test_a_password_file_that_is_gone_breaks_no_session(play, operator, release):
    """Only that it could not be begun anew is told."""
    host = operator(play(release))
    (host.folder / "password").unlink()
    result = host.inside("duplicati_status")
    assert (0, False) == (result.code, result.answer["session"]["logs_in_again"])


@TOKENS
def test_a_token_near_its_end_is_renewed_before_it_is_used(play, operator, release):
    """Nothing is refused first; half a minute at the most, a quarter of a short life."""
    server, host = play(release), operator()
    assert 0 == log_in(host, server).code
    for left, is_renewed in ((25, True), (35, False), (-5, True)):
        change_kept(host, access_until=time.time() + left)
        seen = len(server.state.requests)
        assert 0 == host.inside("duplicati_status").code
        assert is_renewed == ("/api/v1/auth/refresh" == server.state.requests[seen][1])
        assert int(is_renewed) == len(renewals(server, seen))


@TOKENS
def test_tokens_of_a_second_outlast_a_wait(play, operator, release):
    """A life of a second, a run of more: renewed as often as it takes."""
    server, host = play(release, job("Home", seconds=2.5), token_seconds=1), operator()
    assert 0 == log_in(host, server).code
    seen = len(server.state.requests)
    result = host.inside("duplicati_run", "--id=Home", "--wait")
    assert (0, "success") == (result.code, result.answer["tasks"][0]["result"]), result
    assert 1 <= len(renewals(server, seen)) <= 40


@TOKENS
@pytest.mark.parametrize("cookie", ["another's", "garbage", "none"])
def test_a_refresh_token_that_is_not_taken_leads_to_the_password(play, operator, release, cookie):
    """Another family's that has ended, garbage, and none at all."""
    server = play(release)
    host, other = operator(server), operator()
    assert 0 == log_in(other, server).code
    foreign = other.kept()["refresh_cookie"]
    assert 0 == other.inside("duplicati_logout").code
    change_kept(host, refresh_cookie={"another's": foreign, "none": None,
                                      "garbage": foreign.partition("=")[0] + "=garbage"}[cookie])
    server.state.expire_tokens()
    seen = len(server.state.requests)
    assert 0 == host.inside("duplicati_status").code
    assert (["/api/v1/auth/refresh"] if cookie != "none" else []) + ["/api/v1/auth/login"] \
        == renewals(server, seen)


@TOKENS
def test_the_cookie_goes_back_under_the_name_that_the_server_gave_it(play, operator, release):
    """RefreshToken_0 where the Host header names no port; and to `localhost`, whose cookies a jar
    would not give back.
    """
    server, host, local = play(release), operator(), operator()

    def on_default_port(request):
        request.headers["host"] = "127.0.0.1"

    with Rude(forward(server, on_default_port)) as proxy:
        assert 0 == log_in(host, proxy).code
        assert host.kept()["refresh_cookie"].startswith("RefreshToken_0=")
        for _ in range(3):
            server.state.expire_tokens()
            assert 0 == host.inside("duplicati_status").code
    local.log_in(server.url.replace("127.0.0.1", "localhost"))
    (local.folder / "password").unlink()
    server.state.expire_tokens()
    assert 0 == local.inside("duplicati_status").code
    assert f"RefreshToken_{server.server_address[1]}=" in local.kept()["refresh_cookie"]


@ALL
@pytest.mark.parametrize("processes", [2, 5])
def test_processes_that_renew_at_once_do_it_once(play, operator, release, processes):
    """All succeed, and each round costs one rotation (2.0: one login); the family lives on."""
    server = play(release)
    host = operator(server)
    if release != "2.0.8.1":
        (host.folder / "password").unlink()
    for _ in range(3):
        server.state.expire_tokens()
        seen = len(server.state.requests)
        running = [host.start("duplicati_status") for _ in range(processes)]
        for process in running:
            out, err = process.communicate(timeout=60)
            assert (0, "", "OK") == (process.returncode, err, json.loads(out)["status"]), out
        assert (["/login.cgi"] * 2 if release == "2.0.8.1" else ["/api/v1/auth/refresh"]) \
            == renewals(server, seen)
    assert release == "2.0.8.1" or 1 == len(server.state.store.rows("SELECT * FROM families"))


def test_a_refresh_that_is_answered_slowly_is_waited_for(play, operator):
    """The second process gets what the first was given, and asks for nothing of its own."""
    server, host = play("2.3.0.4"), operator()
    came, go = threading.Event(), threading.Event()

    def slow(request):
        if request.path == "/api/v1/auth/refresh":
            came.set()
            go.wait(30)

    with Rude(forward(server, slow)) as proxy:
        assert 0 == log_in(host, proxy).code
        server.state.expire_tokens()
        seen = len(server.state.requests)
        first = host.start("duplicati_status")
        assert came.wait(30)
        second = host.start("duplicati_status")
        asked = len(proxy.requests)
        # It is refused, too, and waits for the lock.
        eventually(lambda: len(proxy.requests) > asked, "a request of the second process")
        go.set()
        for process in (first, second):
            process.communicate(timeout=60)
            assert 0 == process.returncode
    assert ["/api/v1/auth/refresh"] == renewals(server, seen)


@pytest.mark.parametrize("release", RELEASES)
def test_a_client_killed_while_it_renews_loses_nothing_but_that(play, operator, release):
    """SIGKILL at each of its writes, between the server's rotation and the saving, too: the next
    run goes on. Half a minute later the server may have ended the family: then the next run logs
    in from the password file, and says 12 without one.
    """
    server, host = play(release), operator()
    script = [sys.executable, str(PROJECT / "tests" / "killed_at.py")]
    codes, kills, point = set(), 0, 2
    while True:
        for has_password in (False, True):
            host.settings.unlink(missing_ok=True)
            host.log_in(server.url) if has_password else log_in(host, server)
            server.state.expire_tokens()
            killed = subprocess.run(
                [*script, str(point), "--action=duplicati_status", f"--settings={host.settings}"],
                env=host.environ, capture_output=True, text=True, timeout=60)
            if release != "2.0.8.1":  # 2.0 has nothing but the password to renew with
                if killed.returncode == -signal.SIGKILL and point % 3 == 0:
                    assert 0 == host.inside("duplicati_status").code
                server.state.store.change("UPDATE families SET refreshed = 0")
                server.state.expire_tokens()
            found = host.inside("duplicati_status")
            if found.code:
                assert not has_password
                require_failure(found, 12, "has ended")
            codes.add((has_password, found.code))
        if killed.returncode != -signal.SIGKILL:
            break
        kills, point = kills + 1, point + 1
    assert kills > 10 and {(True, 0), (False, 12)} <= codes
    assert release == "2.0.8.1" or (False, 0) in codes


@TOKENS
def test_nothing_is_rotated_that_could_not_be_kept(play, operator, release):
    """A full disk: 75; a folder that cannot be written: 78; the server was not asked to renew,
    and when there is room the session goes on, without a password.
    """
    server, host = play(release), operator()
    assert 0 == log_in(host, server).code
    server.state.expire_tokens()
    seen = len(server.state.requests)
    require_failure(host.run("duplicati_status", preexec_fn=_no_room), 75, "no room left")
    host.folder.chmod(0o500)
    try:
        process = subprocess.run(
            [sys.executable, str(PROJECT / "tests" / "unprivileged.py"),
             *host.command_line("duplicati_status")], env=host.environ, capture_output=True,
            text=True, timeout=60)
    finally:
        host.folder.chmod(0o700)
    require_failure(Result(process.returncode, process.stdout, process.stderr), 78,
                    "Permission denied")
    assert [] == renewals(server, seen)
    assert 0 == host.inside("duplicati_status").code


@TOKENS
@pytest.mark.parametrize("manner, code", [
    (answer(503, b"", {"Retry-After": "5"}), 75), (answer(502, b"<html>Bad Gateway"), 75),
    (rude.html, 75), (answer(500, {"Error": "An error occurred", "Code": 500}), 75),
    (rude.reset, 75), (answer(429, b""), 75), (answer(401, {"Error": "no", "Code": 401}), 12),
    (answer(200, {"AccessToken": 1}), 78), (rude.redirect("http://evil.example/"), 78),
])
def test_a_refresh_that_cannot_be_had_now_ends_no_session(play, operator, release, manner, code):
    """75 is not 12: the session is as it was, and goes on when the server answers again."""
    server, host = play(release), operator()
    is_broken = False

    def change(request):
        return manner if is_broken and request.path == "/api/v1/auth/refresh" else None

    with Rude(forward(server, change)) as proxy:
        assert 0 == log_in(host, proxy).code
        server.state.expire_tokens()
        before, is_broken = host.settings.read_text(), True
        require_failure(host.inside("duplicati_status"), code)
        assert before == host.settings.read_text()
        is_broken = False
        assert 0 == host.inside("duplicati_status").code


@ALL
def test_a_server_that_was_restarted_is_gone_on_with(play, operator, release):
    """Tokens outlive it, cookies do not: then the password file is there."""
    server = play(release)
    host = operator(server)
    for _ in range(2):
        server.state.crash_and_restart()
        result = host.inside("duplicati_status")
        assert (0, "") == (result.code, result.err), result


def test_an_xsrf_token_that_is_over_costs_no_login(play, operator):
    """2.0: ten minutes; the session itself lives an hour."""
    server, host = play("2.0.8.1"), operator()
    assert 0 == log_in(host, server).code
    server.state.sessions._tokens.clear()
    seen = len(server.state.requests)
    for _ in range(2):
        assert 0 == host.inside("duplicati_status").code
    assert [] == renewals(server, seen)


def test_an_old_server_that_is_too_busy_is_for_now(play, operator):
    """503 for xsrf tokens and for nonces: 75, and no session is lost."""
    server = play("2.0.8.1")
    host = operator(server)
    sessions, long = server.state.sessions, time.time() + 600
    sessions._tokens = {str(number): long for number in range(500)}
    require_failure(host.inside("duplicati_status"), 75, "503")
    require_failure(log_in(operator(), server), 75, "503")
    sessions._tokens = {}
    assert 0 == host.inside("duplicati_status").code
    sessions.expire_tokens()
    sessions._nonces = {str(number): long for number in range(50)}
    result = host.inside("duplicati_status")
    require_failure(result, 75, "Too many active login attempts")
    assert "busy" == result.answer["kind"]
    sessions._nonces = {}
    assert 0 == host.inside("duplicati_status").code


# -- several servers -----------------------------------------------------------------------

def test_servers_are_told_apart_by_name(play, operator):
    """Each action goes to the one that --server names; an unknown name is 78 and lists them."""
    host = operator()
    for name, release in zip(("nas", "old", "default"), RELEASES):
        host.log_in(play(release).url, f"--server={name}")
    for name, release in zip(("nas", "old", "default"), RELEASES):
        status = host.inside("duplicati_status", f"--server={name}")
        assert (0, name, release) == (status.code, status.answer["server"],
                                      status.answer["version"])
    require_failure(host.inside("duplicati_status", "--server=nsa"), 78, "nsa", "default, nas, old")
    assert 0 == host.inside("duplicati_logout", "--server=nas").code
    require_failure(host.inside("duplicati_status", "--server=nas"), 78, "default, old")
    assert 0 == host.inside("duplicati_status", "--server=old").code
    require_failure(operator().inside("duplicati_status"), 78, "--action=duplicati_login")


def test_a_login_elsewhere_takes_nothing_of_the_former_server_there(play, operator, tmp_path):
    """Under the same name: neither its password nor its pin, CA file, basic login, --insecure."""
    own, other = Authority(tmp_path, "own"), Authority(tmp_path, "other")
    trusting = {"pin": lambda server: ["--pin", pin_of(own, server)],
                "ca_file": lambda server: [f"--ca_file={own.ca_file}"],
                "insecure": lambda server: ["--insecure"]}
    context = own.context()
    for words in trusting.values():
        host, server = operator(), play("2.0.8.1", ssl_context=context)
        host.log_in(server.url, *words(server), *basic_words(host))
        assert 0 == host.inside("duplicati_status").code
        with Rude(answer(200, {}), ssl_context=other.context()) as foreign:
            result = run(host, "duplicati_login", f"--url={foreign.url}")
            require_failure(result, 14, "is not trusted", "--pin=")
            assert [] == foreign.requests
        plain = play("2.3.0.4")
        result = host.run("duplicati_login", f"--url={plain.url}", stdin=subprocess.DEVNULL)
        require_failure(result, 2, "a password is needed")
        assert [] == renewals(plain)
        assert 0 == log_in(host, plain).code
        assert set() == {"pin", "ca_file", "insecure", "basic_user", "password_file",
                         "session_auth"} & set(host.kept())


def pin_of(authority, server):
    """The SHA-256 of the certificate that a server shows, as openssl computes it."""
    certificate = ssl.get_server_certificate(server.server_address[:2])
    done = subprocess.run(["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
                          input=certificate, capture_output=True, text=True, timeout=30)
    return done.stdout.strip().partition("=")[2]


@ALL
def test_a_login_elsewhere_in_mid_wait_sends_nothing_of_it_to_the_former_server(
        play, operator, release):
    """The wait ends with 12, though there would be a token and a password file by then: they are
    another server's.
    """
    server, other = play(release, job("Home")), play(release)
    host = operator()
    assert 0 == log_in(host, server).code
    server.state.hold("Home")
    seen = len(server.state.requests)
    waiting = host.start("duplicati_run", "--id=Home", "--wait")
    assert server.state.wait_reached("Home") and waits(server, seen)
    host.log_in(other.url)
    kept, seen = host.kept(), len(server.state.requests)
    server.state.expire_tokens()
    server.state.engine.tell(data=True)
    out, err = waiting.communicate(timeout=60)
    assert (12, 12) == (waiting.returncode, json.loads(out)["exit"]), err
    assert "ended by another run" in json.loads(out)["message"]
    assert [] == renewals(server, seen)
    assert kept == host.kept()


@ALL
def test_a_logout_in_mid_wait_stays_one(play, operator, release):
    """The wait does not log in again, and leaves nothing in the settings."""
    server = play(release, job("Home"))
    host = operator(server)
    server.state.hold("Home")
    seen = len(server.state.requests)

    def end():
        assert server.state.wait_reached("Home") and waits(server, seen)
        assert 0 == host.run("duplicati_logout").code
        server.state.engine.tell(data=True)

    with meanwhile(end):
        result = host.inside("duplicati_run", "--id=Home", "--wait")
    assert (12, "login_refused") == (result.code, result.answer["kind"]), result
    assert {} == host.document()["duplicati"]["servers"]


# -- logging out ---------------------------------------------------------------------------

@ALL
def test_a_logout_is_one_on_the_server_too(play, operator, release):
    """What was kept is good for nothing any more; a second logout changes nothing."""
    server = play(release)
    host, thief = operator(server), operator()
    stolen = host.settings.read_text()
    result = host.inside("duplicati_logout")
    assert (0, True, "") == (result.code, result.answer["changed"], result.err), result
    assert {} == host.document()["duplicati"]["servers"]
    again = host.inside("duplicati_logout")
    assert (0, False) == (again.code, again.answer["changed"])
    (host.folder / "password").unlink()
    thief.settings.write_text(stolen.replace(str(host.folder / "password"), ""))
    document = thief.document()
    del document["duplicati"]["servers"]["default"]["password_file"]
    thief.settings.write_text(yaml.safe_dump(document))
    require_failure(thief.inside("duplicati_status"), 12)


@ALL
@pytest.mark.parametrize("manner", [rude.reset, answer(503, b""), rude.html,
                                    answer(200, {"a": 1}), rude.redirect("http://evil.example/")],
                         ids=["away", "503", "page", "foreign", "redirect"])
def test_a_logout_that_the_server_did_not_hear_says_so(play, operator, release, manner):
    """3: the client has forgotten the session, the server not."""
    server, host = play(release), operator()

    def change(request):
        return manner if "logout" in request.path else None

    with Rude(forward(server, change)) as proxy:
        assert 0 == log_in(host, proxy).code
        result = host.inside("duplicati_logout")
    assert (3, True, 1) == (result.code, result.answer["changed"], result.err.count("\n")), result
    assert "the server not" in result.answer["message"]
    assert {} == host.document()["duplicati"]["servers"]


# -- certificates --------------------------------------------------------------------------

@ALL
def test_a_self_signed_certificate_can_be_trusted_by_its_pin(play, operator, tmp_path, release):
    """14 first, with the SHA-256 to compare; the pin is kept; a wrong one is 14, no SHA-256 78."""
    context = Authority(tmp_path).context()
    server, host = play(release, job("Home"), ssl_context=context), operator()
    pin = pin_of(None, server)
    digits = pin.replace(":", "").lower()
    require_failure(log_in(host, server), 14, "is not trusted", "--ca_file", f"--pin={digits}")
    wrong = f"{digits[:-1]}{'0' if digits[-1] != '0' else '1'}"
    require_failure(log_in(host, server, f"--pin={wrong}"), 14, "is not the pinned one", digits)
    for malformed in ("abc", digits[:-2], digits + "00", "x" * 64):
        require_failure(log_in(host, server, f"--pin={malformed}"), 78, "64 hexadecimal digits")
    assert [] == renewals(server)
    for right in (pin, digits, digits.upper(), f"sha256:{pin}"):
        assert 0 == log_in(host, server, f"--pin={right}").code
        process = host.run("duplicati_run", "--id=Home", "--wait")
        assert (0, "") == (process.code, process.err)
    change_kept(host, pin=wrong)
    refused = host.inside("duplicati_status")
    require_failure(refused, 14, "is not the pinned one")
    assert "untrusted" == refused.answer["state"]


@ALL
def test_a_pin_without_tls_is_refused(play, operator, release):
    """2: whoever gives one does not want the password to travel in clear."""
    server, host = play(release), operator()
    require_failure(log_in(host, server, f"--pin={'0' * 64}"), 2, "shows no certificate")
    assert [] == renewals(server)


@ALL
def test_a_certificate_can_be_trusted_by_its_authority_or_blindly(
        play, operator, tmp_path, release):
    """--ca_file and --insecure are kept; neither is told of on stderr each time."""
    authority = Authority(tmp_path)
    server = play(release, ssl_context=authority.context())
    for word in (f"--ca_file={authority.ca_file}", "--insecure"):
        host = operator()
        process = host.run("duplicati_login", f"--url={server.url}", word,
                           env={**host.environ, "DUPLICATI_PASSWORD": PASSWORD})
        assert (0, "") == (process.code, process.err), process
        server.state.expire_tokens()
        status = host.run("duplicati_status", env={**host.environ, "DUPLICATI_PASSWORD": PASSWORD})
        assert (0, "") == (status.code, status.err), status
    missing = log_in(operator(), server, f"--ca_file={tmp_path / 'missing'}")
    require_failure(missing, 78, "there is no such file")


@ALL
def test_a_redirect_to_https_on_the_same_host_is_followed(play, operator, tmp_path, release):
    """The https address is kept; its certificate is judged like any other."""
    authority = Authority(tmp_path)
    server, host = play(release, ssl_context=authority.context()), operator()
    with Rude(rude.redirect(server.url.rstrip("/") + "{path}", 308)) as front:
        digits = pin_of(authority, server).replace(":", "").lower()
        require_failure(log_in(host, front), 14, f"--pin={digits}")
        result = log_in(host, front, f"--ca_file={authority.ca_file}")
        assert (0, server.url) == (result.code, result.answer["url"]), result
        assert {"GET"} == {request.method for request in front.requests}


# -- what else answers ---------------------------------------------------------------------

@pytest.mark.parametrize("location", [
    "http://evil.example/", "https://evil.example/api/v1/serverstate", "https://127.0.0.1/login",
    "/login?next=/api/v1/serverstate", "https://127.0.0.1:1/x", "http://[::1", "", "//evil.example",
    "javascript:alert(1)", "https://user:hunter22@evil.example/?token=hunter22",
])
def test_a_redirect_elsewhere_is_not_followed(operator, location):
    """78 that says where to; no password went anywhere."""
    host = operator()
    with Rude(rude.redirect(location)) as front:
        result = log_in(host, front)
        require_failure(result, 78, "sends elsewhere")
        assert ["GET"] == [request.method for request in front.requests]
    assert "hunter22" not in result.out + result.err
    assert not host.settings.exists()


@pytest.mark.parametrize("manner, code, words", [
    (rude.html, 78, ["is no Duplicati server", "a page"]),
    (answer(502, b"<html><title>502 Bad Gateway</title></html>"), 75, ["502"]),
    (answer(503, b""), 75, ["503"]), (answer(429, b""), 75, ["429"]),
    (answer(200, {"status": "OK"}), 78, ["is no Duplicati server"]),
    (answer(200, b""), 78, ["is no Duplicati server"]),
    (answer(200, [1]), 78, ["is no Duplicati server"]),
    (answer(404, {"detail": "Not found."}), 78, ["is no Duplicati server"]),
    (answer(404, b""), 78, ["is no Duplicati server"]),
    (answer(400, b""), 78, ["is no Duplicati server"]),
    (answer(401, {"detail": "No"}, {"WWW-Authenticate": "Token"}), 12, ["none of Duplicati's"]),
    (answer(401, b""), 12, ["none of Duplicati's"]),
    (answer(403, b"<html>403"), 12, ["403"]),
    (rude.speak_another_protocol, 75, []), (rude.close_early, 75, []), (rude.half_json, 78, []),
], ids=range(16))
def test_what_is_no_duplicati_server_is_told_in_one_line(operator, manner, code, words):
    """A page, a proxy's error, another server's JSON: no password is sent to it."""
    host = operator()
    with Rude(manner) as server:
        require_failure(log_in(host, server), code, *words)
        assert {"GET"} == {request.method for request in server.requests}
    assert not host.settings.exists()


@ALL
@pytest.mark.parametrize("manner, code, state", [
    (rude.html, 75, "away"), (answer(502, b"<html>Bad Gateway"), 75, "away"),
    (answer(200, {"status": "OK"}), 78, "wrong"), (answer(404, {"detail": "No."}), 78, "wrong"),
    (answer(404, b""), 78, "wrong"), (rude.reset, 75, "away"), (answer(403, b"no"), 12, "refused"),
    (rude.redirect("https://evil.example/"), 78, "wrong"), (answer(429, b""), 75, "away"),
], ids=range(9))
def test_a_status_is_truthful_about_what_answers(play, operator, release, manner, code, state):
    """A session is kept, and something else answers than the server; what is known is told."""
    server, host = play(release), operator()
    is_replaced = False
    with Rude(forward(server, lambda request: manner if is_replaced else None)) as proxy:
        assert 0 == log_in(host, proxy).code
        before, is_replaced = host.settings.read_text(), True
        result = host.inside("duplicati_status")
        require_failure(result, code)
        assert (state, "default", proxy.url, True) == tuple(
            result.answer[name] for name in ("state", "server", "url", "logged_in"))
        assert before == host.settings.read_text()


def test_the_django_remotes_server_is_no_duplicati_server(serve, operator):
    """78, in the words for it."""
    server = serve({"registration_token": "t", "groups": []})
    require_failure(log_in(operator(), server), 78, "is no Duplicati server")


def test_addresses_where_nothing_answers_are_for_now(operator):
    """An unknown name, a closed port, a server that takes the request and says nothing."""
    class At:
        def __init__(self, url):
            self.url = url

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = At(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        require_failure(log_in(operator(), closed), 75, "Connection refused")
    require_failure(log_in(operator(), At("http://no-such-host.invalid/")), 75, "is not known")
    with Rude(rude.stall) as silent:
        require_failure(log_in(operator(), silent, "--http_timeout=0.2"), 75, "within 0.2 s")


@ALL
def test_a_name_that_the_server_does_not_answer_to_is_told(play, operator, release):
    """78, and what to do: --webservice-allowed-hostnames. The password was not enough."""
    server, host = play(release), operator()

    def elsewhere(request):
        request.headers["host"] = "nas.example"

    with Rude(forward(server, elsewhere)) as proxy:
        require_failure(log_in(host, proxy), 78, "--webservice-allowed-hostnames")
    assert not host.settings.exists()


@ALL
@pytest.mark.parametrize("page", ["", "ngax/index.html", "ngclient/", "login.html", "signin.html",
                                  "index.html?x=1#/home", "api/"])
def test_an_address_pasted_from_a_browser_is_understood(play, operator, release, page):
    """The page of the web interface is left out."""
    server, host = play(release), operator()
    host.log_in(server.url + page)
    assert server.url == host.kept()["url"]


@pytest.mark.parametrize("url", ["http://ann:hunter22@nas/", "http://ann:hunter22@nas:x/",
                                 "ftp://nas/?token=hunter22", "nas:8200", "http://", "http://[::1"])
def test_an_address_that_is_none_is_told_without_its_secrets(operator, url):
    """78."""
    result = run(operator(), "duplicati_login", f"--url={url}")
    require_failure(result, 78)
    assert "hunter22" not in result.out + result.err


@pytest.mark.parametrize("changes", [
    {"pin": 12}, {"pin": "short"}, {"insecure": "perhaps"}, {"password_file": 0}, {"url": 5},
    {"url": "nas"}, {"generation": "other"}, {"generation": None}, {"access_token": 5},
    {"access_token": "a\nb"}, {"access_until": "never"}, {"access_until": float("nan")},
    {"refresh_cookie": "a\nb"}, {"refresh_nonce": 7}, {"basic_user": 5}, {"tasks": 5},
    {"pre_auth_token": 5}, {"ca_file": 1.5}, {"access_token": [1]}, {"access_token": "\u2603"},
], ids=str)
def test_settings_that_somebody_has_spoilt_are_no_fault_of_ours(play, operator, changes):
    """0, or a code of the table, in one line."""
    server = play("2.3.0.4")
    host = operator(server)
    server.state.expire_tokens()
    change_kept(host, **changes)
    result = host.inside("duplicati_status")
    assert result.code in (0, 12, 78), result
    if result.code:
        require_failure(result, result.code)


# -- any answer at all ---------------------------------------------------------------------

LEAVES = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
          | st.sampled_from(["OK", "Running", "1", "\ud800", "a\nb", 10**400, "../../x"]))
NAMES = st.sampled_from([
    "AccessToken", "RefreshNonce", "Error", "Code", "ProgramState", "ActiveTask", "Item1", "Item2",
    "SchedulerQueueIds", "ProposedSchedule", "ServerVersion", "Nonce", "Salt", "Status", "success",
    "EstimatedPauseEnd", "MachineName", "UpdatedVersion", "Message", "Type", "HelpId", "Token"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3)
                      | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6))


def token_with(claims):
    """A JWT of those claims, with a signature that is none."""
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJIUzI1NiJ9.{text}.c2ln"


CLAIMS = st.fixed_dictionaries(
    {"typ": st.just("AccessToken")}, optional={"nbf": LEAVES, "exp": LEAVES, "fam": LEAVES})
SESSIONS = st.fixed_dictionaries({
    "AccessToken": CLAIMS.map(token_with) | LEAVES}, optional={"RefreshNonce": VALUES})
BODIES = (VALUES | SESSIONS).map(lambda value: json.dumps(value).encode()) \
    | st.binary(max_size=40) | st.sampled_from([b"", b"\xef\xbb\xbf", b"[" * 100_000, b"<html>"])
HEADERS = st.dictionaries(
    st.sampled_from(["WWW-Authenticate", "Set-Cookie", "Location", "Retry-After", "Content-Type"]),
    st.sampled_from(["", "Bearer", "Basic", "xsrf-token=a", "xsrf-token=%E2%98%83%0A; path=/",
                     "RefreshToken_1=\xe4\xff", "session-auth=", "session-nonce=%", "https://[",
                     "/api/v1/serverstate", "https://127.0.0.1:99999/api/v1/serverstate",
                     "9" * 30]),
    max_size=3)
STATUSES = st.sampled_from([200, 200, 200, 201, 204, 301, 308, 400, 401, 403, 404, 407, 409, 415,
                            418, 429, 500, 502, 503, 504])


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    """steered(release) -> (proxy before a demo server, a list of what it answers itself: pairs of
    a part of a path and a manner)."""
    from demo import duplicati

    opened = []

    def start(release):
        folder = tmp_path_factory.mktemp("steered")
        state = duplicati.Duplicati(release, PASSWORD, folder / "served", {"jobs": [job("Home")]})
        server = duplicati.make_server(state, 0)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        own = []
        proxy = Rude(forward(server, lambda request: next(
            (manner for part, manner in own if part in request.path), None)))
        proxy.__enter__()
        opened.append((server, thread, proxy))
        return server, proxy, own, folder

    found = {}
    yield lambda release: found.setdefault(release, found.get(release) or start(release))
    for server, thread, proxy in opened:
        proxy.__exit__()
        server.shutdown()
        server.server_close()
        thread.join()
        server.state.close()


PARTS = {"2.0.8.1": ["serverstate", "login.cgi", "systeminfo", "logout", "/"],
         "2.3.0.4": ["serverstate", "auth/login", "auth/refresh", "systeminfo", "forever", "/"]}


@pytest.mark.parametrize("release, part", [
    (release, part) for release in PARTS for part in PARTS[release]])
@settings(max_examples=40)
@given(status=STATUSES, body=BODIES, headers=HEADERS)
def test_any_answer_to_login_status_and_logout_is_no_fault_of_ours(
        steered, release, part, status, body, headers):
    """Whatever one of their requests is answered: a code of the table, never 70; one document."""
    server, proxy, own, folder = steered(release)
    host = DuplicatiHost(folder)
    (folder / "password").write_text(PASSWORD)
    own.clear()
    if release == "2.0.8.1":
        server.state.sessions._tokens.clear()  # of which there can be 500
    host.settings.unlink(missing_ok=True)
    assert 0 == log_in(host, proxy).code
    kept = host.settings.read_text()
    own.append((part, answer(status, body, headers)))
    for action, words in (("duplicati_login", [f"--url={proxy.url}", "--forever"]),
                          ("duplicati_login", [f"--url={proxy.url}"]),
                          ("duplicati_status", []), ("duplicati_logout", [])):
        host.settings.write_text(kept)
        server.state.expire_tokens()
        result = run(host, action, *words, DUPLICATI_PASSWORD=PASSWORD)
        assert result.code in EXIT_CODES and result.code != 70, (action, result)
        assert isinstance(result.answer, dict)
        assert (result.code != 0) == (1 == result.err.count("\n")), (action, result)
        assert PASSWORD not in result.out + result.err


def test_paths_of_a_proxy_are_kept(play, operator):
    """A server below a path, which the proxy takes off."""
    server, host = play("2.3.0.4"), operator()

    def strip(request):
        assert request.path.startswith("/duplicati/")
        request.path = request.path.removeprefix("/duplicati")

    with Rude(forward(server, strip)) as proxy:
        base = urllib.parse.urljoin(proxy.url, "/duplicati/")
        host.log_in(base + "ngclient/index.html")
        assert base == host.kept()["url"]
        server.state.expire_tokens()
        assert 0 == host.inside("duplicati_status").code
