"""Recorded exchanges with real Duplicati servers, sent again to the demo server.

Guards: that a recording is replayed in its order, against the same kind of files and jobs, with
what the recorded server made up (tokens, nonces, cookies, numbers of tasks, times of versions)
replaced by what the demo server made up in its place; and that answers are compared by status,
headers that matter, names and kinds of values, and the values that mean something.
Leaves alone: which exchanges are left out, and why: the test says that.
"""

import base64
import hashlib
import http.client
import json
import re
import threading
from datetime import datetime, timezone
from urllib.parse import quote, unquote, urlencode

from demo.duplicati import Duplicati, make_server
from tests.recorded import exchanges

PASSWORD = "correct-horse"
PLACES = ("/home/ann", "/srv/photos", "/srv/small", "/srv/missing", "/backup/", "/restore/",
          "/elsewhere.sqlite")
TOKEN = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
KINDS = [("token", TOKEN), ("UTC time", re.compile(r"(?!0001).{10}T[\d:.]+Z")),
         ("local time", re.compile(r"(?!0001).{10}T[\d:.]+[+-]\d\d:\d\d")),
         ("zero time, UTC", re.compile(r"0001-.*Z")), ("zero time", re.compile(r"0001-.*T.*")),
         ("stamp", re.compile(r"\d{8}T\d{6}Z")),
         ("span", re.compile(r"(\d+\.)?\d\d:\d\d:\d\d(\.\d{7})?")),
         ("GUID", re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")),
         ("stars", re.compile(r"\*{4,}"))]
# Names whose values must be those of the recording, not only their kinds.
TOLD = {"Status", "Phase", "ProgramState", "SuggestedStatusIcon", "ParsedResult", "MainOperation",
        "Interrupted", "PartialBackup", "IsFullBackup", "Type", "Error", "Code", "HelpId",
        "StatusCode", "Success", "Active", "Temporary", "AllowedDays", "Rule", "Time", "Repeat",
        "HasWarning", "HasError", "Page", "PageSize", "Total", "Pages", "success", "authorized",
        "message", "status", "Reason", "UpdaterState", "IsEncrypted", "DBPathExists", "TargetURL",
        "PasswordPlaceholder", "CreatedByVersion", "ServerVersion", "DisplayNames", "Sizes",
        "IsUnencryptedOrPassphraseStored", "IsTemporary", "Name", "Size", "Version", "Action"}
# Lists that may be longer or shorter than in the recording, but not empty if that is not.
ANY_NUMBER = {"Messages", "Warnings", "Errors", "Verifications", "ActiveTransfers",
              "DeletedSets"}
# Names that can be null or not, depending on what happened before, where only kinds count.
NULLABLE = {"ExceptionID", "Exception", "BackupID", "TaskID"}
HEADERS = ("Content-Type", "WWW-Authenticate", "Location", "Content-Disposition", "Allow",
           "Cache-Control", "Server", "Set-Cookie")


def kind(value):
    """The kind of a value of JSON; texts are told apart by their form."""
    if isinstance(value, bool) or value is None or isinstance(value, (dict, list)):
        return type(value).__name__
    if isinstance(value, (int, float)):
        return "number"
    return next((name for name, form in KINDS if form.fullmatch(value)), "text")


def differences(recorded, answered, where="", name="", told=TOLD):
    """What of an answer is not as recorded: one line for each place."""
    if recorded == "…" or recorded == ["…"]:
        return []
    if name == "Lookups":
        return []
    if name == "Message" and told:
        told = told - {"Name", "Size", "Version", "Time"}
    if name == "Message" and isinstance(recorded, dict):  # shortened in the recording
        answered = {key: value for key, value in json.loads(answered).items() if key in recorded}
    elif name == "Message" and isinstance(recorded, str) and recorded.startswith("{"):
        try:
            recorded, answered = json.loads(recorded), json.loads(answered)
        except ValueError:  # cut in the recording
            return []
    if isinstance(recorded, dict) and isinstance(answered, dict):
        lines = [f"{where}: {sorted(set(recorded) ^ set(answered))} only in one"] \
            if set(recorded) != set(answered) else []
        return lines + [line for key in recorded if key in answered for line in differences(
            recorded[key], answered[key], f"{where}.{key}", key, told)]
    if isinstance(recorded, list) and isinstance(answered, list):
        return _list_differences(recorded, answered, where, name, told)
    if not told and name in NULLABLE and None in (recorded, answered):
        return []
    if kind(recorded) != kind(answered):
        return [f"{where}: {kind(recorded)} {recorded!r:.60}, not {kind(answered)} "
                f"{answered!r:.60}"]
    is_told = name in told and kind(recorded) not in ("local time", "span", "stamp", "GUID")
    if name == "Time" and is_told:  # those of versions are each server's own
        is_told = recorded.startswith("2030")
    if is_told and recorded != answered:
        return [f"{where}: {recorded!r:.80}, not {answered!r:.80}"]
    return []


def _list_differences(recorded, answered, where, name, told):
    if bool(recorded) != bool(answered):
        return [f"{where}: {len(recorded)} entries, not {len(answered)}"]
    if name in ANY_NUMBER or not told:
        forms = [one for one in recorded if one != "…"]
        return [min(found, key=len)[0] for place, one in enumerate(answered) if all(
            found := [differences(form, one, f"{where}[{place}]", name, told) for form in forms])]
    if len(recorded) != len(answered):
        return [f"{where}: {len(recorded)} entries, not {len(answered)}"]
    return [line for place, (one, other) in enumerate(zip(recorded, answered))
            for line in differences(one, other, f"{where}[{place}]", name, told)]


class Answered:
    """What the demo server said: `status`, `reason`, `headers` (a list of pairs), `body`."""

    def __init__(self, response):
        self.status, self.reason = response.status, response.reason
        self.headers, self.body = response.getheaders(), response.read()

    def values(self, name):
        """The values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def document(self):
        """The JSON of the body; None if it is none."""
        try:
            return json.loads(self.body.decode("utf-8-sig"))
        except ValueError:
            return None


def _cookie_form(text):
    """A Set-Cookie without what is made up: value and time."""
    text = re.sub(r"^([\w-]+)=[^;]+", r"\1=VALUE", text)
    return re.sub(r"expires=(?!Thu, 01 Jan 1970)[^;]+", "expires=TIME", text).strip("; ")


def _listed(value):
    return [] if value is None else value if isinstance(value, list) else [value]


class Replay:
    """One recording, sent to a demo server that plays its release.

    `answers`: (exchange, differences) in the order of the recording, for those that were sent.
    """

    def __init__(self, release, folder, before, left_out, kinds_only):
        self.release, self.folder, self.before = release, folder, before
        self.is_legacy = release.startswith("2.0")
        self.exchanges = exchanges(release)
        self.left_out, self.kinds_only = left_out, kinds_only
        self.known = {}       # text that the recorded server made up -> what ours did
        self.instants = {}    # moment of a version in the recording -> in ours
        self.numbers = {}     # number of a task in the recording -> in ours
        self.family = None    # cookie and nonce of a session that no exchange began
        self.servers = [self._serve("data", PASSWORD)]
        if self.is_legacy:
            self.servers.append(self._serve("open", None))
        self.state = self.servers[0].state
        self.token = None if self.is_legacy else self.login()[0]

    def _serve(self, name, password):
        server = make_server(Duplicati(
            self.release, password, self.folder / name, busy_seconds=0.1,
            pre_auth=("preauth-token-1",), enable_forever_token=True))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self):
        """End the servers."""
        for server in self.servers:
            server.shutdown()
            server.server_close()
            server.state.close()

    def run(self):
        """Send all; gives [(exchange, differences)]."""
        found = []
        for exchange in self.exchanges:
            if self.left_out(self.release, exchange):
                continue
            for step in self.before.get(exchange["name"], ()):
                step(self)
            if "states seen while waiting" in (exchange.get("note") or ""):
                assert self.state.wait_idle(20), exchange["name"]
            answered = self.send(exchange)
            self.learn(exchange, answered)
            found.append((exchange, self.compare(exchange, answered)))
        return found

    # Requests.

    def text(self, text):
        """A text of the recording with what is ours in it."""
        for place in PLACES:
            text = text.replace(place, f"{self.folder}{place}")
        text = TOKEN.sub(lambda found: self.known.get(found[0], found[0]), text)
        for theirs, ours in self.known.items():
            if not theirs.startswith("eyJ") and len(theirs) > 8:
                text = text.replace(theirs, ours)
        return TIME.sub(self._moment, text)

    def _moment(self, found):
        moment = self.instants.get(_instant(found[0]))
        if moment is None:
            return found[0]
        zone = timezone.utc if found[0].endswith("Z") else None
        text = moment.astimezone(zone).isoformat()
        return text.replace("+00:00", "Z") if zone else text

    def document(self, value):
        """JSON of the recording with what is ours in it."""
        if isinstance(value, dict):
            return {self.text(key): self.document(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.document(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def path(self, path):
        """A path of the recording, likewise."""
        path = re.sub(r"/task/(\d+)", lambda found: "/task/" + str(
            self.numbers.get(int(found[1]), found[1])), path)
        address, mark, query = path.partition("?")
        pairs = [pair.partition("=") for pair in query.split("&")] if mark else []
        shown = "&".join(f"{name}{equals}{quote(self.text(unquote(value)), safe='')}"
                         for name, equals, value in pairs)
        parts = [quote(self.text(unquote(part)), safe="*") for part in address.split("/")]
        return "/".join(parts) + mark + shown

    def send(self, exchange):
        """Send a recorded request; gives an Answered."""
        request = exchange["request"]
        headers = {"Host": f"127.0.0.1:{self.port}", **request["headers"]}
        if not self.is_legacy:
            self._prepare(request, headers)
        headers = {name: self.text(value) for name, value in headers.items()}
        body = self._body(exchange, headers)
        server = self.servers[1 if exchange["name"].startswith("no password") else 0]
        connection = http.client.HTTPConnection(*server.server_address, timeout=20)
        try:
            connection.request(request["method"], self.path(request["path"]), body, headers)
            return Answered(connection.getresponse())
        finally:
            connection.close()

    @property
    def port(self):
        """That of the recorded server, which its cookies are named after."""
        return {"today": 8200, "2.3.0.4": 8231, "2.1.0.5": 8232}.get(self.release, 8218)

    def _prepare(self, request, headers):
        """Replace tokens that no exchange was seen to give by such as were not either."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if TOKEN.fullmatch(token) and token not in self.known:
            headers["Authorization"] = f"Bearer {self.token}"
        operation = TOKEN.search(request["path"])
        if operation and "SingleOperation" in _claims(operation[0]) \
                and operation[0] not in self.known:
            issued = self.call("POST", "/api/v1/auth/issuetoken/export",
                               Authorization=f"Bearer {self.token}")
            self.known[operation[0]] = issued.document["Token"]
        cookie = TOKEN.search(headers.get("Cookie", ""))
        if cookie and cookie[0] not in self.known:
            access, value, nonce = self.login()
            self.known[cookie[0]] = value
            if nonce and request["json"] and request["json"].get("Nonce"):
                self.known.setdefault(request["json"]["Nonce"], nonce)

    def _body(self, exchange, headers):
        request = exchange["request"]
        if request.get("form") is not None:
            form = {name: self.text(value) for name, value in request["form"].items()}
            if "password" in form:
                form["password"] = self._proof(exchange["name"])
            return urlencode(form)
        if request["json"] is not None:
            document = self.document(request["json"])
            if isinstance(document, dict) and len(document.get("config") or "") > 20:
                export = base64.b64decode(document["config"]).decode()
                document["config"] = base64.b64encode(self.text(export).encode()).decode()
            return json.dumps(document).encode()
        return None if request["raw"] is None else self.text(request["raw"]).encode()

    def _proof(self, name):
        """The answer to the latest nonce (section 2.3 of the protocol)."""
        password = "wrong" if "wrong" in name else PASSWORD
        nonce, salt = (base64.b64decode(part) for part in self.nonce)
        inner = hashlib.sha256(password.encode() + salt).digest()
        return base64.b64encode(hashlib.sha256(nonce + inner).digest()).decode()

    def call(self, method, path, document=None, **headers):
        """A request that is not of the recording: the Answered."""
        connection = http.client.HTTPConnection(*self.servers[0].server_address, timeout=20)
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json",
                   **headers}
        try:
            body = None if document is None else json.dumps(document)
            connection.request(method, path, body, headers)
            return Answered(connection.getresponse())
        finally:
            connection.close()

    def login(self):
        """A session of its own: (access token, refresh token, nonce)."""
        return _session(self.call("POST", "/api/v1/auth/login",
                                  {"Password": PASSWORD, "RememberMe": True}))

    def renew(self, token, nonce):
        """The next generation of a session."""
        return _session(self.call("POST", "/api/v1/auth/refresh", {"Nonce": nonce},
                                  Cookie=f"RefreshToken_{self.port}={token}"))

    # Answers.

    def learn(self, exchange, answered):
        """Note what both servers made up."""
        response = exchange["response"]
        for theirs, ours in zip(_listed(response["headers"].get("Set-Cookie")),
                                answered.values("Set-Cookie")):
            values = [text.partition("=")[2].partition(";")[0] for text in (theirs, ours)]
            if values[0]:
                self.known[values[0]] = values[1]
                self.known[unquote(values[0])] = unquote(values[1])
        self._learn(response["json"], answered.document)

    def _learn(self, theirs, ours, name=""):
        if isinstance(theirs, dict) and isinstance(ours, dict):
            if "Nonce" in theirs and "Salt" in theirs:
                self.nonce = ours["Nonce"], ours["Salt"]
            for key in theirs:
                if key in ours:
                    self._learn(theirs[key], ours[key], key)
        elif isinstance(theirs, list) and isinstance(ours, list):
            for one, other in zip(theirs, ours):
                self._learn(one, other)
        elif isinstance(theirs, str) and isinstance(ours, str) and theirs != ours:
            if kind(theirs) in ("token", "GUID") or name == "RefreshNonce":
                self.known[theirs] = ours
            elif name == "Time" and TIME.fullmatch(theirs) and theirs < "2030":
                self.instants[_instant(theirs)] = datetime.fromtimestamp(
                    _instant(ours), timezone.utc)
        elif name in ("ID", "TaskID", "Item1") and isinstance(theirs, int):
            self.numbers[theirs] = ours

    def compare(self, exchange, answered):
        """The differences of an answer to the recorded one."""
        response, lines = exchange["response"], []
        if response["status"] != answered.status:
            return [f"status {response['status']}, not {answered.status}: {answered.body!r:.200}"]
        if response.get("reason") not in (None, answered.reason):
            lines.append(f"reason {response['reason']!r}, not {answered.reason!r}")
        if bool(response.get("byte_order_mark")) != answered.body.startswith(b"\xef\xbb\xbf"):
            lines.append("byte order mark")
        headers = {name.lower(): value for name, value in response["headers"].items()}
        for name in HEADERS:
            recorded = [_cookie_form(self.text(value)) if name == "Set-Cookie" else value
                        for value in _listed(headers.get(name.lower()))]
            ours = [_cookie_form(value) if name == "Set-Cookie" else value
                    for value in answered.values(name)]
            if recorded != ours:
                if _without_digits(recorded) != _without_digits(ours):
                    lines.append(f"{name} {recorded}, not {ours}")
        if response["json"] is None:
            text = re.sub(r"http://127.0.0.1:\d+/", "http://SERVER/",
                          (response["text"] or "").removeprefix("\ufeff"))
            ours = re.sub(r"http://127.0.0.1:\d+/", "http://SERVER/",
                          answered.body.decode("utf-8-sig", "replace"))
            if ours == "null":  # the recording has no text of what is JSON
                return lines
            is_cut = "…" in text or text.startswith("base64:")
            if (bool(text) != bool(ours)) if is_cut else text.split() != ours.split():
                lines.append(f"body {text!r:.200}, not {ours!r:.200}")
            return lines
        told = () if exchange["name"] in self.kinds_only else TOLD
        document = answered.document
        if "shortened" in (exchange.get("note") or ""):
            if exchange["request"]["path"].endswith("/notifications"):  # the newest are last
                document = document[-len(response["json"]):]
            document = _shortened(response["json"], document)
        return lines + differences(self.document(response["json"]), document, told=told)


def _session(answered):
    document = answered.document
    assert answered.status == 200, answered.body
    cookie = TOKEN.search("".join(answered.values("Set-Cookie")))
    return document["AccessToken"], cookie and cookie[0], document.get("RefreshNonce")


def _without_digits(values):
    """Header values in which a time is told, without it."""
    return [re.sub(r"expired at '[\d/: ]+'", "", value) for value in values]


def _shortened(recorded, answered):
    """An answer cut down to what is left of the recorded one."""
    if isinstance(recorded, list) and isinstance(answered, list):
        return [_shortened(one, other) for one, other in zip(recorded, answered)]
    if isinstance(recorded, dict) and isinstance(answered, dict):
        return {name: _shortened(recorded[name], value) for name, value in answered.items()
                if name in recorded and name != "Message"} | {
            name: answered[name] for name in answered if name == "Message"}
    return answered


def _claims(token):
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()


def _instant(text):
    """A time in whole Unix seconds."""
    whole = re.sub(r"\.\d+", "", text).replace("Z", "+00:00")
    return datetime.fromisoformat(whole).timestamp()
