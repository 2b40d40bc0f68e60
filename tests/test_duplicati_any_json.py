"""Duplicati servers that answer anything: every action ends with one JSON document and a code of
the table, whatever the answers are, and ends at all.

The session is answered rightly, so that the actions get to their own requests; these meet any
JSON, the recorded answers with something in them put wrong, and what is no JSON.
"""

import base64
import json
import random
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from remotes.actions import ACTIONS
from remotes.errors import EXIT_CODES
from tests import inside, recorded, rude
from tests.conftest import PASSWORD
from tests.rude import Rude
from tests.test_server import LEAVES, TEXTS

# More requests than that for one action, with a wait of a fraction of a second, have no end.
MOST_REQUESTS = 400
# Keys of real answers, and values that are almost right for one of them.
KEYS = ["Backup", "Schedule", "ID", "Item1", "Item2", "ActiveTask", "SchedulerQueueIds", "Status",
        "TaskID", "TaskStarted", "LastEventID", "Type", "Message", "Result", "Metadata", "Settings",
        "Sources", "Filters", "Files", "Path", "Sizes", "Version", "Time", "Data", "Success",
        "Error", "Token", "data", "ProposedSchedule", "Timestamp", "BackupID", "Name", "Value"]
WORDS = ["", "1", "2", "Backup", "Result", "Completed", "Failed", "Running", "Paused", "Error",
         "2026-08-22T10:00:01Z", "0001-01-01T00:00:00", "9999-12-31T23:59:59-14:00",
         "20260822T100001Z", "***************", "/home/ann/", "1e999", "\ud800", "{}", "[1]"]
ODD = st.recursive(
    LEAVES | st.sampled_from(WORDS) | st.sampled_from([-1, 0, 2, 1 << 62, 1 << 70, 10**400, 0.5]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(TEXTS | st.sampled_from(KEYS), inner, max_size=5), max_leaves=10)
STATUSES = [200] * 12 + [201, 204, 301, 302, 400, 401, 403, 404, 405, 409, 415, 418, 429, 500, 502,
                         503, 504]
BODIES = [b"", b"\xef\xbb\xbf", b"null", b"<html><title>Welcome</title></html>", b'{"Backup": {',
          b"\xff\xfe\x00", b"[" * 20000, b"AES\x02\x00", b'{"a": NaN}', b"9" * 5000]


def command_lines(folder):
    """The command lines of all Duplicati actions, in every way that asks something of its own."""
    secret = folder / "password"
    secret.write_text(PASSWORD)
    backup = folder / "backup.json"
    backup.write_text(json.dumps({"Backup": {
        "Name": "Home", "TargetURL": "file:///target", "Sources": ["/home/ann/"],
        "Settings": [{"Name": "--no-encryption", "Value": "true"}], "Filters": []},
        "Schedule": None}))
    password = f"--password_file={secret}"
    wait = ("--wait", "--wait_timeout=0.2")
    one = "--id=1"
    yes = "--confirm=yes"
    lines = [("duplicati_logout",), ("duplicati_status",), ("duplicati_resume",),
             ("duplicati_pause", "--duration=1h"), ("duplicati_versions", one),
             ("duplicati_set", "--name=startup-delay", "--value=5s"),
             ("duplicati_set", password), ("duplicati_set", "--disable_password", yes),
             ("duplicati_dismiss", "--id=all"), ("duplicati_dismiss", "--id", "1", "2"),
             ("duplicati_edit", one, "--set=Name=New", yes),
             ("duplicati_edit", one, "--set=Settings.keep-versions=5", yes),
             ("duplicati_create", f"--file={backup}"),
             ("duplicati_update", one, f"--file={backup}", yes),
             ("duplicati_export", one, f"--output_path={folder}", "--force"),
             ("duplicati_export", "--all", f"--output_path={folder}", "--force",
              "--file_format=json"),
             ("duplicati_wait", "--task=2", "--wait_timeout=0.2"),
             ("duplicati_abort", "--task=2", "--wait_timeout=0.2"),
             ("duplicati_abort", "--task=2", "--graceful", "--wait_timeout=0.2"),
             ("duplicati_run", "--all", *wait), ("duplicati_run", "--id", "1", "2"),
             ("duplicati_login", "--url=URL", password)]
    lines += [("duplicati_list", f"--type={kind}") for kind in (
        "backups", "databases", "notifications", "serversettings", "systeminfo", "tasks")]
    for action in ("duplicati_get", "duplicati_describe"):
        lines += [(action, "--type=backup", "--id", "1", "Home"),
                  (action, "--type=notification", "--id", "1", "2")]
    for kind in ("backup", "remote", "stored", "live"):
        lines += [("duplicati_logs", f"--type={kind}", one, "--lines=1000", "--since=9999D")]
    lines += [(f"duplicati_{verb}", one, *wait) for verb in (
        "run", "verify", "compact", "vacuum", "repair")]
    lines += [("duplicati_files", one), ("duplicati_files", one, "--path=/home/ann/"),
              ("duplicati_files", one, "--filter=*a*")]
    to = "--restore_path=/restore"
    lines += [("duplicati_restore", one, to, *wait), ("duplicati_restore", one, to, "--dry_run"),
              ("duplicati_restore", one, to, "--path=/home/ann/a.txt", *wait),
              ("duplicati_restore", "--target_url=file:///t", to),
              ("duplicati_restore", f"--config_file={backup}", to)]
    lines += [("duplicati_delete", one, "--confirm=Home", *more) for more in (
        ("--type=backup", "--wait_timeout=0.2"), ("--type=database",), ("--type=notification",),
        ("--type=database", "--recreate", *wait))]
    return lines


def template(method, path):
    """A request without what differs from one backup or task to the next."""
    bare = re.sub(r"/(\d+|[0-9a-f]{8}-[0-9a-f-]{27})(?=/|$)", "/N", path.partition("?")[0])
    return method, re.sub(r"/files/.*", "/files/N", bare)


def answers_of(release):
    """(method, template) -> the recorded answers of a release, the good ones first."""
    found = {}
    for exchange in recorded.exchanges(release):
        request = exchange["request"]
        found.setdefault(template(request["method"], request["path"]), []).append(
            exchange["response"])
    for responses in found.values():
        responses.sort(key=lambda response: response["status"])
    return found


RECORDED = {release: answers_of(release) for release in recorded.FILES}


class World:
    """What a server answers: as `how` says any JSON (`any`), the recorded answers with something
    put wrong (`almost`), or with bodies that are none (`broken`); `odd` are the wrong values.
    """

    def __init__(self, release, how, seed, odd):
        self.release, self.how, self.odd = release, how, odd
        self.is_legacy = release.startswith("2.0")
        self.draw = random.Random(seed)
        self.count = 0
        # Most of what an action asks is answered rightly: else it would never come to its end.
        self.share = self.draw.choice((0.1, 0.3, 0.6))

    def __call__(self, server, connection, request):
        self.count += 1
        if self.count > MOST_REQUESTS:
            return False
        session = self._cookie_session if self.is_legacy else self._token_session
        manner = session(request) or getattr(self, f"_{self.how}")(request)
        return manner(server, connection, request)

    def _token_session(self, request):
        path = request.path.partition("?")[0].removeprefix("/api/v1/auth/")
        if path in ("login", "refresh", "signin"):
            claims = base64.urlsafe_b64encode(b'{"typ":"AccessToken"}').decode().rstrip("=")
            return rude.answer(200, {"AccessToken": f"a.{claims}.c", "RefreshNonce": "n"},
                               {"Set-Cookie": "RefreshToken_1=r; path=/"})
        if path == "refresh/logout":
            return rude.answer(200, {"success": True})
        if "authorization" not in request.headers:
            return rude.answer(401, b"", {"WWW-Authenticate": "Bearer"})
        return None

    def _cookie_session(self, request):
        if request.path == "/logout.cgi":
            return rude.answer(204)
        if request.path == "/login.cgi":
            if b"get-nonce" in request.body:
                return rude.answer(200, {"Status": "OK", "Nonce": "AAAA", "Salt": "AAAA"},
                                   {"Set-Cookie": "session-nonce=n"})
            return rude.answer(200, {"Status": "OK"}, {"Set-Cookie": "session-auth=a"})
        if "x-xsrf-token" not in request.headers:
            return rude.answer(400, b"", {"Set-Cookie": "xsrf-token=x"})
        if "session-auth" not in request.headers.get("cookie", ""):
            return rude.answer(401, b"")
        return None

    def _any(self, request):
        return rude.answer(self.draw.choice(STATUSES), self.draw.choice(self.odd))

    def _almost(self, request):
        status, document = self._real(request)
        if self.draw.random() < self.share:
            for _ in range(self.draw.choice((1, 1, 3))):
                document = self._wrong(document)
        if self.draw.random() < self.share / 5:
            status = self.draw.choice(STATUSES)
        mark = b"\xef\xbb\xbf" if self.is_legacy else b""
        body = b"" if document is None else mark + json.dumps(document).encode()
        return rude.answer(status, body)

    def _broken(self, request):
        status, document = self._real(request)
        body = json.dumps(document).encode()
        if self.draw.random() < self.share:
            body = self.draw.choice([*BODIES, body[:len(body) // 2]])
            length = len(body) + 1 if self.draw.random() < 0.2 else None
            return rude.answer(self.draw.choice(STATUSES), body, length=length)
        return rude.answer(status, body)

    def _real(self, request):
        """(status, document) as a server of that release once answered; what it was not asked
        is answered as tasks are."""
        said = RECORDED[self.release].get(template(request.method, request.path))
        if not said:
            return 200, {"Status": "OK", "ID": 2}
        good = [response for response in said if response["status"] == 200]
        response = self.draw.choice(good if good and self.draw.random() < 0.9 else said)
        return response["status"], json.loads(json.dumps(response["json"]))

    def _wrong(self, document):
        """The document with one of its values, at any depth, replaced by anything."""
        if isinstance(document, str) and document.startswith("{"):
            try:
                return json.dumps(self._wrong(json.loads(document)))  # a result within a row
            except ValueError:
                pass
        if not isinstance(document, (dict, list)) or not document or self.draw.random() < 0.15:
            return self.draw.choice(self.odd)
        places = list(document) if isinstance(document, dict) else range(len(document))
        place = self.draw.choice(places)
        if isinstance(document, dict) and self.draw.random() < 0.1:
            del document[place]
        else:
            document[place] = self._wrong(document[place])
        return document


def test_every_action_is_among_them(tmp_path):
    """What the next test asks of servers that answer anything is all that there is."""
    names = {words[0] for words in command_lines(tmp_path)}
    assert {name for name in ACTIONS if name.startswith("duplicati_")} == names


@pytest.fixture(scope="module")
def world_server(tmp_path_factory):
    """A server whose world is whatever `manner` is, the command lines, and their folder."""
    folder = tmp_path_factory.mktemp("any")
    lines = command_lines(folder)
    with Rude(rude.answer()) as server:
        yield server, lines, folder


@settings(max_examples=600)
@given(st.integers(0, 10**6), st.sampled_from(sorted(recorded.FILES)),
       st.sampled_from(["any", "almost", "almost", "almost", "broken"]), st.integers(0, 1 << 32),
       st.lists(ODD, min_size=3, max_size=8), st.sampled_from(["json", "yaml", "table"]))
def test_any_answer_of_a_server_is_no_fault_of_ours(world_server, line, release, how, seed, odd,
                                                    form):
    """A code of the table that is not 70, one document, and an end."""
    server, lines, folder = world_server
    run_against(World(release, how, seed, odd), server, folder, lines[line % len(lines)], form)


def run_against(world, server, folder, words, form):
    """The action of that command line against the server of a world, and its Result judged."""
    generation = "cookie" if world.is_legacy else "token"
    kept = {"url": server.url, "generation": generation, "access_token": "a.b.c",
            "password_file": str(folder / "password")} if generation == "token" else {
        "url": server.url, "generation": generation, "xsrf_token": "x", "session_auth": "a",
        "password_file": str(folder / "password")}
    (folder / "settings.yml").write_text(yaml.safe_dump(
        {"duplicati": {"servers": {"default": kept}}}))
    server.manner = world
    server.requests.clear()
    result = inside.run(f"--action={words[0]}", f"--settings={folder / 'settings.yml'}",
                        "--http_timeout=2", f"--output={form}",
                        *(word.replace("URL", server.url) if word == "--url=URL" else word
                          for word in words[1:]), environ={"HOME": str(folder)})
    assert result.code in EXIT_CODES and result.code != 70, result
    assert "Traceback" not in result.out + result.err
    assert world.count <= MOST_REQUESTS, [request.path for request in server.requests[-20:]]
    if form == "json":
        assert isinstance(result.answer, dict)
    elif form == "yaml":
        assert isinstance(yaml.safe_load(result.out), dict)
    return result
