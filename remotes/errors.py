"""Every way in which this program can fail, and the exit code of each.

    RemotesError             1  not otherwise classed
    ├── RefusedError         1    the server said no, for good: 400, 403 without a login's fault
    ├── TooLargeError        1    413: what was sent is too large for the server
    ├── UnreadableError      1    what the server gave as a command is none
    ├── UsageError           2  the command line is wrong
    ├── NotFoundError       10  no such command, backup, task, version
    ├── LockedError         11  another run holds the lock
    ├── LoginError          12  401, 403: the token was refused
    ├── PolicyError         13  refused by the owner's policy
    ├── CertificateError    14  the server's certificate is not trusted
    ├── WaitTimeoutError   124  --wait_timeout ran out; the work goes on
    ├── UnavailableError    75  for now: server away, time-out, 429, 5xx, a proxy's page
    │   └── DiskFullError   75    no room to write what must be written
    └── SettingsError       78  settings or config wrong or incomplete
        └── ForeignServerError 78  what answers is not such a server
    Interrupted        128 + n  a signal ends the run (no RemotesError: nothing may
                                catch it on the way to the door but to tidy up)

Guards: one place for messages, kinds and codes. Leaves alone: foreign exceptions;
each is translated in the one module that imports the foreign library.
"""

EXIT_CODES = {
    0: "done, or nothing to do; `commands_process`: everything is delivered, however the"
    " commands ended; `tasks_process`: all is done and answered that could be, whatever the answers"
    " say; a monitor ended by its first SIGTERM",
    1: "failed, not otherwise classed: the server said no",
    2: "usage",
    3: "done with warnings, or some of several items failed, were refused or set aside",
    4: "the command or the backup asked for by name ended in an error, was aborted or interrupted,"
    " or its result cannot be found (`command_get`; `duplicati_run --wait` and its like;"
    " `commands_process` with `--fail_on_command`)",
    10: "no such command, backup, task, version or file",
    11: "another run holds the lock; the message names its process, and since when",
    12: "login or token refused: 401, 403",
    13: "refused by the policy (`tasks_policy`)",
    14: "certificate not trusted",
    70: "a fault of this program",
    75: "for now: server away, unknown name, time-out, 429, 5xx, a proxy's page, a full disk;"
    " results are kept; try again later",
    78: "settings or config wrong or incomplete; what answers is not such a server",
    124: "`--wait_timeout` ran out; the work goes on",
    130: "Ctrl-C; 128 + n: ended by signal n",
}


class RemotesError(Exception):
    """A failure that is told in one line.

    `answer` is what the server said, if it said anything; `document` holds what else
    belongs into the JSON answer (the commands done before the failure, for one).
    `code` is the server's own word for the failure ("DatabaseLocked"), if it has one.
    """

    exit_code = 1
    kind = "failed"
    code = None

    def __init__(self, message, *, answer=None, document=None):
        super().__init__(message)
        self.answer = answer
        self.document = document or {}

    def as_document(self):
        """The answer that tells of this failure: a mapping of JSON values."""
        said = {} if self.answer is None else {"answer": self.answer}
        return {"status": "ERROR", "exit": self.exit_code, "kind": self.kind,
                "message": str(self), **self.document, **said}


class RefusedError(RemotesError):
    kind = "refused"


class TooLargeError(RemotesError):
    kind = "too_large"


class UnreadableError(RemotesError):
    kind = "unreadable"


class UsageError(RemotesError):
    exit_code = 2
    kind = "usage"


class NotFoundError(RemotesError):
    exit_code = 10
    kind = "not_found"


class LockedError(RemotesError):
    exit_code = 11
    kind = "locked"


class LoginError(RemotesError):
    exit_code = 12
    kind = "login_refused"


class PolicyError(RemotesError):
    exit_code = 13
    kind = "policy"


class CertificateError(RemotesError):
    exit_code = 14
    kind = "certificate"


class WaitTimeoutError(RemotesError):
    exit_code = 124
    kind = "wait_timeout"


class UnavailableError(RemotesError):
    """The server cannot be had now.

    `maybe_done`: whether the server may have done what was asked (a broken connection,
    a 5xx); False where it is known that it did not (nothing was sent, 429).
    `still_working`: whether it may be at it even now (a time-out, 504).
    `retry_after_seconds`: what the server asked for, or None.
    """

    exit_code = 75
    kind = "unreachable"

    def __init__(self, message, *, kind=None, maybe_done=False, still_working=False,
                 retry_after_seconds=None, answer=None, document=None):
        super().__init__(message, answer=answer, document=document)
        self.kind = kind or self.kind
        self.maybe_done = maybe_done
        self.still_working = still_working
        self.retry_after_seconds = retry_after_seconds


class DiskFullError(UnavailableError):
    kind = "disk_full"


class SettingsError(RemotesError):
    exit_code = 78
    kind = "settings"


class ForeignServerError(SettingsError):
    kind = "foreign_server"


class Interrupted(BaseException):
    """Signal `number` ends this run. Like KeyboardInterrupt, it is no Exception.

    `document`: as that of a RemotesError.
    """

    def __init__(self, number):
        super().__init__(number)
        self.number = number
        self.document = {}
