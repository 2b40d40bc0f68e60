"""The actions on a Duplicati server, done for tasks: with the same functions as on the command
line, over one session that stays open.

Guards: that a task's values come from the task alone, so that no config, environment or
question of a terminal gets into it; that what leaves is masked; that it is known whether the
server was asked to change something when an action fails. Leaves alone: what a task means
(executor), and what is noted of it.
"""

from remotes.actions.context import Context
from remotes.actions.duplicati import (
    acting,
    changing,
    deleting,
    exporting,
    reading,
    restoring,
    session,
)
from remotes.actions.options import COMMON, Config, Values
from remotes.duplicati.calls import Duplicati
from remotes.errors import UnavailableError

_ACTIONS = {action.name: action
            for module in (session, reading, acting, restoring, changing, exporting, deleting)
            for action in module.ACTIONS}
# What stands in a task context's values besides what the task says: never from elsewhere.
_FIXED = {"wait": False, "show_secrets": False, "dry_run": False, "force": False,
          "output": "json", "follow": False}


class KeptServer(Duplicati):
    """A Duplicati server whose connection outlives the actions. `was_asked_to_change`: since it
    was set to False last, a request that may change something has reached the server, or may have.
    """

    was_asked_to_change = False

    def raw(self, method, path, **sent):
        try:
            answer = super().raw(method, path, **sent)
        except UnavailableError as error:
            self.was_asked_to_change |= method != "GET" and error.maybe_done
            raise
        self.was_asked_to_change |= method != "GET"
        return answer

    def close(self):
        """Stays open; see `end`."""

    def end(self):
        """Closes the connection; the next request opens a new one."""
        super().close()


class _TaskContext(Context):
    """The world of an action that is done for a task."""

    def __init__(self, parent, values, server, follower, documents):
        self.values, self.environ, self.settings = values, parent.environ, parent.settings
        self.tell, self.emit = parent.verbose, lambda event: None
        self.reload, self.is_other_server = parent.reload, False
        self.follower, self.documents = follower, documents
        self._server = server
        values.attach(self._kept)

    def duplicati(self):
        return self._server


class Performer:
    """Does actions for tasks on the Duplicati server that `context` (a Context) names."""

    def __init__(self, context):
        self._context = context
        self._server = None

    @property
    def server(self):
        """The KeptServer. Errors: SettingsError if the settings keep no such server."""
        if self._server is None:
            self._server = KeptServer(self._context.duplicati().session)
        return self._server

    @property
    def was_asked_to_change(self):
        """Whether the last action that was performed may have changed something."""
        return self._server is not None and self._server.was_asked_to_change

    def close(self):
        if self._server is not None:
            self._server.end()

    def perform(self, action_name, options, *, documents=None, follower=None, is_masked=True):
        """Does an action with `options` (as the option table converts them); gives
        (document, exit code). `documents` stand in place of files that options name (patch,
        file); `follower` hears of the task that is started. Errors: those of the action.
        """
        action = _ACTIONS[action_name]
        names = (*action.needs, *action.takes, *COMMON)
        typed = {**{name: value for name, value in _FIXED.items() if name in names}, **options}
        values = Values(action, names, typed, {}, Config(None, {}, _ACTIONS))
        server = self.server
        server.was_asked_to_change = False
        context = _TaskContext(self._context, values, server, follower, documents or {})
        run = exporting.exported_documents if action_name == "duplicati_export" else action.run
        reply = run(context)
        if not is_masked:
            return reply.document, reply.exit_code
        from remotes.duplicati.masking import masked

        return masked(reply.document), reply.exit_code
