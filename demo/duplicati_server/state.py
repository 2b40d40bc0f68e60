"""What the demo Duplicati server is between two requests: its sessions, jobs, tasks and logs, put
together and kept in its folder.

Guards: that all but tasks outlives the end of the process, `kill -9` included; and what tests
hold, release, expire and crash. Leaves alone: requests and their answers.
"""
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from demo.duplicati_server import jobs
from demo.duplicati_server.cookies import CookieSessions
from demo.duplicati_server.engine import MIDDLE, Engine
from demo.duplicati_server.live import LiveLog
from demo.duplicati_server.moments import now, parse
from demo.duplicati_server.operations import Operations
from demo.duplicati_server.releases import RELEASES
from demo.duplicati_server.store import Store
from demo.duplicati_server.tokens import TokenSessions
from demo.serving import SiteError

JOB_NAMES = {"name", "description", "files", "sources", "target", "target_url", "settings",
             "filters", "schedule"}


class State:
    """A server's state and rules, without sockets; can be used from several threads.

    `release`: a key of RELEASES. `password` None: none on 2.0, on later releases one that nobody
    knows. `folder`: where all is kept; None: a temporary one, removed by `close`. `site`: what a
    new folder begins with (`duplicati-site.yml` explains what can be in it); None: no jobs.
    `token_seconds`: life of an access token. `pre_auth`: pre-auth tokens. `busy_seconds`: how
    long 2.1.0.5 waits for a busy database. `log` gets one line for each thing that happens.
    Raises SiteError, OSError, sqlite3.Error.
    """

    def __init__(self, release: str = "2.3.0.4", password: str | None = None,
                 folder: Path | None = None, site: dict | None = None,
                 token_seconds: float = 900, pre_auth: tuple[str, ...] = (),
                 enable_forever_token: bool = False, busy_seconds: float = 10,
                 log: Callable[[str], None] = lambda line: None):
        self.played, self.release_name = RELEASES[release], release
        self.password, self.log, self.busy_seconds = password, log, busy_seconds
        self._token_options = (token_seconds, tuple(pre_auth), enable_forever_token)
        self.when_killed: Callable[[], None] = lambda: None
        self._is_temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="duplicati-demo-") if folder is None
                           else folder)
        self.requests: list[tuple[str, str]] = []
        self._open()
        if self.store.is_new():
            self._make_site(site or {})
            self.store.save_setting("demo-made", "yes")

    def _open(self) -> None:
        self.store = Store(self.folder / "data")
        self.live = LiveLog(keeps_unread=not self.played.is_legacy)
        self.operations = Operations(self.played, self.store, self.live)
        if self.played.is_legacy:
            self.sessions = CookieSessions(self.store, self.password)
        else:
            self.sessions = TokenSessions(self.played, self.store, self.password,
                                          *self._token_options, log=self.live.add)
        paused = self.store.setting("demo-paused")
        if paused and not self.played.is_legacy:  # a pause outlives the process
            left = 0 if paused == "until resumed" else (parse(paused) - now()).total_seconds()
            if paused == "until resumed" or left > 0:
                self.engine.pause(max(left, 0))
        self.engine.start()

    @property
    def engine(self) -> Engine:
        """The tasks; another one after a restart."""
        return self.operations.engine

    def close(self) -> None:
        """End, as if killed; a temporary folder is removed."""
        self.engine.close()
        self.store.close()
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    # For tests.

    def hold(self, name: str, phase: str = MIDDLE) -> None:
        """Let tasks of jobs of that name stop in their middle, or where a phase begins; one that
        is held elsewhere goes on."""
        self.engine.hold(name, phase)

    def release(self, name: str) -> None:
        """Let them go on."""
        self.engine.release_job(name)

    def wait_reached(self, name: str, phase: str = MIDDLE, seconds: float = 60) -> bool:
        """Wait until a held task has come to where it is held; whether it has."""
        return self.engine.wait_until(lambda: (name, phase) in self.engine.reached, seconds)

    def wait_idle(self, seconds: float = 60) -> bool:
        """Wait until nothing runs or is queued; whether that is so."""
        engine = self.engine
        return engine.wait_until(lambda: not engine.active and not engine.queue, seconds)

    def expire_tokens(self) -> None:
        """All access tokens (on 2.0: all sessions) given so far are over."""
        self.sessions.expire_tokens()

    def crash_and_restart(self) -> None:
        """The same as `kill -9` and a new start, at the same port: what runs leaves no row, task
        numbers begin anew, results are forgotten; calls that wait get no answer."""
        self.engine.close()
        self.when_killed()
        self.store.close()
        self._open()

    @property
    def tasks(self) -> dict:
        """The tasks that the engine knows, by number."""
        return self.engine.tasks

    # The site.

    def _make_site(self, site: dict) -> None:
        for number, job in enumerate(site.get("jobs") or [], 1):
            where = f"job {number}"
            if not isinstance(job, dict) or "name" not in job:
                raise SiteError(f"{where}: a mapping with a name is expected")
            if unknown := sorted(set(job) - JOB_NAMES):
                raise SiteError(f"{where}: {unknown[0]!r} is not known; known: "
                                + ", ".join(sorted(JOB_NAMES)))
            self._make_job(job)

    def _make_job(self, job: dict) -> None:
        sources = job.get("sources")
        if sources is None:
            folder = self.folder / "sources" / job["name"]
            for path, content in (job.get("files") or {}).items():
                _make_file(folder / path, content)
            sources = [f"{folder}/"]
        url = job.get("target_url")
        if url is None:
            (self.folder / "targets").mkdir(exist_ok=True)
            url = f"file://{self.folder}/targets/{job.get('target', job['name'])}"
        document = jobs.take_job({
            "Name": job["name"], "Description": job.get("description"), "TargetURL": url,
            "Sources": sources, "Metadata": {}, "Settings": [
                {"Name": name, "Value": str(value)}
                for name, value in (job.get("settings") or {}).items()],
            "Filters": [{"Order": order, "Include": text[0] == "+", "Expression": text[1:]}
                        for order, text in enumerate(job.get("filters") or [])]})
        key = self.store.add_backup(document)
        if job.get("schedule"):
            given = job["schedule"]
            self.store.save_schedule(key, jobs.take_schedule(self.played, {
                "Repeat": given.get("repeat"), "Time": given.get("time"),
                "AllowedDays": given.get("days")}))


def _make_file(path: Path, content: object) -> None:
    """A file of a site: a text, or a number of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, int):
        path.write_bytes((path.name.encode() + b"\n") * (content // (len(path.name) + 1) + 1))
        with path.open("r+b") as file:
            file.truncate(content)
    else:
        path.write_text(str(content), encoding="utf-8")
