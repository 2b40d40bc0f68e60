"""What is measured in: a folder with a host's key and settings, the server, the proxy."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from measure import cost

HERE = Path(__file__).resolve().parent
CLIENT = str(HERE.parent / "client.py")
DELAY_SECONDS = 0.025
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_ENDPOINTS = {"discover": "/api/v1/discover/", "host_status": "/api/v1/host/status/",
              "commands_list": "/api/v1/commands/list/",
              "command_get": "/api/v1/commands/get/", "command_post": "/api/v1/commands/post/"}


class World:
    """The server and the proxy run as long as this is open.

    `near` and `far` are settings files of one host: at the server itself, and behind
    the proxy. `environ` is that of all programs that are measured.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.environ = {name: value for name, value in os.environ.items()
                        if not name.lower().endswith("_proxy")}
        self.environ.update(HOME=folder, REMOTES_CONFIG="")
        self.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        public_path = self._make_keys()
        self._server, said = self._start("server.py", public_path)
        self.host = json.loads(said)
        port = self.host["url"].rstrip("/").rpartition(":")[2]
        self._proxy, far_port = self._start("proxy.py", port, str(DELAY_SECONDS))
        self.near = self._write_settings("near", self.host["url"])
        self.far = self._write_settings("far", f"http://127.0.0.1:{int(far_port)}/")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in (self._proxy, self._server):
            process.stdin.close()
            process.wait()
            process.stdout.close()

    def _start(self, *words):
        process = subprocess.Popen([sys.executable, str(HERE / words[0]), *words[1:]], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return process, process.stdout.readline()

    def _make_keys(self):
        key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
        self._public_key = key.public_key()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                    serialization.NoEncryption())
        public = self._public_key.public_bytes(serialization.Encoding.PEM,
                                               serialization.PublicFormat.SubjectPublicKeyInfo)
        for name, content in (("host.key", private), ("host.pub", public)):
            (self.folder / name).write_bytes(content)
            (self.folder / name).chmod(0o600)
        return str(self.folder / "host.pub")

    def _write_settings(self, name, url):
        folder = self.folder / name
        folder.mkdir()
        path = folder / "settings.yml"
        host = {part: base64.b64encode(self._public_key.encrypt(self.host[part].encode(), _OAEP))
                .decode() for part in ("uuid", "token")}
        host.update(private_key=str(self.folder / "host.key"),
                    public_key=str(self.folder / "host.pub"))
        path.write_text(yaml.safe_dump(
            {"version": 1, "host": host, "server": {"url": url}, "endpoints": _ENDPOINTS}))
        path.chmod(0o600)
        return str(path)

    def ask_server(self, **asked):
        """What the server counts: {"outputs", "lists"}; see server.py."""
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def client(self, action, settings_path, *words):
        """The command line of the client."""
        return [sys.executable, CLIENT, f"--action={action}", f"--settings={settings_path}", *words]

    def cost(self, *words):
        """The Cost of a program; see measure.py."""
        return cost(list(words), env=self.environ, cwd=self.folder)

    def cost_of_commands(self, sources, *words):
        """The Cost of a program that has to run all commands that the server offers."""
        self.ask_server(load=sources)
        found = self.cost(*words)
        delivered = self.ask_server(count=True)["outputs"]
        if delivered != len(sources):
            raise SystemExit(f"{words}: {delivered} of {len(sources)} commands were delivered")
        return found
