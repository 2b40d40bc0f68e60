"""Logins at Duplicati servers of four releases: every way in, proxies and certificates on the way,
and what else can answer at an address.

The servers are the demo's, rude ones, and proxies before the demo's.
"""

import json
import os
import pty
import socket
import subprocess

import pytest
import yaml

from tests import rude
from tests.certificates import Authority
from tests.conftest import PASSWORD, Result, job
from tests.logins import (
    ALL,
    NONCES,
    TOKENS,
    basic,
    basic_words,
    change_kept,
    end_sessions,
    forward,
    log_in,
    no_room,
    pin_of,
    renewals,
    require_failure,
    run,
)
from tests.rude import Rude, answer

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
    result = host.run("duplicati_login", f"--url={server.url}", preexec_fn=no_room,
                      env={**host.environ, "DUPLICATI_PASSWORD": PASSWORD})
    require_failure(result, 75, "no room left")
    assert [] == renewals(server)


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


# -- certificates --------------------------------------------------------------------------

@ALL
def test_a_self_signed_certificate_can_be_trusted_by_its_pin(play, operator, tmp_path, release):
    """14 first, with the SHA-256 to compare; the pin is kept; a wrong one is 14, no SHA-256 78."""
    context = Authority(tmp_path).context()
    server, host = play(release, job("Home"), ssl_context=context), operator()
    pin = pin_of(server)
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
        digits = pin_of(server).replace(":", "").lower()
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


@pytest.mark.parametrize("changes", [
    {key: value} for key in ("password_file", "access_token", "refresh_cookie", "refresh_nonce",
                             "basic_user", "pin", "ca_file", "generation", "pre_auth_token")
    for value in (True, 5, 0, 1.5, ["a"], {"a": "b"}, "a\nb", "a\u2028b")] + [
    {"url": value}
    for value in (True, 5, "x", "ftp://nas/", "http://", "http://nas:x/", "a\nb")] + [
    {"access_until": "soon"}, {"access_until": True}, {"insecure": "yes"}, {"insecure": 1},
    {"tasks": 5}, {"tasks": []}], ids=str)
@pytest.mark.parametrize("action", ["duplicati_status", "duplicati_logout", "duplicati_login"])
def test_what_is_kept_of_a_server_is_of_the_kind_that_belongs_there(operator, action, changes):
    """78, and the line names file, server and key; nothing is asked, and no descriptor opened."""
    host = operator()
    host.settings.write_text(yaml.safe_dump({"duplicati": {"servers": {"default": {
        "url": "http://127.0.0.1:1/", "generation": "token", "access_token": "a", **changes}}}}))
    words = ["--url=http://127.0.0.1:1/"] if action == "duplicati_login" else []
    result = host.inside(action, *words)
    require_failure(result, 78, f"{host.settings}: `duplicati: servers: default: {[*changes][0]}`"
                                " is not what belongs there")


@TOKENS
@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("way", ["cookie", "password", "neither"])
def test_a_session_whose_access_token_was_lost_gets_another(play, operator, release, token, way):
    """By the refresh cookie, or by the password file; 12 without either."""
    server, host = play(release), operator()
    if way == "password":
        host.log_in(server.url)
        change_kept(host, refresh_cookie=None)
    else:
        assert 0 == log_in(host, server).code
    change_kept(host, access_token=token, **({"refresh_cookie": ""} if way == "neither" else {}))
    result = host.inside("duplicati_status")
    if way == "neither":
        require_failure(result, 12, "--action=duplicati_login")
        return
    assert (0, "") == (result.code, result.err), result
    assert host.kept()["access_token"] and host.kept()["refresh_cookie"]
