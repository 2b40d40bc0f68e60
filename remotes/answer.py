"""What a server answered, as it came: status, headers, body, and the body's JSON if it is some.

Guards: that no body, however deep or odd, is more than an answer without JSON. Leaves alone: how
it came here (transport), and what it means.
"""

import json
import re

NOT_JSON = object()
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]+")


class Answer:
    """What a server answered: `status`, `headers` (any case), `body` (bytes), `url`.

    `reason` is the text behind the status, `cookies` a mapping of what it wants set
    (name -> value as it came; the attributes are left out).
    """

    def __init__(self, status, headers, body, url, *, reason="", cookies=None):
        self.status = status
        self.headers = headers
        self.body = body
        self.url = url
        self.reason = reason
        self.cookies = cookies or {}
        self.json = _parse_json(body)

    def summary(self):
        """What the server says, in one short line for people."""
        if isinstance(self.json, dict):
            for name in ("detail", "message", "Error"):
                if isinstance(self.json.get(name), str):
                    return one_line(self.json[name])
        text = self.body[:4096].decode("utf-8", "replace")
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return one_line(title[1] if title else text)

    def retry_after_seconds(self):
        """Retry-After in seconds (0 to a day), or None. A date is not heard."""
        value = self.headers.get("Retry-After", "")
        return min(int(value), 86400) if value.isascii() and value.isdigit() else None


def one_line(text, longest=200):
    """`text` without line ends and control characters, cut to `longest` characters."""
    text = " ".join(_CONTROL.sub(" ", text).split())
    return text if len(text) <= longest else text[:longest - 1] + "…"


def _parse_json(body, parse_int=None):
    try:
        return json.loads(body, parse_int=parse_int)
    except (ValueError, RecursionError) as error:
        if type(error) is ValueError and parse_int is None:  # more digits than Python reads
            return _parse_json(body, _parse_whole)
        return NOT_JSON


def _parse_whole(digits):
    try:
        return int(digits)
    except ValueError:
        return float(digits)
