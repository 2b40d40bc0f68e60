"""client.py: one JSON document on stdout, one line on stderr, the code of the table; always."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from remotes import __version__
from remotes.actions import ACTIONS, OPTIONS, option_names
from remotes.actions.context import Action
from remotes.errors import EXIT_CODES
from tests import inside, rude
from tests.conftest import CLIENT, PROJECT, Host, encrypt, job, site
from tests.rude import Rude, answer
from tests.test_server import ANY_JSON, LOCATIONS, STATUSES, almost_good

SECRET = "a-secret-token-0123456789"
# A monitor goes on where the others end: see test_monitor.py.
ENDING = [name for name in ACTIONS if not name.endswith("_monitor")]


# What an action wants besides what it declares to need: one thing or another.
DUPLICATI_NEEDS = {"duplicati_restore": ("id", "restore_path"), "duplicati_edit": ("id", "set"),
                   "duplicati_set": ("name", "value"), "config": ()}
NO_SESSION = ("duplicati_logout",)


@pytest.fixture
def closed_url():
    """An address at which nobody listens, and nobody else will."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def words_for(action, folder, url):
    """The command line of an action, with all that it needs."""
    values = {"url": url, "token": SECRET, "private_key": folder / "key",
              "public_key": folder / "pub", "command": 7, "id": 1, "task": 2,
              "operation": "run",
              "file": folder / "backup.json",
              "type": "backups" if action == "duplicati_list" else "backup", "name": "a-name"}
    needs = [*ACTIONS[action].needs, *DUPLICATI_NEEDS.get(action, ("id",)
             if "id" in ACTIONS[action].takes and action.startswith("duplicati_") else ())]
    if "file" in needs:
        values["file"].write_text('{"Backup": {"Name": "a-name", "TargetURL": "file:///target",'
                                  ' "Sources": ["/source/"]}}')
    typed = {**values, "restore_path": "/restore", "set": "Name=new", "value": "v"}
    return [f"--action={action}", f"--settings={folder / 'settings.yml'}",
            *(f"--{name}={typed[name]}" for name in needs)]


def assert_told(result, code):
    """One JSON document on stdout that says the code, one line on stderr, the code."""
    assert code == result.code, result
    assert ["ERROR", code] == [result.answer[name] for name in ("status", "exit")]
    assert {"status", "exit", "kind", "message"} <= set(result.answer)
    assert 1 == result.err.count("\n") and result.err.startswith("client: ")
    assert result.answer["message"] in result.err


# -- the door ------------------------------------------------------------------------------

@pytest.mark.parametrize("action", ENDING)
def test_without_settings_every_action_says_what_is_missing(action, tmp_path, closed_url):
    """No settings, no server: 75 where a server was to be asked, 78 where one is to be named."""
    result = inside.run(*words_for(action, tmp_path, closed_url))
    if action in ("generate_keys", "commands_pending", "config", "tasks_policy", *NO_SESSION):
        assert (0, "OK", "") == (result.code, result.answer["status"], result.err)
    else:
        asks = action in ("status", "new_host", "duplicati_login")
        assert_told(result, 75 if asks else 78)


@pytest.mark.parametrize("action", ENDING)
def test_without_a_server_every_action_says_so(action, serve, enroll, closed_url):
    """A registered host whose server is away: 75 from all that must ask it."""
    host = enroll(serve(site()))
    document = host.document()
    document["server"]["url"] = closed_url
    document["duplicati"] = {"servers": {"default": {
        "url": closed_url, "generation": "token", "access_token": SECRET}}}
    document["tasks"] = {"url": closed_url}
    host.settings.write_text(yaml.safe_dump(document))
    words = [word for word in words_for(action, host.folder, closed_url)
             if "_key=" not in word]
    words += [f"--{name}={host.folder / file}" for name, file in (
        ("private_key", "host.key"), ("public_key", "host.pub")) if name in ACTIONS[action].needs]
    result = inside.run(*words)
    if action in ("generate_keys", "host_register", "host_verify", "commands_pending", "config",
                  "tasks_policy", *NO_SESSION):
        assert (0, "OK", "") == (result.code, result.answer["status"], result.err)
    else:
        assert_told(result, 75)


@pytest.mark.parametrize("words, code", [
    ((), 2), (("--action=nothing",), 2), (("--action=status",), 2), (("--wrong",), 2),
    (("--action=commands_list",), 78), (("--action=commands_list", "--settings=/no/such/s"), 78),
    (("--action=config", "--config=/no/such/config"), 78),
], ids=str)
def test_the_process_itself_keeps_to_it(tmp_path, words, code):
    """As a shell sees it: streams and exit status of a real process."""
    process = subprocess.run([*CLIENT, *words], capture_output=True, text=True, timeout=30,
                             env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]})
    assert_told(type("Result", (), {
        "code": process.returncode, "answer": json.loads(process.stdout),
        "err": process.stderr}), code)


@settings(max_examples=150)
@given(st.sampled_from(["status", "discover", "host_register", "host_verify", "host_status",
                        "commands_list", "new_host", "command_get"]),
       STATUSES, ANY_JSON | almost_good(), LOCATIONS)
def test_any_json_from_a_server_is_no_fault_of_ours(any_server, action, status, document, location):
    """Every action against any answer: JSON, and a code that is not 70."""
    server, words = any_server
    server.manner = answer(status, document, {"Location": location})
    result = inside.run(*words[action])
    assert result.code in EXIT_CODES and result.code != 70, result
    assert isinstance(result.answer, dict)


@pytest.fixture(scope="module")
def any_server(tmp_path_factory, key_pem):
    """A server that answers anything; for each action the options for a host of its own."""
    folder = tmp_path_factory.mktemp("any")
    (folder / "key").write_text(key_pem[0])
    (folder / "pub").write_text(key_pem[1])
    (folder / "key").chmod(0o600)
    with Rude(answer()) as server:
        paths = {name: f"/{name}/" for name in (
            "discover", "host_register", "host_verify", "host_status", "commands_list",
            "command_get", "command_post")}
        document = {"server": {"url": server.url}, "endpoints": paths, "host": {
            "private_key": str(folder / "key"), "public_key": str(folder / "pub"),
            "uuid": encrypt(key_pem[1], "46be9131-379c-41d3-899a-11950f12022f"),
            "token": encrypt(key_pem[1], SECRET)}}
        words = {}
        for action in ACTIONS:
            (folder / f"{action}.yml").write_text(yaml.safe_dump(document))
            words[action] = [f"--action={action}", f"--settings={folder / action}.yml",
                             *words_for(action, folder, server.url)[2:],
                             *(["--force"] if "force" in ACTIONS[action].takes else [])]
        yield server, words


def test_a_fault_of_this_program_is_70(monkeypatch):
    """Never silent, never a bare traceback: JSON, and one line that says where."""
    def fail(context):
        return 1 / 0

    monkeypatch.setitem(ACTIONS, "broken", Action("broken", "", "", (), (), fail))
    result = inside.run("--action=broken")
    assert_told(result, 70)
    assert "ZeroDivisionError" in result.err and "test_client.py:" in result.err
    assert "Traceback" in inside.run("--action=broken", "--debug").err


def test_the_handlers_of_signals_are_given_back():
    """`main` is a function: it leaves the process as it found it."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    inside.run("--action=nothing")
    assert before == [signal.getsignal(number) for number in numbers]


# -- help and version -------------------------------------------------------------------------

@pytest.mark.parametrize("words", [("--help",), ("-h",), ("--help", "--quiet")], ids=str)
def test_help_names_every_action_option_and_code(words):
    """0, on stdout, and nothing on stderr."""
    result = inside.run(*words)
    assert (0, "") == (result.code, result.err)
    shown = {line.split()[0] for line in result.out.splitlines() if line.startswith("  ")}
    assert {*ACTIONS, *(f"--{name}" for name in (*OPTIONS, "help")),
            *map(str, EXIT_CODES)} == shown


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_help_of_an_action_names_what_it_takes(action):
    """Its options and the common ones, no others; needs are not asked for."""
    result = inside.run(f"--action={action.name}", "--help")
    assert (0, "") == (result.code, result.err)
    assert action.summary in result.out
    shown = {line.split()[0][2:] for line in result.out.splitlines() if line.startswith("  --")}
    assert set(option_names(action)) == shown


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version_is_told(word):
    """0, one line."""
    result = inside.run(word)
    assert (0, f"remotes {__version__}\n", "") == (result.code, result.out, result.err)


# -- forms of answers --------------------------------------------------------------------------

def test_an_answer_is_the_same_in_json_and_yaml(serve, enroll):
    """--output changes the form alone, for failures, too."""
    host = enroll(serve(site("print(1)", "print(2)")))
    plain = host.run("commands_list")
    shaped = host.run("commands_list", "--output=yaml")
    assert (0, plain.answer) == (shaped.code, yaml.safe_load(shaped.out))
    table = host.run("commands_list", "--output=table")
    assert (0, ["group  command", "1      1", "1      2"]) == (
        table.code, table.out.splitlines()[-3:])
    failed = host.run("command_get", "--command=99", "--output=yaml")
    assert (10, "not_found") == (failed.code, yaml.safe_load(failed.out)["kind"])


def test_a_table_on_a_terminal_is_the_same_table(serve, enroll):
    """On a terminal it may look better, and says the same."""
    host = enroll(serve(site("print(1)", "print(2)")))
    leader, follower = pty.openpty()
    process = host.start("commands_list", "--output=table", stdout=follower)
    os.close(follower)
    shown = b""
    try:
        while block := os.read(leader, 65536):
            shown += block
    except OSError:
        pass  # how a terminal ends on Linux
    os.close(leader)
    process.communicate(timeout=30)
    assert 0 == process.returncode
    assert [["group", "command"], ["1", "1"], ["1", "2"]] == [
        line.split() for line in shown.decode().splitlines()[-3:]]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_an_answer_fits_any_terminal(tmp_path, encoding):
    """Whatever the server says, in whatever encoding it is shown: JSON that can be read."""
    text = "caf\u00e9 \u2603 \U0001f600 \ud800 \u009b31m \x1b[31m \u2028"
    with Rude(answer(400, {"status": "ERROR", "message": text})) as server:
        for form in ("json", "yaml", "table"):
            process = subprocess.run(
                [*CLIENT, "--action=status", f"--url={server.url}", f"--output={form}",
                 f"--settings={tmp_path / 'settings.yml'}"],
                env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
                capture_output=True, timeout=30)
            assert 1 == process.returncode, process
            shown = (process.stdout + process.stderr).decode(encoding)
            assert not any(char in shown for char in "\x1b\u009b\ud800")
            if form == "json":
                assert text == json.loads(process.stdout)["answer"]["message"]


# -- streams that nobody reads -------------------------------------------------------------------

def test_a_reader_that_has_gone_is_no_failure(serve, enroll):
    """`| head`: the code of the action, and nothing on stderr."""
    host = enroll(serve(site()))
    read, write = os.pipe()
    os.close(read)
    process = host.start("host_status", stdout=write)
    os.close(write)
    assert (None, "") == process.communicate(timeout=30)
    assert 0 == process.returncode


def test_a_full_stdout_is_told(serve, enroll):
    """/dev/full: 1, one line; a failure keeps its own code."""
    host = enroll(serve(site()))
    for action, words, code, lines in (("host_status", (), 1, 1),
                                       ("command_get", ("--command=9",), 10, 2)):
        with open("/dev/full", "w") as full:
            process = host.start(action, *words, stdout=full)
            _, err = process.communicate(timeout=30)
        assert (code, lines) == (process.returncode, err.count("\n")), err
        assert "cannot be written to stdout" in err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_code(serve, enroll, closed):
    """A service manager may give none; lines for stderr never turn up on stdout."""
    host = enroll(serve(site()))
    for action, words, code in (("host_status", (), 0), ("command_get", ("--command=9",), 10)):
        process = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *host.command_line(action, *words)],
            env=host.environ, capture_output=True, text=True, timeout=30)
        assert code == process.returncode, process
        if closed in ("2>&-", "<&-"):
            assert isinstance(json.loads(process.stdout), dict)
        else:
            assert "" == process.stdout
        if "2>&-" in closed:
            assert "" == process.stderr


# -- signals -----------------------------------------------------------------------------------

def test_ctrl_c_while_the_client_itself_is_read_leaves_no_traceback(tmp_path):
    """The first tenth of a second: one line, 130."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'remotes.command_line':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n")
    ended = subprocess.run([*CLIENT, "--action=config"], capture_output=True, text=True, timeout=60,
                           env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        130, "", "client: start: ended by SIGINT\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_server_stalls_ends_with_json(tmp_path, number):
    """128 + n: Ctrl-C is 130, with one document and one line like any other end."""
    host = Host(tmp_path)
    with Rude(rude.stall) as server:
        process = host.start("status", f"--url={server.url}")
        assert server.arrived.wait(30)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert 128 + number == process.returncode
    assert {"status": "ERROR", "exit": 128 + number, "kind": "interrupted",
            "message": f"ended by {number.name}"} == json.loads(out)
    assert f"client: status: ended by {number.name}\n" == err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_the_caller_has_ignored_stays_ignored(tmp_path, number):
    """nohup, and a shell's job in the background: another signal is what ends it."""
    host = Host(tmp_path)
    with Rude(rude.stall) as server:
        process = host.start("status", f"--url={server.url}",
                             preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
        assert server.arrived.wait(30)
        process.send_signal(number)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (143, "ended by SIGTERM") == (process.returncode, json.loads(out)["message"])


# -- quiet, debug, secrets ------------------------------------------------------------------------

def test_a_fault_that_goes_on_is_told_once_and_its_end_once(any_server):
    """--quiet: when it begins, when it changes, when it is over; the answers stay whole."""
    server, words = any_server

    def told(manner, action="host_status"):
        server.manner = manner
        result = inside.run(*words[action], "--quiet")
        return result.code, result.err.count("\n"), result.answer["status"]

    refused, fine = answer(401, {"detail": "Invalid token."}), answer(200, {"status": "OK"})
    assert [(75, 1, "ERROR"), (75, 0, "ERROR")] == [told(rude.reset) for _ in range(2)]
    assert (75, 1, "ERROR") == told(rude.reset, "discover")  # a fault of another action
    assert [(12, 1, "ERROR"), (12, 0, "ERROR")] == [told(refused) for _ in range(2)]
    assert [(0, 1, "OK"), (0, 0, "OK")] == [told(fine) for _ in range(2)]
    assert (12, 1, "ERROR") == told(refused)


def test_a_guard_that_outlives_its_exchange_disturbs_no_end(play, operator, tmp_path):
    """The thread that guards an exchange ends while Python ends: nothing of it on stderr."""
    host = operator(play("2.3.0.4"))
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, weakref\n"
        "at_the_end = threading.Event()\n"
        "class Late(threading.Timer):\n"
        "    def run(self):\n"
        "        super().run()\n"
        "        at_the_end.wait(60)\n"
        "class Registry(dict):\n"
        "    def items(self):\n"
        "        for pair in super().items():\n"
        "            at_the_end.set()\n"
        "            for thread in threading.enumerate():\n"
        "                if isinstance(thread, Late):\n"
        "                    thread.join()\n"
        "            thread = None\n"
        "            yield pair\n"
        "threading.Timer, weakref.finalize._registry = Late, Registry()\n")
    host.environ["PYTHONPATH"] = str(tmp_path)
    result = host.run("duplicati_status")
    assert (result.code, result.err) == (0, "")


def test_without_quiet_each_fault_is_told(tmp_path, closed_url):
    """Every time."""
    words = words_for("status", tmp_path, closed_url)
    assert [1, 1] == [inside.run(*words).err.count("\n") for _ in range(2)]


def test_debug_adds_the_traceback(tmp_path, closed_url):
    """Before the line, which stays the last one."""
    result = inside.run(*words_for("status", tmp_path, closed_url), "--debug")
    assert "Traceback (most recent call last):" in result.err
    assert result.err.splitlines()[-1].startswith("client: status: ")
    assert 75 == result.answer["exit"]


@pytest.mark.parametrize("manner", [
    rude.reset, rude.html, rude.gzip_rubbish, rude.redirect("http://evil.example/"),
    answer(401, {"detail": "Invalid token."}), answer(500, b"<html>"), answer(200, {"a": 1}),
    answer(200, {"status": "OK", "encrypted": "AAAA"}),
], ids=range(8))
def test_no_token_is_ever_shown(any_server, manner):
    """Neither the registration token nor the host's own: not with --debug, not in a failure."""
    server, words = any_server
    server.manner = manner
    for action in ("host_register", "host_verify", "host_status", "commands_list", "command_get"):
        result = inside.run(*words[action], "--debug", "--verbose")
        assert result.code != 70
        assert SECRET not in result.out + result.err


# -- imports -------------------------------------------------------------------------------------

_COUNTED = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import client
code = client.main(sys.argv[2:])
with open(sys.argv[3].partition("=")[2] + ".modules", "w") as stream:
    stream.write(" ".join(set(sys.modules) - before))
raise SystemExit(code)
"""
HEAVY = {"requests", "cryptography", "yaml", "rich", "dateutil", "subprocess", "argparse",
         "configparser", "copy", "difflib", "hashlib", "logging", "re", "ssl", "urllib3"}


def modules_of(host, action, *words):
    """The modules that an action of a host loads beyond those of the bare interpreter."""
    process = subprocess.run(
        [sys.executable, "-c", _COUNTED, str(PROJECT), f"--action={action}",
         f"--settings={host.settings}", *words], env=host.environ, capture_output=True, text=True,
        timeout=30)
    assert 0 == process.returncode, process
    modules = (host.folder / "settings.yml.modules").read_text().split()
    return set(modules)


def bare_modules(statement):
    """The modules that a statement loads beyond those of the bare interpreter."""
    return set(subprocess.run(
        [sys.executable, "-c", "import sys; before = set(sys.modules)\n" + statement
         + "\nprint(*set(sys.modules) - before)"],
        capture_output=True, text=True, timeout=30).stdout.split())


def test_help_imports_nothing_heavy():
    """It is the table and no more."""
    source = (f"import sys; sys.path.insert(0, {str(PROJECT)!r}); before = set(sys.modules)\n"
              "import client; client.main(['--help'])\n"
              "print(*set(sys.modules) - before, file=sys.stderr)")
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True,
                             timeout=30)
    modules = set(process.stderr.split())
    assert set() == HEAVY & modules
    own = {name for name in modules if name.startswith("remotes")}
    assert {"remotes", "remotes.command_line", "remotes.door", "remotes.errors"} == {
        name for name in own if not name.startswith("remotes.actions")}
    assert len(modules - own) < 20, sorted(modules - own)


@pytest.mark.parametrize("action, allowed", [
    ("status", {"requests", "yaml"}), ("discover", {"requests", "yaml"}),
    ("host_status", {"requests", "yaml", "cryptography"}),
    ("commands_list", {"requests", "yaml", "cryptography"}),
    ("commands_process", {"requests", "yaml", "cryptography"}),
    ("commands_pending", {"yaml"}), ("config", {"yaml"}),
])
def test_an_action_imports_what_it_needs(serve, enroll, action, allowed):
    """Of the libraries those that it cannot do without; of the rest not many."""
    server = serve(site())
    host = enroll(server)
    assert 0 == host.run("host_status").code  # the key is checked once
    words = [f"--url={server.url}"] if action == "status" else []
    assert_imports(modules_of(host, action, *words), allowed)


@pytest.mark.parametrize("release", ["2.0.8.1", "2.3.0.4"])
@pytest.mark.parametrize("words", [
    ("duplicati_status",), ("duplicati_list", "--type=backups"), ("duplicati_list", "--type=tasks"),
    ("duplicati_get", "--type=backup", "--id=1"), ("duplicati_run", "--id=1", "--wait"),
], ids=" ".join)
def test_an_action_on_duplicati_imports_what_it_needs(play, operator, release, words):
    """Nothing of keys, and nothing of bars and tables where no terminal is; old or new server."""
    host = operator(play(release, job("Documents")))
    assert_imports(modules_of(host, *words), {"requests", "yaml"})


def test_an_idle_turn_of_tasks_imports_what_it_needs(play, operator, serve_tasks):
    """Nothing that a task is done with: how one is started, waited for and judged."""
    host = operator(play("2.3.0.4"))
    assert 0 == host.run("tasks_status", f"--tasks_url={serve_tasks().url}").code
    modules = modules_of(host, "tasks_process")
    assert_imports(modules, {"requests", "yaml"})
    assert set() == modules & {"dataclasses", "difflib", *(f"remotes.duplicati.{name}" for name in (
        "tasks", "waiting", "outcomes", "adoption", "browsing", "restoring", "editing"))}


def assert_imports(modules, allowed):
    """Of the libraries those that are allowed are loaded, and of the rest not many."""
    assert allowed == {"requests", "yaml", "cryptography", "rich", "dateutil",
                       "subprocess"} & modules
    own = {name for name in modules if name.partition(".")[0] in ("remotes", "client")}
    unavoidable = bare_modules("import argparse, " + ", ".join(sorted(allowed)) + (
        "\nfrom cryptography.fernet import Fernet"
        "\nfrom cryptography.hazmat.primitives.asymmetric import padding, rsa"
        if "cryptography" in allowed else ""))
    assert len(modules - unavoidable - own) < 40, sorted(modules - unavoidable - own)


def test_a_registered_host_asks_for_the_status_without_its_key(serve, enroll):
    """`status` again and again loads no cryptography, registered or not."""
    server = serve(site())
    host = enroll(server)
    assert "cryptography" not in modules_of(host, "status", f"--url={server.url}")


def test_config_names_the_duplicati_servers_and_shows_no_token(play, operator):
    """Where each is, its generation, whether there is a session; nothing that opens one."""
    host = operator(play("2.3.0.4"))
    host.log_in(play("2.0.8.1").url, "--server=old")
    result = host.inside("config")
    found = result.answer["duplicati"]
    assert {"default": ("token", True), "old": ("cookie", True)} == {
        name: (row["generation"], row["session"]) for name, row in found.items()}
    kept = [host.kept("default")["access_token"], host.kept("old")["session_auth"]]
    assert not any(secret in result.out + result.err for secret in kept)
