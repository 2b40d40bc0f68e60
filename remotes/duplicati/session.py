"""What both generations of sessions share: what is kept of a server, what one logs in with,
and the exchange that renews the session when the server no longer takes it.

Guards: that a session is renewed by one process at a time, from what is on the disk at
that moment, so that no refresh token is used twice; that passwords are never kept.
Leaves alone: what a session of each generation is (token_session, cookie_session).
"""

import base64
import contextlib
import urllib.parse

from remotes import files
from remotes.duplicati.answers import judge
from remotes.errors import (
    ForeignServerError,
    LoginError,
    NotFoundError,
    SettingsError,
    UnavailableError,
)

# A renewal is one exchange, rarely two; who waits longer than that waits for nothing.
_LOCK_WAIT_SECONDS = 120.0
_KEPT_TASKS = 50
# What belongs to a session, and goes with it.
SESSION_KEYS = ("access_token", "access_until", "refresh_cookie", "refresh_nonce",
                "pre_auth_token", "xsrf_token", "session_auth")


class OtherGenerationError(LoginError):
    """What answers is of the generation that the session is none of; `generation` names it."""

    def __init__(self, message, generation):
        super().__init__(message)
        self.generation = generation


class Keeper:
    """The section of one Duplicati server in the settings.

    `name` is what --server calls it; `kept` the mapping as it was read last.
    """

    def __init__(self, settings, name):
        self.name = name
        self._settings = settings

    @property
    def kept(self):
        return self._settings.duplicati_server(self.name)

    @contextlib.contextmanager
    def renewing(self):
        """The lock for the length of a renewal, network included; `kept` is read anew.

        Not the lock of the settings' own: a server that answers slowly must not hold up
        whoever wants to note something else.
        """
        lock = files.Lock(self._settings.beside("duplicati-session.lock"))
        with lock.held(_LOCK_WAIT_SECONDS, "renewal of a session"):
            self._settings.read()
            yield

    def require_writable(self):
        """An error of ours unless what the server is about to give could be kept."""
        self._settings.require_writable()

    def save(self, changes):
        """Keeps `changes` (name -> value; None takes a name out)."""
        with self._settings.changing() as document:
            kept = (document.get("duplicati", {}).get("servers") or {}).get(self.name)
            if kept is None:
                return  # somebody has logged out meanwhile
            for name, value in changes.items():
                if value is None:
                    kept.pop(name, None)
                else:
                    kept[name] = value

    def save_task(self, number, found):
        """Keeps what is known of a task (mapping) that was started; the oldest ones go."""
        with self._settings.changing() as document:
            servers = document.get("duplicati", {}).get("servers", {})
            if self.name in servers:
                tasks = servers[self.name].setdefault("tasks", {})
                tasks.pop(str(number), None)
                tasks[str(number)] = found
                for name in list(tasks)[:-_KEPT_TASKS]:
                    del tasks[name]

    def replace(self, kept):
        """Keeps `kept` (name -> value) in place of all that is; None: the server is forgotten.

        To be called while `renewing`, so that no renewal writes over it.
        """
        with self._settings.changing() as document:
            servers = document.setdefault("duplicati", {}).setdefault("servers", {})
            servers.pop(self.name, None)
            if kept is not None:
                servers[self.name] = {name: value for name, value in kept.items()
                                      if value is not None}


class Draft:
    """Keeps like a Keeper, but in memory: a login that fails must cost no session."""

    def __init__(self, name):
        self.name = name
        self.kept = {}

    def renewing(self):
        return contextlib.nullcontext()

    def require_writable(self):
        """Nothing is written yet."""

    def save(self, changes):
        self.kept.update(changes)


class Credentials:
    """What the client can log in with unasked: `values` are the options in force."""

    def __init__(self, values, environ):
        self._values = values
        self._environ = environ
        self._basic = None  # once read it stays: the settings may come to name another server

    def password(self):
        """The password as text, from where it is said first, or None. Errors: SettingsError."""
        for source, values in self._values.layers:
            if source == "environment" and self._environ.get("DUPLICATI_PASSWORD"):
                return self._environ["DUPLICATI_PASSWORD"]
            if values.get("password"):
                return values["password"]
            if values.get("password_file"):
                return files.read_secret(values["password_file"], "password")
        path = self._values["password_file"]
        return files.read_secret(path, "password") if path else None

    def basic_header(self):
        """The value of Authorization for a proxy before the server, or None."""
        user, path = self._values["basic_user"], self._values["basic_password_file"]
        if user is None or self._basic is not None:
            return self._basic
        password = files.read_secret(path, "basic password") if path \
            else self._environ.get("DUPLICATI_BASIC_PASSWORD")
        if not password:
            raise SettingsError("--basic_user needs --basic_password_file, or"
                                " $DUPLICATI_BASIC_PASSWORD")
        login = f"{user}:{password}".encode("utf-8", "surrogateescape")
        self._basic = "Basic " + base64.b64encode(login).decode()
        return self._basic


class Session:
    """A way to talk to the server at `base` (a URL with a slash at its end).

    Subclasses give `_headers`, `_is_refused`, `_is_of_other` and `_renew`. `tell` is called
    with lines for people who want to know more.
    """

    generation = None

    def __init__(self, base, transport, keeper, credentials, tell=lambda line: None):
        self.base = base
        self.transport = transport
        self.keeper = keeper
        self.credentials = credentials
        self.tell = tell
        self.renewals = 0  # so often the server did not know this session any more
        self.was_heard = False  # whether the server has taken a request in it
        self._kept_url = keeper.kept.get("url")

    def close(self):
        self.transport.close()

    def url(self, path, query=None):
        """The address of `path` ("v1/tasks"; below api/ unless it begins with a slash)."""
        place = path[1:] if path.startswith("/") else f"api/{path}"
        asked = {name: str(value).lower() if isinstance(value, bool) else str(value)
                 for name, value in (query or {}).items() if value is not None}
        return self.base + place + (f"?{urllib.parse.urlencode(asked)}" if asked else "")

    def exchange(self, method, path, *, query=None, headers=None, **sent):
        """One exchange in this session; gives the Answer. The session is renewed, and the
        request sent again, where the server does not take it any more (it has done nothing
        then). Errors: those of Transport.exchange, LoginError, SettingsError;
        OtherGenerationError, and then nothing was done either.
        """
        self._prepare()
        answer = self._send(method, path, query, headers, sent)
        if self._is_refused(answer):
            self._renew(answer)
            self.renewals += 1
            answer = self._send(method, path, query, headers, sent)
        self.was_heard = True
        return answer

    def _send(self, method, path, query, headers, sent):
        answer = self.transport.exchange(
            method, self.url(path, query), headers={**self._headers(), **(headers or {})}, **sent)
        self._require_own_generation(answer)
        self._hear(answer)
        return answer

    def _require_own_generation(self, answer):
        if self._is_of_other(answer):
            raise OtherGenerationError(
                f"the server at {self.base} is of another generation now: log in again with"
                f" --action=duplicati_login --url={self.base}{self.name_option()}",
                "cookie" if self.generation == "token" else "token")

    def _prepare(self):
        """Before an exchange: what is about to expire is renewed."""

    def _hear(self, answer):
        """After an exchange: what the server wants remembered."""

    def _headers(self):
        raise NotImplementedError

    def _is_refused(self, answer):
        raise NotImplementedError

    def _is_of_other(self, answer):
        """Whether an answer is one that only servers of the other generation give."""
        raise NotImplementedError

    @contextlib.contextmanager
    def renewing(self):
        """The lock for a renewal, and `require_keepable` to be called in it."""
        with contextlib.ExitStack() as held:
            with self._told_why():
                held.enter_context(self.keeper.renewing())
            yield

    def require_keepable(self):
        """An error of ours unless what a renewal gives could be kept."""
        with self._told_why():
            self.keeper.require_writable()

    @contextlib.contextmanager
    def _told_why(self):
        try:
            yield
        except (SettingsError, UnavailableError) as error:
            error.args = (f"the session at {self.base} must be renewed, and the new one be kept"
                          f" there: {error}",)
            raise

    def _judged(self, answer, method):
        """judge, for the session's own requests: every server of its generation has those."""
        try:
            return judge(answer, method)
        except NotFoundError as error:
            raise ForeignServerError(f"{error}: no Duplicati server is there, or one whose sessions"
                                     " are others", answer=error.answer) from None

    def _renew(self, answer):
        raise NotImplementedError

    def kept(self):
        """What is kept of the server, read anew by `renewing`. LoginError if that is no longer
        this session's: what belongs to another server must not be sent to this one.
        """
        kept = self.keeper.kept
        if kept.get("url") != self._kept_url:
            raise LoginError(f"the session at {self.base} was ended by another run: it has logged"
                             " out, or in elsewhere under the same name")
        return kept

    def _ended(self):
        """The error for a session that is over and cannot be renewed."""
        return LoginError(
            f"the session at {self.base} has ended: log in again with --action=duplicati_login"
            f"{self.name_option()} (with --password_file the client does so by itself)"
        )

    def name_option(self):
        """How to name this server on a command line; nothing for the default one."""
        return "" if self.keeper.name == "default" else f" --server={self.keeper.name}"
