"""The demo Duplicati server in a process of its own, with many backups, and a login there."""

import json
import subprocess
import sys
import time
import urllib.request
from collections import namedtuple

import yaml
from measure import peak_memory
from world import HERE

sys.path.insert(0, str(HERE.parent))

from demo.duplicati_server.moments import parse  # noqa: E402

SHORT, LONG = "1", "2"  # IDs of the backups that are run
SHORT_SECONDS, LONG_SECONDS = 0.2, 20
_PASSWORD = "password-of-the-benchmark"
# One in so many has a schedule: with 500 the server's answer is about 250 kB, as a real one's.
_SCHEDULED = 10

# Seconds from the end of a task by the server to the end of the program that waited for it, and
# how many requests that made.
Waited = namedtuple("Waited", "seconds requests")


def site(backups):
    """A site with so many jobs; SHORT and LONG are the first two."""
    seconds = {SHORT: SHORT_SECONDS, LONG: LONG_SECONDS}
    return {"jobs": [{
        "name": f"Backup {number}", "files": {"letter.txt": "Dear Anna,\n"},
        "target": f"{number}?auth-username=ann&auth-password=secret-{number}",
        "settings": {"--no-encryption": "true", "--demo-seconds": seconds.get(str(number), 0)},
        **({} if number % _SCHEDULED else {"schedule": {"time": "2035-01-01T13:00:00Z",
                                                        "repeat": "1D"}}),
    } for number in range(1, backups + 1)]}


class DuplicatiWorld:
    """A server with `backups` backups that runs as long as this is open, and the settings of a
    client that is logged in there, below the folder of `world`.
    """

    def __init__(self, world, backups):
        self.world = world
        folder = world.folder / "duplicati"
        folder.mkdir()
        self.settings = str(folder / "settings.yml")
        (folder / "site.yml").write_text(yaml.safe_dump(site(backups)))
        (folder / "password").write_text(_PASSWORD)
        (folder / "password").chmod(0o600)
        self._server = subprocess.Popen(
            [sys.executable, str(HERE.parent / "demo" / "duplicati.py"), "--port=0",
             f"--password={_PASSWORD}", f"--site={folder / 'site.yml'}",
             f"--folder={folder / 'server'}", "--token_seconds=86400"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self._server.stdout.readline().rpartition(" ")[2].strip()
        try:
            world.cost(*self.client("login", f"--url={self.url}",
                                    f"--password_file={folder / 'password'}"))
        except BaseException:
            self.__exit__()
            raise
        with open(self.settings, "rb") as stream:
            kept = yaml.safe_load(stream)["duplicati"]["servers"]["default"]
        self._headers = {"Authorization": f"Bearer {kept['access_token']}"}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._server.terminate()
        self._server.wait()
        self._server.stdout.close()

    def client(self, verb, *words):
        """The command line of the client for one of Duplicati's actions."""
        return self.world.client(f"duplicati_{verb}", self.settings, *words)

    def bare(self, verb, *words):
        """The command line of the bare script."""
        return [sys.executable, str(HERE / "bare_duplicati.py"), self.settings, verb, *words]

    def peak_memory(self, *words):
        """The most memory that a program has had, in bytes; see measure.py."""
        return peak_memory(list(words), env=self.world.environ, cwd=self.world.folder)

    def waited(self, *words):
        """Runs a program that starts a backup, waits for its end and prints {"tasks":
        [{"task": its number}]}; gives Waited.
        """
        before = len(self._ask("demo/requests"))
        printed = subprocess.check_output(words, env=self.world.environ, cwd=self.world.folder)
        ended = time.time()
        requests = len(self._ask("demo/requests")) - before
        number = json.loads(printed)["tasks"][0]["task"]
        finished = self._ask(f"api/v1/task/{number}")["TaskFinished"]
        return Waited(ended - parse(finished).timestamp(), requests)

    def _ask(self, path):
        request = urllib.request.Request(self.url + path, headers=self._headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
