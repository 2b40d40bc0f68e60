"""Results: kept, posted, settled. What is not known is found out before anything else.

Guards: a result is recorded exactly once, whatever happens to this process, the server
and the line between them. Leaves alone: what is run, and when (commands); how a line
survives (journal). Whoever makes a Delivery holds the lock of the commands.

States of a command in the journal (key: server, host, command):

    started   about to run, or running. Found by a later run: it was cut off
    ended     its result is kept, and the server has certainly not recorded it
    posting   its result was on its way, and nothing is known
    presumed  no clear answer, but it is no longer listed: taken for recorded
    refused   the server does not want its result: set aside, told once
    removed   the server has said that it is recorded

Source: protocol page of Django Remotes, "Commands", its traps above all.
"""

import contextlib
import json
import time

from remotes import runner
from remotes.errors import (
    CertificateError,
    LoginError,
    NotFoundError,
    RefusedError,
    RemotesError,
    TooLargeError,
    UnavailableError,
)

JOURNAL_NAME = "commands-journal.yml"
JOURNAL_KEY = ("server", "host", "command")
PRESUMED_KEPT_SECONDS = 30 * 86400
_POSTS_A_TURN = 3
# A result that the server cannot take (500, still listed) holds up the others for so
# many turns; then it is tried at each turn, and they go on.
_BLOCKING_FAILURES = 3
_SMALLEST_OUTPUT_BYTES = 1024
# What a server that is not slow takes at the most to record a result.
_MOMENT_SECONDS = 2.0
DELIVERED, PRESUMED, KEPT, SET_ASIDE = "delivered", "presumed delivered", "kept", "set aside"


class Report:
    """What became of one command in this run."""

    def __init__(self, command, group, name):
        self.command = command
        self.group = group
        self.name = name
        self.ending = None
        self.why = ""
        self.seconds = 0.0
        self.output = None
        self.result = None
        self.delivery = KEPT

    def answer(self):
        """As a mapping for people and scripts."""
        return {
            "command": self.command, "group": self.group, "name": self.name,
            "ending": self.ending, "why": self.why, "seconds": round(self.seconds, 3),
            "output": self.output, "result": self.result,
            "delivered": self.delivery in (DELIVERED, PRESUMED), "delivery": self.delivery,
        }

    def line(self):
        """As one line for a log."""
        why = f" ({self.why})" if self.why else ""
        return (f"command {self.command} {self.name or ''!s}: {self.ending}{why}"
                f" after {self.seconds:.1f} s, {self.delivery}")


class Delivery:
    """The results of one host on their way to one server.

    `reports` grows with each command that is done; it is there, too, when a method
    raises. `on_report` is called with each. `unclear_seconds`: how long the server may
    still be working on a post that timed out, counted from its start. `pause` waits for
    some seconds. `skipped_error` is that of a result that no longer holds up the others.
    """

    def __init__(self, server, host, journal, audit, *, unclear_seconds, tell,
                 on_report=lambda report: None, clock=time.time, pause=time.sleep):
        self.reports = []
        self.skipped_error = None
        self.journal = journal
        self._server = server
        self._host = host
        self._audit = audit
        self._unclear_seconds = unclear_seconds
        self._tell = tell
        self._on_report = on_report
        self._clock = clock
        self._pause = pause

    def key(self, command):
        """The journal's key of a command (int)."""
        return (self._server.base, self._host.uuid(), command)

    def state(self, command):
        """The state of a command in the journal, or None."""
        if not self.journal.entries:
            return None  # and the UUID need not be decrypted
        entry = self.journal.entries.get(self.key(command))
        return entry and entry.fields.get("state")

    def add(self, report):
        """Notes what became of a command in this run."""
        self.reports.append(report)
        self._on_report(report)

    # -- keeping ---------------------------------------------------------------------

    def begin(self, key, **fields):
        """Notes that a command is about to run; synced when this returns."""
        self.journal.note(key, state="started", at=self._clock(), **fields)

    def finish(self, key, outcome):
        """Keeps the outcome of a command that ran, and delivers it."""
        body = self._host.result_key().encrypt(outcome.output, outcome.result)
        self._note_audit(key, outcome)
        try:
            self._note_ended(key, outcome, body)
        except RemotesError:
            self._deliver_unkept(key, outcome, body)
            raise
        self._deliver(key, self._report(key, outcome.output, json.loads(outcome.result)), body)

    def keep_interrupted(self, key, why):
        """Keeps, for a command that was cut off, that it was."""
        outcome = runner.interrupted(why)
        self._note_audit(key, outcome)
        body = self._host.result_key().encrypt(outcome.output, outcome.result)
        self._note_ended(key, outcome, body)

    def _note_ended(self, key, outcome, body):
        self.journal.note(key, state="ended", at=self._clock(), ending=outcome.ending,
                          why=outcome.why, seconds=round(outcome.seconds, 3), body=body)

    def _deliver_unkept(self, key, outcome, body):
        """The last resort when a result cannot be written down: it is posted at once.

        If that fails, too, its output is lost; a short note may still find room.
        """
        try:
            self._server.command_post(key[2], body)
        except RemotesError:
            lost = self._host.result_key().encrypt(
                f"[output lost] it {outcome.ending}, and there was no room to keep the rest\n",
                "[]")
            with contextlib.suppress(RemotesError):
                self._note_ended(key, outcome, lost)
            raise
        report = self._report(key, outcome.output, json.loads(outcome.result))
        report.ending, report.why, report.seconds = outcome.ending, outcome.why, outcome.seconds
        report.delivery = DELIVERED
        self.journal.remove(key)
        self.add(report)

    def _report(self, key, output, result):
        """A report of the entry `key`, with its output and result in clear."""
        fields = self.journal.entries[key].fields
        report = Report(key[2], fields.get("group"), fields.get("name"))
        report.ending = fields.get("ending")
        report.why = fields.get("why", "")
        report.seconds = fields.get("seconds", 0.0)
        report.output, report.result = output, result
        return report

    def _kept_report(self, key):
        """A report from what the journal holds. What is damaged is lost, and is told."""
        try:
            output, result = self._host.result_key().decrypt(self.journal.body(key))
        except ValueError:
            self._tell(f"command {key[2]}: what was kept of its result cannot be read")
            outcome = runner.interrupted("it ran, but what was kept of its result is damaged")
            self._note_ended(key, outcome, self._host.result_key().encrypt(outcome.output, "[]"))
            return self._report(key, outcome.output, [])
        return self._report(key, output, result)

    def _note_audit(self, key, outcome):
        fields = self.journal.entries[key].fields
        self._audit.note(kind="command", server=key[0], id=key[2], name=fields.get("name"),
                         sha256=fields.get("sha256"), ending=outcome.ending,
                         seconds=round(outcome.seconds, 3))

    def forget_presumed(self):
        """Makes room: of all that is kept, what is taken for delivered is needed least."""
        for key, entry in list(self.journal.entries.items()):
            if entry.fields.get("state") == "presumed":
                self.journal.remove(key)

    # -- settling ------------------------------------------------------------------

    def settle(self, listed_numbers):
        """Settles all that the journal holds of this host on this server."""
        if not self.journal.entries:
            return  # and the UUID need not be decrypted
        self._follow_move()
        own = (self._server.base, self._host.uuid())
        for key in [key for key in self.journal.entries if key[:2] == own]:
            failures = self.journal.entries[key].fields.get("failures", 0)
            try:
                self.settle_one(key, listed_numbers)
            except UnavailableError as error:
                if failures < _BLOCKING_FAILURES or error.kind != "server_error":
                    raise
                self.skipped_error = error

    def _follow_move(self):
        """What is kept for this host under a former address of its server goes to today's.

        UUIDs are the server's: the same UUID means the same server, that has moved.
        """
        base, uuid = self._server.base, self._host.uuid()
        for key in [key for key in self.journal.entries if key[1] == uuid and key[0] != base]:
            moved, entry = (base, uuid, key[2]), self.journal.entries[key]
            body = self.journal.body(key)
            self._tell(f"command {key[2]}: kept for {key[0]}, it goes to {base} now")
            if moved not in self.journal.entries:
                fields = {**entry.fields, "server": base}
                self.journal.note(moved, **fields, **({} if body is None else {"body": body}))
            self.journal.remove(key)

    def settle_one(self, key, listed_numbers):
        """Settles the entry `key`, as its state and the list (a set of numbers) demand."""
        entry = self.journal.entries[key]
        state, is_listed = entry.fields.get("state"), key[2] in listed_numbers
        if state == "started":
            self.keep_interrupted(key, "the client ended while it ran; it is not run again")
            state = "ended"
        if state == "posting" and is_listed:
            is_listed = self._require_clear(entry, key[2])
        if state == "posting" and not is_listed:
            report = self._kept_report(key)
            self._presume(key)
            report.delivery = PRESUMED
            self.add(report)
        elif state in ("posting", "ended") or (state == "presumed" and is_listed):
            self._deliver_kept(key)
        elif state == "presumed":
            age = self._clock() - entry.fields.get("at", 0)
            if age > PRESUMED_KEPT_SECONDS:
                self.journal.remove(key)

    def _require_clear(self, entry, command):
        """Gives a server that may still be working on a post the time to end it.

        A moment is waited for. If the post timed out, the server is slow: that command
        is left for a later turn. Listed and posted again too soon, it would be
        recorded twice.
        """
        patience = self._unclear_seconds if entry.fields.get("is_slow") else _MOMENT_SECONDS
        left = entry.fields.get("at", 0) + patience - self._clock()
        if left > patience:  # the clock was set back
            left = 0
        if left > _MOMENT_SECONDS:
            raise UnavailableError(
                f"the server may still be recording the result of command {command}: it is kept,"
                f" and settled in {left:.0f} s at the soonest", kind="unclear", maybe_done=True,
                retry_after_seconds=left,
            )
        if left > 0:
            self._pause(left)
        return command in {item.command for item in self._server.commands_list()[1]}

    def _presume(self, key):
        self.journal.note(key, state="presumed", at=self._clock())
        self._tell(f"command {key[2]}: the answer to its result was lost, but it is no longer"
                   " listed: taken for delivered")

    def _deliver_kept(self, key):
        self._deliver(key, self._kept_report(key))

    # -- delivering ------------------------------------------------------------------

    def _deliver(self, key, report, body=None):
        """Posts a kept result until it is clear what became of it.

        Adds the report in any case. Errors: UnavailableError, LoginError, CertificateError,
        SettingsError: it stays kept, and this turn ends.
        """
        try:
            report.delivery = self._post(key, body or self.journal.body(key))
        finally:
            self.add(report)

    def _post(self, key, body):
        tries = 0
        while True:
            # Unsynced: a kill cannot undo it, and after a power cut a second post is
            # better than a result that was never posted and is taken for delivered.
            self.journal.note(key, sync=False, state="posting", at=self._clock(),
                               is_slow=False)
            try:
                self._server.command_post(key[2], body)
            except TooLargeError as error:
                body = self._halved(key, body)
                if body is None:
                    return self._set_aside(key, error)
            except UnavailableError as error:
                if error.still_working:
                    self.journal.note(key, state="posting", is_slow=True)
                    raise
                if error.maybe_done and not self._is_still_listed(key[2], error):
                    self._presume(key)
                    return PRESUMED
                tries += 1
                if tries == _POSTS_A_TURN or not error.maybe_done:
                    self._note_failure(key, error)
                    raise
            except (LoginError, CertificateError):
                self.journal.note(key, state="ended")  # it was not even looked at
                raise
            except (RefusedError, NotFoundError) as error:
                return self._set_aside(key, error)
            else:
                self.journal.remove(key)
                return DELIVERED

    def _note_failure(self, key, error):
        """The server has certainly not recorded it, and could not or would not."""
        failures = self.journal.entries[key].fields.get("failures", 0)
        failures += error.kind == "server_error"
        self.journal.note(key, state="ended", failures=failures)

    def _is_still_listed(self, command, error):
        """Settles an answer that said nothing. If the list cannot be had: `error`."""
        try:
            _, listed = self._server.commands_list()
        except RemotesError:
            raise error from None
        return command in {item.command for item in listed}

    def _halved(self, key, body):
        """The body with half the output; without its result, if that is larger. None if
        nothing is left to halve (413: most often the limit of a proxy)."""
        output, result = self._host.result_key().decrypt(body)
        size = len(output.encode())
        limit = size // 2
        if limit < _SMALLEST_OUTPUT_BYTES and result == []:
            return None
        result_text = runner.watcher.result_text(result)
        if len(result_text) > max(limit, _SMALLEST_OUTPUT_BYTES):
            output += f"\n[result not sent] the server takes no {len(result_text):,} bytes\n"
            result_text = "[]"
        content = output.encode()
        output = runner.cut(content, b"", len(content), max(limit, _SMALLEST_OUTPUT_BYTES))
        body = self._host.result_key().encrypt(output, result_text)
        self.journal.note(key, state="ended", body=body)
        return body

    def _set_aside(self, key, error):
        self.journal.note(key, state="refused", refusal=str(error))
        self._tell(f"command {key[2]}: the server refuses its result, which is set aside (see"
                   f" --action=commands_pending): {error}")
        return SET_ASIDE
