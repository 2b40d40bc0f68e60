"""The whole client against whatever a command can do: one run, over real sockets."""

import os
import signal
from pathlib import Path

from tests.conftest import site
from tests.test_commands import is_alive, until

GRANDCHILDREN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for own_session in (False, True):
    if os.fork() == 0:
        if own_session:
            os.setsid()
        break
with open({pids!r}, "a") as stream:
    stream.write(f"{{os.getpid()}}\\n")
while True:
    time.sleep(100)
"""

DAEMON = """
import os, time
print("started", flush=True)
if os.fork() == 0:
    os.setsid()
    with open({pids!r}, "a") as stream:
        stream.write(f"{{os.getpid()}}\\n")
    time.sleep(600)
"""


def nasty_commands(folder):
    """(name, source or mapping, ending, a part of the recorded output, result or None)."""
    grandchildren = GRANDCHILDREN.format(pids=str(folder / "grandchildren"))
    return [
        ("prints", "print('hello')", "completed", "hello\n", [""]),
        ("returns", "__RESULT__ = ['a', 2]", "completed", "", ["a", 2]),
        ("uses", {"command": "print(__SETTINGS__['s'], __VARIABLES__['v'])",
                  "settings": ["s"], "variables": ["v"]}, "completed", "one None\n", [""]),
        ("raises", "__RESULT__ = [1]\nraise ValueError('boom')", "failed", "boom", [1]),
        ("exits", "import sys; sys.exit(3)", "failed", "sys.exit(3)", []),
        ("bytes", r"import os; os.write(1, b'a\0b\xff')", "completed", "a\ufffdb\ufffd", [""]),
        ("dates", "import datetime; __RESULT__ = [datetime.date(2026, 1, 2), None]",
         "completed", "", ["2026-01-02", ""]),
        ("holds itself", "__RESULT__ = [1]; __RESULT__.append(__RESULT__)", "completed", "",
         [1, "[...]"]),
        ("times out", {"command": grandchildren, "timeout": 1}, "timed_out", "longer than", []),
        ("prints 50 MB", "for _ in range(50): print('x' * 1048575)", "completed", "missing", [""]),
        ("stderr", "import sys; print('out'); print('err', file=sys.stderr)", "completed",
         "out\n[stderr]\nerr\n", [""]),
        ("closes stdout", "import os, sys; sys.stdout.close(); os.close(1); __RESULT__ = [1]",
         "completed", "", [1]),
        ("closes all", "import os; os.closerange(0, 4096); __RESULT__ = [2]", "completed", "", [2]),
        ("kills itself", "import os; os.kill(os.getpid(), 9)", "crashed", "SIGKILL", []),
        ("deletes", "del __RESULT__", "completed", "", []),
        ("daemon", DAEMON.format(pids=str(folder / "daemon")), "completed", "started\n", [""]),
        ("last", "print('still here')", "completed", "still here\n", [""]),
    ]


def test_no_command_can_stop_a_run(serve, enroll, tmp_path):
    """Each is recorded once, none is listed any more, nothing of a timed-out one is alive."""
    nasty = nasty_commands(tmp_path)
    server = serve(site(*(
        {"name": name, **({"command": source} if isinstance(source, str) else source)}
        for name, source, *_ in nasty), settings={"s": "one"}, variables=["v"]))
    host = enroll(server)
    result = host.run("commands_process")
    daemon = int((tmp_path / "daemon").read_text()) if (tmp_path / "daemon").exists() else None
    try:
        assert result.code == 0, result
        assert [(row["name"], row["ending"]) for row in result.answer["commands"]] == [
            (name, ending) for name, _, ending, *_ in nasty]
        rows = server.state.outputs()
        assert [row["command"] for row in rows] == list(range(1, len(nasty) + 1))
        for row, (name, _, _, part, expected) in zip(rows, nasty):
            assert (name, part in row["output"], row["result"]) == (name, True, expected)
        assert host.run("commands_list").answer["results"] == []
        grandchildren = (tmp_path / "grandchildren").read_text().split()
        assert (len(grandchildren), [pid for pid in grandchildren if is_alive(pid)]) == (3, [])
        until(lambda: (tmp_path / "daemon").exists())
        assert is_alive(daemon or int((tmp_path / "daemon").read_text()))
    finally:
        if (tmp_path / "daemon").exists():
            os.kill(int((tmp_path / "daemon").read_text()), signal.SIGKILL)


def processes():
    """Every process: (pid, command line, environment) as bytes."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                yield (int(path.name), (path / "cmdline").read_bytes(),
                       (path / "environ").read_bytes())
            except OSError:
                pass


def test_no_secret_is_in_a_child_or_in_the_temporary_folder(serve, enroll, tmp_path):
    """Neither token, key nor source: in no argv, no environment, no temporary file."""
    (tmp_path / "temporary").mkdir()
    os.mkfifo(tmp_path / "go")
    source = (f"needle = 'source-of-the-command'\nopen({str(tmp_path / 'on')!r}, 'w').close()\n"
              f"open({str(tmp_path / 'go')!r}).read()")
    server = serve(site(source))
    host = enroll(server)
    host.environ.update(TMPDIR=str(tmp_path / "temporary"), REMOTES_TOKEN="registration-secret")
    key = (host.folder / "host.key").read_text().splitlines()[3].encode()
    process = host.start("commands_process")
    until((tmp_path / "on").exists, process)
    seen = [row for row in processes() if b"client.py" in row[1] or b"watcher.py" in row[1]]
    children = [row for row in seen if b"watcher.py" in row[1]
                and f"REMOTES_SETTINGS={host.settings}".encode() in row[2]]
    temporary = os.listdir(tmp_path / "temporary")
    (tmp_path / "go").write_text("on")
    process.communicate(timeout=30)
    secrets = [host.known["token"].encode(), b"source-of-the-command", key]
    assert len(children) == 2  # the watcher and the command
    for _, command_line, environ in children:
        found = [secret for secret in [*secrets, b"registration-secret"]
                 if secret in command_line + environ]
        assert found == []
    assert temporary == []
