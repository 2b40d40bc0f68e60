"""One HTTP exchange: a whole answer, or an error of ours. The only importer of requests.

Guards: time-outs for connecting, for each read and for the whole answer (a server that
dribbles cannot hold us), the size of an answer, that `~/.netrc` never replaces our
Authorization, that no redirect carries a token elsewhere, that a server is who it should
be (CA, or the pinned SHA-256 of its certificate), that a kept connection which ends as it
is used again costs no GET, and the translation of every foreign exception. Proxies of the
environment are heard. Leaves alone: what an answer means; a status of 500 is an answer here.
"""

import contextlib
import re
import socket
import ssl
import threading
import urllib.parse

import requests
import requests.adapters
import urllib3

from remotes.answer import Answer, one_line
from remotes.errors import CertificateError, ForeignServerError, SettingsError, UnavailableError

ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
# A whole answer may take this many times as long as one read of it.
ANSWER_TIMEOUT_FACTOR = 10
_DOTS = re.compile(r"(?<=/)\.\.?(?=/|$)")


class Transport:
    """A connection to one server, kept open between exchanges until `close`.

    `timeout_seconds` is for connecting and for each read. `headers` go with each
    request. `certificate` is None or (certificate file, key file or None). `pin` is the
    SHA-256 (64 hexadecimal digits) that the server's certificate must have.
    """

    def __init__(self, *, timeout_seconds=30.0, ca_file=None, certificate=None, headers=None,
                 pin=None, is_insecure=False):
        self.timeout_seconds = timeout_seconds
        self._session = _Session()
        self._session.headers.update(headers or {})
        # A pin says which certificate it must be: who has signed it does not matter then.
        self._verify = False if pin or is_insecure else ca_file or True
        self._certificate = certificate
        if is_insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._environment = {}  # scheme and host -> what the environment says of them
        self._sockets = _Sockets()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _GuardedAdapter(self._sockets, pin))

    def close(self):
        """Closes all connections; the next exchange opens a new one."""
        self._session.close()

    def exchange(self, method, url, *, document=None, form=None, parts=None, headers=None,
                 patience_seconds=0.0):
        """Sends a body to `url`; gives the Answer.

        The body: `document` (JSON), `form` (mapping, url-encoded) or `parts` (name ->
        (file name or None, bytes), multipart); None of them: no body. The server may
        take `patience_seconds` more than usual before it begins to answer. Redirects
        are not followed. Errors: UnavailableError, CertificateError, SettingsError
        (certificate files), ForeignServerError (not HTTP, too large).
        """
        request = requests.Request(
            method, url, headers={**self._session.headers, **(headers or {})}, json=document,
            data=form, files=parts,
        )
        late = threading.Event()
        limit = self.timeout_seconds * ANSWER_TIMEOUT_FACTOR + patience_seconds
        # It holds nothing of this object: its thread may outlive it a moment, and whoever lets go
        # of a pool last changes what Python walks through at its end.
        guard = threading.Timer(limit, _cut, (late, self._sockets))
        guard.daemon = True
        try:
            prepared = request.prepare()
            guard.start()
            response = self._sent(prepared, patience_seconds, late)
            with contextlib.closing(response):
                body = self._read(response, url)
            if late.is_set():
                raise requests.exceptions.ReadTimeout("the answer took too long")
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError,
                ValueError) as error:
            # OSError: a certificate file that is missing; ValueError: an address or a
            # header that cannot be written (both come bare out of requests).
            # No cause where a header is wrong: it would show the token under --debug.
            hides = isinstance(error, (requests.exceptions.InvalidHeader, UnicodeEncodeError))
            raise self._translated(error, url, late.is_set()) from None if hides else error
        finally:
            guard.cancel()
        return Answer(response.status_code, response.headers, body, url,
                      reason=response.reason or "", cookies=_set_cookies(response))

    def _sent(self, prepared, patience_seconds, late):
        """The response to a request, its body unread."""
        options = {
            "stream": True, "allow_redirects": False,
            "timeout": (self.timeout_seconds, self.timeout_seconds + patience_seconds),
            **self._environment_of(prepared.url),
        }
        opened = self._sockets.opened
        try:
            return self._session.send(prepared, **options)
        except requests.exceptions.ConnectionError:
            # A server may end a connection that is kept open at the very moment at which it is
            # used again (RFC 9112, 9.3.1). What only asks is asked once more, on a new one; but a
            # long poll can have been cut off at any time, which whoever waits should know.
            is_kept = self._sockets.opened == opened and not patience_seconds
            if prepared.method != "GET" or not is_kept or late.is_set():
                raise
        return self._session.send(prepared, **options)

    def _environment_of(self, url):
        """Proxies and CA files that the environment names, looked up once for a host."""
        origin = urllib.parse.urlsplit(url)[:2]
        if origin not in self._environment:
            found = self._session.merge_environment_settings(
                url, {}, True, self._verify, self._certificate
            )
            del found["stream"]
            self._environment[origin] = found
        return self._environment[origin]

    def _read(self, response, url):
        chunks, size = [], 0
        for chunk in response.iter_content(1 << 16):
            size += len(chunk)
            if size > ANSWER_LIMIT_BYTES:
                raise ForeignServerError(
                    f"{_address(url)} answers with more than {ANSWER_LIMIT_BYTES >> 20} MiB;"
                    " nothing of that size is expected"
                )
            chunks.append(chunk)
        promised = response.headers.get("Content-Length", "")
        if promised.isdigit() and size < int(promised) and response.status_code != 304 and \
                "Content-Encoding" not in response.headers:
            # urllib3 before 2 takes half an answer for a whole one. 304 tells the length of
            # a body that it does not send.
            raise requests.exceptions.ChunkedEncodingError("the answer broke off")
        return b"".join(chunks)

    def _translated(self, error, url, is_late):
        """The error of ours that says what `error` of requests or urllib3 means."""
        address = _address(url)
        causes = list(_chain(error))
        reason = _reason(causes)
        kinds = requests.exceptions
        time_outs = (kinds.ReadTimeout, urllib3.exceptions.ReadTimeoutError)
        if is_late or any(isinstance(cause, time_outs) for cause in causes):
            seconds = self.timeout_seconds * (ANSWER_TIMEOUT_FACTOR if is_late else 1)
            return UnavailableError(
                f"{address} gave no whole answer within {seconds:g} s", kind="time_out",
                maybe_done=True, still_working=True,
            )
        if isinstance(error, kinds.ConnectTimeout):
            return UnavailableError(
                f"{address} cannot be reached: no connection within {self.timeout_seconds:g} s"
            )
        if any(isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) for cause in causes):
            return UnavailableError(f"{address} broke the connection off: {reason}",
                                    maybe_done=True)
        if isinstance(error, kinds.SSLError):
            return _tls_error(address, reason)
        if isinstance(error, kinds.ProxyError):
            # urllib3 before 2 says so of any break behind a proxy, in the middle of an answer, too.
            is_unsent = any(isinstance(cause, urllib3.exceptions.NewConnectionError)
                            for cause in causes)
            return UnavailableError(f"{address} cannot be reached through the proxy: {reason}",
                                    maybe_done=not is_unsent)
        return _unsent_or_broken(error, causes, address, reason)


def _unsent_or_broken(error, causes, address, reason):
    """What is left when it was neither a time-out nor TLS nor a proxy."""
    kinds = requests.exceptions
    if isinstance(error, (kinds.InvalidHeader, UnicodeEncodeError)):
        return SettingsError(f"{address} cannot be asked: the token cannot stand in a header")
    if isinstance(error, (kinds.InvalidURL, kinds.InvalidSchema, kinds.MissingSchema,
                          kinds.InvalidProxyURL)) \
            or any(isinstance(cause, urllib3.exceptions.LocationParseError)
                   for cause in causes):
        return SettingsError(f"{address} cannot be asked: {reason}")
    if any(isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in causes):
        return UnavailableError(f"{address} cannot be reached: {reason}")
    if isinstance(error, (kinds.ContentDecodingError, urllib3.exceptions.DecodeError)):
        return UnavailableError(f"{address} sends what cannot be unpacked", maybe_done=True)
    if isinstance(error, (kinds.ConnectionError, kinds.ChunkedEncodingError,
                          urllib3.exceptions.HTTPError, ConnectionError)):
        return UnavailableError(f"{address} broke the connection off: {reason}",
                                maybe_done=True)
    return SettingsError(f"{address} cannot be asked: {reason}")


def _cut(late, sockets):
    """Ends an exchange from the guard's thread: the read that waits comes back."""
    late.set()
    for guarded in list(sockets):
        with contextlib.suppress(OSError):
            guarded.shutdown(socket.SHUT_RDWR)


class _Session(requests.Session):
    """Looks at no redirect: requests would read the whole body of one, however large, and
    stumble over an address that is none."""

    def get_redirect_target(self, response):
        return None


class _Sockets(set):
    """Duplicates of the sockets in use, for the guard. `opened`: how often one was to be opened."""

    opened = 0


class _GuardedAdapter(requests.adapters.HTTPAdapter):
    """Keeps a duplicate of each socket in `sockets`, which another thread may shut down.

    A duplicate, since TLS takes the first one apart; and from connecting on, since a
    server can also dribble its headers.
    """

    def __init__(self, sockets, pin):
        self._sockets = sockets
        self._pinned = {"assert_fingerprint": pin} if pin else {}
        super().__init__()

    def request_url(self, request, proxies):
        """What goes into the request line. requests writes "%2E%2E" plainly, which is another
        path; dots that stood there plainly are gone by now."""
        path, mark, query = super().request_url(request, proxies).partition("?")
        return _DOTS.sub(lambda found: found[0].replace(".", "%2E"), path) + mark + query

    def init_poolmanager(self, *args, **kwargs):
        super().init_poolmanager(*args, **kwargs, **self._pinned)
        self.poolmanager.pool_classes_by_scheme = self._pools()

    def proxy_manager_for(self, *args, **kwargs):
        manager = super().proxy_manager_for(*args, **kwargs, **self._pinned)
        manager.pool_classes_by_scheme = self._pools()
        return manager

    def _pools(self):
        sockets = self._sockets

        def guarded(base_pool):
            class Connection(base_pool.ConnectionCls):
                guarded = None

                def _new_conn(self):
                    sockets.opened += 1
                    fresh = super()._new_conn()
                    self.guarded = fresh.dup()
                    sockets.add(self.guarded)
                    return fresh

                def close(self):
                    super().close()
                    if self.guarded is not None:
                        sockets.discard(self.guarded)
                        self.guarded.close()
                        self.guarded = None

            return type("Pool", (base_pool,), {"ConnectionCls": Connection})

        return {"http": guarded(urllib3.HTTPConnectionPool),
                "https": guarded(urllib3.HTTPSConnectionPool)}


def _set_cookies(response):
    """The cookies of an answer, name -> value; requests' own jar would hide some of them."""
    headers = response.raw.headers
    lines = headers.getlist("Set-Cookie") if "Set-Cookie" in headers else []
    pairs = (line.partition(";")[0].partition("=") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip()}


def fingerprint(url, timeout_seconds):
    """The SHA-256 of the certificate that the server at `url` shows, as 64 hexadecimal
    digits; None if there is none to be had. It proves nothing: a person compares it.
    """
    import hashlib

    parts = urllib.parse.urlsplit(url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((parts.hostname, parts.port or 443), timeout_seconds) as line:
            with context.wrap_socket(line, server_hostname=parts.hostname) as secured:
                return hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()
    except (OSError, ValueError, TypeError):
        return None


def _address(url):
    """Scheme, host and path of a URL for a message: never a login, never a query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        return "what is no URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _chain(error):
    """`error` and all that it wraps: args, reasons, causes; each once."""
    seen, waiting = set(), [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen or not isinstance(current, BaseException):
            continue
        seen.add(id(current))
        yield current
        waiting += [*current.args, getattr(current, "reason", None),
                    current.__cause__, current.__context__]


def _reason(causes):
    """The innermost cause in words: most often what the operating system said."""
    for cause in reversed(causes):
        if isinstance(cause, socket.gaierror):
            return f"the name is not known ({cause.strerror})"
        if isinstance(cause, OSError) and cause.strerror:
            return one_line(cause.strerror)
    return one_line(str(causes[-1]) or type(causes[-1]).__name__)


def _tls_error(address, reason):
    if "Fingerprints did not match" in reason:
        found = re.search(r'got "?([0-9a-fA-F:]+)', reason)
        return CertificateError(
            f"the certificate of {address} is not the pinned one"
            + (f", but that with SHA-256 {found[1].lower()}" if found else "")
        )
    if "mismatch" in reason or "doesn't match" in reason:
        return CertificateError(
            f"the certificate of {address} is for another name: {reason}; use the name it is for"
        )
    if "CERTIFICATE_VERIFY_FAILED" in reason or "certificate verify failed" in reason:
        return CertificateError(
            f"the certificate of {address} is not trusted: {reason}; if it is yours, name its CA"
            " with --ca_file"
        )
    if "certificate required" in reason.lower() or "CERTIFICATE_REQUIRED" in reason:
        return CertificateError(
            f"{address} wants a certificate of the client: --client_certificate, --client_key"
        )
    if reason.startswith("[X509") or "PEM lib" in reason:  # ours, before anything is sent
        return SettingsError(
            f"{address} cannot be asked: --ca_file, --client_certificate or --client_key is no PEM"
            f" file, or they do not belong together: {reason}"
        )
    return ForeignServerError(f"{address} does not speak TLS as it should: {reason}")
