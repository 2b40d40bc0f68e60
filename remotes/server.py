"""The Django Remotes server: one method for each endpoint, and what its answers mean.

Guards: that any JSON at all gives an answer or an error of ours; that a token goes to
the server it belongs to and nowhere else; that an error says whether the server may
have done what was asked. Leaves alone: sockets (transport), files, what to do next.

Source: protocol page of Django Remotes, throughout.
"""

import re
import urllib.parse

from remotes.answer import NOT_JSON
from remotes.errors import (
    ForeignServerError,
    LoginError,
    NotFoundError,
    RefusedError,
    SettingsError,
    TooLargeError,
    UnavailableError,
)

STATUS_PATH = "api/status/"
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_PLAIN_PATH = re.compile(r"[!-\[\]-~]+")  # printable ASCII without the backslash


class ListedCommand:
    """One line of `commands_list`: `command` and `group` are the server's numbers."""

    __slots__ = ("command", "group")

    def __init__(self, command, group):
        self.command = command
        self.group = group


def normalize_url(typed):
    """A base URL with a slash at its end, from what a person typed or pasted."""
    try:
        parts = urllib.parse.urlsplit(typed.strip())
        parts.port  # noqa: B018  (a port that is no number raises here)
    except ValueError as error:
        raise SettingsError(f"{_shown(typed)} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{_shown(typed)} is not a URL with http:// or https:// and a host")
    if parts.username or parts.password:
        raise SettingsError("the URL of the server must not hold a login")
    path = parts.path.rstrip("/")
    for tail in ("/api/status", "/api"):
        path = path.removesuffix(tail)
    return f"{parts.scheme}://{parts.netloc}{path}/"


def _shown(typed):
    """What was typed for a URL, without the secrets that may stand in it."""
    from remotes.duplicati.masking import masked_text

    return repr(masked_text(typed))


def is_same_host(typed, said):
    """Whether the URL that a server says of itself names the host that was typed.

    Host and port must be the same (the default ports count as one), and https must
    not become http: a server behind a proxy often gives its inner name.
    """
    old, new = urllib.parse.urlsplit(typed), urllib.parse.urlsplit(said)
    defaults = {"http": 80, "https": 443}

    def port(parts):
        return None if parts.port in (None, defaults[parts.scheme]) else parts.port

    is_downgrade = old.scheme == "https" and new.scheme == "http"
    return old.hostname == new.hostname and port(old) == port(new) and not is_downgrade


def join(base, path):
    """The URL of an endpoint's `path` on the server at `base`.

    A base with a path of its own (a proxy that strips it) keeps it. A path that names
    another host is refused: a token would go there.
    """
    # Tabs and line ends: urllib and requests drop them, and "/\t/name" becomes "//name".
    if not isinstance(path, str) or not path or path.startswith("//") or "://" in path \
            or not _PLAIN_PATH.fullmatch(path):
        raise ForeignServerError(f"the server names an endpoint that is no path: {path!r:.80}")
    parts = urllib.parse.urlsplit(base)
    prefix = parts.path.rstrip("/")
    path = "/" + path.lstrip("/")
    if prefix and not path.startswith(prefix + "/"):
        path = prefix + path
    return f"{parts.scheme}://{parts.netloc}{path}"


def _redirect_target(url, location):
    """Where a redirect from `url` leads, or None if that is no address of a web server."""
    try:
        target = urllib.parse.urljoin(url, location)
        parts = urllib.parse.urlsplit(target)
        parts.port  # noqa: B018  (a port that is no number raises here)
    except ValueError:
        return None
    return target if parts.scheme in ("http", "https") and parts.hostname else None


class Server:
    """The server at `base` with its `endpoints` (name to path), asked through `transport`.

    `token` is a callable that gives the host's own token; it is asked once, when the
    first endpoint needs it (decrypting it takes a private key).
    """

    def __init__(self, transport, base, endpoints=None, token=None):
        self.base = base
        self._transport = transport
        self._endpoints = endpoints or {}
        self._token = token
        self._authorization = None

    def close(self):
        """Closes the connection; the next request opens a new one."""
        self._transport.close()

    # -- registration ----------------------------------------------------------

    def status(self):
        """GET api/status/: {"status", "app_name", "version", "server_url", "discover"}.

        Redirects on the same host are followed, and the base with them.
        Errors: ForeignServerError if this is no Django Remotes server.
        """
        answer = self._follow("GET", urllib.parse.urljoin(self.base, STATUS_PATH))
        document = self._judge(answer, is_first_contact=True)
        if not isinstance(document.get("server_url"), str):
            raise ForeignServerError(
                f"what answers at {self.base} is no Django Remotes server: no `server_url` in its"
                " status", answer=document,
            )
        join(self.base, document.get("discover"))
        return document

    def discover(self, path):
        """GET the path that status gave: {"status", "endpoints": {name: path}}."""
        document = self._judge(self._follow("GET", join(self.base, path)), is_first_contact=True)
        endpoints = document.get("endpoints")
        if not isinstance(endpoints, dict) or not endpoints:
            raise ForeignServerError(f"{self.base} names no endpoints", answer=document)
        for endpoint_path in endpoints.values():
            join(self.base, endpoint_path)
        return document

    def host_register(self, public_pem, registration_token):
        """POST the public key (PEM text): {"status", "encrypted": the UUID}."""
        return self._registration("host_register", {"public_key": public_pem}, registration_token)

    def host_verify(self, uuid, signature, registration_token):
        """POST UUID and signature (base64): {"status", "encrypted": the host's token}."""
        document = {"uuid": uuid, "encrypted": signature}
        return self._registration("host_verify", document, registration_token)

    def _registration(self, name, document, token):
        reply = self._call("POST", name, document=document, token=token)
        if not isinstance(reply.get("encrypted"), str):
            raise ForeignServerError(f"{name}: the answer has no `encrypted`", answer=reply)
        return reply

    def host_status(self):
        """GET: {"status", "id", "user_name", "hosts_groups": [{"id", "name"}], …}."""
        return self._call("GET", "host_status")

    # -- commands --------------------------------------------------------------

    def commands_list(self):
        """GET: (the server's answer, [ListedCommand] in the order to run them)."""
        document = self._call("GET", "commands_list")
        results = document.get("results")
        if not isinstance(results, list):
            raise ForeignServerError("commands_list: the answer has no list `results`",
                                     answer=document)
        listed = []
        for row in results:
            row = row if isinstance(row, dict) else {}
            command, group = row.get("command"), row.get("group")
            if type(command) is not int or not isinstance(group, (int, str, type(None))):
                raise ForeignServerError(
                    f"commands_list: a line is no command: {row!r:.80}", answer=document
                )
            listed.append(ListedCommand(command, group))
        return document, listed

    def command_get(self, command):
        """GET one command (int), its fields encrypted. NotFoundError if it is not offered."""
        return self._call("GET", "command_get", tail=f"{command}/")

    def command_post(self, command, body):
        """POST {"output", "result"}, both encrypted. Returns when the server has recorded it.

        Errors: UnavailableError with `maybe_done` where it is not known; TooLargeError
        (413); LoginError; RefusedError, NotFoundError: for good, nothing recorded.
        """
        self._call("POST", "command_post", tail=f"{command}/", document=body)

    # -- what an answer means ----------------------------------------------------

    def _call(self, method, name, *, tail="", document=None, token=None):
        path = self._endpoints.get(name)
        if not path or not isinstance(path, str):
            raise SettingsError(
                f"the settings have no usable endpoint {name}: ask for it with --action=discover"
            )
        url = join(self.base, path)
        url = url + tail if url.endswith("/") or not tail else f"{url}/{tail}"
        if token is None:
            if self._authorization is None:
                self._authorization = f"Token {self._token()}"
            authorization = self._authorization
        else:
            authorization = f"Token {token}"
        answer = self._transport.exchange(
            method, url, document=document, headers={"Authorization": authorization}
        )
        return self._judge(answer)

    def _follow(self, method, url):
        """A GET without a token, along redirects on the same host."""
        for _ in range(_MOST_REDIRECTS):
            answer = self._transport.exchange(method, url)
            if answer.status not in _REDIRECTS:
                return answer
            target = _redirect_target(url, answer.headers.get("Location", ""))
            if target is None or not is_same_host(self.base, target):
                return answer
            if target.endswith(STATUS_PATH):
                self.base = target.removesuffix(STATUS_PATH)
            url = target
        return answer

    def _judge(self, answer, *, is_first_contact=False):
        """The JSON object of a good answer; an error of ours for any other."""
        status, document = answer.status, answer.json
        said = document if document is not NOT_JSON else None
        where = f"{urllib.parse.urlsplit(answer.url).path} on {self.base}"
        what = f"{where} answers {status}" + (f": {answer.summary()}" if answer.body else "")
        if 200 <= status < 300:
            return _judge_success(document, what, is_first_contact)
        if status in _REDIRECTS:
            target = answer.headers.get("Location", "")
            raise ForeignServerError(
                f"{where} sends us to {target!r:.120}, which is not followed; if the server has"
                " moved, say so with --action=status --url"
            )
        if status == 429 or status >= 500:
            raise UnavailableError(
                what, kind="busy" if status in (429, 503) else "server_error",
                maybe_done=status != 429, still_working=status == 504,
                retry_after_seconds=answer.retry_after_seconds(), answer=said,
            )
        if status == 401 or (status == 403 and isinstance(said, dict) and "detail" in said):
            raise LoginError(f"{what} (the token is wrong or was revoked)", answer=said)
        if status == 407:
            raise SettingsError(f"{what} (the proxy wants a login)")
        if status == 413:
            raise TooLargeError(what, answer=said)
        if said is None:
            if is_first_contact or status in (404, 405):
                raise ForeignServerError(f"{what} (no Django Remotes server is there)")
            raise UnavailableError(f"{what} (a page, not the server's answer)", kind="proxy_page",
                                   maybe_done=True)
        if status == 404:
            if is_first_contact:
                raise ForeignServerError(f"{what} (no Django Remotes server is there)", answer=said)
            raise NotFoundError(what, answer=said)
        raise RefusedError(what, answer=said)


def _judge_success(document, what, is_first_contact):
    """The JSON object of an answer of 2xx; an error of ours if it is none, or says ERROR."""
    said = document if document is not NOT_JSON else None
    if isinstance(document, dict) and document.get("status") != "ERROR":
        return document
    if isinstance(document, dict):
        raise RefusedError(what, answer=said)
    if said is None and not is_first_contact:
        raise UnavailableError(
            f"{what} (a page, not the server's answer: is a proxy before it?)",
            kind="proxy_page", maybe_done=True,
        )
    raise ForeignServerError(f"{what} (no answer of a Django Remotes server)", answer=said)
