"""The task server: its three requests, and what its answers mean.

Guards: that any answer at all is an answer or an error of ours, in one line; that the token
goes to the operator's address and nowhere else, not into a message either; that only 200
means that a result was received. Leaves alone: sockets (transport), what a task may be
(operations), the list on the disk, when to ask again.

Source: protocol page of the task server, "Addresses".
"""

import urllib.parse

from remotes import operations
from remotes.answer import NOT_JSON
from remotes.errors import (
    ForeignServerError,
    LoginError,
    RefusedError,
    SettingsError,
    TooLargeError,
    UnavailableError,
)
from remotes.server import normalize_url

TASKS_PATH = "api/tasks"
# A server that asks for more patience than this would keep a host from its tasks.
LONGEST_RETRY_SECONDS = 3600


def normalize(typed):
    """The base URL, with a slash at its end, of what a person typed or pasted: the addresses of
    the list and of the status will do. Errors: SettingsError.
    """
    base = normalize_url(typed)
    for tail in (f"/{TASKS_PATH}/status/", f"/{TASKS_PATH}/"):
        base = base.removesuffix(tail)
    return base.rstrip("/") + "/"


def result_path(task_id):
    """Where the result of the task with this ID (whole number or text) goes, below the base.

    The ID is one segment of the path, whatever stands in it.
    """
    segment = urllib.parse.quote(str(task_id), safe="")
    if segment in (".", ".."):
        segment = segment.replace(".", "%2E")
    return f"{TASKS_PATH}/{segment}/result"


class TaskServer:
    """The task server at `base`, asked through `transport`.

    `token` is the operator's, or None; `base` as it was typed or as `normalize` gives it.
    Errors of all requests: UnavailableError, with what the server asks for in
    `retry_after_seconds` (an hour at the most), LoginError (401, 403), TooLargeError (413),
    RefusedError, ForeignServerError, and the transport's.
    """

    def __init__(self, transport, base, token=None):
        self.base = normalize(base)
        self._transport = transport
        self._token = token

    def close(self):
        """Closes the connection; the next request opens a new one."""
        self._transport.close()

    def has_tasks(self):
        """GET api/tasks/status: whether there are tasks. Where 303 points to is not looked at."""
        answer = self._ask("GET", f"{TASKS_PATH}/status")
        if answer.status in (303, 304):
            return answer.status == 303
        raise self._failure(answer)

    def fetch(self):
        """GET api/tasks: the tasks as they came, a list (operations.tasks_of)."""
        answer = self._ask("GET", TASKS_PATH)
        if answer.status != 200 or answer.json is NOT_JSON:
            raise self._failure(answer)
        try:
            return operations.tasks_of(answer.json)
        except ForeignServerError as error:
            raise ForeignServerError(f"{answer.url} answers 200: {error}") from error

    def post(self, task_id, document):
        """POST the result of a task. Returns when the server has received it: with 200, whatever
        stands in its answer. RefusedError for 404 and for another 2xx, too.
        """
        answer = self._ask("POST", result_path(task_id), document=document)
        if answer.status != 200:
            raise self._failure(answer, is_post=True)

    def _ask(self, method, path, *, document=None):
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return self._transport.exchange(method, self.base + path, document=document,
                                        headers=headers)

    def _failure(self, answer, *, is_post=False):
        """The error of ours that an answer means which is none of those that are hoped for."""
        status = answer.status
        text, said = self._told(answer)
        what = f"{answer.url} answers {status}" + (f": {text}" if text else "")
        if 300 <= status < 400:
            return _redirected(answer)
        if status == 429 or status >= 500:
            seconds = answer.retry_after_seconds()
            return UnavailableError(
                what, kind="busy" if status in (429, 503) else "server_error",
                maybe_done=status != 429, still_working=status == 504, answer=said,
                retry_after_seconds=None if seconds is None
                else min(seconds, LONGEST_RETRY_SECONDS),
            )
        if status in (401, 403):
            hint = "the token is refused" if self._token else "it wants a token: --tasks_token_file"
            return LoginError(f"{what} ({hint})", answer=said)
        if status == 407:
            return SettingsError(f"{what} (the proxy wants a login)")
        if status == 413:
            return TooLargeError(what, answer=said)
        if status in (404, 405):
            return RefusedError(what, answer=said) if is_post else _foreign(what, said)
        if answer.json is NOT_JSON and (answer.body or status == 200):
            return UnavailableError(f"{what} (a page, not the task server's answer)",
                                    kind="proxy_page", maybe_done=True)
        if status < 300:
            return RefusedError(f"{what} (only 200 means that it was received)", answer=said) \
                if is_post else _foreign(what, said)
        return RefusedError(what, answer=said)

    def _told(self, answer):
        """What the server says in a failure: (one line, the masked JSON value or None)."""
        from remotes.duplicati.masking import masked, masked_text

        if self._token and self._token.encode() in answer.body:
            return "what it says holds the token, and is not shown", None
        try:
            said = None if answer.json is NOT_JSON else masked(answer.json)
        except ForeignServerError:  # nested too deeply: its status tells enough
            said = None
        return masked_text(answer.summary()) if answer.body else "", said


def _foreign(what, said):
    return ForeignServerError(f"{what} (no task server is there)", answer=said)


def _redirected(answer):
    """The error for a redirect. Where it leads may hold whatever a server puts in a query."""
    place = answer.headers.get("Location", "").partition("?")[0]
    return ForeignServerError(
        f"{answer.url} answers {answer.status} and sends us to {place!r:.120}, which is not"
        " followed; if the task server has moved, say so with --tasks_url"
    )
