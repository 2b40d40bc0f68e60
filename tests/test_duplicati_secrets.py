"""No secret of a Duplicati server, of its backups or of a session leaves the client: on no
stream, in no child, in no file but those that are for it; on each release.

What is secret is not only what these tests put there: a proxy before the server notes every
token, nonce and cookie that passes.
"""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.parse

import pytest
import yaml

from tests import inside, rude
from tests.certificates import Authority
from tests.conftest import PASSWORD, PROJECT, RELEASES
from tests.logins import change_kept, forward, log_in
from tests.rude import Rude, answer
from tests.test_duplicati_any_json import command_lines

ALL = pytest.mark.parametrize("release", RELEASES)
TARGET_SECRET, JOB_PASSPHRASE = "target-hunter22", "passphrase of the job"
EXPORT_PASSPHRASE, BASIC_PASSWORD = "passphrase of the export", "basic-hunter22"
TYPED = (PASSWORD, TARGET_SECRET, JOB_PASSPHRASE, EXPORT_PASSPHRASE, BASIC_PASSWORD)
SECRET_JOB = {
    "name": "Home", "files": {"a.txt": "alpha", "docs/b.txt": "beta"},
    "target": f"Home?auth-username=ann&auth-password={TARGET_SECRET}",
    "settings": {"encryption-module": "aes", "passphrase": JOB_PASSPHRASE, "--demo-seconds": 0,
                 "--send-http-url": f"https://ann:{TARGET_SECRET}@nas/report"}}
# Where secrets belong: what a person has put there, the settings, and what was exported.
OWN_FILES = {"settings.yml", "password", "basic", "passphrase", "config.yml", "export"}
_SECRET_FIELDS = ("AccessToken", "RefreshNonce", "Token", "socketToken", "Nonce", "Salt")


class Overheard:
    """All secrets that passed the line, by a proxy before `server`."""

    def __init__(self, server):
        self.secrets = set(TYPED)
        self.manner = forward(server, hear=self._hear)

    def _hear(self, request, got, body):
        for name, value in [*request.headers.items(), *got.getheaders()]:
            if name.lower() in ("authorization", "cookie", "set-cookie", "x-xsrf-token"):
                self._note(value.partition(";")[0])  # what follows are a cookie's attributes
        self.note_query(request.path)
        if request.path == "/login.cgi":
            self._note(urllib.parse.parse_qs(request.body.decode()).get("password", [""])[0])
        with contextlib.suppress(ValueError):
            said = json.loads(body)
            for name in _SECRET_FIELDS if isinstance(said, dict) else ():
                self._note(said.get(name))

    def note_query(self, path):
        """The token in the query of a path."""
        query = urllib.parse.urlsplit(path).query
        for value in urllib.parse.parse_qs(query).get("token", ()):
            self._note(value)

    def _note(self, text):
        """Each word of a header or a value that is long enough to be a secret."""
        for word in re.findall(r"[\w.+/%~-]{16,}=*", text or ""):
            if "T" not in word[:11] or not word[:4].isdigit():  # a date
                self.secrets |= {word, urllib.parse.unquote(word)}

    def require_none_in(self, text, where):
        for secret in self.secrets:
            assert secret not in text, (secret, where, text)


def require_clean_files(overheard, *folders):
    """No secret in any file that is not for it, and no file that others can read."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not OWN_FILES & {*path.relative_to(folder).parts}:
                overheard.require_none_in(path.read_bytes().decode("utf-8", "replace"), path)


def lines_of(folder):
    """The command lines of all actions, those that end something last, and some more."""
    passphrase = folder / "passphrase"
    passphrase.write_text(EXPORT_PASSPHRASE)
    export = folder / "export"
    export.mkdir(exist_ok=True)
    words = [words for words in command_lines(folder)
             if "--disable_password" not in words and words[0] != "duplicati_login"]
    words += [("duplicati_export", "--id=1", f"--output_path={export / 'a.aes'}",
               f"--passphrase_file={passphrase}"),
              ("duplicati_edit", "--id=1", f"--set=Settings.passphrase=@{passphrase}",
               "--confirm=yes"),
              ("duplicati_set", "--name=--passphrase", f"--value=@{passphrase}"),
              ("duplicati_restore", f"--target_url=file:///t?auth-password={TARGET_SECRET}",
               f"--restore_path={folder}", f"--passphrase_file={passphrase}", "--wait"),
              ("duplicati_status", "--server=none")]
    words.sort(key=lambda words: (words[0] == "duplicati_logout", words[0] == "duplicati_delete"))
    return [tuple(word.replace(f"--output_path={folder}", f"--output_path={export}")
                  if word == f"--output_path={folder}" else word for word in line)
            for line in words]


_CHILDREN = []  # what was started meanwhile, by any way that Python has


def _note_children(event, arguments):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty",
                 "os.system", "os.spawn", "pty.spawn"):
        _CHILDREN.append((event, arguments))


sys.addaudithook(_note_children)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files that is this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# -- streams -------------------------------------------------------------------------------

@ALL
@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_no_action_shows_a_secret_or_starts_a_process(play, operator, temporary, release, form):
    """Each with --verbose and --debug, the session renewed in between; no lock file, no list of
    faults and no temporary file holds one, either.
    """
    server, host = play(release, SECRET_JOB), operator()
    overheard = Overheard(server)
    with Rude(overheard.manner) as proxy:
        host.log_in(proxy.url, "--verbose", "--debug")
        assert 0 == host.inside("duplicati_run", "--id=1", "--wait").code
        _CHILDREN.clear()
        codes = set()
        for number, (action, *words) in enumerate(lines_of(host.folder)):
            if number % 5 == 0:
                server.state.expire_tokens()
            result = host.inside(action, *words, "--verbose", "--debug", "--quiet",
                                 f"--output={form}")
            assert result.code != 70, (action, words, result)
            codes.add(result.code)
            overheard.require_none_in(result.out + result.err, (action, words))
        assert [] == _CHILDREN
        require_clean_files(overheard, host.folder, temporary)
    assert {0, 78} <= codes
    assert len(overheard.secrets) > 12


@ALL
@pytest.mark.parametrize("manner", [
    rude.reset, rude.html, rude.stall, answer(401, b""), answer(500, {"Error": "An error"}),
    rude.gzip_rubbish, rude.redirect("https://evil.example{path}"), answer(200, [1]),
    answer(403, b"Invalid hostname"), rude.truncate,
], ids=["reset", "page", "stall", "401", "500", "gzip", "redirect", "foreign", "403", "truncated"])
def test_no_failure_shows_a_secret(play, operator, temporary, release, manner):
    """--debug and --verbose, whatever happens to the request that bears the most: an export with a
    token in its URL and a passphrase, a status with a session, a login.
    """
    server, host = play(release, SECRET_JOB), operator()
    overheard, broken = Overheard(server), []

    def treat(proxy, connection, request):
        if any(part in request.path for part in broken):
            overheard.note_query(request.path)
            return manner(proxy, connection, request)
        return overheard.manner(proxy, connection, request)

    passphrase = host.folder / "passphrase"
    passphrase.write_text(EXPORT_PASSPHRASE)
    patience = 0.2 if manner is rude.stall else 30
    with Rude(treat) as proxy:
        host.log_in(proxy.url)
        for part, action, *words in (
                ("1/export", "duplicati_export", "--id=1", f"--passphrase_file={passphrase}",
                 f"--output_path={host.folder / 'a.aes'}"),
                ("serverstate", "duplicati_status"), ("systeminfo", "duplicati_login",
                                                      f"--url={proxy.url}"),
                ("log", "duplicati_login", f"--url={proxy.url}"),
                ("/backup/1", "duplicati_restore", "--id=1", f"--restore_path={host.folder}")):
            broken[:] = [part]
            result = host.inside(action, *words, "--verbose", "--debug", "--quiet",
                                 f"--http_timeout={patience}")
            assert result.code not in (0, 70), (action, result)
            overheard.require_none_in(result.out + result.err, (action, words))
        require_clean_files(overheard, host.folder, temporary)
        assert not (host.folder / "a.aes").exists()


@ALL
def test_no_certificate_fault_shows_a_secret(play, operator, tmp_path, release):
    """Another certificate than before, under the pin, the authority, and with a server away."""
    server = play(release, SECRET_JOB, ssl_context=Authority(tmp_path).context())
    host, other = operator(), Authority(tmp_path, "other")
    host.log_in(server.url, "--insecure")
    kept = host.kept()
    secrets = {*TYPED, *(str(kept[name]) for name in (
        "access_token", "refresh_cookie", "refresh_nonce", "session_auth", "xsrf_token")
        if kept.get(name))}
    for changes in ({"insecure": None, "pin": "0" * 64}, {"pin": None, "ca_file": other.ca_file},
                    {"ca_file": None}, {"url": "https://127.0.0.1:1/"},
                    {"url": "https://no-such-host.invalid/"}):
        change_kept(host, **changes)
        for action in ("duplicati_status", "duplicati_login"):
            result = host.inside(action, "--verbose", "--debug")
            assert result.code in (14, 75), result
            assert not [secret for secret in secrets if secret in result.out + result.err], result


def test_config_shows_no_secret(operator):
    """Those of the options, and those within texts: URLs, changes, values of settings."""
    host = operator()
    config = host.folder / "config.yml"
    config.write_text(yaml.safe_dump({
        "options": {"password": PASSWORD, "url": f"https://ann:{TARGET_SECRET}@nas/",
                    "set": [f"Settings.passphrase={JOB_PASSPHRASE}", f"TargetURL=ssh://a:"
                            f"{TARGET_SECRET}@b/c"]},
        "actions": {"duplicati_set": {"name": "server-passphrase", "value": EXPORT_PASSPHRASE},
                    "duplicati_login": {"login_token": "login-token-hunter22"}}}))
    environ = {"HOME": str(host.folder), "REMOTES_CONFIG": str(config),
               "REMOTES_LOGIN_TOKEN": "login-token-hunter22", "DUPLICATI_PASSWORD": BASIC_PASSWORD,
               "REMOTES_TARGET_URL": f"s3://bucket?auth-password={TARGET_SECRET}"}
    for form in ("json", "yaml", "table"):
        result = inside.run("--action=config", f"--settings={host.settings}", f"--output={form}",
                            f"--value={EXPORT_PASSPHRASE}", "--name=--ssh-password", "--debug",
                            environ=environ)
        assert 0 == result.code, result
        assert not [secret for secret in (*TYPED, "login-token-hunter22")
                    if secret in result.out + result.err], result
    assert "Settings.passphrase=***" in result.out and "@nas/" in result.out


# -- children ------------------------------------------------------------------------------

_EDITOR = """
import json, os, sys
def read(process, name):
    with open(f"/proc/{process}/{name}", "rb") as stream:
        return stream.read().decode("utf-8", "replace")
client = os.getppid()
children = []
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        if int(read(name, "stat").rpartition(")")[2].split()[1]) == client:
            children.append(read(name, "cmdline") + read(name, "environ"))
    except OSError:
        pass
path = sys.argv[1]
with open(path) as stream:
    text = stream.read()
folder = os.path.dirname(path)
with open(os.environ["SEEN"], "w") as stream:
    json.dump({"children": children, "text": text, "names": os.listdir(folder),
               "modes": [os.stat(place).st_mode & 0o777 for place in (path, folder)],
               "client": read(client, "cmdline")}, stream)
with open(path, "w") as stream:
    stream.write(text.replace("Description: ''", "Description: edited")
                 .replace('Description: ""', "Description: edited"))
"""


@ALL
def test_an_editor_sees_no_secret(play, operator, release):
    """Neither in its command line, nor in its environment, nor in its file, which nobody else can
    read, whatever the umask; and nothing of it is left.
    """
    server, host = play(release, SECRET_JOB), operator()
    script, temporary = host.folder / "editor.py", host.folder / "temporary"
    script.write_text(_EDITOR)
    temporary.mkdir()
    overheard = Overheard(server)
    with Rude(overheard.manner) as proxy:
        host.log_in(proxy.url)
        seen = host.folder / "seen.json"
        environ = {**host.environ, "EDITOR": f"{sys.executable} {script}", "SEEN": str(seen),
                   "TMPDIR": str(temporary), "DUPLICATI_PASSWORD": PASSWORD,
                   "DUPLICATI_BASIC_PASSWORD": BASIC_PASSWORD, "REMOTES_PASSWORD": PASSWORD,
                   "REMOTES_LOGIN_TOKEN": BASIC_PASSWORD, "REMOTES_TOKEN": BASIC_PASSWORD,
                   "REMOTES_TARGET_URL": f"s3://b?auth-password={TARGET_SECRET}"}
        result = host.run("duplicati_edit", "--id=1", "--confirm=yes", "--verbose", "--debug",
                          env=environ, preexec_fn=lambda: os.umask(0))
    assert (0, True) == (result.code, result.answer["changed"]), result
    found = json.loads(seen.read_text())
    assert 1 == len(found["children"]) and ["backup.yml"] == found["names"]
    assert [0o600, 0o700] == found["modes"]
    overheard.require_none_in(seen.read_text(), "what the editor sees")
    overheard.require_none_in(result.out + result.err, "streams")
    assert [] == list(temporary.iterdir())


# -- files ---------------------------------------------------------------------------------

@pytest.mark.parametrize("release", ["2.0.8.1", "2.3.0.4"])
@pytest.mark.parametrize("action", ["duplicati_login", "duplicati_export", "duplicati_status"])
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.soak)])
def test_files_are_private_from_their_first_byte(play, operator, release, action, step):
    """Killed at each (or each third) write, with an umask that hides nothing: nobody else could
    have read any."""
    server, host = play(release, SECRET_JOB), operator()
    host.log_in(server.url)
    (host.folder / "passphrase").write_text(EXPORT_PASSPHRASE)
    given = {path.name for path in host.folder.iterdir()} - {"settings.yml", "settings.yml.lock"}
    export = host.folder / "written"
    words = {"duplicati_login": [f"--url={server.url}"], "duplicati_status": [],
             "duplicati_export": ["--id=1", f"--output_path={export}", "--force",
                                  f"--passphrase_file={host.folder / 'passphrase'}"]}[action]
    script = [sys.executable, str(PROJECT / "tests" / "killed_at.py")]
    point = 2
    while True:
        server.state.expire_tokens()
        done = subprocess.run([*script, str(point), f"--action={action}",
                               f"--settings={host.settings}", *words], env=host.environ,
                              capture_output=True, timeout=60, preexec_fn=lambda: os.umask(0))
        for path in host.folder.iterdir():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert path.name in given or 0o600 == mode, (path, oct(mode), point)
        if done.returncode != -signal.SIGKILL:
            break
        point += step
    assert 0 == done.returncode and point > 10
    assert action != "duplicati_export" or export.exists()


@ALL
def test_a_failed_login_leaves_no_secret_behind(play, operator, temporary, release):
    """No settings, and nothing of what was tried."""
    server, host = play(release, SECRET_JOB), operator()
    result = log_in(host, server, "--verbose", "--debug", "--quiet",
                    DUPLICATI_PASSWORD="wrong-hunter22")
    assert 12 == result.code
    assert not host.settings.exists()
    for path in (*host.folder.rglob("*"), *temporary.rglob("*")):
        assert b"wrong-hunter22" not in path.read_bytes()
    assert "wrong-hunter22" not in result.out + result.err
