"""Sessions of the cookie generation of the demo Duplicati server (section 2 of the protocol).

Guards: the order of the checks, the three cookies and their lives, the limits, and the answers
of each refusal, to the reason phrase. All sessions end with the process.
Leaves alone: JSONP, the method override, captchas.
"""
import hashlib
import os
import re
import threading
import time
from base64 import b64decode, b64encode, urlsafe_b64encode
from email.utils import formatdate
from urllib.parse import quote, unquote

from demo.duplicati_server.answers import Answer, Call, indented
from demo.duplicati_server.store import Store

MOST_TOKENS, MOST_NONCES = 500, 50
SHORT_SECONDS, LONG_SECONDS = 600, 3600
NO_STORE = ("Cache-Control", "no-cache, no-store, must-revalidate, max-age=0")
JSON, NO_TYPE = ("Content-Type", "application/json"), ("Content-Type", "")
PAGE = b"<html><head><title>Duplicati</title></head><body></body></html>"


class CookieSessions:
    """Cookies in memory; can be used from several threads. `password` None: the server has
    none, unless the store has (it was set over HTTP)."""

    def __init__(self, store: Store, password: str | None):
        self.store, self._lock = store, threading.Lock()
        self._tokens: dict[str, float] = {}  # live xsrf tokens, nonces, sessions: until when
        self._nonces: dict[str, float] = {}
        self._sessions: dict[str, float] = {}
        if password:
            salt = os.urandom(32)  # new at each start, when the password came with it
            proof = hashlib.sha256(password.encode() + salt).digest()
            store.save_setting("server-passphrase", b64encode(proof).decode())
            store.save_setting("server-passphrase-salt", b64encode(salt).decode())

    def expire_tokens(self) -> None:
        """All sessions are over; the xsrf tokens stay."""
        with self._lock:
            self._sessions.clear()

    @property
    def has_password(self) -> bool:
        """Whether one is needed."""
        return bool(self.store.setting("server-passphrase"))

    def answer(self, call: Call) -> tuple[Answer | None, list[tuple[str, str]]]:
        """The answer to what is no call of the API, or may not be one; None for a call that may
        pass. Then the cookies that go with whatever is answered."""
        if not re.fullmatch(r"localhost|\d+\.\d+\.\d+\.\d+",
                            (call.header("Host") or "").partition(":")[0]):
            reason = "The host header sent by the client is not allowed"
            return Answer(403, [("Content-Type", "text/plain")], reason.encode(), reason), []
        with self._lock:
            return self._checked(call)

    def _checked(self, call: Call) -> tuple[Answer | None, list[tuple[str, str]]]:
        given = _cookies(call)
        token, cookies = given.get("xsrf-token", ""), []
        if not self._is_live(self._tokens, token):
            if len(self._tokens) >= MOST_TOKENS:
                reason = "Too Many Concurrent Request, try again later"
                return Answer(503, [NO_TYPE], b"", reason), []
            token = b64encode(os.urandom(32)).decode()
            self._tokens[token] = time.time() + SHORT_SECONDS
            cookies = [_cookie("xsrf-token", token, SHORT_SECONDS)]
        if call.path in ("/logout.cgi", "/login.cgi"):
            return self._cgi(call, given, cookies)
        session = given.get("session-auth", "")
        is_in = self._is_live(self._sessions, session) or not self.has_password
        if call.path.startswith("/api/v1/"):
            header = call.header("X-XSRF-Token") or call.query.get("x-xsrf-token", "")
            if not self._is_live(self._tokens, header):
                return Answer(400, [NO_TYPE], b"",
                              "Missing XSRF Token. Please reload the page"), cookies
            self._tokens[header] = time.time() + SHORT_SECONDS
            cookies = [_cookie("xsrf-token", header, SHORT_SECONDS)]
            if not is_in:
                return Answer(401, [("Location", "login.html"), NO_TYPE], b"",
                              "Not logged in"), cookies
        if self._is_live(self._sessions, session):
            self._sessions[session] = time.time() + LONG_SECONDS
            cookies = [*cookies, _cookie("session-auth", session, LONG_SECONDS)]
        return self._page(call, is_in), cookies

    def _page(self, call: Call, is_in: bool) -> Answer | None:
        """What is answered outside of the API."""
        html = ("Content-Type", "text/html; charset=utf-8")
        if call.path.startswith("/api/v1/"):
            return None
        if call.path in ("/", "/index.html"):
            if is_in:
                return Answer(200, [NO_STORE, html], PAGE)
            return Answer(302, [("location", "/login.html"), NO_TYPE], b"", "Redirect")
        if call.path == "/login.html":
            return Answer(200, [("Cache-Control", "max-age=86400"), (
                "Last-modified", formatdate(usegmt=True)), html], PAGE)
        return not_found(call)

    def _cgi(self, call: Call, given: dict, cookies: list) -> tuple[Answer, list]:
        if call.path == "/logout.cgi":
            self._sessions.pop(given.get("session-auth", ""), None)
            return Answer(204, [NO_TYPE], b"", "OK"), []
        form = call.form()
        if form.get("get-nonce"):
            return self._give_nonce(cookies)
        if form.get("password"):
            return self._log_in(form["password"], given, cookies)
        return not_found(call), cookies

    def _give_nonce(self, cookies: list) -> tuple[Answer, list]:
        self._nonces = {nonce: until for nonce, until in self._nonces.items()
                        if until > time.time()}
        if len(self._nonces) >= MOST_NONCES:
            return Answer(503, [NO_TYPE], b"", "Too many active login attempts"), cookies
        nonce = b64encode(os.urandom(32)).decode()
        self._nonces[nonce] = time.time() + SHORT_SECONDS
        salt = self.store.setting("server-passphrase-salt")
        return (Answer(200, [NO_STORE, JSON],
                       indented({"Status": "OK", "Nonce": nonce, "Salt": salt})),
                [*cookies, _cookie("session-nonce", nonce, SHORT_SECONDS)])

    def _log_in(self, answer: str, given: dict, cookies: list) -> tuple[Answer, list]:
        nonce = given.get("session-nonce", "")
        is_live = self._is_live(self._nonces, nonce)
        self._nonces.pop(nonce, None)
        kept = b64decode(self.store.setting("server-passphrase") or "")
        if is_live:
            expected = hashlib.sha256(b64decode(nonce) + kept).digest()
            if answer == b64encode(expected).decode():
                session = urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
                self._sessions[session] = time.time() + LONG_SECONDS
                return (Answer(200, [NO_STORE, JSON], indented({"Status": "OK"})),
                        [*cookies, _cookie("session-auth", session, LONG_SECONDS)])
        return Answer(401, [JSON], b"", "Unauthorized"), cookies

    def never_answers(self, call: Call) -> bool:
        """Whether this is the call that a server without a password leaves hanging."""
        return (call.path == "/login.cgi" and not self.has_password
                and bool(call.form().get("get-nonce")))

    @staticmethod
    def _is_live(values: dict[str, float], value: str) -> bool:
        until = values.get(value)
        if until is not None and until <= time.time():
            del values[value]
        return until is not None and until > time.time()


def not_found(call: Call) -> Answer:
    """The answer to a path that is none."""
    text = f"Resource not found: {call.url.rstrip('/')}{call.path}\r\n"
    return Answer(404, [("Content-Type", "text/plain")], text.encode(), "Internal server error")


def _cookies(call: Call) -> dict[str, str]:
    """The cookies of a call; their values may be percent-encoded or not."""
    pairs = [part.strip().partition("=") for part in (call.header("Cookie") or "").split(";")]
    return {name: unquote(value) for name, _, value in pairs}


def _cookie(name: str, value: str, seconds: float) -> tuple[str, str]:
    until = formatdate(time.time() + seconds, usegmt=True)
    return "Set-Cookie", f"{name}={quote(value, safe='')}; expires={until};path=/; "
