"""`make demo`: servers on loopback, a host that registers with one and runs its commands, logs
into a Duplicati, backs up and restores, takes tasks from a task server, and what came back.
Everything is real: programs, sockets, RSA keys, child processes, files.

Leaves nothing behind: settings and keys are in a temporary folder that goes at the end.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
TOKEN = "demo-registration-token"  # that of site.yml
PASSWORD = "demo-password"
TASKS = """\
tasks:
  - {ID: 1, Operation: get, Resources: [{Type: backup, ID: Documents}]}
  - {ID: 2, Operation: run, Resources: [{Type: backup, ID: Documents}]}
  - {ID: 3, Operation: delete, Resources: [{Type: backup, ID: Photos}]}
  - {ID: 4, Operation: run, Ressources: [{Type: backup, ID: Documents}]}
"""
MORE_TASKS = TASKS + """\
  - {ID: 5, Operation: run, Resources: [{Type: backup, ID: Photos}]}
  - {ID: 6, Operation: abort, Resources: [{Type: task, ID: 5}]}
"""
# How each of them must end.
ENDINGS = {1: "completed", 2: "completed", 3: "refused", 4: "refused", 5: "error", 6: "completed"}
LONGEST_TEXT = 300


def title(text):
    print(f"\n\033[1m── {text}\033[0m" if sys.stdout.isatty() else f"\n── {text}", flush=True)


def shortened(value):
    """An answer for reading: long texts cut."""
    if isinstance(value, dict):
        return {name: shortened(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shortened(part) for part in value]
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value):,} characters)"
    return value


class Demo:
    """The client, run in one folder; stops the demo when it does not do what it should."""

    def __init__(self, folder):
        self.folder = folder

    def client(self, *words, expected=0):
        """Runs the client, shows command line and answer, and gives the answer."""
        words = ["--settings=settings.yml", *words]
        print("$ python client.py " + " ".join(words), flush=True)
        finished = subprocess.run([sys.executable, PROJECT / "client.py", *words],
                                  cwd=self.folder, capture_output=True, text=True, check=False)
        if finished.stderr:
            print(finished.stderr.rstrip())
        answer = json.loads(finished.stdout)
        print(json.dumps(shortened(answer), indent=2, ensure_ascii=False))
        print(f"exit {finished.returncode}", flush=True)
        if finished.returncode != expected:
            raise SystemExit(f"demo: exit {finished.returncode} in place of {expected}")
        return answer

    @contextlib.contextmanager
    def monitor(self, action, *words):
        """A daemon for the length of a `with`; gives its stdout, a line for each event."""
        words = [f"--action={action}", "--settings=settings.yml", *words]
        print("$ python client.py " + " ".join(words), flush=True)
        process = subprocess.Popen([sys.executable, PROJECT / "client.py", *words], text=True,
                                   cwd=self.folder, stdout=subprocess.PIPE)
        try:
            yield process.stdout
        finally:
            process.send_signal(signal.SIGTERM)
            print(process.stdout.read().rstrip())
            process.stdout.close()
            print(f"exit {process.wait()}", flush=True)


@contextlib.contextmanager
def served(program, *words):
    """A demo server as a process of its own; gives its URL."""
    process = subprocess.Popen(
        [sys.executable, PROJECT / "demo" / program, "--port=0", *words],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    try:
        line = process.stdout.readline()
        if " at " not in line:
            raise SystemExit(f"demo: {program} did not start")
        yield line.split(" at ")[1].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


def show_commands(demo, url):
    title("Registration: one command, that can be broken off anywhere and run again")
    registration = ("--action=new_host", f"--url={url}", f"--token={TOKEN}",
                    "--private_key=host.key", "--public_key=host.pub")
    demo.client(*registration)
    title("Who the server takes this host for, and what it has for it to do")
    demo.client("--action=host_status")
    waiting = demo.client("--action=commands_list")["results"]
    title("Running all of it, whatever becomes of each command")
    done = demo.client("--action=commands_process")["commands"]
    title("A second turn has nothing to do; a second registration changes nothing")
    demo.client("--action=commands_process")
    if demo.client(*registration)["changed"]:
        raise SystemExit("demo: the second registration changed something")
    title("What the server recorded")
    with urllib.request.urlopen(url) as answer:
        print(answer.read().decode())
    if [row["command"] for row in waiting] != [row["command"] for row in done]:
        raise SystemExit("demo: not every command was run")
    if not all(row["delivered"] for row in done):
        raise SystemExit("demo: not every result was delivered")
    title(f"{len(done)} commands were run, and each result is on the server, once")


def show_duplicati(demo, url):
    folder = Path(demo.folder)
    (folder / "password").write_text(PASSWORD + "\n")
    title("Duplicati: one login, whatever generation the server is of")
    demo.client("--action=duplicati_login", f"--url={url}", "--password_file=password")
    demo.client("--action=duplicati_list", "--type=backups")
    title("A backup that is waited for, and how it ended; then one with a warning")
    demo.client("--action=duplicati_run", "--id=Documents", "--wait")
    demo.client("--action=duplicati_run", "--id=Photos", "--wait", expected=3)
    title("An edit changes one thing, and nothing else")
    demo.client("--action=duplicati_edit", "--id=Documents", "--set=Settings.keep-versions=7",
                "--confirm=yes")
    title("Its versions, what is in the newest, and one file brought back")
    demo.client("--action=duplicati_versions", "--id=Documents")
    found = demo.client("--action=duplicati_files", "--id=Documents", "--filter=anna")["files"]
    restored = demo.client("--action=duplicati_restore", "--id=Documents",
                           f"--path={found[0]['path']}",
                           f"--restore_path={folder / 'restored'}", "--wait")
    letter = folder / "restored" / "anna.txt"
    print(f"{restored['tasks'][0]['result']}: {letter.read_text()!r}")
    demo.client("--action=duplicati_status")


def show_tasks(demo):
    from demo.task_store import Store

    tasks, database = Path(demo.folder) / "tasks.yml", Path(demo.folder) / "results.sqlite"
    tasks.write_text(TASKS)
    with served("task_server.py", f"--tasks={tasks}", f"--database={database}") as url:
        title("A task server has something for this host; what its owner's policy says to it")
        demo.client("--action=tasks_status", f"--tasks_url={url}")
        demo.client("--action=tasks_list")
        title("The daemon takes the tasks, does what it may, and answers; then there are two more")
        with demo.monitor("tasks_monitor", "--interval=0.5") as events:
            wait_for(events, {1, 2, 3, 4})
            tasks.write_text(MORE_TASKS)
            wait_for(events, {5, 6})
        title("What the task server was told, in this order")
        store = Store(str(database))
        answers = store.posts("host")
        store.close()
    for answer in answers:
        print(json.dumps(shortened(answer), ensure_ascii=False)[:LONGEST_TEXT])
    ended = {answer["ID"]: answer["Status"] for answer in answers}
    if ended != ENDINGS:
        raise SystemExit(f"demo: the tasks ended as {ended}")
    title(f"{len(ended)} tasks, each with one end")


def wait_for(events, ids):
    """Reads the daemon's lines until each of these tasks is over."""
    ids = set(ids)
    for line in events:
        print(line.rstrip(), flush=True)
        ids.discard(json.loads(line).get("id"))
        if not ids:
            return
    raise SystemExit(f"demo: the daemon ended before the tasks {sorted(ids)}")


def main():
    with (tempfile.TemporaryDirectory() as folder, served("django_remotes.py") as url,
          served("duplicati.py", f"--password={PASSWORD}") as duplicati_url):
        demo = Demo(folder)
        show_duplicati(demo, duplicati_url)
        show_tasks(demo)
        show_commands(demo, url)


if __name__ == "__main__":
    main()
