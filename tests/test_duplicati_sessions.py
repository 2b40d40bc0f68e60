"""Sessions with Duplicati servers of four releases: what renews one by itself, what ends it,
several at once, and servers that answer anything to it.
"""

import base64
import json
import signal
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
from tests import rude
from tests.certificates import Authority
from tests.conftest import PASSWORD, PROJECT, RELEASES, DuplicatiHost, Result, job
from tests.logins import (
    ALL,
    TOKENS,
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
from tests.processes import eventually
from tests.rude import Rude, answer
from tests.test_duplicati_waiting import meanwhile, waits

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
def test_tokens_of_seconds_outlast_a_wait(play, operator, release):
    """A life of two seconds, a run of more: renewed as often as it takes."""
    server, host = play(release, job("Home"), token_seconds=2), operator()
    assert 0 == log_in(host, server).code
    server.state.hold("Home")
    seen = len(server.state.requests)

    def go_on():
        state = server.state
        assert state.wait_reached("Home") and waits(server, seen)
        for _ in range(300):
            if len(renewals(server, seen)) >= 2:
                break
            state.engine.tell(data=True)  # there is news: the client asks again
            state.engine.wait_until(lambda: len(renewals(server, seen)) >= 2, 0.2)
        state.release("Home")

    with meanwhile(server, go_on):
        result = host.inside("duplicati_run", "--id=Home", "--wait")
    assert (0, "success") == (result.code, result.answer["tasks"][0]["result"]), result
    assert 2 <= len(renewals(server, seen)) <= 40


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
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_a_client_killed_while_it_renews_loses_nothing_but_that(play, operator, release, step):
    """SIGKILL at each (or each third) of its writes, between the server's rotation and the saving,
    too: the next run goes on. Half a minute later the server may have ended the family: then the
    next run logs in from the password file, and says 12 without one.
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
                if killed.returncode == -signal.SIGKILL and kills % 3 == 1:
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
        kills, point = kills + 1, point + step
    assert kills * step > 10 and {(True, 0), (False, 12)} <= codes
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
    require_failure(host.run("duplicati_status", preexec_fn=no_room), 75, "no room left")
    host.folder.chmod(0o500)
    try:
        process = subprocess.run(
            [sys.executable, str(PROJECT / "tests" / "unprivileged.py"),
             *host.command_line("duplicati_status")], env=host.environ, capture_output=True,
            text=True, timeout=60)
    finally:
        host.folder.chmod(0o700)
    require_failure(Result(process.returncode, process.stdout, process.stderr), 78,
                    "Permission denied", "must be renewed, and the new one be kept")
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


# -- a server of another generation --------------------------------------------------------

CHANGES = pytest.mark.parametrize("before, after", [
    ("2.0.8.1", "2.3.0.4"), ("2.0.8.1", "2.1.0.5"), ("2.3.0.4", "2.0.8.1"), ("2.1.0.5", "2.0.8.1")])


@pytest.fixture
def replaced(play):
    """replaced(before, after) -> (proxy, replace): a server whose place another one takes when
    `replace()` is called."""
    proxies = []

    def start(before, after, *jobs):
        manners = [forward(play(release, *jobs)) for release in (before, after)]
        place = []
        proxy = Rude(lambda *parts: manners[len(place)](*parts))
        proxies.append(proxy)
        return proxy.__enter__(), lambda: place.append(1)

    yield start
    for proxy in proxies:
        proxy.__exit__(None, None, None)


@CHANGES
@pytest.mark.parametrize("action", ["duplicati_status", "duplicati_versions", "duplicati_run"])
def test_an_upgraded_server_is_logged_into_again(replaced, operator, before, after, action):
    """With the password file, which is kept with all else that is; also of a token that is over."""
    proxy, replace = replaced(before, after, job("Home"))
    host = operator(proxy)
    replace()
    if before != "2.0.8.1":
        change_kept(host, access_until=time.time() - 5)
    words = [] if action == "duplicati_status" else ["--id=1"]
    result = host.inside(action, *words)
    assert (0, "") == (result.code, result.err), result
    generation = "cookie" if after == "2.0.8.1" else "token"
    assert (generation, str(host.folder / "password")) == (
        host.kept()["generation"], host.kept()["password_file"])
    if action == "duplicati_status":
        assert (generation, after) == (result.answer["generation"], result.answer["version"])
    assert 0 == host.inside("duplicati_status").code


@CHANGES
@pytest.mark.parametrize("is_over", [False, True])
def test_an_upgraded_server_without_a_password_says_to_log_in(
        replaced, operator, before, after, is_over):
    """12, in one line, and a status that claims no session."""
    proxy, replace = replaced(before, after)
    host = operator()
    assert 0 == log_in(host, proxy).code
    replace()
    if is_over:
        change_kept(host, access_until=time.time() - 5)
    kept = host.settings.read_text()
    result = host.inside("duplicati_status")
    require_failure(result, 12, f"the server at {proxy.url} is of another generation now: log in"
                                f" again with --action=duplicati_login --url={proxy.url}")
    assert ("refused", False, "cookie" if after == "2.0.8.1" else "token") == tuple(
        result.answer[name] for name in ("state", "logged_in", "generation"))
    require_failure(host.inside("duplicati_run", "--id=1"), 12, "of another generation")
    assert kept == host.settings.read_text()
    assert 0 == log_in(host, proxy).code


@ALL
def test_processes_that_find_an_upgraded_server_log_in_once(replaced, operator, release):
    """The second one takes what the first was given."""
    before, after = (release, "2.0.8.1") if release != "2.0.8.1" else ("2.0.8.1", "2.3.0.4")
    proxy, replace = replaced(before, after)
    host = operator(proxy)
    replace()
    running = [host.start("duplicati_status") for _ in range(3)]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert (0, "") == (process.returncode, err), out
    logins = [request.path for request in proxy.requests
              if request.path in ("/login.cgi", "/api/v1/auth/login")]
    assert 3 == len(logins)  # of 2.0, a login is two requests


def test_a_proxy_that_knows_no_request_of_a_session_is_not_10(play, operator):
    """404 for a login, a renewal, a logout: 78, or 3."""
    for release, paths in (("2.0.8.1", ("/login.cgi", "/logout.cgi")),
                           ("2.3.0.4", ("/api/v1/auth/login", "/api/v1/auth/refresh",
                                        "/api/v1/auth/refresh/logout"))):
        server, host = play(release), operator()
        missing = []

        def change(request, missing=missing):
            return answer(404, b"") if request.path in missing else None

        with Rude(forward(server, change)) as proxy:
            host.log_in(proxy.url)
            end_sessions(server)
            missing.extend(paths)
            require_failure(host.inside("duplicati_status"), 78, "no Duplicati server")
            assert 3 == host.inside("duplicati_logout").code


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
    require_failure(host.inside("duplicati_logout", "--server=odl"), 78, "odl", "default, old")
    assert 0 == host.inside("duplicati_status", "--server=old").code
    require_failure(operator().inside("duplicati_status"), 78, "--action=duplicati_login")


def test_a_login_elsewhere_takes_nothing_of_the_former_server_there(play, operator, tmp_path):
    """Under the same name: neither its password nor its pin, CA file, basic login, --insecure."""
    own, other = Authority(tmp_path, "own"), Authority(tmp_path, "other")
    trusting = {"pin": lambda server: ["--pin", pin_of(server)],
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

    with meanwhile(server, end):
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
    assert ("ERROR", 3, "not_revoked") == tuple(
        result.answer[name] for name in ("status", "exit", "kind"))
    assert {} == host.document()["duplicati"]["servers"]


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
