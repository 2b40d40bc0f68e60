"""The demo Duplicati server, held against what real servers of five releases answered."""

import base64
import hashlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from datetime import datetime
from urllib.parse import quote, unquote, urlencode, urlsplit

import pytest

from demo.duplicati import Duplicati, make_server
from demo.duplicati_server.aescrypt import decrypt
from tests.certificates import Authority
from tests.conftest import PROJECT
from tests.processes import eventually
from tests.recorded import exchanges
from tests.replaying import PASSWORD, Answered, Replay

RELEASES = ("2.0.8.1", "2.1.0.5", "2.3.0.4", "today")
REPLAYED = ("2.0.6.3", *RELEASES)
RECORDED = {name: exchanges(name) for name in REPLAYED}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def make_files(replay):
    """The files that the recorded servers had."""
    home, srv = replay.folder / "home" / "ann", replay.folder / "srv"
    write(home / "a.txt", b"a" * 120)
    write(home / "docs" / "résumé [x].txt", b"1234")
    if replay.is_legacy:
        write(home / "docs" / "report.txt", b"r" * 280)
        write(home / "photo.jpg", b"p" * 400000)
    else:
        write(home / "docs" / "report.txt", b"r" * 330)
        write(home / "docs" / "deep" / "long.bin", b"l" * 70000)
        write(home / "photos" / "1.jpg", b"1" * 300000)
        write(home / "photos" / "2.jpg", b"2" * 400000)
        (home / "link").symlink_to("a.txt")
    write(srv / "small" / "s.txt", b"12")
    for number in range(60):
        write(srv / "photos" / f"f{number:02}.bin", b"%03d" % number)
    (replay.folder / "backup").mkdir()


def change_files(replay):
    """What was changed between the first and the second run."""
    home = replay.folder / "home" / "ann"
    write(home / "docs" / "new.txt", b"new" * 2)
    (home / "photos" / "1.jpg").unlink(missing_ok=True)


def hold(name, phase="middle"):
    return lambda replay: replay.state.hold(name, phase)


def release(name):
    return lambda replay: replay.state.release(name)


def reach(name, phase="middle"):
    def step(replay):
        assert replay.state.wait_reached(name, phase), name
    return step


def step_to(name, phase):
    return [hold(name, phase), reach(name, phase)]


def idle(replay):
    assert replay.state.wait_idle(20)


def run(key):
    def step(replay):
        state = replay.state
        state.engine.add(state.store.backup(key), "Backup")
        idle(replay)
    return step


def stand_still(replay):
    replay.state.engine.pause(0)


def go_on(replay):
    replay.state.engine.resume()


def old_generations(replay):
    """A session that was renewed three times, known by the cookies of the two exchanges that
    use its first and its last token."""
    first = session = replay.login()
    for _ in range(3):
        session = replay.renew(session[1], session[2])
    by_name = {one["name"]: one["request"] for one in replay.exchanges}
    for name, (_, token, nonce) in (
            ("refresh with a cookie three generations old", first),
            ("newest refresh after an old one was used", session)):
        request = by_name[name]
        replay.known[request["headers"]["Cookie"].partition("=")[2]] = token
        if nonce:
            replay.known[request["json"]["Nonce"]] = nonce
    revoked = by_name["access token of a revoked family"]["headers"]["Authorization"]
    replay.known[revoked.partition(" ")[2]] = session[0]


def session_to_end(replay):
    """A session for the two exchanges that log out, and those that look what came of it."""
    session = replay.login()
    by_name = {one["name"]: one["request"] for one in replay.exchanges}
    replay.known[by_name["logout"]["headers"]["Cookie"].partition("=")[2]] = session[1]
    if session[2]:
        replay.known[by_name["logout"]["json"]["Nonce"]] = session[2]
    token = by_name["access token after logout"]["headers"]["Authorization"].partition(" ")[2]
    replay.known[token] = session[0]


def keep_one_version(replay):
    """Edits the job that has been restored from, as the recorded one was."""
    store = replay.state.store
    job = store.backup("7")
    job["Settings"].append({"Filter": "", "Name": "keep-versions", "Value": "1",
                            "Argument": None})
    store.save_backup("7", job)


def change_photos(replay):
    """Other files than at the run before."""
    folder = ("home", "ann") if replay.is_legacy else ("srv", "photos")
    write(replay.folder.joinpath(*folder) / "new.bin", str(len(replay.state.tasks)).encode())


def know_last_task(number):
    def step(replay):
        replay.numbers[number] = max(replay.state.tasks)
    return step


def minutes_later(replay):
    """The families were renewed long ago."""
    replay.state.store.change("UPDATE families SET refreshed = 0")


def restart(replay):
    replay.state.crash_and_restart()


def expire(replay):
    replay.state.expire_tokens()


# What has to be so before an exchange is sent: what the recorded server came to by itself.
BEFORE = {
    "refresh with a cookie three generations old": [old_generations],
    "logout without nonce": [session_to_end],
    "run": [hold("Plain")],
    "task just started": [reach("Plain")],
    "task completed": [release("Plain")],
    "run the second time": [change_files],
    "run slow": [hold("Slow")],
    "run slow again while it runs": [reach("Slow")],
    "run slow to be stopped": [idle],
    "stop": [reach("Slow"), stand_still],
    "stop after the current file": [reach("Slow"), stand_still],
    "task stopped": [go_on, release("Slow")],
    "export": [idle],
    "run with a missing source": [idle],
    "edit to slow the restore": [run("7"), hold("Slow2", "Starting_Operation")],
    "progressstate of a restore: Starting_Operation": [reach("Slow2", "Starting_Operation")],
    "progressstate of a restore: Restore_DownloadingRemoteFiles": step_to("Slow2", "middle"),
    "progressstate of a restore: Restore_Complete": step_to("Slow2", "Restore_Complete"),
    "progressstate after a restore": [release("Slow2"), idle],
    "run with retention and compacting": [
        keep_one_version, change_photos, hold("Slow2", "Starting_Operation")],
    "progressstate of a backup: Starting_Operation": [reach("Slow2", "Starting_Operation")],
    "progressstate of a backup: Backup_ProcessingFiles": [
        *step_to("Slow2", "middle"), stand_still],
    "progressstate of a backup: Backup_WaitForUpload": [
        go_on, *step_to("Slow2", "Backup_WaitForUpload")],
    "progressstate of a backup: Backup_Delete": step_to("Slow2", "Backup_Delete"),
    "progressstate of a backup: Verify_Running": step_to("Slow2", "Verify_Running"),
    "progressstate of a backup: Backup_Complete": step_to("Slow2", "Backup_Complete"),
    "log after retention and compacting": [release("Slow2"), idle],
    "run, server to be killed": [hold("Slow2")],
    "task before the kill": [reach("Slow2")],
    "access token after a restart": [restart],
    "run after a restart: numbers begin anew": [change_photos],
    "task after a restart ended": [idle],
    "long poll that runs out": [idle],
    "v2 list-folder, names in lower case": [idle],
    "expired access token": [expire],
    "refresh with the former cookie and nonce, twelve minutes after they were replaced": [
        minutes_later],
}
BEFORE_LEGACY = {
    "run": [hold("Plain")],
    "serverstate after run (0)": [reach("Plain")],
    "task after its end": [release("Plain"), idle],
    "run the second time": [change_files],
    "filesets": [idle],
    "task of a restore": [idle],
    "log after the operations": [idle],
    "task of a run that failed": [idle, know_last_task(16)],
    "run slow": [change_photos, hold("Plain")],
    "run slow again": [reach("Plain")],
    "task aborted": [idle],
    "log after an abort": [release("Plain")],
    "backup after delete": [idle],
    "run slow a last time": [idle, change_photos, hold("Plain")],
    "stop after the current file": [reach("Plain"), know_last_task(22)],
    "task stopped": [release("Plain"), idle],
    "run before a delete": [release("Plain"), idle, hold("Plain")],
    "delete while running": [reach("Plain")],
    "backup after a delete while running": [release("Plain"), idle],
}
# Kinds are compared, but not the values that mean something elsewhere.
KINDS_ONLY = {
    "systeminfo": "which options and modules there are is not the demo server's",
    "logdata poll": "the recorded server had other things to log before",
    "logdata poll, page too large": "likewise",
    "logdata poll after errors": "likewise",
    "filesets with a partial one": "the recorded server had made one more, of what was aborted",
}
# Kinds of requests that are not sent again, by the end of their path or the exchange's name.
LEFT_OUT = {
    "/commandline": "the client starts no command line",
    "/filesystem": "the client does not browse the server's own files",
    "/backupdefaults": "the client does not use them",
    "/remotecontrol/status": "the client does not use it",
    "/remoteoperation/dbpath": "the client does not use it",
    "/api/v2/destination/test": "the client does not use it",
    "2.1.0.5: edit: put back with the placeholders":
        "the recorded request has its days as they were corrected afterwards; a test has long ones",
    "2.0.6.3: server setting": "the body of the answer is not in the recording",
    "2.0.8.1: log after a stop":
        "that run had been told to stop in a moment that cannot be found again",
}


def left_out(release_name, exchange):
    """Why an exchange is not sent; None if it is."""
    path = exchange["request"]["path"].partition("?")[0]
    return next((why for what, why in LEFT_OUT.items() if path.endswith(what)
                 or "/commandline/" in path or what == f"{release_name}: {exchange['name']}"), None)


def named(release_name):
    """The exchanges of a release that are sent, each with a name of its own."""
    return [(release_name, number) for number, exchange in enumerate(RECORDED[release_name])
            if not left_out(release_name, exchange)]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """replayed(release) -> {number of the exchange: differences}; each is replayed once."""
    cache = {}

    def replay(name):
        if name not in cache:
            before = BEFORE_LEGACY if name.startswith("2.0") else BEFORE
            one = Replay(name, tmp_path_factory.mktemp(name), before, left_out, KINDS_ONLY)
            make_files(one)
            try:
                cache[name] = {one.exchanges.index(exchange): lines
                               for exchange, lines in one.run()}
            finally:
                one.close()
        return cache[name]
    return replay


@pytest.mark.parametrize(("release_name", "number"), [
    pytest.param(*pair, id=f"{pair[0]}-{pair[1]}-{RECORDED[pair[0]][pair[1]]['name']}")
    for name in REPLAYED for pair in named(name)])
def test_the_demo_server_answers_as_the_recorded_one(replayed, release_name, number):
    """Status, reason, type, headers, names and kinds of values, and the values that matter."""
    assert [] == replayed(release_name)[number]


# -- what the recordings do not show, or only in passing --------------------------------------

class Caller:
    """The least that talks to a demo server; `headers` go with each call."""

    def __init__(self, url):
        self.address = urlsplit(url).hostname, urlsplit(url).port
        self.headers = {}

    def __call__(self, method, path, document=None, form=None, **headers):
        """An Answered. `document` goes as JSON, `form` as a form."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        headers = {**self.headers, **headers}
        body = None
        if document is not None:
            body, headers["Content-Type"] = json.dumps(document), "application/json"
        elif form is not None:
            body, headers["Content-Type"] = urlencode(form), "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, body, headers)
            return Answered(connection.getresponse())
        finally:
            connection.close()

    def login(self, remember=True):
        """Log in to the token generation: (access token, cookie, nonce)."""
        answered = self("POST", "/api/v1/auth/login",
                        {"Password": PASSWORD, "RememberMe": remember})
        assert answered.status == 200, answered.body
        return self._use(answered)

    def renew(self, cookie, nonce):
        """The next tokens, which are used from now on."""
        answered = self("POST", "/api/v1/auth/refresh", {"Nonce": nonce}, Cookie=cookie,
                        Authorization="")
        return self._use(answered) if answered.status == 200 else answered

    def _use(self, answered):
        token = answered.document["AccessToken"]
        self.headers["Authorization"] = f"Bearer {token}"
        cookies = answered.values("Set-Cookie")
        return (token, cookies[0].partition(";")[0] if cookies else None,
                answered.document.get("RefreshNonce"))

    def login_with_cookies(self):
        """Log in to the cookie generation."""
        cookie = self("GET", "/").values("Set-Cookie")[0].partition(";")[0]
        given = self("POST", "/login.cgi", form={"get-nonce": "1"}, Cookie=cookie)
        nonce, salt = (base64.b64decode(given.document[name]) for name in ("Nonce", "Salt"))
        inner = hashlib.sha256(PASSWORD.encode() + salt).digest()
        proof = base64.b64encode(hashlib.sha256(nonce + inner).digest()).decode()
        cookies = f"{cookie}; {given.values('Set-Cookie')[0].partition(';')[0]}"
        answered = self("POST", "/login.cgi", form={"password": proof}, Cookie=cookies)
        assert answered.status == 200, answered.reason
        self.headers = {"Cookie": f"{cookie}; {answered.values('Set-Cookie')[0].partition(';')[0]}",
                        "X-XSRF-Token": unquote(cookie.partition("=")[2])}

    def run(self, key="1"):
        """Start a run; the number of its task, also where the answer does not have it."""
        answered = self("POST", f"/api/v1/backup/{key}/run")
        assert answered.status == 200, answered.body
        if "ID" in answered.document:
            return answered.document["ID"]
        state = self("GET", "/api/v1/serverstate").document
        pairs = [state["ActiveTask"], *state["SchedulerQueueIds"]]
        return next((pair["Item1"] for pair in pairs if pair and pair["Item2"] == key), None)

    def rows(self, key="1", operation="Backup"):
        """The results of that operation in the log of a job, newest first."""
        answered = self("GET", f"/api/v1/backup/{key}/log")
        if answered.status == 500 and answered.document.get("Type") == "SqliteException":
            return []
        results = [json.loads(row["Message"]) for row in answered.document]
        return [one for one in results if one["MainOperation"] == operation]


FILES = {"a.txt": "first", "docs/report.txt": "a report", "docs/deep/x.bin": 3000}


def site(folder, *jobs):
    """A site of jobs with files, all of them without encryption unless they say otherwise."""
    return {"jobs": [{"name": f"Job {number}", "files": FILES, **job, "settings": {
        "--no-encryption": "true", **job.get("settings", {})}} for number, job in enumerate(
            jobs or ({},), 1)]}


@pytest.fixture
def serve(tmp_path):
    """serve(release, *jobs, **options of Duplicati) -> (state, Caller that is logged in)."""
    servers = []

    def start(release_name, *jobs, **options):
        options = {"password": PASSWORD, "folder": tmp_path / f"server {len(servers)}",
                   "site": site(tmp_path, *jobs), **options}
        server = make_server(Duplicati(release_name, **options))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        caller = Caller(server.url)
        if not release_name.startswith("2.0"):
            caller.login()
        elif options["password"]:
            caller.login_with_cookies()
        return server.state, caller

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
        server.state.close()


MODERN = ("2.1.0.5", "2.3.0.4", "today")
# What is left of a run by how it ended: status of the task, result of the newest row, kind of
# the notification (sections 2.7, 4.1 and 8.1 of the protocol).
ENDINGS = {
    "2.0.8.1": {
        "success": ("Completed", "Success", None), "warning": ("Completed", "Warning", "Warning"),
        "error": ("Completed", "Error", "Error"), "fatal": ("Completed", "Fatal", "Error"),
        "early": ("Completed", None, "Error"), "away": ("Completed", "Fatal", "Error"),
        "abort": ("Completed", "Fatal", "Error"), "stop": ("Completed", "Warning", "Warning")},
    "2.1.0.5": {
        "success": ("Completed", "Success", None), "warning": ("Completed", "Warning", "Warning"),
        "error": ("Completed", "Error", "Error"), "fatal": ("Completed", "Fatal", "Error"),
        "early": ("Completed", None, "Error"), "away": ("Completed", "Fatal", "Error"),
        "abort": ("Completed", None, None), "stop": ("Completed", None, None)},
    "2.3.0.4": {
        "success": ("Completed", "Success", None), "warning": ("Completed", "Warning", "Warning"),
        "error": ("Completed", "Error", "Error"), "fatal": ("Failed", "Fatal", "Error"),
        "early": ("Failed", None, "Error"), "away": ("Failed", None, "Error"),
        "abort": ("Failed", "Fatal", "Error"), "stop": ("Completed", "Warning", "Warning")},
    "today": {
        "success": ("Completed", "Success", None), "warning": ("Completed", "Warning", "Warning"),
        "error": ("Completed", "Error", "Error"), "fatal": ("Failed", "Fatal", "Error"),
        "early": ("Failed", None, "Error"), "away": ("Failed", None, "Error"),
        "abort": ("Failed", "Error", "Error"), "stop": ("Completed", "Warning", "Warning")},
}


@pytest.mark.parametrize("ending", ENDINGS["today"])
@pytest.mark.parametrize("release_name", RELEASES)
def test_each_release_leaves_of_a_run_what_it_does(serve, release_name, ending):
    """Task, row and notification of each ending are those of the release."""
    job = {"settings": {"--demo-ending": ending}}
    if ending == "away":
        job = {"target": "away/target"}
    state, call = serve(release_name, job)
    state.hold("Job 1")
    task = call.run()
    if ending in ("abort", "stop"):
        assert state.wait_reached("Job 1")
        word = ending if ending == "abort" or release_name in ("2.3.0.4", "today") \
            else "stopaftercurrentfile"
        assert call("POST", f"/api/v1/task/{task}/{word}").status == 200
    state.release("Job 1")
    assert state.wait_idle()
    rows = call.rows()
    notifications = call("GET", "/api/v1/notifications").document
    assert ENDINGS[release_name][ending] == (
        call("GET", f"/api/v1/task/{task}").document["Status"],
        rows[0]["ParsedResult"] if rows else None,
        notifications[-1]["Type"] if notifications else None)


def test_a_held_run_stands_in_its_middle_until_it_is_released(serve):
    """hold stops it, with progress to be seen; release lets it end."""
    state, call = serve("2.3.0.4")
    state.hold("Job 1")
    task = call.run()
    assert state.wait_reached("Job 1")
    progress = call("GET", "/api/v1/progressstate").document
    assert (task, "Backup_ProcessingFiles") == (progress["TaskID"], progress["Phase"])
    assert 0 < progress["ProcessedFileCount"] < progress["TotalFileCount"]
    state.release("Job 1")
    assert state.wait_idle()
    assert "Backup_Complete" == call("GET", "/api/v1/progressstate").document["Phase"]


def test_an_abort_can_be_without_effect(serve):
    """--demo-ignores-abort: 200, and the run goes on to its end."""
    state, call = serve("2.3.0.4", {"settings": {"--demo-ignores-abort": "true"}})
    state.hold("Job 1")
    task = call.run()
    assert state.wait_reached("Job 1")
    assert 200 == call("POST", f"/api/v1/task/{task}/abort").status
    state.release("Job 1")
    assert state.wait_idle()
    assert "Success" == call.rows()[0]["ParsedResult"]


@pytest.mark.parametrize("release_name", RELEASES)
def test_a_long_poll_ends_with_the_event(serve, release_name):
    """Who waits for events is told at once, not when the duration is over."""
    state, call = serve(release_name)
    event = call("GET", "/api/v1/serverstate").document["LastEventID"]
    told = []

    def poll():
        told.append(call("GET", "/api/v1/serverstate?longpoll=true&lastEventId="
                         f"{event}&duration=30s").document)
    thread = threading.Thread(target=poll)
    thread.start()
    state.engine.tell()
    thread.join(60)
    assert event < told[0]["LastEventID"]


@pytest.mark.parametrize("release_name", MODERN)
def test_a_pause_keeps_tasks_waiting_and_ends_by_itself(serve, release_name):
    """A task is Waiting while the server is paused; when the time of the pause is over, it runs."""
    state, call = serve(release_name)
    assert 200 == call("POST", "/api/v1/serverstate/pause?duration=1h").status
    task = call.run()
    assert "Waiting" == call("GET", f"/api/v1/task/{task}").document["Status"]
    assert 200 == call("POST", "/api/v1/serverstate/pause?duration=1s").status
    assert state.wait_idle()
    assert "Running" == call("GET", "/api/v1/serverstate").document["ProgramState"]
    assert "Completed" == call("GET", f"/api/v1/task/{task}").document["Status"]


@pytest.mark.parametrize("release_name", RELEASES)
def test_an_unchanged_source_makes_no_version(serve, release_name):
    """The second run is a success, and there is still one version."""
    state, call = serve(release_name)
    for _ in range(2):
        call.run()
        assert state.wait_idle()
    assert 2 == len(call.rows())
    assert 1 == len(call("GET", "/api/v1/backup/1/filesets").document)


# Sessions.

@pytest.mark.parametrize("release_name", MODERN)
def test_an_old_refresh_token_ends_its_family(serve, release_name):
    """The newest but one may be used again; an older one ends all tokens of its family: 401,
    then 500 without a body for the newest access token, on every path."""
    state, call = serve(release_name)
    first = call.login()
    second = call.renew(*first[1:])
    assert 200 == call("GET", "/api/v1/tasks").status
    third = call.renew(*second[1:])
    assert 401 == call.renew(*first[1:]).status
    assert 401 == call.renew(*third[1:]).status
    for path in ("/api/v1/tasks", "/health"):
        answered = call("GET", path)
        assert (500, b"") == (answered.status, answered.body)


@pytest.mark.parametrize("release_name", MODERN)
def test_expired_tokens_are_refused_and_renewed(serve, release_name):
    """401 without a body, saying that it expired; a renewed one is good at once."""
    state, call = serve(release_name)
    session = call.login()
    state.expire_tokens()
    answered = call("GET", "/api/v1/tasks")
    assert (401, b"") == (answered.status, answered.body)
    assert "The token expired at" in answered.values("WWW-Authenticate")[0]
    call.renew(*session[1:])
    assert 200 == call("GET", "/api/v1/tasks").status


def test_an_access_token_lives_as_long_as_it_is_told(serve):
    """token_seconds is the life of a token, and its exp says so."""
    state, call = serve("2.3.0.4", token_seconds=1)
    eventually(lambda: call("GET", "/api/v1/tasks").status == 401, "the token's end")


@pytest.mark.parametrize("release_name", MODERN)
def test_without_remember_me_there_is_a_cookie_since_there_are_nonces(serve, release_name):
    """2.1.0.5: no cookie, and a token of no family; later: a cookie of two hours."""
    state, call = serve(release_name)
    token, cookie, nonce = call.login(remember=False)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert ((None, None) if release_name == "2.1.0.5" else (True, True)) == (
        cookie and True, nonce and True)
    assert (release_name == "2.1.0.5") == (claims["fam"] == "temporary")


def test_a_server_without_a_password_never_answers_get_nonce(serve):
    """The connection hangs until somebody gives up."""
    state, call = serve("2.0.8.1", password=None)
    with socket.create_connection(call.address, timeout=0.3) as connection:
        connection.sendall(b"GET /login.cgi?get-nonce=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_too_many_xsrf_tokens_are_503(serve):
    """Each call without the cookie takes one of 500 places."""
    state, call = serve("2.0.8.1")
    answers = [call.__class__(f"http://127.0.0.1:{call.address[1]}")("GET", "/api/v1/serverstate")
               for _ in range(501)]
    assert ({400}, 503) == ({one.status for one in answers[:-2]}, answers[-1].status)
    assert "Too Many Concurrent Request, try again later" == answers[-1].reason


def test_https_is_served_with_a_cookie_for_it(serve, tmp_path):
    """With a certificate all is as without, and the refresh cookie is `secure`."""
    authority = Authority(tmp_path)
    state, _ = serve("2.3.0.4")
    server = make_server(state, ssl_context=authority.context())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", server.server_address[1], timeout=10,
        context=ssl.create_default_context(cafile=authority.ca_file))
    try:
        connection.request("POST", "/api/v1/auth/login", json.dumps({"Password": PASSWORD}),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert (200, True) == (response.status, "; secure;" in response.getheader("Set-Cookie"))
    finally:
        connection.close()
        server.shutdown()
        server.server_close()
        thread.join()


# Restarts.

@pytest.mark.parametrize("release_name", RELEASES)
def test_a_restart_forgets_tasks_and_keeps_the_rest(serve, release_name):
    """Numbers begin at 2 again; the run that was cut off left no row; versions and, with
    tokens, sessions are as before."""
    state, call = serve(release_name)
    call.run()
    assert state.wait_idle()
    write(state.folder / "sources" / "Job 1" / "b.txt", b"more")
    state.hold("Job 1")
    task = call.run()
    assert state.wait_reached("Job 1")
    state.crash_and_restart()
    if release_name.startswith("2.0"):
        assert [400, 401] == [call("GET", "/api/v1/tasks").status, call(
            "GET", "/api/v1/tasks", **renewed(call)).status]
        call.login_with_cookies()
    assert 404 == call("GET", f"/api/v1/task/{task}").status
    assert 404 == call("GET", "/api/v1/progressstate").status
    assert (1, 1) == (len(call.rows()), len(call("GET", "/api/v1/backup/1/filesets").document))
    call.run()
    assert state.wait_idle()
    assert [3] == list(state.tasks)  # 2 was the listing
    assert 2 == len(call.rows())


def renewed(call):
    """The xsrf token of the cookie that a call without one gives."""
    cookie = call("GET", "/", Cookie="").values("Set-Cookie")[0].partition(";")[0]
    session = call.headers["Cookie"].partition("; ")[2]
    return {"Cookie": f"{cookie}; {session}", "X-XSRF-Token": unquote(cookie.partition("=")[2])}


def start_program(*words):
    """The server as a process: (process, release that it names, Caller)."""
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "demo" / "duplicati.py"), "--port=0",
         f"--password={PASSWORD}", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True)
    line = process.stdout.readline().split()
    return process, line[1], Caller(line[-1])


def test_the_program_survives_kill_9(tmp_path):
    """Killed in the middle of a run and started again: jobs, versions, logs and tokens are
    there, the run is not; it is steered over HTTP, and ends on SIGTERM with 0."""
    folder = f"--folder={tmp_path / 'server'}"
    process, name, call = start_program("--release=today", folder)
    try:
        call.login()
        assert {"reached": False} != call("POST", "/demo/hold?name=Documents").document
        call.run()
        assert call("POST", "/demo/reached?name=Documents").document["reached"]
        process.kill()
        process.wait()
        process.stdout.close()
        process, name, restarted = start_program("--release=today", folder)
        restarted.headers = call.headers
        jobs = restarted("GET", "/api/v1/backups").document
        assert ("today", 4) == (name, len(jobs))
        assert [] == restarted.rows()
        assert 2 == restarted.run("4")
        eventually(lambda: restarted("GET", "/api/v1/task/2").document["Status"] == "Failed",
                   "the end of the run")
        assert ["GET", "/api/v1/backups"] in restarted("GET", "/demo/requests").document
        assert 200 == restarted("POST", "/demo/expire").status
        assert 401 == restarted("GET", "/api/v1/backups").status
        process.terminate()
        assert 0 == process.wait(10)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# Files.

def newest(call):
    """The time of the newest version."""
    return call("GET", "/api/v1/backup/1/filesets").document[0]["Time"]


def restore(call, state, key="1", **fields):
    """Restore, in the way of the generation; the newest row afterwards, if there is one."""
    if "X-XSRF-Token" in call.headers:
        form = {name.replace("_", "-"): json.dumps(value) if isinstance(value, (list, bool))
                else value for name, value in fields.items()}
        answered = call("POST", f"/api/v1/backup/{key}/restore", form=form)
    else:
        answered = call("POST", f"/api/v1/backup/{key}/restore", fields)
    assert answered.status == 200, answered.body
    assert state.wait_idle()
    rows = call.rows(key, "Restore")
    return rows and rows[0]


@pytest.mark.parametrize("release_name", RELEASES)
def test_a_restored_file_is_what_was_backed_up(serve, tmp_path, release_name):
    """Byte for byte, of the version that was asked for; one file lands directly in the folder."""
    state, call = serve(release_name)
    source = state.folder / "sources" / "Job 1" / "a.txt"
    call.run()
    assert state.wait_idle()
    first = newest(call)
    write(source, b"second")
    call.run()
    assert state.wait_idle()
    row = restore(call, state, paths=[f"@{source}"], time=first, restore_path=str(tmp_path / "to"))
    assert ("Restore", "Success", 1) == (
        row["MainOperation"], row["ParsedResult"], row["RestoredFiles"])
    assert b"first" == (tmp_path / "to" / "a.txt").read_bytes()
    assert b"second" == source.read_bytes()


@pytest.mark.parametrize("release_name", RELEASES)
def test_a_restore_replaces_only_what_it_is_told_to(serve, tmp_path, release_name):
    """Without overwrite the copy gets a name with the version's day; with it the file is
    replaced; what is the same already is left."""
    state, call = serve(release_name)
    source = state.folder / "sources" / "Job 1" / "a.txt"
    call.run()
    assert state.wait_idle()
    to = tmp_path / "to"
    write(to / "a.txt", b"mine")
    fields = {"paths": [f"@{source}"], "restore_path": str(to)}
    restore(call, state, **fields, overwrite=False)
    day = datetime.fromisoformat(newest(call)).strftime("%Y-%m-%d")
    assert {"a.txt": b"mine", f"a.{day}.txt": b"first"} == {
        path.name: path.read_bytes() for path in to.iterdir()}
    restore(call, state, **fields, overwrite=True)
    assert b"first" == (to / "a.txt").read_bytes()
    assert 0 == restore(call, state, **fields, overwrite=True)["RestoredFiles"]


def test_the_old_generation_ignores_the_json_of_a_restore(serve, tmp_path):
    """Everything goes back to its original place, with 200."""
    state, call = serve("2.0.8.1")
    source = state.folder / "sources" / "Job 1"
    call.run()
    assert state.wait_idle()
    shutil.rmtree(source)
    answered = call("POST", "/api/v1/backup/1/restore", {
        "paths": [f"@{source}/a.txt"], "restore_path": str(tmp_path / "to")})
    assert 200 == answered.status
    assert state.wait_idle()
    assert (b"first", False) == ((source / "a.txt").read_bytes(), (tmp_path / "to").exists())
    assert (source / "docs" / "deep" / "x.bin").exists()


@pytest.mark.parametrize("release_name", RELEASES)
def test_a_server_that_knows_only_the_target_restores_from_it(serve, tmp_path, release_name):
    """The chain of section 3.6: temporary job, versions, database, files, copy, repair, restore."""
    state, call = serve(release_name, {"settings": {"--no-encryption": "", "passphrase": "key"}})
    call.run()
    assert state.wait_idle()
    url = state.store.backup("1")["TargetURL"]
    state, call = serve(release_name, site={})
    key = call("POST", "/api/v1/backups?temporary=true", {"Backup": {
        "Name": "Temp", "TargetURL": url, "Sources": [], "Filters": [], "Settings": [
            {"Name": "passphrase", "Value": "key"}]}, "Schedule": None}).document["ID"]
    path = f"/api/v1/backup/{key}"
    versions = call("GET", f"{path}/filesets?from-remote-only=true").document
    time = versions[0]["Time"]
    is_legacy = release_name.startswith("2.0")
    told = {"form": {"only-paths": "true", "time": time}} if is_legacy else {
        "document": {"only_paths": True, "time": time}}
    assert 200 == call("POST", f"{path}/repairupdate", **told).status
    assert state.wait_idle()
    found = call("GET", f"{path}/files" + ("/" if is_legacy else "?filter=") + "*report*"
                 + ("?" if is_legacy else "&") + "time=" + quote(time)).document["Files"]
    assert [8] == found[0]["Sizes"]
    copy = call("POST", f"{path}/copytotemp").document["ID"]
    assert 200 == call("POST", f"/api/v1/backup/{copy}/repair", **told).status
    assert state.wait_idle()
    restore(call, state, copy, time=time, restore_path=str(tmp_path / "to"))
    assert b"a report" == (tmp_path / "to" / "docs" / "report.txt").read_bytes()
    assert b"first" == (tmp_path / "to" / "a.txt").read_bytes()


def test_a_wrong_passphrase_opens_nothing(serve, tmp_path):
    """The task fails, and nothing comes back."""
    state, call = serve("2.3.0.4", {"settings": {"--no-encryption": "", "passphrase": "key"}})
    call.run()
    assert state.wait_idle()
    row = restore(call, state, passphrase="wrong", restore_path=str(tmp_path / "to"))
    assert ("Fatal", False) == (row["ParsedResult"], (tmp_path / "to").exists())


def test_filters_leave_files_out(serve):
    """The first that matches counts; a folder that is left out is not entered."""
    state, call = serve("2.3.0.4", {"filters": ["+*/docs/report.txt", "-*.txt", "-*/deep/"]})
    call.run()
    assert state.wait_idle()
    found = call("POST", "/api/v2/backup/search", {
        "BackupId": "1", "Paths": None, "Filters": ["*"], "PageSize": 0, "Page": 0}).document
    assert ["Job 1/", "docs/", "report.txt"] == [
        re.search(r"[^/]+/?$", one["Path"])[0] for one in found["Data"]]


def test_a_locked_database_is_told_of_by_the_newest_release_only(serve):
    """While a job runs: 400 DatabaseLocked, or an envelope with it."""
    for release_name, status in (("today", 400), ("2.3.0.4", 200)):
        state, call = serve(release_name)
        state.hold("Job 1")
        call.run()
        assert state.wait_reached("Job 1")
        assert status == call("GET", "/api/v1/backup/1/log").status
        envelope = call("POST", "/api/v2/backup/list-filesets", {"BackupId": "1"}).document
        assert (status == 200) == envelope["Success"]


# Changing.

@pytest.mark.parametrize("release_name", MODERN)
def test_long_names_of_days_are_refused_where_they_were(serve, release_name):
    """2.1.0.5: 400 without a body, though it shows them itself."""
    state, call = serve(release_name, {"schedule": {
        "time": "2030-01-01T13:00:00Z", "repeat": "1D", "days": ["mon", "fri"]}})
    shown = call("GET", "/api/v1/backup/1").document
    del shown["DisplayNames"]
    shown["Schedule"]["AllowedDays"] = ["Monday", "fri"]
    answered = call("PUT", "/api/v1/backup/1", shown)
    assert ((400 if release_name == "2.1.0.5" else 200), b"") == (answered.status, answered.body)


@pytest.mark.parametrize("release_name", RELEASES)
def test_a_job_that_is_put_back_as_it_was_shown_is_as_it_was(serve, release_name):
    """Placeholders become the secrets that they stand for; nothing else changes."""
    state, call = serve(release_name, {
        "settings": {"--no-encryption": "", "passphrase": "a secret"}, "filters": ["-*.tmp"],
        "target": "to?auth-username=ann&auth-password=hunter22", "schedule": {
            "time": "2030-01-01T13:00:00Z", "repeat": "1D", "days": ["mon"]}})
    before = state.store.backup("1"), state.store.schedule("1")
    shown = call("GET", "/api/v1/backup/1").document
    shown = shown.get("data", shown)
    is_masked = "hunter22" not in json.dumps(shown)
    assert is_masked == (release_name in ("2.3.0.4", "today"))
    shown["Schedule"]["AllowedDays"] = ["mon"]
    assert 200 == call("PUT", "/api/v1/backup/1", {
        "Backup": shown["Backup"], "Schedule": shown["Schedule"]}).status
    assert before == (state.store.backup("1"), state.store.schedule("1"))


def test_a_recorded_encrypted_export_is_opened():
    """The container that a real server made; a wrong passphrase and a flipped bit are told."""
    for release_name in ("2.1.0.5", "2.3.0.4", "today"):
        text = next(one for one in RECORDED[release_name]
                    if one["name"] == "export encrypted")[
            "response"]["text"]
        container = base64.b64decode(text.removeprefix("base64:"))
        assert "Home" == json.loads(decrypt(container, "secret"))["Backup"]["Name"]
        for damaged, passphrase in ((container, "other"), (
                container[:-60] + bytes([container[-60] ^ 1]) + container[-59:], "secret")):
            with pytest.raises(ValueError):
                decrypt(damaged, passphrase)


@pytest.mark.parametrize("release_name", MODERN)
def test_an_encrypted_export_comes_back_by_import(serve, release_name):
    """With its passphrase it makes a job with all secrets; with a wrong one it is 500."""
    state, call = serve(release_name, {"settings": {"--no-encryption": "", "passphrase": "key"}})
    token = call("POST", "/api/v1/auth/issuetoken/export").document["Token"]
    content = call("GET", "/api/v1/backup/1/export?export-passwords=true&passphrase=open"
                   f"&token={token}").body
    config = base64.b64encode(content).decode()
    answered = call("POST", "/api/v1/backups/import", {
        "config": config, "passphrase": "wrong", "direct": True})
    assert (500, True) == (answered.status, "Failed to import" in answered.document["Error"])
    answered = call("POST", "/api/v1/backups/import", {
        "config": config, "passphrase": "open", "direct": True})
    assert {"Id": "2", "data": None} == answered.document
    job = state.store.backup("2")
    assert ("Job 1 (1)", {"--no-encryption": "", "passphrase": "key"}) == (
        job["Name"], {one["Name"]: one["Value"] for one in job["Settings"]})


def test_the_old_generation_takes_a_job_in_a_form(serve):
    """As JSON in the field `data`; a password is taken away by nulls."""
    state, call = serve("2.0.8.1", site={})
    job = {"Name": "New", "TargetURL": "file:///nowhere", "Sources": ["/x"], "Settings": [
        {"Name": "--no-encryption", "Value": "true"}], "Filters": []}
    answered = call("POST", "/api/v1/backups",
                    form={"data": json.dumps({"Backup": job, "Schedule": None})})
    assert {"status": "OK", "ID": "1"} == answered.document
    assert 200 == call("PATCH", "/api/v1/serversettings", {
        "server-passphrase": None, "server-passphrase-salt": None}).status
    assert 200 == Caller(f"http://127.0.0.1:{call.address[1]}")("GET", "/").status
