"""Commands: list, settle what is open, get, run, keep, post. Each noted before the next.

Guards: a command is run at most once and its result is recorded exactly once, whatever
happens to this process, the server and the line between them. Leaves alone: when a
turn is made (actions, daemon), how a command runs (runner), how a line survives
(journal). Whoever makes a CommandsRun holds the lock of the commands.

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
import hashlib
import json
import time

from remotes import keys, runner
from remotes.errors import (
    DiskFullError,
    LoginError,
    NotFoundError,
    RemotesError,
    SettingsError,
    TooLargeError,
    UnavailableError,
)

JOURNAL_NAME = "commands-journal.yml"
JOURNAL_KEY = ("server", "host", "command")
DEFAULT_TIMEOUT_SECONDS = 300.0
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


class FetchedCommand:
    """A command as it is run: texts in clear, `timeout_seconds`, `sha256` of its source."""

    def __init__(self, document, private_key):
        try:
            self.command = document["id"]
            key = keys.CommandKey(
                private_key.decrypt_text(document["encryption_key"], "the command's key"))
            encrypted = document.get("encrypted") or []

            def clear(field, value):
                return key.decrypt_text(value) if field in encrypted else value

            self.name = clear("name", document["name"])
            self.source = clear("command", document["command"])
            self.settings, self.variables = (
                {name: value if value is None else clear(field, value)
                 for name, value in document[field].items()}
                for field in ("settings", "variables")
            )
            self.timeout_seconds = _timeout_seconds(document.get("timeout"))
            self.sha256 = hashlib.sha256(self.source.encode("utf-8", "replace")).hexdigest()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemotesError(f"it cannot be read: {type(error).__name__}: {error}") from error


def _timeout_seconds(value):
    """The server's `timeout`; where it is no positive number, the default."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return min(float(value), runner.LONGEST_TIMEOUT_SECONDS) if is_number \
        else DEFAULT_TIMEOUT_SECONDS


class CommandsRun:
    """One turn over the commands of one host on one server.

    `reports` grows with each command that is done; it is there, too, when a method
    raises. `on_report` is called with each. `stop_requested` is asked before each new
    command. `unclear_seconds`: how long the server may still be working on a post that
    timed out, counted from its start. `pause` waits for some seconds.
    """

    def __init__(self, server, host, journal, audit, command_runner, *, journal_limit,
                 unclear_seconds, tell, on_report=lambda report: None,
                 stop_requested=lambda: False, clock=time.time, pause=time.sleep):
        self.reports = []
        self._server = server
        self._host = host
        self._journal = journal
        self._audit = audit
        self._runner = command_runner
        self._journal_limit = journal_limit
        self._unclear_seconds = unclear_seconds
        self._tell = tell
        self._on_report = on_report
        self._stop_requested = stop_requested
        self._clock = clock
        self._pause = pause
        self._skipped_error = None  # of a result that no longer holds up the others

    # -- what the actions ask for ------------------------------------------------

    def process(self):
        """One turn: settles what is open, then runs what is listed, in its order."""
        _, listed = self._server.commands_list()
        if listed:
            self._runner.start()  # its start takes as long as a fetch: both at once
        self.settle({item.command for item in listed})
        # The list is older than what was settled just now.
        settled = {report.command for report in self.reports}
        for item in listed:
            if self._stop_requested():
                break
            if item.command not in settled and self._state(item.command) is None:
                self.run(item.command, item.group)
        if self._skipped_error is not None:
            raise self._skipped_error

    def run_one(self, command, *, force=False):
        """Runs one command by its number, or delivers the result of it that is kept.

        Errors: NotFoundError; RemotesError if it is no longer listed, without `force`.
        """
        _, listed = self._server.commands_list()
        groups = {item.command: item.group for item in listed}
        state = self._state(command)
        if state == "refused":
            raise RemotesError(
                f"the server refused the result of command {command}, which is set aside: deliver"
                " it with --action=command_post, or throw it away with --action=commands_pending"
                f" --drop={command}"
            )
        if state is not None and (state != "presumed" or command in groups):
            self._settle_key(self._key(command), set(groups))
            return
        if command not in groups and not force:
            self._server.command_get(command)  # tells an unknown one: NotFoundError
            raise RemotesError(
                f"command {command} is not listed any more (it was done, or its time is over);"
                " --force runs it again"
            )
        self.run(command, groups.get(command), must_be_there=True)

    def post_kept(self, command=None):
        """Delivers what is kept: all, or that of one command, set aside or not."""
        _, listed = self._server.commands_list()
        numbers = {item.command for item in listed}
        if command is None:
            self.settle(numbers)
            if self._skipped_error is not None:
                raise self._skipped_error
            return
        if self._state(command) is None:
            raise NotFoundError(f"no result of command {command} is kept")
        key = self._key(command)
        if self._journal.entries[key].fields["state"] == "refused":
            self._journal.note(key, state="ended")
        self._settle_key(key, numbers)

    def preview(self):
        """What a turn would run: a list of mappings; nothing is run or written."""
        _, listed = self._server.commands_list()
        rows = []
        for item in listed:
            row = {"command": item.command, "group": item.group}
            state = self._state(item.command)
            if state is not None:
                row["would"] = f"not run: its result is kept ({state})"
            else:
                row["would"] = "run"
                row.update(self._preview_fields(item.command))
            rows.append(row)
        return rows

    def _preview_fields(self, command):
        try:
            fetched = self._fetch(command)
        except (UnavailableError, LoginError):
            raise
        except RemotesError as error:
            return {"would": f"not run: {error}"}
        return {"name": fetched.name, "timeout": fetched.timeout_seconds,
                "sha256": fetched.sha256, "source": fetched.source,
                "settings": sorted(fetched.settings), "variables": sorted(fetched.variables)}

    # -- settling ------------------------------------------------------------------

    def settle(self, listed_numbers):
        """Settles all that the journal holds of this host on this server."""
        if not self._journal.entries:
            return  # and the UUID need not be decrypted
        self._follow_move()
        own = (self._server.base, self._host.uuid())
        for key in [key for key in self._journal.entries if key[:2] == own]:
            failures = self._journal.entries[key].fields.get("failures", 0)
            try:
                self._settle_key(key, listed_numbers)
            except UnavailableError as error:
                if failures < _BLOCKING_FAILURES or error.kind != "server_error":
                    raise
                self._skipped_error = error

    def _follow_move(self):
        """What is kept for this host under a former address of its server goes to today's.

        UUIDs are the server's: the same UUID means the same server, that has moved.
        """
        base, uuid = self._server.base, self._host.uuid()
        for key in [key for key in self._journal.entries if key[1] == uuid and key[0] != base]:
            moved, entry = (base, uuid, key[2]), self._journal.entries[key]
            body = self._journal.body(key)
            self._tell(f"command {key[2]}: kept for {key[0]}, it goes to {base} now")
            if moved not in self._journal.entries:
                fields = {**entry.fields, "server": base}
                self._journal.note(moved, **fields, **({} if body is None else {"body": body}))
            self._journal.remove(key)

    def _settle_key(self, key, listed_numbers):
        entry = self._journal.entries[key]
        state, is_listed = entry.fields.get("state"), key[2] in listed_numbers
        if state == "started":
            why = "the client ended while it ran; it is not run again"
            self._keep(key, runner.interrupted(why))
            self._note_audit(key, runner.INTERRUPTED, 0.0)
            state = "ended"
        if state == "posting" and is_listed:
            is_listed = self._require_clear(entry, key[2])
        if state == "posting" and not is_listed:
            self._presume(key)
            report = self._kept_report(key)
            report.delivery = PRESUMED
            self._add(report)
        elif state in ("posting", "ended") or (state == "presumed" and is_listed):
            self._deliver_kept(key)
        elif state == "presumed":
            age = self._clock() - entry.fields.get("at", 0)
            if age > PRESUMED_KEPT_SECONDS:
                self._journal.remove(key)

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
        self._journal.note(key, state="presumed", at=self._clock())
        self._tell(f"command {key[2]}: the answer to its result was lost, but it is no longer"
                   " listed: taken for delivered")

    def _kept_report(self, key):
        """A report from what the journal holds."""
        fields = self._journal.entries[key].fields
        report = Report(key[2], fields.get("group"), fields.get("name"))
        report.ending = fields.get("ending")
        report.why = fields.get("why", "")
        report.seconds = fields.get("seconds", 0.0)
        try:
            body = self._journal.body(key)
            report.output, report.result = self._host.result_key().decrypt(body)
        except ValueError:
            report.why = "what is kept of its result cannot be read"
        return report

    def _deliver_kept(self, key):
        self._deliver(key, self._kept_report(key))

    # -- running ---------------------------------------------------------------------

    def run(self, command, group, *, must_be_there=False):
        """Fetches, notes, runs, keeps and delivers one command."""
        try:
            fetched = self._fetch(command)
        except NotFoundError:
            if must_be_there:
                raise
            return  # taken from the list meanwhile
        except (UnavailableError, LoginError, SettingsError):
            raise
        except RemotesError as error:
            report = Report(command, group, None)
            report.ending, report.why, report.delivery = "unreadable", str(error), SET_ASIDE
            self._tell(f"command {command} is left out: {error}")
            self._add(report)
            return
        self._require_room()
        key = self._key(command)
        self._journal.note(key, state="started", at=self._clock(), group=group,
                           name=fetched.name, sha256=fetched.sha256)
        try:
            outcome = self._runner.run(
                fetched.source, settings=fetched.settings, variables=fetched.variables,
                timeout_seconds=fetched.timeout_seconds, name=f"<command {command}>",
            )
        except BaseException:
            # A signal: the runner has ended the command. It is told at the next turn.
            self._note_audit(key, runner.INTERRUPTED, 0.0)
            with contextlib.suppress(RemotesError):  # then the next turn says it all the same
                self._keep(key, runner.interrupted("the client was stopped while it ran"))
            raise
        self._finish(key, outcome)

    def _fetch(self, command):
        document = self._server.command_get(command)
        fetched = FetchedCommand(document, self._host.private_key())
        if fetched.command != command:
            raise RemotesError(f"the server gave command {fetched.command!r:.40} for {command}")
        return fetched

    def _require_room(self):
        # Output and result at their limits, as Fernet tokens, and some lines.
        self._journal.require_room(3 * self._runner.output_limit + 65536)
        if self._journal.live_bytes > self._journal_limit:
            self._forget_presumed()
        if self._journal.live_bytes > self._journal_limit:
            raise RemotesError(
                f"{self._journal.path} is full ({self._journal.live_bytes:,} bytes of results that"
                " are not delivered): nothing new is run; see --action=commands_pending"
            )

    def _forget_presumed(self):
        """Makes room: of all that is kept, what is taken for delivered is needed least."""
        for key, entry in list(self._journal.entries.items()):
            if entry.fields.get("state") == "presumed":
                self._journal.remove(key)

    def _finish(self, key, outcome):
        fields = self._journal.entries[key].fields
        report = Report(key[2], fields.get("group"), fields.get("name"))
        report.ending, report.why, report.seconds = outcome.ending, outcome.why, outcome.seconds
        report.output, report.result = outcome.output, json.loads(outcome.result)
        body = self._host.result_key().encrypt(outcome.output, outcome.result)
        self._note_audit(key, outcome.ending, outcome.seconds)
        try:
            self._note_ended(key, outcome, body)
        except (DiskFullError, SettingsError):
            self._deliver_unkept(key, report, body)
            raise
        self._deliver(key, report, body)

    def _deliver_unkept(self, key, report, body):
        """The last resort when a result cannot be written down: it is posted at once."""
        self._server.command_post(key[2], body)
        self._journal.remove(key)
        report.delivery = DELIVERED
        self._add(report)

    def _keep(self, key, outcome):
        body = self._host.result_key().encrypt(outcome.output, outcome.result)
        self._note_ended(key, outcome, body)

    def _note_ended(self, key, outcome, body):
        self._journal.note(key, state="ended", at=self._clock(), ending=outcome.ending,
                           why=outcome.why, seconds=round(outcome.seconds, 3), body=body)

    # -- delivering ------------------------------------------------------------------

    def _deliver(self, key, report, body=None):
        """Posts a kept result until it is clear what became of it.

        Adds the report in any case. Errors: UnavailableError, LoginError, SettingsError:
        it stays kept, and this turn ends.
        """
        try:
            report.delivery = self._post(key, body or self._journal.body(key))
        finally:
            self._add(report)

    def _post(self, key, body):
        tries = 0
        while True:
            # Unsynced: a kill cannot undo it, and after a power cut a second post is
            # better than a result that was never posted and is taken for delivered.
            self._journal.note(key, sync=False, state="posting", at=self._clock(),
                               is_slow=False)
            try:
                self._server.command_post(key[2], body)
            except TooLargeError as error:
                body = self._halved(key, body)
                if body is None:
                    return self._set_aside(key, error)
            except UnavailableError as error:
                if error.still_working:
                    self._journal.note(key, state="posting", is_slow=True)
                    raise
                if error.maybe_done and not self._is_still_listed(key[2], error):
                    self._presume(key)
                    return PRESUMED
                tries += 1
                if tries == _POSTS_A_TURN or not error.maybe_done:
                    self._note_failure(key, error)
                    raise
            except LoginError:
                self._journal.note(key, state="ended")
                raise
            except SettingsError:
                raise
            except RemotesError as error:
                return self._set_aside(key, error)
            else:
                self._journal.remove(key)
                return DELIVERED

    def _note_failure(self, key, error):
        """The server has certainly not recorded it, and could not or would not."""
        failures = self._journal.entries[key].fields.get("failures", 0)
        failures += error.kind == "server_error"
        self._journal.note(key, state="ended", failures=failures)

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
        self._journal.note(key, state="ended", body=body)
        return body

    def _set_aside(self, key, error):
        self._journal.note(key, state="refused", refusal=str(error))
        self._tell(f"command {key[2]}: the server refuses its result, which is set aside (see"
                   f" --action=commands_pending): {error}")
        return SET_ASIDE

    # -- small things ------------------------------------------------------------------

    def _key(self, command):
        return (self._server.base, self._host.uuid(), command)

    def _state(self, command):
        """The state of a command in the journal, or None."""
        if not self._journal.entries:
            return None  # and the UUID need not be decrypted
        entry = self._journal.entries.get(self._key(command))
        return entry and entry.fields.get("state")

    def _add(self, report):
        self.reports.append(report)
        self._on_report(report)

    def _note_audit(self, key, ending, seconds):
        fields = self._journal.entries[key].fields
        self._audit.note(kind="command", server=key[0], id=key[2], name=fields.get("name"),
                         sha256=fields.get("sha256"), ending=ending, seconds=round(seconds, 3))
