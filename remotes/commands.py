"""Commands: list, fetch, run, one after another, each delivered before the next.

Guards: a command is run at most once: what the journal knows is not run, what is about
to run is noted before. Leaves alone: when a turn is made (actions, daemon), how a
command runs (runner), what becomes of its result (delivery).

Source: protocol page of Django Remotes, "Commands".
"""

import contextlib
import hashlib

from remotes import keys, runner
from remotes.delivery import SET_ASIDE, Report
from remotes.errors import (
    NotFoundError,
    RefusedError,
    RemotesError,
    SettingsError,
    UnreadableError,
)

DEFAULT_TIMEOUT_SECONDS = 300.0


class FetchedCommand:
    """A command as it is run: texts in clear, `timeout_seconds`, `sha256` of its source.

    Made from the server's answer. UnreadableError if that is no command, or is encrypted
    with something else than it says.
    """

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
        except (KeyError, TypeError, ValueError, AttributeError, SettingsError) as error:
            raise UnreadableError(f"it cannot be read: {error or type(error).__name__}") from error


def _timeout_seconds(value):
    """The server's `timeout`; where it is no positive number, the default."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return min(float(value), runner.LONGEST_TIMEOUT_SECONDS) if is_number \
        else DEFAULT_TIMEOUT_SECONDS


class CommandsRun:
    """One turn over the commands of one host on one server.

    `delivery` has the reports of what was done, also when a method raises.
    `stop_requested` is asked before each new command. `journal_limit`: bytes of kept
    results over which nothing new is run.
    """

    def __init__(self, server, host, delivery, command_runner, *, journal_limit, tell,
                 stop_requested=lambda: False):
        self.delivery = delivery
        self._server = server
        self._host = host
        self._runner = command_runner
        self._journal_limit = journal_limit
        self._tell = tell
        self._stop_requested = stop_requested

    def process(self):
        """One turn: settles what is open, then runs what is listed, in its order."""
        _, listed = self._server.commands_list()
        if listed:
            self._runner.start()  # its start takes as long as a fetch: both at once
        self.delivery.settle({item.command for item in listed})
        # The list is older than what was settled just now.
        settled = {report.command for report in self.delivery.reports}
        for item in listed:
            if self._stop_requested():
                break
            if item.command not in settled and self.delivery.state(item.command) is None:
                self.run(item.command, item.group)
        self._raise_skipped()

    def run_one(self, command, *, force=False):
        """Runs one command by its number, or delivers the result of it that is kept.

        Errors: NotFoundError; RemotesError if it is no longer listed, without `force`.
        """
        _, listed = self._server.commands_list()
        groups = {item.command: item.group for item in listed}
        state = self.delivery.state(command)
        if state == "refused":
            raise RemotesError(
                f"the server refused the result of command {command}, which is set aside: deliver"
                " it with --action=command_post, or throw it away with --action=commands_pending"
                f" --drop={command}"
            )
        if state is not None and (state != "presumed" or command in groups):
            self.delivery.settle_one(self.delivery.key(command), set(groups))
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
            self.delivery.settle(numbers)
            self._raise_skipped()
            return
        state = self.delivery.state(command)
        if state is None:
            raise NotFoundError(f"no result of command {command} is kept")
        key = self.delivery.key(command)
        if state == "refused":
            self.delivery.journal.note(key, state="ended")
        self.delivery.settle_one(key, numbers)

    def preview(self):
        """What a turn would run: a list of mappings; nothing is run or written."""
        _, listed = self._server.commands_list()
        rows = []
        for item in listed:
            row = {"command": item.command, "group": item.group}
            state = self.delivery.state(item.command)
            if state is not None:
                row["would"] = f"not run: it was before, and is not settled ({state})"
            else:
                row["would"] = "run"
                row.update(self._preview_fields(item.command))
            rows.append(row)
        return rows

    def _preview_fields(self, command):
        try:
            fetched = self._fetch(command)
        except (RefusedError, NotFoundError, UnreadableError) as error:
            return {"would": f"not run: {error}"}
        return {"name": fetched.name, "timeout": fetched.timeout_seconds,
                "sha256": fetched.sha256, "source": fetched.source,
                "settings": sorted(fetched.settings), "variables": sorted(fetched.variables)}

    def run(self, command, group, *, must_be_there=False):
        """Fetches, notes, runs, keeps and delivers one command."""
        try:
            fetched = self._fetch(command)
        except NotFoundError:
            if must_be_there:
                raise
            return  # taken from the list meanwhile
        except (RefusedError, UnreadableError) as error:
            report = Report(command, group, None)
            report.ending, report.why, report.delivery = "unreadable", str(error), SET_ASIDE
            self._tell(f"command {command} is left out: {error}")
            self.delivery.add(report)
            return
        self._require_room()
        key = self.delivery.key(command)
        self.delivery.begin(key, group=group, name=fetched.name, sha256=fetched.sha256)
        try:
            outcome = self._runner.run(
                fetched.source, settings=fetched.settings, variables=fetched.variables,
                timeout_seconds=fetched.timeout_seconds, name=f"<command {command}>",
            )
        except BaseException:
            # A signal: the runner has ended the command. If this cannot be noted, the
            # next turn says it all the same.
            with contextlib.suppress(RemotesError):
                self.delivery.keep_interrupted(key, "the client was stopped while it ran")
            raise
        self.delivery.finish(key, outcome)

    def _fetch(self, command):
        document = self._server.command_get(command)
        fetched = FetchedCommand(document, self._host.private_key())
        if fetched.command != command:
            raise UnreadableError(f"the server gave command {fetched.command!r:.40} for {command}")
        return fetched

    def _require_room(self):
        journal = self.delivery.journal
        # Output and result at their limits, as Fernet tokens, and some lines.
        journal.require_room(3 * self._runner.output_limit + 65536)
        if journal.live_bytes > self._journal_limit:
            self.delivery.forget_presumed()
        if journal.live_bytes > self._journal_limit:
            raise RemotesError(
                f"{journal.path} is full ({journal.live_bytes:,} bytes of results that are not"
                " delivered): nothing new is run; see --action=commands_pending"
            )

    def _raise_skipped(self):
        if self.delivery.skipped_error is not None:
            raise self.delivery.skipped_error
