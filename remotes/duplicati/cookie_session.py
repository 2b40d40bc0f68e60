"""A session of the old generation (2.0): xsrf token, nonce, salt, cookies.

Guards: that the xsrf token goes as cookie and as header, since a header alone uses up the
server's places for them; that the salt is never kept. Leaves alone: where a password comes
from.

Source: protocol page of Duplicati, sections 2.1 to 2.4, and 2.7.
"""

import base64
import hashlib
import urllib.parse

from remotes.duplicati.session import Session
from remotes.errors import ForeignServerError, LoginError

_LOGIN_PATH = "/login.cgi"
_LOGOUT_PATH = "/logout.cgi"


def answer_to(password, nonce, salt):
    """What login.cgi wants to hear: texts in, base64 out. ValueError if one is no base64."""
    plain = password.encode("utf-8", "surrogateescape")
    stored = hashlib.sha256(plain + base64.b64decode(salt)).digest()
    return base64.b64encode(hashlib.sha256(base64.b64decode(nonce) + stored).digest()).decode()


class CookieSession(Session):
    generation = "cookie"

    def __init__(self, *parts, **more):
        super().__init__(*parts, **more)
        kept = self.keeper.kept
        self._xsrf = kept.get("xsrf_token")  # as it stands in the cookie, percent-encoded
        self._auth = kept.get("session_auth")
        self._nonce = None

    def _headers(self):
        headers = {}
        cookies = {"xsrf-token": self._xsrf, "session-nonce": self._nonce,
                   "session-auth": self._auth}
        line = "; ".join(f"{name}={value}" for name, value in cookies.items() if value)
        if line:
            headers["Cookie"] = line
        if self._xsrf:
            headers["X-XSRF-Token"] = urllib.parse.unquote(self._xsrf)
        if basic := self.credentials.basic_header():
            headers["Authorization"] = basic
        return headers

    def _hear(self, answer):
        self._xsrf = answer.cookies.get("xsrf-token") or self._xsrf
        self._auth = answer.cookies.get("session-auth") or self._auth
        self._nonce = answer.cookies.get("session-nonce") or self._nonce

    def _is_refused(self, answer):
        # 400 without a word: the xsrf token is gone (it lives for ten minutes, or the server
        # was started anew), and a new one has just come. 401: the login is gone.
        return answer.status in (400, 401) and not answer.body

    def _is_of_other(self, answer):
        return answer.status == 401 \
            and answer.headers.get("WWW-Authenticate", "").startswith("Bearer")

    def _renew(self, answer):
        if answer.status == 400:
            if not answer.cookies.get("xsrf-token"):
                raise ForeignServerError(f"{self.base} answers 400 to everything (no Duplicati"
                                         " server is there)")
            if self._probe().status != 401:
                self._save()
                return
        with self.renewing():
            kept = self.kept()
            if kept.get("session_auth") not in (None, self._auth):
                self._xsrf, self._auth = kept.get("xsrf_token"), kept["session_auth"]
                probed = self._probe()
                if probed.status == 200:
                    return  # another run has just logged in
                if probed.status not in (400, 401):
                    self._judged(probed, "GET")
            password = self.credentials.password()
            if password is None:
                raise self._ended()
            self.require_keepable()
            self.tell(f"logging in again at {self.base}")
            self.log_in(password)

    def _probe(self):
        return self._send("GET", "v1/serverstate", None, None, {})

    def log_in(self, password):
        """Logs in with the server's password (text). Errors: LoginError and others.

        Only for a server that wants one: the others never answer to it (section 2.3).
        """
        self._auth = None
        answer = self._send("POST", _LOGIN_PATH, None, None, {"form": {"get-nonce": "1"}})
        said = self._judged(answer, "POST")
        try:
            proof = answer_to(password, said["Nonce"], said["Salt"])
        except (KeyError, TypeError, ValueError):
            raise ForeignServerError(f"{self.base} gives no nonce (no Duplicati server is there)"
                                     ) from None
        answer = self._send("POST", _LOGIN_PATH, None, None, {"form": {"password": proof}})
        self._nonce = None
        if answer.status == 401:
            raise LoginError(f"{self.base} refuses the password")
        self._judged(answer, "POST")
        if not self._auth:
            raise ForeignServerError(f"{self.base} gives no session (no Duplicati server is there)")
        self._save()

    def _save(self):
        self.keeper.save({"xsrf_token": self._xsrf, "session_auth": self._auth})

    def begin_with(self, xsrf):
        """Takes the xsrf token that a first request has brought, for who needs no login."""
        self._xsrf = xsrf

    def keep_open(self):
        """Keeps what there is, of a server that wants no password."""
        self._save()

    def log_out(self):
        """Has the server forget the session; whether there was one to revoke there. Errors:
        those of an exchange; then the server has not."""
        had = self._auth is not None
        if had:
            answer = self._send("GET", _LOGOUT_PATH, None, None, {})
            self._judged(answer, "GET")
            if answer.body:
                raise ForeignServerError(f"{self.base} answers a logout as no Duplicati server"
                                         " does")
        self._xsrf = self._auth = None
        return had

    def describe(self):
        """What people may know of the session."""
        return {"kind": "cookie" if self._auth else "open", "access_until": None}
