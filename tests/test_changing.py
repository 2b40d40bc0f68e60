"""actions/duplicati: changing.py, editor.py, asking.py, exporting.py, deleting.py,
server_settings.py: the client against demo servers of four releases; as a process of its own
where a test says more of it than its words.

What a server really holds, secrets included, is read from the demo server's own store.
"""

import contextlib
import copy
import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from demo.duplicati import Duplicati, make_server
from remotes import aescrypt
from tests import inside
from tests.conftest import Host

RELEASES = ["2.0.8.1", "2.1.0.5", "2.3.0.4", "today"]
STARS = "*" * 15
PASSWORD = "correct-horse"
SECRETS = ("hunter22", "pass phrase", PASSWORD)
SITE = {"jobs": [
    {"name": "Home", "description": "", "files": {"a.txt": "a", "b.tmp": "b"},
     "target": "Home?auth-username=ann&auth-password=hunter22",
     "settings": {"encryption-module": "aes", "passphrase": "pass phrase", "dblock-size": "10MB",
                  "keep-versions": 5, "--demo-seconds": "0.1"},
     "filters": ["-*.tmp"],
     "schedule": {"time": "2030-01-01T13:00:00Z", "repeat": "1D", "days": ["mon", "tue"]}},
    {"name": "Plain", "files": {"c.txt": "c"},
     "settings": {"--no-encryption": "true", "--demo-seconds": "0.1",
                  "--demo-ending": "warning"}},
]}


@pytest.fixture
def start(tmp_path):
    """start(release) -> a Host that is logged into a new demo server, `host.server`."""
    servers = []

    def begin(release="today", site=SITE, password=PASSWORD):
        number = len(servers)
        state = Duplicati(release, password, tmp_path / f"server{number}", site)
        server = make_server(state, 0)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        host = Host(tmp_path / f"host{number}")
        host.folder.mkdir()
        host.server, host.state = server, state
        for name in ("EDITOR", "VISUAL"):
            host.environ.pop(name, None)
        words = []
        if password is not None:
            (host.folder / "password").write_text(password)
            words = [f"--password_file={host.folder / 'password'}"]
        assert 0 == run(host, "login", f"--url={server.url}", *words).code
        return host

    yield begin
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
        server.state.close()


def run(host, action, *words, **more):
    """The action duplicati_ACTION; nobody is at a terminal. An editor, and `more`, want a process
    of its own.
    """
    if more or "EDITOR" in host.environ:
        return host.run(f"duplicati_{action}", *words, **{"stdin": -3, **more})
    return inside.run(f"--action=duplicati_{action}", f"--settings={host.settings}", *words,
                      environ=host.environ, folder=host.folder)


def stored(host, key="1"):
    """(backup, schedule) as the server keeps them, in clear."""
    backup = host.state.store.backup(key)
    return copy.deepcopy((backup, host.state.store.schedule(key)))


def setting(backup, name):
    return next((item["Value"] for item in backup["Settings"] if item["Name"] == name), None)


def requests_of(host, method):
    return [path for kind, path in host.state.requests if kind == method]


def read(path):
    return Path(path).read_bytes()


def no_secret_in(result, *more):
    for secret in (*SECRETS, *more):
        assert secret not in result.out + result.err


def editor(host, source):
    """Makes $EDITOR a Python program: `path` and `text` are there, `text` is written back.

    What it was given, and how its file and folder stood there, is kept in `seen.json`.
    """
    script = host.folder / "editor.py"
    script.write_text(
        "import json, os, sys\n"
        "path = sys.argv[1]\n"
        "text = open(path).read()\n"
        "json.dump({'text': text, 'path': path, 'file': os.stat(path).st_mode & 0o777,\n"
        "           'folder': os.stat(os.path.dirname(path)).st_mode & 0o777,\n"
        "           'environ': dict(os.environ)},\n"
        f"          open({str(host.folder / 'seen.json')!r}, 'w'))\n"
        f"{source}\n"
        "open(path, 'w').write(text)\n")
    host.environ["EDITOR"] = f"{sys.executable} {script}"


def seen(host):
    return json.loads((host.folder / "seen.json").read_text())


# -- edit --------------------------------------------------------------------------------------

EDITS = {
    "Description=new: text": lambda backup, schedule: backup.update(Description="new: text"),
    "Settings.keep-versions=7": lambda backup, schedule: backup["Settings"][3].update(Value="7"),
    "Settings.keep-versions=": lambda backup, schedule: backup["Settings"].pop(3),
    "Settings.--throttle-upload=1MB": lambda backup, schedule: backup["Settings"].append(
        {"Filter": "", "Name": "--throttle-upload", "Value": "1MB", "Argument": None}),
    "Sources=[/x/, /y/]": lambda backup, schedule: backup.update(Sources=["/x/", "/y/"]),
    'Schedule.AllowedDays=["sun","Monday"]': lambda backup, schedule: schedule.update(
        Rule="AllowedWeekDays=Sunday,Monday"),
    "Schedule.Repeat=2D": lambda backup, schedule: schedule.update(Repeat="2D"),
    "Filters.0.Include=true": lambda backup, schedule: backup["Filters"][0].update(Include=True),
}


@pytest.mark.parametrize("release", RELEASES)
def test_an_edit_changes_one_field_and_nothing_else(start, release):
    """Compared before and after in the server's store: secrets, the schedule and its days, the
    metadata of a run; and what the client answers shows no secret.
    """
    host = start(release)
    assert 0 == run(host, "run", "--id=1", "--wait").code
    host.state.wait_idle()
    for assignment, change in EDITS.items():
        backup, schedule = stored(host)
        assert backup["Metadata"]
        change(backup, schedule)
        result = run(host, "edit", "--id=Home", "--set", assignment, "--confirm=yes")
        assert (0, True) == (result.code, result.answer["changed"]), result
        assert (backup, schedule) == stored(host)
        no_secret_in(result)
        assert any(line.startswith("+") or line.startswith("-")
                   for line in result.answer["difference"])


@pytest.mark.parametrize("release", RELEASES)
def test_an_edit_of_nothing_sends_nothing(start, release):
    """The value that is there already; no question either."""
    host = start(release)
    before = stored(host)
    result = run(host, "edit", "--id=1", "--set", "Settings.keep-versions=5", "Name=Home",
                 "--set", "Schedule.AllowedDays=[Tuesday, mon]")
    assert (0, False) == (result.code, result.answer["changed"])
    assert [] == result.answer["difference"]
    assert before == stored(host)
    assert [] == requests_of(host, "PUT")


@pytest.mark.parametrize("release", RELEASES)
def test_an_editor_sees_no_secret_and_its_file_is_private_and_goes(start, release):
    """0600 in 0700, gone afterwards; what was edited is there, and the secrets are kept."""
    host = start(release)
    editor(host, "text = text.replace(\"keep-versions: '5'\", 'keep-versions: 9')")
    host.environ["DUPLICATI_PASSWORD"] = PASSWORD
    backup, schedule = stored(host)
    backup["Settings"][3]["Value"] = "9"
    result = run(host, "edit", "--id=1", "--confirm=Home")
    assert (0, True) == (result.code, result.answer["changed"]), result
    assert (backup, schedule) == stored(host)
    saw = seen(host)
    assert not any(secret in json.dumps(saw) for secret in SECRETS)
    assert (0o600, 0o700) == (saw["file"], saw["folder"])
    assert not os.path.exists(os.path.dirname(saw["path"]))
    assert STARS in saw["text"] and "- mon" in saw["text"]
    no_secret_in(result)


def test_an_editor_that_changes_nothing_changes_nothing(start):
    """Left as it was, or emptied: no request."""
    host = start()
    for source in ("pass", "text = ''"):
        editor(host, source)
        result = run(host, "edit", "--id=1")
        assert (0, False) == (result.code, result.answer["changed"]), result
    assert [] == requests_of(host, "PUT")


@pytest.mark.parametrize("source, words", [
    ("text = text.replace('Name: Home', 'Name: [')", "not valid YAML: line"),
    ("text = text.replace('Name: Home', 'Nmae: Home')", "did you mean Name"),
    ("text = text.replace('passphrase:', '--other-password:')", "stars in place of a secret"),
])
def test_a_text_with_a_mistake_is_kept_where_nobody_can_be_asked(start, source, words):
    """With its place; what was typed is not lost."""
    host = start()
    before = stored(host)
    editor(host, source)
    result = run(host, "edit", "--id=1", "--confirm=yes")
    assert words in result.answer["message"]
    assert f"the text is kept in {seen(host)['path']}" in result.answer["message"]
    assert before == stored(host)
    kept_text(host, result.answer)


def kept_text(host, answer):
    """The private text that a failed edit leaves, as the answer names it; then it is gone."""
    path = answer["edited_text"]
    assert seen(host)["path"] == path
    assert (0o600, 0o700) == (stat.S_IMODE(os.stat(path).st_mode),
                              stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode))
    text = read(path).decode()
    shutil.rmtree(os.path.dirname(path))
    return text


AN_EDIT = """\
text = text.replace("Description: ''", 'Description: ours')
text = text.replace("  keep-versions: '5'\\n", '')
text = text.replace("auth-username=ann", "auth-username=bob")
"""


@pytest.mark.parametrize("release", RELEASES)
def test_a_text_whose_edit_fails_is_kept_and_is_a_patch(start, release):
    """Nobody to ask: the message says how to go on, and that does all of the edit: settings
    that were taken out go, secrets behind stars stay.
    """
    host = start(release)
    backup, schedule = stored(host)
    editor(host, AN_EDIT)
    result = run(host, "edit", "--id=1")
    assert (2, "usage") == (result.code, result.answer["kind"]), result
    assert (backup, schedule) == stored(host)
    path = result.answer["edited_text"]
    next_step = f"--action=duplicati_edit --id=1 --patch={path}"
    assert f"; the text is kept in {path}: {next_step} goes on with it" in result.answer["message"]
    no_secret_in(result, *SECRETS)
    result = run(host, "edit", *next_step.split()[1:], "--confirm=yes")
    assert 0 == result.code, result
    backup["Settings"].pop(3)
    backup.update(Description="ours",
                  TargetURL=backup["TargetURL"].replace("=ann", "=bob"))
    assert (backup, schedule) == stored(host)
    assert not any(secret in read(path).decode() for secret in SECRETS)
    shutil.rmtree(os.path.dirname(path))


def test_a_text_is_kept_whatever_fails_behind_the_editor(start):
    """The server's no, another's change, an editor that fails at its end, a server that is away."""
    host = start()
    first = "text = text.replace(\"keep-versions: '5'\", 'keep-versions: 6')\n"
    theirs = " ".join(host.command_line("duplicati_edit", "--id=1", "--set", "Description=theirs",
                                        "--confirm=yes")) + " >/dev/null 2>&1"
    for source, code in (("text = text.replace('Repeat: 1D', 'Repeat: 1s')", 1),
                         (f"import os; os.system({theirs!r})", 1),
                         ("sys.exit(open(path, 'w').write(text) and 3)", 1)):
        editor(host, first + source)
        result = run(host, "edit", "--id=1", "--confirm=yes")
        assert code == result.code, result
        assert "keep-versions: 6" in kept_text(host, result.answer)
    editor(host, first + "print('open', flush=True)\nsys.stdin.readline()")
    process = host.start("duplicati_edit", "--id=1", "--confirm=yes", stdin=subprocess.PIPE)
    assert "open\n" == process.stderr.readline()
    host.server.shutdown()
    host.server.server_close()
    out, _ = process.communicate("\n", timeout=60)
    assert 75 == process.returncode, out
    assert "keep-versions: 6" in kept_text(host, json.loads(out))


def test_a_text_is_kept_where_the_question_is_not_answered_with_yes(start):
    """n, the end of the input, Ctrl-C at the question; with yes nothing is left."""
    host = start()
    editor(host, AN_EDIT)
    for typed in ("n\n", "\x04"):
        code, answer, _ = at_a_terminal(host, "edit", "--id=1", typed=typed)
        assert (1, True) == (code, "not confirmed" in answer["message"])
        assert "Description: ours" in kept_text(host, answer)
    leader, follower = pty.openpty()
    process = host.start("duplicati_edit", "--id=1", stdin=follower)
    os.close(follower)
    while "Change backup 1" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    os.close(leader)
    answer = json.loads(out)
    assert (130, "interrupted") == (process.returncode, answer["kind"])
    assert f"the text is kept in {answer['edited_text']}" in err
    assert "Description: ours" in kept_text(host, answer)
    code, answer, _ = at_a_terminal(host, "edit", "--id=1", typed="y\n")
    assert (0, False) == (code, os.path.exists(os.path.dirname(seen(host)["path"])))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_in_the_editor_is_the_editors(start):
    """It reaches the client as well, which goes on when the editor does."""
    host = start()
    editor(host, "import signal\n"
                 "signal.signal(signal.SIGINT, lambda number, frame: None)\n"
                 "os.kill(os.getppid(), signal.SIGINT)\n"
                 "os.kill(os.getpid(), signal.SIGINT)\n" + AN_EDIT)
    result = run(host, "edit", "--id=1", "--confirm=yes")
    assert (0, "ours") == (result.code, stored(host)[0]["Description"]), result


def test_an_editor_that_fails_changes_nothing(start):
    """Its exit code, a program that is not there, a file that is gone: told, and cleaned up."""
    host = start()
    editor(host, "sys.exit(3)")
    result = run(host, "edit", "--id=1", "--confirm=yes")
    assert (1, True) == (result.code, "failed (3)" in result.answer["message"])
    assert not os.path.exists(os.path.dirname(seen(host)["path"]))
    host.environ["EDITOR"] = "/no/such/editor"
    result = run(host, "edit", "--id=1", "--confirm=yes")
    assert (2, True) == (result.code, "cannot be started" in result.answer["message"])
    del host.environ["EDITOR"]
    result = run(host, "edit", "--id=1", "--confirm=yes")
    assert (2, True) == (result.code, "--set" in result.answer["message"])
    assert [] == requests_of(host, "PUT")


def test_a_client_that_is_ended_as_the_editor_starts_leaves_none_behind(start, tmp_path):
    """SIGTERM while the client still learns whether its editor could be started."""
    host, number, signalled = start(), tmp_path / "number", tmp_path / "signalled"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "former = os.read\n"
        "def read(descriptor, size):\n"
        "    while size == 50000 and not os.path.exists(os.environ['SIGNALLED']):\n"
        "        time.sleep(0.01)  # subprocess: whether the program could be started\n"
        "    return former(descriptor, size)\n"
        "os.read = read\n")
    script = tmp_path / "editor.sh"
    script.write_text("#!/bin/sh\n"
                      f"echo $$ >{number}; kill -TERM $PPID; touch {signalled}; exec sleep 600\n")
    script.chmod(0o700)
    host.environ.update(EDITOR=str(script), SIGNALLED=str(signalled), PYTHONPATH=str(tmp_path))
    with open(tmp_path / "stderr", "w") as stderr:
        result = run(host, "edit", "--id=1", "--confirm=yes", stderr=stderr)
    try:
        assert (143, "interrupted") == (result.code, result.answer["kind"])
        with pytest.raises(ProcessLookupError):
            os.kill(int(number.read_text()), 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(number.read_text()), signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_client_that_is_ended_in_mid_edit_leaves_nothing_behind(start):
    """SIGTERM: the folder is gone, and so is the editor."""
    host = start()
    editor(host, "import signal\nprint('ready', os.getpid(), flush=True)\nsignal.pause()")
    process = host.start("duplicati_edit", "--id=1", "--confirm=yes", stdin=-3)
    word, number = process.stderr.readline().split()
    assert "ready" == word
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (143, "interrupted") == (process.returncode, json.loads(out)["kind"])
    assert not os.path.exists(os.path.dirname(seen(host)["path"]))
    with pytest.raises(ProcessLookupError):
        os.kill(int(number), 0)
    assert [] == requests_of(host, "PUT")


@pytest.mark.parametrize("release", ["2.0.8.1", "today"])
def test_a_backup_that_somebody_else_changed_meanwhile_is_left_alone(start, release):
    """While the editor is open, another client edits; the second one does not undo it."""
    host = start(release)
    other = " ".join(host.command_line("duplicati_edit", "--id=1", "--set",
                                       "Description=theirs", "--confirm=yes"))
    editor(host, f"text = text.replace(\"Description: ''\", 'Description: ours')\n"
                 f"os.system({other!r} + ' >/dev/null 2>&1')")
    result = run(host, "edit", "--id=1", "--confirm=yes")
    assert (1, "refused") == (result.code, result.answer["kind"]), result
    assert "+Description: theirs" in result.answer["changed_meanwhile"]
    assert "Description: ours" in kept_text(host, result.answer)
    assert "theirs" == stored(host)[0]["Description"]


def test_the_next_run_that_moved_meanwhile_stays_where_it_is(start):
    """A server moves Time on by itself: that is no change of somebody's, and is not undone."""
    host = start()
    other = " ".join(host.command_line("duplicati_edit", "--id=1", "--set",
                                       "Schedule.Time=2031-05-05T13:00:00Z", "--confirm=yes"))
    editor(host, f"text = text.replace(\"Description: ''\", 'Description: ours')\n"
                 f"os.system({other!r} + ' >/dev/null 2>&1')")
    result = run(host, "edit", "--id=1", "--confirm=yes")
    assert 0 == result.code, result
    backup, schedule = stored(host)
    assert ("ours", "2031-05-05T13:00:00Z") == (backup["Description"], schedule["Time"])


def test_nothing_is_changed_unconfirmed(start):
    """Without a terminal --confirm is needed, with yes, the name or the number."""
    host = start()
    before = stored(host)
    words = ("--id=1", "--set", "Description=x")
    result = run(host, "edit", *words)
    assert (2, True) == (result.code, "--confirm" in result.answer["message"])
    assert "+Description: x" in result.err
    result = run(host, "edit", *words, "--confirm=Plain")
    assert (2, True) == (result.code, "nothing was changed" in result.answer["message"])
    result = run(host, "edit", *words, "--dry_run")
    assert (0, False, True) == (result.code, result.answer["changed"], result.answer["dry_run"])
    assert "+Description: x" in result.answer["difference"]
    assert before == stored(host)
    for number, word in enumerate(("Home", "1", "yes")):
        result = run(host, "edit", "--id=1", "--set", f"Description=x{number}",
                     f"--confirm={word}")
        assert (0, True) == (result.code, result.answer["changed"])


def at_a_terminal(host, action, *words, typed):
    """The action with a terminal for its stdin, at which `typed` is typed."""
    leader, follower = pty.openpty()
    process = host.start(f"duplicati_{action}", *words, stdin=follower)
    os.close(follower)
    os.write(leader, typed.encode())
    out, err = process.communicate(timeout=60)
    os.close(leader)
    return process.returncode, json.loads(out), err


def test_a_question_at_the_terminal(start):
    """y goes on, anything else does not; the difference stands above the question."""
    host = start()
    words = ("edit", "--id=1", "--set", "Description=x")
    for typed in ("n\n", "\n", "\x04"):
        code, answer, err = at_a_terminal(host, *words, typed=typed)
        assert (1, "not confirmed: nothing was changed") == (code, answer["message"])
        assert err.index("+Description: x") < err.index("Change backup 1 'Home'? [y/N]")
    assert [] == requests_of(host, "PUT")
    code, answer, _ = at_a_terminal(host, *words, typed="y\n")
    assert (0, True, "x") == (code, answer["changed"], stored(host)[0]["Description"])


def test_a_mistake_at_the_terminal_can_be_edited_again(start):
    """The same text is opened once more."""
    host = start()
    editor(host, "text = text.replace('BAD', 'Description') if 'BAD' in text"
                 " else text.replace(\"Description: ''\", 'BAD: x')")
    code, answer, err = at_a_terminal(host, "edit", "--id=1", typed="\ny\n")
    assert (0, True) == (code, answer["changed"]), err
    assert "no BAD" in err and "Edit again?" in err
    assert "x" == stored(host)[0]["Description"]
    assert not os.path.exists(os.path.dirname(seen(host)["path"]))


@pytest.mark.parametrize("release", RELEASES)
def test_a_new_secret_comes_from_a_file_and_is_never_shown(start, release):
    """--set NAME=@FILE; the difference says that it changes."""
    host = start(release)
    (host.folder / "secret").write_text("n3w-secret\n")
    url = stored(host)[0]["TargetURL"].replace("hunter22", "n3w-secret")
    (host.folder / "url").write_text(url)
    result = run(host, "edit", "--id=1", "--set", "Settings.passphrase=@secret",
                 "--set", "TargetURL=@url", "--confirm=yes")
    assert 0 == result.code, result
    no_secret_in(result, "n3w-secret")
    assert f"+  passphrase: '{STARS} (changed)'" in result.answer["difference"]
    backup, _ = stored(host)
    assert ("n3w-secret", url) == (setting(backup, "passphrase"), backup["TargetURL"])


def test_a_secret_on_the_command_line_is_told(start):
    """Everybody on the host can see it: the line says how not to."""
    host = start()
    result = run(host, "edit", "--id=1", "--set", "Settings.passphrase=typed", "--confirm=yes")
    assert 0 == result.code
    assert "--set Settings.passphrase: a secret" in result.err and "@FILE" in result.err
    no_secret_in(result, "typed")
    assert "typed" == setting(stored(host)[0], "passphrase")


@pytest.mark.parametrize("release", RELEASES)
def test_stars_are_never_written_where_they_stand_for_nothing(start, release):
    """Refused here, before a server of before 2.3 takes them for the secret."""
    host = start(release)
    result = run(host, "edit", "--id=1", "--set", f"Settings.--other-password={STARS}",
                 "--confirm=yes")
    assert (1, "refused") == (result.code, result.answer["kind"]), result
    assert [] == requests_of(host, "PUT")
    result = run(host, "edit", "--id=1", "--set", f"Settings.passphrase={STARS}", "Name=B",
                 "--confirm=yes")
    assert 0 == result.code, result
    backup, _ = stored(host)
    assert ("pass phrase", "B") == (setting(backup, "passphrase"), backup["Name"])


@pytest.mark.parametrize("release", RELEASES)
def test_a_merge_patch_from_a_file(start, release):
    """JSON or YAML; null removes; the schedule is kept unless it is named."""
    host = start(release)
    backup, schedule = stored(host)
    for name, text in (("p.json", '{"Description": "j", "Settings": {"keep-versions": null}}'),
                       ("p.yml", "Description: no\nSettings: {dblock-size: 20MB}\n")):
        (host.folder / name).write_text(text)
        result = run(host, "edit", "--id=1", f"--patch={host.folder / name}", "--confirm=yes")
        assert (0, True) == (result.code, result.answer["changed"]), result
    backup.update(Description="no")
    backup["Settings"].pop(3)
    backup["Settings"][2]["Value"] = "20MB"
    assert (backup, schedule) == stored(host)
    (host.folder / "p.yml").write_text("Schedule: null\n")
    result = run(host, "edit", "--id=1", f"--patch={host.folder / 'p.yml'}", "--confirm=yes")
    assert (0, (backup, None)) == (result.code, stored(host))


@pytest.mark.parametrize("words, code, hint", [
    (("--id=1", "--set", "Nmae=x"), 2, "did you mean Name"),
    (("--id=1", "--set", "Name"), 2, "PATH=VALUE"),
    (("--id=1", "--set", "ID=7"), 2, "cannot be edited"),
    (("--id=1", "--set", "Settings.x=@/no/such"), 78, "/no/such"),
    (("--id=1", "--patch=/no/such"), 78, "/no/such"),
    (("--id=77", "--set", "Name=x"), 10, "no backup 77"),
    (("--id=Hom", "--set", "Name=x"), 10, "did you mean 'Home'"),
    (("--id", "1", "2", "--set", "Name=x"), 2, "one --id"),
    (("--id=1", "--set", "Name=Plain", "--confirm=yes"), 1, "a backup named 'Plain' already"),
    (("--id=1", "--set", "Schedule.Repeat=1s", "--confirm=yes"), 1, "more than 5 minutes"),
    (("--id=1", "--set", "=5"), 2, "no place is named: PATH=VALUE"),
    (("--id=1", "--set", "Backup.=5"), 2, "no place is named: PATH=VALUE"),
    (("--id=2", "--set", "Schedule.Repeat=1D"), 2, "Schedule needs Time, a text, as in --set"
     " Schedule.Time=2030-01-01T13:00:00Z Schedule.Repeat=1D"),
])
def test_an_edit_that_cannot_be_is_refused_with_a_hint(start, words, code, hint):
    """By the client, or in the server's words; nothing is changed."""
    host = start()
    before = stored(host)
    result = run(host, "edit", *words)
    assert (code, True) == (result.code, hint in result.answer["message"]), result
    assert before == stored(host)


@pytest.mark.parametrize("release", RELEASES)
def test_the_servers_no_is_told_in_its_own_words(start, release):
    """Without a line of the protocol; the whole answer stands beside it."""
    host = start(release)
    result = run(host, "edit", "--id=1", "--set", "Schedule.Repeat=often", "--confirm=yes")
    assert (1, "refused") == (result.code, result.answer["kind"]), result
    said = result.answer["answer"]
    assert f"the server refuses the backup: {said.get('Error') or said.get('Message')}" \
        == result.answer["message"]
    (host.folder / "f").write_text("{Name: A, TargetURL: 'file:///x'}")
    result = run(host, "create", f"--file={host.folder / 'f'}")
    assert result.answer["message"].startswith("the server refuses the backup: Invalid source")


# -- export, create, update ----------------------------------------------------------------------

def exported(host, *words):
    result = run(host, "export", *words)
    assert 0 == result.code, result
    return [item["path"] for item in result.answer["files"]]


@pytest.mark.parametrize("form", ["yaml", "json"])
@pytest.mark.parametrize("release", RELEASES)
def test_what_was_exported_can_be_made_again(start, release, form):
    """The same backup under another name: settings, secrets, filters, schedule and its days;
    no ID, no database, no metadata.
    """
    host = start(release)
    assert 0 == run(host, "run", "--id=1", "--wait").code
    host.state.wait_idle()
    [path] = exported(host, "--id=Home", f"--file_format={form}")
    assert os.path.join(host.folder, f"Home-duplicati-config.{form.replace('yaml', 'yml')}") == path
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)
    result = run(host, "create", f"--file={path}", "--set", "Name=Copy")
    assert (0, True) == (result.code, result.answer["changed"]), result
    no_secret_in(result)
    (backup, schedule), (copied, its_schedule) = stored(host), stored(host, result.answer["id"])
    assert {**backup, "ID": copied["ID"], "Name": "Copy", "DBPath": copied["DBPath"],
            "Metadata": {}} == copied
    assert backup["DBPath"] != copied["DBPath"]
    assert {**schedule, "ID": its_schedule["ID"],
            "LastRun": its_schedule["LastRun"]} == its_schedule


@pytest.mark.parametrize("to", RELEASES)
@pytest.mark.parametrize("release", ["2.0.8.1", "today"])
def test_what_one_release_has_exported_another_one_takes(start, release, to):
    """Fields that the other does not have, and long names of weekdays, are no hindrance."""
    host, other = start(release), start(to, site={"jobs": []})
    [path] = exported(host, "--id=1", "--file_format=json")
    result = run(other, "create", f"--file={path}")
    assert 0 == result.code, result
    backup, schedule = stored(other, result.answer["id"])
    assert "pass phrase" == setting(backup, "passphrase")
    assert "AllowedWeekDays=Monday,Tuesday" == schedule["Rule"]
    result = run(other, "update", "--id=Home", f"--file={path}")
    assert (0, False, []) == (result.code, result.answer["changed"],
                              result.answer["difference"]), result
    assert (backup, schedule) == stored(other, backup["ID"])


def test_metadata_is_taken_over_only_if_wanted(start):
    """--import_metadata, --strip_metadata, and both."""
    host = start()
    assert 0 == run(host, "run", "--id=1", "--wait").code
    host.state.wait_idle()
    [path] = exported(host, "--id=1")
    metadata = stored(host)[0]["Metadata"]
    for name, words, expected in (("A", (), {}), ("B", ("--import_metadata",), metadata),
                                  ("C", ("--strip_metadata",), {})):
        result = run(host, "create", f"--file={path}", "--set", f"Name={name}", *words)
        assert expected == stored(host, result.answer["id"])[0]["Metadata"]
    result = run(host, "create", f"--file={path}", "--import_metadata", "--strip_metadata")
    assert (2, True) == (result.code, "exclude" in result.answer["message"])
    result = run(host, "update", "--id=1", f"--file={path}", "--strip_metadata", "--confirm=yes")
    assert (0, True, {}) == (result.code, result.answer["changed"], stored(host)[0]["Metadata"])
    result = run(host, "update", "--id=1", f"--file={path}", "--import_metadata", "--confirm=yes")
    assert (0, metadata) == (result.code, stored(host)[0]["Metadata"])


@pytest.mark.parametrize("release", RELEASES)
def test_a_name_that_is_taken_is_told(start, release):
    """With what would change that one; no second one is made."""
    host = start(release)
    [path] = exported(host, "--id=1")
    result = run(host, "create", f"--file={path}")
    assert (1, "refused") == (result.code, result.answer["kind"])
    assert "there is a backup named 'Home' already" in result.answer["message"]
    assert 2 == len(host.state.store.backups())


@pytest.mark.parametrize("release", RELEASES)
def test_an_export_without_passwords_holds_none(start, release):
    """It makes a backup only with the secrets from elsewhere."""
    host = start(release)
    [path] = exported(host, "--id=1", "--no_passwords", "--timestamp")
    text = read(path).decode()
    assert not any(secret in text for secret in SECRETS)
    result = run(host, "create", f"--file={path}", "--set", "Name=B")
    assert (1, True) == (result.code, "Missing passphrase" in result.answer["message"]), result
    (host.folder / "secret").write_text("other")
    result = run(host, "create", f"--file={path}", "--set", "Name=B",
                 "Settings.passphrase=@secret")
    assert 0 == result.code, result
    assert "other" == setting(stored(host, result.answer["id"])[0], "passphrase")


@pytest.mark.parametrize("release", RELEASES)
def test_an_encrypted_export_needs_its_passphrase(start, release):
    """Made here, whatever the server can, without the passphrase in any URL; read here."""
    host = start(release)
    (host.folder / "key").write_text("of the file\n")
    (host.folder / "wrong").write_text("another")
    [path] = exported(host, "--id=1", f"--passphrase_file={host.folder / 'key'}")
    content = read(path)
    assert path.endswith(".yml.aes") and aescrypt.is_container(content)
    assert b"pass phrase" not in content
    assert not any("of the file" in path or "of+the" in path or "of%20the" in path
                   for _, path in host.state.requests)
    result = run(host, "create", f"--file={path}", "--set", "Name=B")
    assert (2, True) == (result.code, "--passphrase_file" in result.answer["message"])
    result = run(host, "create", f"--file={path}", f"--passphrase_file={host.folder / 'wrong'}")
    assert (1, True) == (result.code, "cannot be decrypted" in result.answer["message"])
    result = run(host, "create", f"--file={path}", f"--passphrase_file={host.folder / 'key'}",
                 "--set", "Name=B")
    assert 0 == result.code, result
    assert "pass phrase" == setting(stored(host, result.answer["id"])[0], "passphrase")


def test_a_server_reads_what_is_encrypted_here(start):
    """The demo server's own decryption, which shares no code with the client's."""
    from demo.duplicati_server.backups import read_export

    host = start()
    (host.folder / "key").write_text("of the file")
    [path] = exported(host, "--id=1", f"--passphrase_file={host.folder / 'key'}",
                      "--file_format=json")
    assert "Home" == read_export(read(path), "of the file")["Backup"]["Name"]


def test_files_are_private_from_the_start_and_overwrite_nothing(start):
    """0600 whatever the umask; what is there stays, --force replaces it."""
    host = start()
    former = os.umask(0)
    try:
        [path] = exported(host, "--id=1")
    finally:
        os.umask(former)
    assert 0o600 == stat.S_IMODE(os.stat(path).st_mode)
    Path(path).write_text("mine")
    result = run(host, "export", "--id=1")
    assert (1, True) == (result.code, "--force" in result.answer["message"])
    assert "mine" == read(path).decode()
    result = run(host, "export", "--all")
    assert (1, False) == (result.code, (host.folder / "Plain-duplicati-config.yml").exists())
    assert [path] == exported(host, "--id=1", "--force")
    assert "Home" == yaml.safe_load(read(path))["Backup"]["Name"]
    target = host.folder / "elsewhere.yml"
    assert [str(target)] == exported(host, "--id=1", f"--output_path={target}")
    result = run(host, "export", "--all", f"--output_path={target}")
    assert (2, True) == (result.code, "folder" in result.answer["message"])
    assert {"Home-duplicati-config.yml", "elsewhere.yml"} == {
        path.name for path in host.folder.glob("*.yml") if path.name != "settings.yml"}


def test_a_folder_for_several_backups_is_made(start):
    """Private; one whose parent is not there is told. One backup goes to a file of that name."""
    host = start()
    folder = host.folder / "exports"
    former = os.umask(0)
    try:
        paths = exported(host, "--all", "--output_path=exports")
    finally:
        os.umask(former)
    assert [str(folder / f"{name}-duplicati-config.yml") for name in ("Home", "Plain")] == paths
    assert 0o700 == stat.S_IMODE(os.stat(folder).st_mode)
    result = run(host, "export", "--all", "--output_path=no/such")
    assert (78, True) == (result.code, "make the folder" in result.answer["message"]), result
    assert [str(host.folder / "one")] == exported(host, "--id=1", "--output_path=one")


def test_names_of_files_lead_nowhere_and_are_told_apart(start):
    """Names with separators, control characters, and such as some systems take for the same."""
    jobs = [{"name": name, "files": {"a": "a"}, "settings": {"--no-encryption": "true"}}
            for name in ("HOME", "../../escape\x1b[31m", "Home", "CON", ".hidden")]
    for number, job in enumerate(jobs):
        job["sources"], job["target_url"] = ["/x/"], f"file:///t/{number}"
        del job["files"]
    host = start(site={"jobs": jobs})
    (host.folder / "out").mkdir()
    paths = exported(host, "--all", f"--output_path={host.folder / 'out'}")
    assert {"HOME-1-duplicati-config.yml", "_.._escape_[31m-duplicati-config.yml",
            "Home-3-duplicati-config.yml", "_CON-duplicati-config.yml",
            "hidden-duplicati-config.yml"} == {os.path.basename(path) for path in paths}
    assert {str(host.folder / "out")} == {os.path.dirname(path) for path in paths}
    assert 5 == len(os.listdir(host.folder / "out"))


@pytest.mark.parametrize("release", RELEASES)
def test_an_update_replaces_the_backup_by_the_file(start, release):
    """Shown and confirmed like an edit; what the file has is there afterwards."""
    host = start(release)
    [path] = exported(host, "--id=1")
    backup, schedule = stored(host)
    assert 0 == run(host, "edit", "--id=1", "--set", "Description=x", "Sources=[/z/]",
                    "Settings.passphrase=typed", "Schedule=null", "--confirm=yes").code
    result = run(host, "update", "--id=1", f"--file={path}")
    assert (2, True) == (result.code, "--confirm" in result.answer["message"])
    result = run(host, "update", "--id=1", f"--file={path}", "--dry_run")
    assert (0, False, True) == (result.code, result.answer["changed"], result.answer["dry_run"])
    result = run(host, "update", "--id=1", f"--file={path}", "--confirm=Home")
    assert (0, True) == (result.code, result.answer["changed"]), result
    assert "dry_run" not in result.answer
    no_secret_in(result)
    backup_now, schedule_now = stored(host)
    assert backup == backup_now
    assert {**schedule, "ID": schedule_now["ID"]} == schedule_now


@pytest.mark.parametrize("release", RELEASES)
def test_only_secrets_that_differ_are_changed(start, release):
    """Also where the server hides them: the secret that is there already is no change, and of
    two in one file the other alone is told. None is shown.
    """
    host = start(release)
    [path] = exported(host, "--id=1")
    result = run(host, "update", "--id=1", f"--file={path}")
    assert (0, False, []) == (result.code, result.answer["changed"],
                              result.answer["difference"]), result
    (host.folder / "s").write_text("pass phrase")
    result = run(host, "edit", "--id=1", "--set", "Settings.passphrase=@s")
    assert (0, False) == (result.code, result.answer["changed"]), result
    assert [] == requests_of(host, "PUT")
    Path(path).write_text(read(path).decode().replace("hunter22", "n3w-secret"))
    result = run(host, "update", "--id=1", f"--file={path}", "--confirm=yes")
    assert (0, True) == (result.code, result.answer["changed"]), result
    no_secret_in(result, "n3w-secret")
    changed = [line for line in result.answer["difference"] if line[:1] in "+-"][2:]
    assert ["-TargetURL", "+TargetURL"] == [line.partition(":")[0] for line in changed]
    backup, _ = stored(host)
    assert "n3w-secret" in backup["TargetURL"]
    assert "pass phrase" == setting(backup, "passphrase")


@pytest.mark.parametrize("content, code, words", [
    ("{", 2, "not valid YAML"), ("[1]", 2, "holds no backup"), ("", 2, "holds no backup"),
    ('{"Name": "A"}', 2, "TargetURL must not be empty"),
    (f'{{"Name": "A", "TargetURL": "file:///x", "Settings": {{"passphrase": "{STARS}"}}}}', 1,
     "stars in place of a secret"),
    ('{"Name": "A", "TargetURL": "file:///x"}', 1, "Invalid source list"),
])
def test_a_file_that_is_no_backup_makes_none(start, content, code, words):
    """Told by the client, or in the server's words."""
    host = start()
    (host.folder / "f").write_text(content)
    result = run(host, "create", f"--file={host.folder / 'f'}")
    assert (code, True) == (result.code, words in result.answer["message"]), result
    assert 2 == len(host.state.store.backups())


@pytest.mark.parametrize("release", RELEASES)
def test_a_backup_is_made_from_mappings_in_any_order(start, release):
    """As people write them by hand; an update from the same file has nothing to do."""
    host = start(release)
    (host.folder / "f.yml").write_text(
        "Settings: {keep-versions: 5, --no-encryption: true}\n"
        "Filters: [{Include: false, Expression: '*.tmp'}, {Expression: '*.o'}]\n"
        "Schedule: {Repeat: 1D, AllowedDays: [tue, mon], Time: '2030-01-01T13:00:00Z'}\n"
        "Sources: [/x/]\nTargetURL: file:///t\nName: A\n")
    words = f"--file={host.folder / 'f.yml'}"
    result = run(host, "create", words)
    assert (0, "OK") == (result.code, result.answer["status"]), result
    result = run(host, "update", "--id=A", words)
    assert (0, False) == (result.code, result.answer["changed"]), result


def test_a_backup_that_was_made_otherwise_than_told_is_said_to_be_made(start):
    """Exit 3, with the difference; what is not there cannot be said to be changed."""
    host = start("2.0.8.1")
    (host.folder / "f.yml").write_text(
        "Name: A\nTargetURL: file:///t\nSources: [/x/]\nOperationType: Sync\n"
        "Settings: {--no-encryption: true}\nAdditionalTargetURLs: [{UrlKey: a}]\n")
    result = run(host, "create", f"--file={host.folder / 'f.yml'}")
    assert (3, "not_as_sent", "the server has made the backup, but not as it was told") == (
        result.code, result.answer["kind"], result.answer["message"]), result
    assert "-OperationType: Sync" in result.answer["not_as_sent"]


@pytest.mark.parametrize("option, action, words", [
    ("--file", "create", ("--file=/no/such",)),
    ("--file", "update", ("--id=1", "--file=/no/such")),
    ("--patch", "edit", ("--id=1", "--patch=/no/such")),
    ("--set Settings.x", "edit", ("--id=1", "--set", "Settings.x=@/no/such")),
    ("--passphrase_file", "export", ("--id=1", "--passphrase_file=/no/such")),
    ("--passphrase_file", "restore", ("--target_url=file:///x", "--path", "/a", "--in_place",
                                      "--passphrase_file=/no/such")),
    ("--config_file", "restore", ("--config_file=/no/such", "--path", "/a", "--in_place")),
    ("--value", "set", ("--name=startup-delay", "--value=@/no/such")),
    ("--password_file", "set", ("--password_file=/no/such",)),
])
def test_a_file_that_is_not_there_is_told_with_its_option(start, option, action, words):
    """Several options name files: which one is wrong, and the file."""
    result = run(start(), action, *words)
    assert (78, "settings") == (result.code, result.answer["kind"]), result
    assert result.answer["message"].startswith(f"{option}: cannot read "), result
    assert "/no/such: " in result.answer["message"]


# -- delete --------------------------------------------------------------------------------------

@pytest.mark.parametrize("release", RELEASES)
def test_a_backup_is_deleted_by_its_name_alone(start, release):
    """Yes is not enough; the backup is gone when the answer comes."""
    host = start(release)
    for words in ((), ("--confirm=yes",), ("--confirm=home",), ("--confirm=1",)):
        result = run(host, "delete", "--type=backup", "--id=1", *words)
        assert (2, True) == (result.code, "nothing was changed" in result.answer["message"])
    assert [] == requests_of(host, "DELETE")
    result = run(host, "delete", "--type=backup", "--id=1", "--confirm=Home")
    assert (0, True, "deleted") == (result.code, result.answer["changed"],
                                    result.answer["state"]), result
    assert None is host.state.store.backup("1")
    result = run(host, "delete", "--type=backup", "--id=1", "--confirm=Home")
    assert (10, "not_found") == (result.code, result.answer["kind"])


def test_a_backup_is_deleted_at_the_terminal_by_typing_its_name(start):
    """Another name does not do."""
    host = start()
    code, answer, err = at_a_terminal(host, "delete", "--type=backup", "--id=1", typed="yes\n")
    assert (2, True) == (code, "Type its name (Home)" in err), err
    code, answer, err = at_a_terminal(host, "delete", "--type=backup", "--id=1", typed="Home\n")
    assert (0, "deleted") == (code, answer["state"])


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_of_a_backup_that_runs_or_waits_is_deleted(start, release):
    """Servers of 2.0 would delete it: the client asks first. Neither its database."""
    host = start(release)
    host.state.hold("Home")
    assert 0 == run(host, "run", "--id=1").code
    assert host.state.wait_reached("Home")
    assert 0 == run(host, "run", "--id=2").code
    for kind in ("backup", "database"):
        for key, name in (("1", "Home"), ("2", "Plain")):
            result = run(host, "delete", f"--type={kind}", f"--id={key}", f"--confirm={name}")
            assert (1, "refused") == (result.code, result.answer["kind"]), result
    assert [] == requests_of(host, "DELETE")
    assert not any("deletedb" in path for path in requests_of(host, "POST"))
    host.state.release("Home")


@pytest.mark.parametrize("release", RELEASES)
def test_remote_files_go_where_the_server_can(start, release):
    """On 2.0 that needs a captcha, which a program cannot solve: nothing is deleted then."""
    host = start(release)
    assert 0 == run(host, "run", "--id=1", "--wait").code
    host.state.wait_idle()
    target = host.state.folder / "targets" / "Home"
    assert os.listdir(target)
    result = run(host, "delete", "--type=backup", "--id=1", "--confirm=Home",
                 "--delete_remote_files", "--wait")
    if release == "2.0.8.1":
        assert (1, True) == (result.code, "captcha" in result.answer["message"]), result
        assert host.state.store.backup("1") and os.listdir(target)
    else:
        assert (0, "deleted") == (result.code, result.answer["state"]), result
        assert not target.exists() or not os.listdir(target)


def test_a_deletion_that_waits_its_turn_is_told_with_its_task(start):
    """Another backup runs: with --wait_timeout the wait ends with 124, and the work goes on."""
    host = start()
    host.state.hold("Plain")
    assert 0 == run(host, "run", "--id=2").code
    assert host.state.wait_reached("Plain")
    result = run(host, "delete", "--type=backup", "--id=1", "--confirm=Home", "--wait_timeout=0.3")
    assert (124, True) == (result.code, isinstance(result.answer["task"], int)), result
    assert host.state.store.backup("1")
    host.state.release("Plain")
    assert host.state.wait_idle()
    assert None is host.state.store.backup("1")


@pytest.mark.parametrize("release", RELEASES)
def test_a_database_is_deleted_and_made_anew(start, release):
    """--recreate repairs it from the target, and with --wait tells how that ended."""
    host = start(release)
    assert 0 == run(host, "run", "--id=1", "--wait").code
    host.state.wait_idle()
    path = stored(host)[0]["DBPath"]
    result = run(host, "delete", "--type=database", "--id=1", "--confirm=Home")
    assert (0, True) == (result.code, result.answer["changed"]), result
    assert not os.path.exists(path)
    result = run(host, "delete", "--type=database", "--id=1", "--confirm=Home", "--recreate",
                 "--wait")
    assert (0, "deleted") == (result.code, result.answer["database"]), result
    assert ["Repair"] == [task["operation"] for task in result.answer["tasks"]]
    assert os.path.exists(path)


@pytest.mark.parametrize("words, hint", [
    (("--type=backups", "--id=1"), "did you mean backup"),
    (("--type=backup", "--id=1", "--recreate"), "--type=database"),
    (("--type=database", "--id=1", "--delete_remote_files"), "--type=backup"),
    (("--type=backup", "--id", "1", "2"), "one --id"),
    (("--type=notification", "--id=x"), "a notification has a number"),
])
def test_a_deletion_that_cannot_be_is_usage(start, words, hint):
    """Nothing is asked of the server that could delete."""
    host = start()
    result = run(host, "delete", *words)
    assert (2, True) == (result.code, hint in result.answer["message"]), result
    assert [] == requests_of(host, "DELETE")


# -- dismiss -------------------------------------------------------------------------------------

@pytest.mark.parametrize("release", RELEASES)
def test_notifications_are_dismissed(start, release):
    """By number, several, all; one that is not there is 10, some of several are 3."""
    host = start(release)
    assert 3 == run(host, "run", "--id=2", "--wait").code
    host.state.wait_idle()
    numbers = [item["ID"] for item in host.state.store.notifications()]
    assert numbers
    result = run(host, "dismiss", "--id", "77", str(numbers[0]))
    assert (3, True, [numbers[0]], [77]) == (result.code, result.answer["changed"],
                                             result.answer["dismissed"], result.answer["missing"])
    result = run(host, "dismiss", f"--id={numbers[0]}")
    assert (10, "not_found") == (result.code, result.answer["kind"])
    assert 3 == run(host, "run", "--id=2", "--wait").code
    host.state.wait_idle()
    result = run(host, "delete", "--type=notification", "--id=all")
    assert (0, True) == (result.code, result.answer["changed"]), result
    assert [] == host.state.store.notifications()
    result = run(host, "dismiss", "--id=all")
    assert (0, False, []) == (result.code, result.answer["changed"], result.answer["dismissed"])


# -- settings of the server ------------------------------------------------------------------------

@pytest.mark.parametrize("release", RELEASES)
def test_a_setting_of_the_server_is_set(start, release):
    """What was and is, whether it changed; a default option of all backups goes with an empty
    value.
    """
    host = start(release)
    result = run(host, "set", "--name=startup-delay", "--value=30s")
    assert {"status": "OK", "changed": True, "name": "startup-delay", "before": "",
            "value": "30s"} == result.answer, result
    assert "30s" == host.state.store.settings()["startup-delay"]
    result = run(host, "set", "--name=startup-delay", "--value=30s")
    assert (0, False) == (result.code, result.answer["changed"])
    result = run(host, "set", "--name=--zip-compression-level", "--value=5")
    assert (0, True) == (result.code, result.answer["changed"])
    result = run(host, "set", "--name=--zip-compression-level", "--value=")
    assert (0, True) == (result.code, result.answer["changed"])
    assert "--zip-compression-level" not in {
        name for name, value in host.state.store.settings().items() if value}
    result = run(host, "set", "--name=start-delay", "--value=30s")
    assert (2, True) == (result.code, "did you mean startup-delay" in result.answer["message"])


def test_a_secret_default_option_comes_from_a_file_and_is_not_shown(start):
    """Neither the new value nor the old one."""
    host = start()
    for secret in ("f1rst-secret", "s3cond-secret"):
        (host.folder / "s").write_text(secret)
        result = run(host, "set", "--name=--send-mail-password", f"--value=@{host.folder / 's'}")
        assert (0, STARS) == (result.code, result.answer["value"]), result
        no_secret_in(result, "f1rst-secret", "s3cond-secret")
        assert secret == host.state.store.settings()["--send-mail-password"]


@pytest.mark.parametrize("words", [
    ("--name=startup-delay",), (), ("--name=server-passphrase", "--value=x"),
    ("--name=startup-delay", "--value=1s", "--disable_password"),
])
def test_what_to_set_must_be_clear(start, words):
    """One of a setting, a password, no password."""
    assert 2 == run(start(), "set", *words).code


@pytest.mark.parametrize("release", RELEASES)
def test_the_password_is_changed(start, release):
    """The old one is refused from then on, the new one taken; the session goes on, and the
    client logs in by itself with the new one.
    """
    host = start(release)
    (host.folder / "new").write_text("new-correct-horse\n")
    result = run(host, "set", f"--password_file={host.folder / 'new'}")
    assert (0, True) == (result.code, result.answer["changed"]), result
    no_secret_in(result, "new-correct-horse")
    assert "new-correct-horse" not in host.settings.read_text()
    assert 0 == run(host, "list", "--type=backups").code
    for name, code in (("password", 12), ("new", 0)):
        result = run(host, "login", f"--url={host.server.url}", "--server=second",
                     f"--password_file={host.folder / name}")
        assert code == result.code, result
    host.state.expire_tokens()
    assert 0 == run(host, "list", "--type=backups").code


@pytest.mark.parametrize("release", RELEASES)
def test_the_password_that_is_in_force_is_no_change(start, release):
    """Proved before; nothing is sent, and the session goes on, also after a wrong guess."""
    host = start(release)
    (host.folder / "same").write_text(PASSWORD + "\n")
    result = run(host, "set", f"--password_file={host.folder / 'same'}")
    assert (0, False) == (result.code, result.answer["changed"]), result
    no_secret_in(result)
    assert [] == requests_of(host, "PATCH")
    (host.folder / "new").write_text("new-correct-horse\n")
    for changed in (True, False):
        result = run(host, "set", f"--password_file={host.folder / 'new'}")
        assert (0, changed) == (result.code, result.answer["changed"]), result
    assert 1 == len(requests_of(host, "PATCH"))
    assert 0 == run(host, "list", "--type=backups").code


@pytest.mark.parametrize("release", RELEASES)
def test_a_password_is_taken_away_where_the_generation_can(start, release):
    """2.0 only, and confirmed; later servers always have one."""
    host = start(release)
    result = run(host, "set", "--disable_password", "--confirm=yes")
    if release != "2.0.8.1":
        assert (1, True) == (result.code, "always have a password" in result.answer["message"])
        return
    assert (0, True) == (result.code, result.answer["changed"]), result
    assert 0 == run(host, "list", "--type=backups").code
    other = run(host, "login", f"--url={host.server.url}", "--server=second")
    assert 0 == other.code, other
