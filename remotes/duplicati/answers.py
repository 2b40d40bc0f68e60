"""What an answer of a Duplicati server means: its JSON, or an error of ours.

Guards: that any answer at all, of any generation and of whatever stands before the
server, gives a value or an error that says what to do; that no secret stands in an
error. Leaves alone: sockets, sessions.

Source: protocol page of Duplicati, sections 0.3, 1.7, 2.6.
"""

from remotes.answer import NOT_JSON, one_line
from remotes.duplicati.masking import masked, masked_text
from remotes.errors import (
    ForeignServerError,
    LoginError,
    NotFoundError,
    RefusedError,
    SettingsError,
    UnavailableError,
)

# The codes that we give ourselves where the server has no word of its own.
NO_ENDPOINT = "NoSuchEndpoint"
LOCKED = "DatabaseLocked"
_LONGEST_TEXT = 500
_GENERIC = "An error occurred"
_LOCKED_WORDS = ("database is locked", "database is currently in use")


def judge(answer, method):
    """The JSON of an answer (None for an empty body); an error of ours if it is a failure.

    For paths of v2 the envelope is opened: its `Data` is given.
    """
    if answer.status in (200, 201, 204):
        return _value(answer, method)
    raise _failure(answer, method)


def _value(answer, method):
    if not answer.body.strip(b"\xef\xbb\xbf \r\n"):
        return None
    document = answer.json
    if document is NOT_JSON:
        raise UnavailableError(
            f"{_what(answer, method)}, with a page that is no Duplicati server's: is a proxy before"
            " it?", kind="proxy_page", maybe_done=True,
        )
    is_v2 = "/api/v2/" in answer.url
    if is_v2 and isinstance(document, dict) and document.get("Success") is False:
        raise _told(answer, method, document)
    is_envelope = is_v2 and isinstance(document, dict) and "Success" in document
    return document.get("Data") if is_envelope else document


def _told(answer, method, document):
    """The error in an envelope of v2, whose HTTP status is 200."""
    code = document.get("StatusCode")
    text = document.get("Error") or code or "it says no"
    what = f"{_place(answer, method)}: {_line(text)}"
    if code == "HTTP-404":
        return _coded(NotFoundError(what, answer=masked(document)), code)
    if code == LOCKED:
        return _coded(_locked(what, document), code)
    if code == "HTTP-500":
        return _coded(UnavailableError(what, kind="server_error", maybe_done=True,
                                       answer=masked(document)), code)
    return _coded(RefusedError(what, answer=masked(document)), code)


def _failure(answer, method):
    document = answer.json if isinstance(answer.json, dict) else {}
    said = masked(document) or None
    text = document.get("Error") or document.get("Message") or document.get("Reason")
    text = _line(text) if text else ""
    code = document.get("HelpId") or document.get("Type")
    what = _what(answer, method) + (f": {text}" if text else "")
    status = answer.status
    if any(word in text for word in _LOCKED_WORDS):
        return _coded(_locked(what, document), LOCKED)
    if status == 407 or status == 401 and "Basic" in answer.headers.get("WWW-Authenticate", ""):
        return SettingsError(f"{what} (a proxy wants a login: --basic_user)", answer=said)
    if status == 401:
        return LoginError(what if text else f"{what} (the session is not taken)", answer=said)
    if status == 403:
        return _host_refused(answer, what) or LoginError(what, answer=said)
    if status in (404, 405):
        return _missing(answer, what, text, said)
    if status in (429, 502, 503, 504) or status >= 500 and (not text or text == _GENERIC):
        return _coded(_unavailable(answer, what, said), code)
    if 300 <= status < 400:
        return ForeignServerError(f"{what}, and sends elsewhere: a proxy, or another address"
                                  " (log in with that one)")
    return _coded(RefusedError(what, answer=said), code)


def _missing(answer, what, text, said):
    # A deliberate 404 says what is missing in JSON; a path that is not there says nothing, or
    # (2.0) "Resource not found" in plain text.
    if text:
        return NotFoundError(what, answer=said)
    return _coded(NotFoundError(f"{what} (this server does not know that request)"), NO_ENDPOINT)


def _host_refused(answer, what):
    text = answer.body[:200].decode("utf-8", "replace")
    if "Invalid hostname" in text or "host header" in text:
        return SettingsError(
            f"{what}: the server does not answer to that name: add it to its"
            " --webservice-allowed-hostnames, or use its IP address"
        )
    return None


def _unavailable(answer, what, said):
    kind = "busy" if answer.status in (429, 503) else "server_error"
    if answer.status in (502, 504) or answer.json is NOT_JSON and answer.body:
        kind = "proxy_page"
    return UnavailableError(
        # Some proxies say 503 of a server that broke the connection off in the middle.
        what, kind=kind, maybe_done=answer.status != 429,
        still_working=answer.status == 504, retry_after_seconds=answer.retry_after_seconds(),
        answer=said,
    )


def _locked(what, document):
    return UnavailableError(f"{what}; a task of that backup is running: try again when it is over",
                            kind="database_locked", answer=masked(document))


def _line(text):
    """What a server says, in one line without secrets."""
    return one_line(masked_text(str(text)), _LONGEST_TEXT)


def _coded(error, code):
    error.code = code if isinstance(code, str) else None
    return error


def _place(answer, method):
    return f"{method} {answer.url.partition('?')[0]}"


def _what(answer, method):
    reason = answer.reason.partition(".")[0]
    return f"{_place(answer, method)} answers {answer.status}" + (f" {reason}" if reason else "")
