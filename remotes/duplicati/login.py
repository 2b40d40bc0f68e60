"""Which generation of server is at an address, and the session that fits it.

Guards: that one request without any secret tells what is there, so that no password goes
to what is no Duplicati server. Leaves alone: the sessions themselves.

Source: protocol page of Duplicati, section 2.5.
"""

import re
import urllib.parse
from collections import namedtuple

from remotes.answer import NOT_JSON, one_line
from remotes.duplicati.answers import judge
from remotes.duplicati.cookie_session import CookieSession
from remotes.duplicati.session import SESSION_KEYS, Draft
from remotes.duplicati.token_session import TokenSession
from remotes.errors import (
    CertificateError,
    ForeignServerError,
    LoginError,
    RemotesError,
    SettingsError,
    UnavailableError,
)
from remotes.server import normalize_url

_SESSIONS = {"token": TokenSession, "cookie": CookieSession}
_REDIRECTS = (301, 302, 303, 307, 308)
_PAGES = re.compile(r"/(ngax|ngclient|index\.html|login\.html|signin\.html)([/?#].*)?$")
_PROBE_PATH = "api/v1/serverstate"
# generation: "token" or "cookie"; base: the URL that answered; wants_login: whether it asks
# for one; xsrf: the token of the old generation that came with the answer.
Found = namedtuple("Found", "generation base wants_login xsrf")


def open_session(keeper, transport, credentials, *, tell=lambda line: None):
    """The session that the settings keep of a server. Errors: SettingsError."""
    kept = keeper.kept
    kind = _SESSIONS.get(kept.get("generation"))
    if kind is None:
        raise SettingsError(f"the settings do not say what kind of server {keeper.name} is: log in"
                            " again with --action=duplicati_login")
    return kind(str(kept["url"]), transport, keeper, credentials, tell=tell)


def new_session(found, draft, transport, credentials, *, tell=lambda line: None):
    """A session with the server that `find_out` found, kept in a Draft."""
    draft.save({"url": found.base, "generation": found.generation})
    session = open_session(draft, transport, credentials, tell=tell)
    if found.xsrf:
        session.begin_with(found.xsrf)
    return session


def begin_again(former, why):
    """The session with the server of the other generation that answers where `former` was one:
    another run's, or a login of our own. What else is kept of the server stays.

    `why`: the OtherGenerationError, raised where there is no password. Errors: those of a login.
    """
    keeper, parts = former.keeper, (former.transport, former.credentials)
    with former.renewing():
        kept = former.kept()
        if kept.get("generation") == former.generation:
            former.require_keepable()
            found = find_out(former.base, *parts)
            if found.generation == former.generation:
                raise UnavailableError(f"what answers at {found.base} is now of this generation,"
                                       " now of that", kind="server_error")
            draft = Draft(keeper.name)
            fresh = new_session(found, draft, *parts, tell=former.tell)
            _enter(fresh, found, why)
            kept = {name: value for name, value in kept.items() if name not in SESSION_KEYS}
            keeper.replace({**kept, **draft.kept})
        session = open_session(keeper, *parts, tell=former.tell)
    session.renewals = former.renewals + 1
    return session


def _enter(fresh, found, why):
    if not found.wants_login:
        fresh.keep_open()
        return
    password = fresh.credentials.password()
    if password is None:
        raise why
    fresh.tell(f"logging in at {found.base}, which is of another generation now")
    fresh.log_in(password)


def normalize(typed):
    """The base URL, with a slash at its end, of what a person typed or pasted from a browser."""
    return normalize_url(_PAGES.sub("/", typed.strip()))


def find_out(base, transport, credentials):
    """What answers at `base` (URL with a slash at its end): a Found, in one request (two
    behind a redirect from http to https). Errors: ForeignServerError and the transport's; a
    CertificateError behind a redirect has the URL that it is about as its `base`.
    """
    basic = credentials.basic_header()
    headers = {"Authorization": basic} if basic else None
    answer = transport.exchange("GET", base + _PROBE_PATH, headers=headers)
    if answer.status in _REDIRECTS:
        base = _followed(base, answer)
        try:
            answer = transport.exchange("GET", base + _PROBE_PATH, headers=headers)
        except CertificateError as error:
            error.base = base
            raise
    if answer.status == 400 and (xsrf := answer.cookies.get("xsrf-token")):
        return _probed_again(base, transport, headers, xsrf)
    asked = answer.headers.get("WWW-Authenticate", "")
    if answer.status == 401 and asked.startswith("Bearer"):
        return Found("token", base, True, None)
    if answer.status == 401 and asked.startswith("Basic"):
        raise LoginError(f"a proxy before {base} wants basic auth: "
                         + ("it refuses --basic_user" if basic else "--basic_user"))
    if answer.status == 401:
        scheme = one_line(asked.partition(" ")[0], 40) or "it does not say which"
        raise LoginError(f"what answers at {base} wants a login that is none of Duplicati's"
                         f" ({scheme}): a proxy, or another server")
    if answer.status == 200 and isinstance(answer.json, dict) and "ProgramState" in answer.json:
        return Found("token", base, False, None)
    raise _foreign(base, answer)


def _probed_again(base, transport, headers, xsrf):
    """The old generation: the xsrf token that has come is needed to learn of the password."""
    answer = transport.exchange("GET", base + _PROBE_PATH, headers={
        **(headers or {}), "Cookie": f"xsrf-token={xsrf}",
        "X-XSRF-Token": urllib.parse.unquote(xsrf),
    })
    if answer.status not in (200, 401):
        raise _foreign(base, answer)
    return Found("cookie", base, answer.status == 401, answer.cookies.get("xsrf-token") or xsrf)


def _followed(base, answer):
    """The base that a redirect means, if it only goes to https on the same host."""
    location, former = answer.headers.get("Location", ""), urllib.parse.urlsplit(base)
    try:
        target = urllib.parse.urlsplit(urllib.parse.urljoin(base + _PROBE_PATH, location))
    except ValueError:
        raise ForeignServerError(f"{base} sends elsewhere, to what is no URL") from None
    host = target.netloc.rpartition("@")[2]
    if target.scheme == "https" and target.hostname == former.hostname \
            and target.path.endswith("/" + _PROBE_PATH):
        return f"https://{host}{target.path.removesuffix(_PROBE_PATH)}"
    place = one_line(f"{target.scheme}://{host}{target.path}")
    raise ForeignServerError(f"{base} sends elsewhere, to {place}: log in with the address of the"
                             " Duplicati server itself")


def _foreign(base, answer):
    """The error for what is no Duplicati server, or none that can be had now."""
    try:
        judge(answer, "GET")
    except RemotesError as error:
        if error.exit_code in (12, 75) and answer.status >= 400 or type(error) is SettingsError:
            return error
    page = "a page" if answer.json is NOT_JSON and answer.body else "what it answers"
    return ForeignServerError(f"{base} is no Duplicati server: {page} ({answer.status}) is none of"
                              " Duplicati's")
