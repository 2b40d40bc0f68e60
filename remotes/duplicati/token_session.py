"""A session with tokens (2.1 and later): access token, refresh cookie and nonce.

Guards: that cookie and nonce are kept together, before anything else happens; that a
token is renewed before it expires by this machine's own reckoning (the server's clock may
differ), and once more where the server does not take it. The cookie is sent by hand, under
the name that the server gave it: cookie jars do not give it back to `localhost`.
Leaves alone: where a password comes from.

Source: protocol page of Duplicati, sections 1.1 to 1.8.
"""

import base64
import json
import re
import time

from remotes.answer import NOT_JSON, one_line
from remotes.duplicati.session import SESSION_KEYS, Session
from remotes.errors import (
    ForeignServerError,
    LoginError,
    RefusedError,
    RemotesError,
    SettingsError,
)

LOGIN_PATH = "v1/auth/login"
SIGN_IN_PATH = "v1/auth/signin"
_REFRESH_PATH = "v1/auth/refresh"
_LOGOUT_PATH = "v1/auth/refresh/logout"
_FOREVER_PATH = "v1/auth/issue-forever-token"
# Renewed so long before its end: a quarter of its life, at most.
_MARGIN_SECONDS = 30.0
_MARGIN_PART = 0.25
# What can stand in a header.
_PLAIN_WORD = re.compile("[!-~]+")
# What is no moment before the year 10000 (Unix seconds) is none.
_LAST_MOMENT = 253402300800


def claims(token):
    """The claims of a JWT as a mapping; an empty one if `token` is none. Nothing is proved."""
    try:
        middle = str(token).split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def lifetime_seconds(token):
    """How long an access token is good for from the moment it is made; None if unknown."""
    found = claims(token)
    begin, end = found.get("nbf"), found.get("exp")
    if not all(isinstance(part, (int, float)) and 0 <= part < _LAST_MOMENT
               for part in (begin, end)):
        return None
    return float(max(0, end - begin))


class TokenSession(Session):
    generation = "token"

    def __init__(self, *parts, **more):
        super().__init__(*parts, **more)
        self._state = {name: self.keeper.kept.get(name) for name in SESSION_KEYS}

    # -- the exchange ----------------------------------------------------------------

    def _headers(self):
        own = None
        if self._state.get("pre_auth_token"):
            own = f"PreAuth {self._state['pre_auth_token']}"
        elif self._state.get("access_token"):
            own = f"Bearer {self._state['access_token']}"
        if own:
            self._refuse_basic()
        header = own or self.credentials.basic_header()
        return {"Authorization": header} if header else {}

    def _refuse_basic(self):
        if self.credentials.basic_header():
            raise SettingsError(
                f"{self.base} wants a token and the proxy before it basic auth, and both cannot be"
                " sent in one header: let the proxy leave /api/ alone, or log in for you"
            )

    def _prepare(self):
        until = self._state.get("access_until")
        if self._state.get("access_token") and isinstance(until, (int, float)):
            life = lifetime_seconds(self._state["access_token"]) or 0.0
            if time.time() > until - min(_MARGIN_SECONDS, life * _MARGIN_PART):
                self._renew(None)

    def _is_refused(self, answer):
        # 500 without a word: the token's family was revoked (section 1.6).
        if self._state.get("access_token"):
            return answer.status in (401, 500) and not answer.body
        # No token is there, and the server, no proxy before it, wants one after all.
        return answer.status == 401 and not self._state.get("pre_auth_token") \
            and answer.headers.get("WWW-Authenticate", "").startswith("Bearer")

    def _is_of_other(self, answer):
        return answer.status >= 400 and bool(answer.cookies.get("xsrf-token"))

    def _renew(self, answer):
        used = self._state.get("access_token")
        with self.renewing():
            found = self.kept()
            kept = {name: found.get(name) for name in SESSION_KEYS}
            if kept.get("access_token") and kept["access_token"] != used:
                self._state = kept  # another run has just renewed it
                return
            self._state = kept if kept.get("access_token") else self._state
            if not self._refresh():
                self._log_in_again()

    def _refresh(self):
        """Exchanges cookie and nonce, if there are any, for new ones; whether the server took
        them. Errors: UnavailableError and others, where it cannot say so now."""
        if not self._state.get("refresh_cookie"):
            return False
        self.require_keepable()  # what it is about to give must be kept
        answer = self.transport.exchange(
            "POST", self.url(_REFRESH_PATH), headers={"Cookie": self._state["refresh_cookie"]},
            document={"Nonce": self._state.get("refresh_nonce") or ""},
        )
        self._require_own_generation(answer)
        if answer.status == 200:
            self._take(answer)
            self.tell(f"the session at {self.base} was renewed")
            return True
        if answer.status not in (400, 401) and self.credentials.password() is None:
            self._judged(answer, "POST")
        return False

    def _log_in_again(self):
        password = self.credentials.password()
        if password is None:
            raise self._ended()
        self.require_keepable()
        self.tell(f"logging in again at {self.base}")
        self.log_in(password)

    def _take(self, answer):
        """Keeps what a login or a renewal gave."""
        document = self._judged(answer, "POST")
        said = document if isinstance(document, dict) else {}
        token, nonce = said.get("AccessToken"), said.get("RefreshNonce")
        if not isinstance(token, str) or not _PLAIN_WORD.fullmatch(token):
            raise ForeignServerError(f"{self.base} gives no token (no Duplicati server is there)")
        cookie = next((f"{name}={value}" for name, value in answer.cookies.items()
                       if name.startswith("RefreshToken_")), None)
        life = lifetime_seconds(token)
        self._state = {
            "access_token": token,
            "access_until": None if life is None else round(time.time() + life, 3),
            "refresh_cookie": cookie,
            "refresh_nonce": nonce if isinstance(nonce, str) and nonce.isascii() else None,
            "pre_auth_token": None,
        }
        self.keeper.save(self._state)

    # -- beginning and end -----------------------------------------------------------

    def log_in(self, password):
        """Logs in with the server's password (text). Errors: LoginError and others."""
        self._enter(LOGIN_PATH, {"Password": password, "RememberMe": True}, "the password")

    def sign_in(self, token):
        """Logs in with a sign-in token (section 1.6)."""
        self._enter(SIGN_IN_PATH, {"SigninToken": token, "RememberMe": True}, "the sign-in token")

    def _enter(self, path, document, what):
        self._refuse_basic()  # before a session begins that could not be used
        answer = self.transport.exchange("POST", self.url(path), document=document)
        if answer.status == 200:
            return self._take(answer)
        self._require_own_generation(answer)
        said = answer.json if isinstance(answer.json, dict) else {}
        text = one_line(str(said.get("Error") or answer.summary() or answer.reason))
        if answer.status == 401 and answer.json is not NOT_JSON:
            raise LoginError(f"{self.base} refuses {what}: {text}", answer=said or None)
        self._judged(answer, "POST")
        raise ForeignServerError(f"{self.base} answers a login with {answer.status}: {text}")

    def use_token(self, token):
        """Takes a token that needs no login: an access token that does not expire, or
        (if it is no JWT) a pre-auth token. Whether the server takes it is not asked.
        """
        is_access = claims(token).get("typ") == "AccessToken"
        life = lifetime_seconds(token) if is_access else None
        end = claims(token).get("exp") if life is not None else None
        self._state = {name: None for name in SESSION_KEYS}
        self._state["access_token" if is_access else "pre_auth_token"] = token
        self._state["access_until"] = end
        self.keeper.save(self._state)

    def ask_forever(self):
        """Has the server issue a token that does not expire, and keeps that (section 1.8)."""
        answer = self.exchange("POST", _FOREVER_PATH)
        said = answer.json if isinstance(answer.json, dict) else {}
        if answer.status != 200:
            text = one_line(str(said.get("Error") or f"it answers {answer.status}"))
            raise RefusedError(f"{self.base} issues no forever token: {text}", answer=said or None)
        former = dict(self._state)
        self._take(answer)
        try:
            self._revoke(former)
        except RemotesError as error:  # it ends by itself, and the token is issued only once
            self.tell(f"the session before it was not ended: {error}")

    def keep_open(self):
        """Keeps what there is, of a server that lets in whom the proxy before it has let in."""
        self._state = {name: None for name in SESSION_KEYS}
        self.keeper.save(self._state)

    def log_out(self):
        """Has the server forget the session; whether there was one to revoke there. Errors:
        those of an exchange; then the server has not."""
        state, self._state = dict(self._state), {name: None for name in SESSION_KEYS}
        return self._revoke(state)

    def _revoke(self, state):
        if not state.get("refresh_cookie"):
            return False
        answer = self.transport.exchange(
            "POST", self.url(_LOGOUT_PATH), headers={"Cookie": state["refresh_cookie"]},
            document={"Nonce": state.get("refresh_nonce") or ""},
        )
        self._require_own_generation(answer)
        said = self._judged(answer, "POST")
        if not isinstance(said, dict) or said.get("success") is not True:
            raise ForeignServerError(f"{self.base} answers a logout as no Duplicati server does")
        return True

    def describe(self):
        """What people may know of the session: how, until when."""
        state = self._state
        if state.get("pre_auth_token"):
            return {"kind": "pre_auth", "access_until": None}
        if not state.get("access_token"):
            return {"kind": "open", "access_until": None}
        until = state.get("access_until")
        kind = "refresh" if state.get("refresh_cookie") else "access"
        if (lifetime_seconds(state["access_token"]) or 0) > 365 * 86400:
            kind = "forever"
        return {"kind": kind, "access_until": until}


