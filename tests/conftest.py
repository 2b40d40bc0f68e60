"""What all tests share: servers on loopback, real keys, hosts that are registered with
them, and the client as a process of its own. Nothing here replaces a part of the client.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import HealthCheck, settings

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from demo.django_remotes import DjangoRemotes, make_server  # noqa: E402

RECORDINGS = PROJECT / "tests" / "recordings"
REGISTRATION_TOKEN = "registration-token-of-the-tests"
CLIENT = [sys.executable, str(PROJECT / "client.py")]
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell has it ignored by what it runs in the background, and all children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("tests")


def site(*commands, **more):
    """A site for the demo server: each of `commands` is Python source, or a mapping."""
    rows = []
    for number, command in enumerate(commands, 1):
        command = {"command": command} if isinstance(command, str) else command
        rows.append({"id": number, "name": f"command {number}", **command})
    return {"registration_token": REGISTRATION_TOKEN,
            "groups": [{"id": 1, "name": "all", "commands": rows}], **more}


class Result:
    """What the client left: `code`, `out` and `err` (text), `answer` (stdout as JSON)."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out
        self.err = err

    @property
    def answer(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"exit {self.code}\n{self.out}\n{self.err}"


class Host:
    """A folder with settings and keys, and the client run on them as a process."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.settings = self.folder / "settings.yml"
        self.environ = {**os.environ, "HOME": str(self.folder), "REMOTES_CONFIG": ""}
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            self.environ.pop(name, None)
        self._processes = []

    def command_line(self, action, *words):
        return [*CLIENT, f"--action={action}", f"--settings={self.settings}", *words]

    def start(self, action, *words, **more):
        """The client as a Popen, its streams as pipes of text."""
        self._processes.append(subprocess.Popen(
            self.command_line(action, *words), cwd=self.folder, text=True, encoding="utf-8",
            **{"env": self.environ, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        ))
        return self._processes[-1]

    def end(self):
        """Ends the processes that a test which failed has left: they would fail another one."""
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):  # what it has not read
                        stream.close()

    def run(self, action, *words, timeout=60, **more):
        """The client run to its end; gives a Result."""
        process = self.start(action, *words, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return Result(process.returncode, out, err)

    def inside(self, action, *words):
        """The client run within this process (in its main thread); gives a Result."""
        from tests import inside

        return inside.run(f"--action={action}", f"--settings={self.settings}", *words,
                          environ={"HOME": str(self.folder), "REMOTES_CONFIG": ""})

    def document(self):
        """The settings as they are on the disk."""
        return yaml.safe_load(self.settings.read_text())

    def journal(self):
        """The documents of the commands' journal, read as YAML."""
        path = self.folder / "commands-journal.yml"
        return list(yaml.safe_load_all(path.read_text())) if path.exists() else []


@pytest.fixture(scope="session")
def key_pem():
    """(private, public) PEM texts of an RSA pair of 4096 bits, made once."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                serialization.NoEncryption()).decode()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    return private, public


@pytest.fixture
def serve():
    """serve(site, **options of make_server) -> a running demo server; all end with the test."""
    servers = []

    def start(document, database=":memory:", **options):
        server = make_server(DjangoRemotes(document, database), **options)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
        server.state.close()


def encrypt(public_pem, text):
    """Base64 of RSA-OAEP, as the server sends UUID and token."""
    key = serialization.load_pem_public_key(public_pem.encode())
    return base64.b64encode(key.encrypt(text.encode(), OAEP)).decode()


@pytest.fixture
def enroll(tmp_path, key_pem):
    """enroll(server) -> a Host that is verified there, without a request having been made."""
    hosts = []

    def make(server, folder="host"):
        private, public = key_pem
        host = Host(tmp_path / folder)
        hosts.append(host)
        host.folder.mkdir()
        known = server.state.add_host(public)
        for name, content in (("host.key", private), ("host.pub", public)):
            path = host.folder / name
            path.write_text(content)
            path.chmod(0o600)
        paths = {name: f"/api/v1/{name.replace('_', '/')}/" for name in (
            "host_register", "host_verify", "host_status", "commands_list")}
        paths["command_get"] = "/api/v1/commands/get/"
        paths["command_post"] = "/api/v1/commands/post/"
        document = {
            "host": {"private_key": str(host.folder / "host.key"),
                     "public_key": str(host.folder / "host.pub"),
                     "uuid": encrypt(public, known["uuid"]),
                     "token": encrypt(public, known["token"])},
            "server": {"url": server.url},
            "endpoints": {"discover": "/api/v1/discover/", **paths},
        }
        host.settings.write_text(yaml.safe_dump(document))
        host.settings.chmod(0o600)
        host.known = known
        return host

    yield make
    for host in hosts:
        host.end()


PASSWORD = "correct-horse-of-the-tests"
# What the demo server plays: the cookie generation, the first with tokens, stable, newest.
RELEASES = ("2.0.8.1", "2.1.0.5", "2.3.0.4", "today")


def job(name, **settings):
    """A job for a demo Duplicati server; `settings` are those that steer its runs, without
    `demo_` in front: seconds, ending, …
    """
    steering = {f"--demo-{key.replace('_', '-')}": value for key, value in settings.items()}
    return {"name": name, "files": {"a.txt": "alpha", "docs/b.txt": "beta"},
            "settings": {"--no-encryption": "true", "--demo-seconds": 0, **steering}}


class DuplicatiHost(Host):
    """A host that is logged into a demo Duplicati server, by a password file."""

    def log_in(self, url, *words, expected=0):
        """Logs in there; gives the Result."""
        secret = self.folder / "password"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o600)
        found = self.inside("duplicati_login", f"--url={url}", f"--password_file={secret}", *words)
        assert expected == found.code, found
        return found

    def kept(self, name="default"):
        """What the settings keep of a Duplicati server."""
        return self.document()["duplicati"]["servers"][name]


@pytest.fixture
def play(tmp_path):
    """play(release, *jobs, **options) -> a running demo Duplicati server; all end with the test."""
    from demo import duplicati

    servers = []

    def start(release="2.3.0.4", *jobs, port=0, ssl_context=None, **options):
        folder = tmp_path / f"duplicati-{len(servers)}"
        state = duplicati.Duplicati(release, options.pop("password", PASSWORD), folder,
                                    {"jobs": list(jobs)}, busy_seconds=0.2, **options)
        server = duplicati.make_server(state, port, ssl_context=ssl_context)
        servers.append((server, _serving(server)))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
        server.state.close()


def _serving(server):
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def operator(tmp_path):
    """operator(server) -> a DuplicatiHost that is logged in there."""
    hosts = []

    def make(server=None, *words):
        folder = tmp_path / f"operator-{len(hosts)}"
        folder.mkdir()
        host = DuplicatiHost(folder)
        hosts.append(host)
        if server is not None:
            host.log_in(server.url, *words)
        return host

    yield make
    for host in hosts:
        host.end()


@pytest.fixture
def serve_tasks():
    """serve_tasks(*tasks, token=None, **options) -> a running demo task server, with the tasks
    of the host "host" (or hosts={NAME: {"token", "tasks"}}, or path=PATH); all end with the test.

    `options`: those of demo.task_server's State and make_server; or state=, one that there is.
    """
    from demo.task_server import State, make_server

    servers = []

    def start(*tasks, state=None, hosts=None, path=None, **options):
        names = ("port", "bind", "base_path", "ssl_context")
        of_server = {name: options.pop(name) for name in names if name in options}
        if state is None:
            state = State(path or ({"hosts": hosts} if hosts else tasks), **options)
        try:
            server = make_server(state, **of_server)
        except Exception:
            state.close()
            raise
        servers.append((server, _serving(server)))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
        server.state.close()
