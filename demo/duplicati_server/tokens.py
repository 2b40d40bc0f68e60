"""Sessions of the token generation of the demo Duplicati server (section 1 of the protocol).

Guards: who may ask what: access tokens that lapse, refresh tokens and nonces that rotate, the
family that is revoked when an old one is used, tokens for one operation, pre-auth and forever
tokens; by release. The signing key and the families are kept in the store.
Leaves alone: TLS, agent mode, gates of proxies.
"""
import hashlib
import hmac
import ipaddress
import json
import os
import random
import secrets
import threading
import time
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from email.utils import formatdate

from demo.duplicati_server.answers import Answer, BareError, Call, RefusedError, compact
from demo.duplicati_server.releases import Release
from demo.duplicati_server.store import Store

JSON = ("Content-Type", "application/json; charset=utf-8")
ISSUER = "https://duplicati"
ROUNDS = 10000
GRACE_SECONDS = 30  # in which the refresh token before the newest may still be used
HOST_NAMES = {"localhost", "localhost.localdomain"}


def _encode(part: bytes) -> str:
    return urlsafe_b64encode(part).rstrip(b"=").decode()


def _decode(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _hash(nonce: str) -> str:
    return b64encode(hashlib.sha256(nonce.encode()).digest()).decode()


class TokenSessions:
    """Tokens over a store. `token_seconds`: life of an access token. `pre_auth`: tokens that are
    valid as they are. `log(level, tag, message)`: for what fails."""

    def __init__(self, release: Release, store: Store, password: str | None, token_seconds: float,
                 pre_auth: tuple[str, ...], enable_forever_token: bool,
                 log: Callable[[str, str, str], None]):
        self.release, self.store, self.log = release, store, log
        self.token_seconds, self.pre_auth = token_seconds, pre_auth
        self.enable_forever_token, self._forever_given = enable_forever_token, False
        self._expired_before = 0  # access tokens with a lower serial number are over
        self._lock = threading.Lock()
        key = store.setting("demo-token-key") or secrets.token_hex(32)
        store.save_setting("demo-token-key", key)
        self._key = bytes.fromhex(key)
        if password:
            self.change_password(password)
        elif store.setting("demo-password") is None:
            self.change_password(secrets.token_hex(32))  # that nobody knows, as in reality

    # Tokens.

    def _sign(self, claims: dict, seconds: float) -> str:
        moment = int(time.time())
        claims |= {"nbf": moment, "exp": int(moment + seconds), "iss": ISSUER, "aud": ISSUER}
        body = _encode(compact({"alg": "HS256", "typ": "JWT"})) + "." + _encode(compact(claims))
        return f"{body}.{_encode(hmac.digest(self._key, body.encode(), 'sha256'))}"

    def _read(self, token: str, kind: str) -> dict:
        """The claims of a token of that kind; ValueError if it is no such one, or over (then the
        error has the time at which it ended as its second value)."""
        try:
            body, _, signature = token.rpartition(".")
            is_ours = hmac.compare_digest(
                _decode(signature), hmac.digest(self._key, body.encode(), "sha256"))
            claims = json.loads(_decode(body.partition(".")[2])) if is_ours else {}
        except (ValueError, UnicodeError) as error:
            raise ValueError("no token") from error
        if claims.get("typ") != kind:
            raise ValueError("no token of this kind")
        skew = 5 if self.token_seconds >= 60 else 0
        if time.time() >= claims["exp"] + skew:
            raise ValueError("over", claims["exp"])
        if kind == "AccessToken" and claims.get("jti", 0) < self._expired_before:
            raise ValueError("over", int(time.time()))
        return claims

    def _access_token(self, who: str, family: str, seconds: float | None = None) -> str:
        claims = {"typ": "AccessToken", "sid": who, "fam": family}
        if self._expired_before:
            claims["jti"] = self._expired_before
        return self._sign(claims, self.token_seconds if seconds is None else seconds)

    def expire_tokens(self) -> None:
        """All access tokens that were given so far are over."""
        self._expired_before += 1

    # Who asks.

    def check(self, call: Call, is_open: bool) -> None:
        """Let a call pass, or BareError / RefusedError."""
        if not is_open and not self.is_authorized(call):
            raise self._refusal(call)
        self._check_host(call)

    def check_family(self, call: Call) -> None:
        """A token of a revoked family ends every call, whatever its path, with 500."""
        scheme, _, token = (call.header("Authorization") or "").partition(" ")
        if scheme != "Bearer":
            return
        try:
            family = self._read(token, "AccessToken")["fam"]
        except ValueError:
            return
        if family != "temporary" and not self._family(family):
            raise BareError(500)

    def _family(self, family: str):
        rows = self.store.rows("SELECT * FROM families WHERE id = ?", family)
        return rows[0] if rows else None

    def is_authorized(self, call: Call) -> bool:
        """Whether a call has a token that is good."""
        authorization = call.header("Authorization")
        if self.release.has_auth_status:
            if not authorization and call.query.get("token") in self.pre_auth:
                return True
            if (authorization or "").startswith("PreAuth "):
                return authorization.removeprefix("PreAuth ") in self.pre_auth
        scheme, _, token = (authorization or "").partition(" ")
        if scheme != "Bearer":
            return False
        try:
            self._read(token, "AccessToken")
        except ValueError:
            return False
        return True

    def _refusal(self, call: Call) -> BareError:
        """The 401 that fits the token that a call has (section 1.7)."""
        scheme, _, token = (call.header("Authorization") or "").partition(" ")
        if scheme == "PreAuth" and self.release.has_auth_status:
            return BareError(401)
        value = "Bearer"
        if scheme == "Bearer":
            value += ' error="invalid_token"'
            try:
                self._read(token, "AccessToken")
            except ValueError as error:
                if len(error.args) > 1:
                    moment = time.strftime("%m/%d/%Y %H:%M:%S", time.gmtime(error.args[1]))
                    value += f", error_description=\"The token expired at '{moment}'\""
        return BareError(401, ("WWW-Authenticate", value))

    def _check_host(self, call: Call) -> None:
        name = (call.header("Host") or "").strip()
        name = name.rpartition("]")[0].lstrip("[") if name.startswith("[") \
            else name.partition(":")[0]
        allowed = (self.store.setting("allowed-hostnames") or "").split(";")
        try:
            ipaddress.ip_address(name)
        except ValueError as error:
            if name.lower() not in HOST_NAMES and name not in allowed and "*" not in allowed:
                raise RefusedError(403, f"Invalid hostname: {name}") from error

    # Passwords.

    def change_password(self, password: str) -> None:
        """From now on, this is the password; tokens that were given stay."""
        salt = os.urandom(16)
        self.store.save_setting("demo-password", f"{salt.hex()}:{self._stretch(password, salt)}")

    def _stretch(self, password: str, salt: bytes) -> str:
        return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ROUNDS).hex()

    def _is_password(self, password: object) -> bool:
        salt, _, kept = (self.store.setting("demo-password") or "").partition(":")
        return isinstance(password, str) and bool(password) and hmac.compare_digest(
            self._stretch(password, bytes.fromhex(salt)), kept)

    # The endpoints.

    def login(self, call: Call) -> Answer:
        """auth/login"""
        fields = call.fields("Password", "RememberMe")
        if not self._is_password(fields["Password"]):
            self._tell("Error", "PasswordLoginError", "Failed to log in")
            raise RefusedError(401, "Failed to log in")
        return self._begin(call, "webserver", fields["RememberMe"] is True)

    def sign_in(self, call: Call) -> Answer:
        """auth/signin"""
        fields = call.fields("RememberMe", required=("SigninToken",))
        if (self.store.setting("disable-signin-tokens") or "").lower() == "true":
            raise RefusedError(401, "Signin tokens are disabled")
        try:
            claims = self._read(fields["SigninToken"] or "", "SigninToken")
        except ValueError as error:
            is_over = len(error.args) > 1
            raise RefusedError(
                401, "Signin token expired" if is_over else "Failed to sign in") from error
        return self._begin(call, claims["sid"], fields["RememberMe"] is True)

    def issue_signin_token(self, call: Call) -> dict:
        """auth/issuesignintoken"""
        if not self._is_password(call.fields(required=("Password",))["Password"]):
            raise RefusedError(401, "Incorrect password")
        return {"Token": self.signin_token()}

    def signin_token(self) -> str:
        """A sign-in token, as the server prints one when it starts."""
        return self._sign({"typ": "SigninToken", "sid": "web-api"}, 300)

    def _begin(self, call: Call, who: str, is_long: bool) -> Answer:
        """A new session. Before nonces, without RememberMe, one that cannot be renewed."""
        if not self.release.has_nonce and not is_long:
            return Answer(200, [JSON], compact({
                "AccessToken": self._access_token(who, "temporary")}))
        family, counter = secrets.token_hex(8).upper(), random.randrange(1000)
        self.store.change("INSERT INTO families VALUES (?, ?, ?)", family, counter, time.time())
        return self._session(call, who, family, counter, 30 * 86400 if is_long else 7200)

    def _session(self, call: Call, who: str, family: str, counter: int,
                 seconds: float) -> Answer:
        reply = {"AccessToken": self._access_token(who, family)}
        claims = {"typ": "RefreshToken", "sid": who, "fam": family, "cnt": str(counter),
                  "iat": str(time.time())}
        if self.release.has_nonce:
            reply["RefreshNonce"] = b64encode(os.urandom(32)).decode()
            claims["nce"] = _hash(reply["RefreshNonce"])
        name, domain = _cookie_name(call)
        # Its own end is always the long one, whatever that of the token.
        until = formatdate(time.time() + 30 * 86400, usegmt=True)
        cookie = (f"{name}={self._sign(claims, seconds)}; expires={until}; domain={domain}; "
                  "path=/api/v1/auth/refresh; "
                  f"{'secure; ' if call.url.startswith('https') else ''}samesite=strict; httponly")
        return Answer(200, [JSON, ("Set-Cookie", cookie)], compact(reply))

    def _refresh_token(self, call: Call) -> str | None:
        for part in (call.header("Cookie") or "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == _cookie_name(call)[0]:
                return value
        return None

    def refresh(self, call: Call) -> Answer:
        """auth/refresh"""
        nonce = call.fields("Nonce", optional=True)["Nonce"]
        token = self._refresh_token(call)
        if token is None:
            raise RefusedError(401, "Authorization failed due to missing cookie.")
        try:
            with self._lock:  # two at once with one token: one after the other
                claims, counter = self._rotate(token, nonce)
        except ValueError as error:
            self._tell("Error", "RefreshTokenError", "Failed to refresh token")
            raise RefusedError(401, "Failed to refresh token") from error
        return self._session(call, claims["sid"], claims["fam"], counter,
                             claims["exp"] - claims["nbf"])

    def _rotate(self, token: str, nonce: object) -> tuple[dict, int]:
        """The claims of a refresh token that may be used now, and the next counter."""
        claims = self._read(token, "RefreshToken")
        family = self._family(claims["fam"])
        if family is None:
            raise ValueError("Token family not found")
        if self.release.has_nonce and not (
                isinstance(nonce, str) and _hash(nonce) == claims["nce"]):
            raise ValueError("Invalid nonce")
        is_former = (int(claims["cnt"]) == family["counter"] - 1
                     and time.time() - family["refreshed"] <= GRACE_SECONDS)
        if int(claims["cnt"]) != family["counter"] and not is_former:
            self.store.change("DELETE FROM families WHERE id = ?", claims["fam"])
            self._tell("Warning", "TokenFamilyReuse", "Invalid refresh token counter: "
                       f"{family['counter']} != {claims['cnt']}")
            raise ValueError("Token family re-use detected")
        counter = family["counter"] + 1
        self.store.change("UPDATE families SET counter = ?, refreshed = ? WHERE id = ?",
                          counter, time.time(), claims["fam"])
        return claims, counter

    def logout(self, call: Call) -> Answer:
        """auth/refresh/logout: always a success; it revokes only with the right nonce."""
        nonce = call.fields("Nonce", optional=True)["Nonce"]
        try:
            claims = self._read(self._refresh_token(call) or "", "RefreshToken")
            if not self.release.has_nonce or _hash(str(nonce)) == claims["nce"]:
                self.store.change("DELETE FROM families WHERE id = ?", claims["fam"])
        except ValueError:
            pass
        name, domain = _cookie_name(call)
        place = f"domain={domain}; path=/api/v1/auth/refresh" \
            if self.release.clears_cookie_by_path else "path=/"
        cookie = f"{name}=; expires=Thu, 01 Jan 1970 00:00:00 GMT; {place}"
        return Answer(200, [JSON, ("Set-Cookie", cookie)], compact({"success": True}))

    def status(self, call: Call) -> dict:
        """auth/status"""
        if not self.is_authorized(call):
            return {"authorized": False, "message": "Not authorized"}
        return {"authorized": True, "message": "Authorized",
                "socketToken": self._operation_token("websocket")}

    def issue_token(self, call: Call) -> dict:
        """auth/issuetoken/OPERATION"""
        operation = call.part("operation")
        if operation not in ("export", "bugreport", *(
                ("websocket",) if self.release.has_auth_status else ())):
            raise RefusedError(400, "Invalid operation")
        return {"Token": self._operation_token(operation)}

    def _operation_token(self, operation: str) -> str:
        return self._sign({"typ": "SingleOperationToken", "sid": "web-api", "sop": operation}, 60)

    def check_operation(self, call: Call, operation: str) -> None:
        """That a call has a token for this operation in its query (section 1.8)."""
        token = call.query.get("token")
        if token is None:
            raise BareError(400)
        try:
            claims = self._read(token, "SingleOperationToken")
        except ValueError as error:
            raise RefusedError(500, "An error occurred") from error
        if claims["sop"] != operation:
            raise RefusedError(401, "Invalid operation")

    def issue_forever_token(self, call: Call) -> dict:
        """auth/issue-forever-token: one for each start of the server."""
        if not self.enable_forever_token:
            raise RefusedError(401, "Forever tokens are not enabled")
        if self._forever_given:
            raise RefusedError(401, "Cannot generate multiple forever tokens, restart the server "
                               "to generate a new one")
        self._forever_given = True
        token = self._access_token("forever-token", "temporary", 10 * 365.25 * 86400)
        return {"AccessToken": token, **({"RefreshNonce": None} if self.release.has_nonce else {})}

    def _tell(self, level: str, tag: str, message: str) -> None:
        if self.release.has_auth_status:
            self.log(level, f"Duplicati.WebserverCore-{tag}", message)


def _cookie_name(call: Call) -> tuple[str, str]:
    """Name and domain of the refresh cookie: both from the Host header."""
    name, _, port = (call.header("Host") or "").partition(":")
    return f"RefreshToken_{port if port.isdecimal() else 0}", name
