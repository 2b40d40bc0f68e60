"""What the actions on tasks work with: the task server, the local list, the policy, the lock.

Guards: that what is kept of one server (its token, its certificates) goes to no other. Leaves
alone: what the actions do with it (tasks).
"""

import contextlib

from remotes.actions.context import CERTIFICATE_FILES
from remotes.errors import SettingsError

# Options that are kept once the server has answered -> their names in the settings.
_KEPT_OPTIONS = {"tasks_url": "url", "tasks_token_file": "token_file",
                 **{name: name for name in CERTIFICATE_FILES}}


class KeepingServer:
    """A task server whose address is kept in the settings once it has answered."""

    def __init__(self, server, keep):
        self._server = server
        self._keep = keep
        self.base = server.base
        self.fetch, self.post = server.fetch, server.post

    def has_tasks(self):
        found = self._server.has_tasks()
        if self._keep is not None:
            self._keep()
            self._keep = None
        return found


def task_server(context):
    """The TaskServer that --tasks_url names, or the settings. Errors: SettingsError."""
    from remotes.taskserver import TaskServer, normalize

    values, settings = context.values, context.settings
    url = values["tasks_url"]
    if url is None:
        raise SettingsError(f"{settings.path} names no task server: say it once with --tasks_url,"
                            " in --action=tasks_status for one")
    # What is kept of another server, or of the Duplicati server, is not for this one.
    kept = settings.get("tasks", "url")
    is_other = kept is not None and normalize(kept) != normalize(url)
    files = {name: values[name] if values.is_given(name) else None if is_other
             else settings.get("tasks", name) for name in CERTIFICATE_FILES}
    token = values.token("tasks_token", with_kept=not is_other)
    return TaskServer(context.transport(files=files), url, token)


def keep(context, server):
    """Keeps the address of the task server, and where its token is."""
    from remotes.taskserver import normalize

    values, former = context.values, context.settings.get("tasks", "url")
    found = {kept: values[name] for name, kept in _KEPT_OPTIONS.items() if values.is_given(name)}
    is_other = former is None or normalize(former) != server.base
    if not is_other and all(context.settings.get("tasks", name) == value
                            for name, value in found.items() if name != "url"):
        return
    with context.settings.changing() as document:
        kept = document.setdefault("tasks", {})
        if is_other:
            for name in _KEPT_OPTIONS.values():
                kept.pop(name, None)
        kept.update({**found, "url": server.base})


def policy_of(context):
    """The Policy of the owner's config. Errors: SettingsError, also where others can write it."""
    from remotes.policy import Policy, check_owner

    config = context.values.config
    if config.status is not None:
        check_owner(config.status, config.path)
    return Policy.read(config.policy, config.path)


def tasks_lock(context):
    """The lock of whoever does tasks: one run at a time."""
    from remotes import files

    return files.Lock(context.settings.beside("tasks.lock"))


@contextlib.contextmanager
def tasklist_of(context, server, *, for_reading=False):
    """The TaskList of the task server at `server` (its base), for the length of a `with`."""
    from remotes.tasklist import LIST_NAME, TaskList

    with contextlib.closing(TaskList(context.settings.beside(LIST_NAME), server,
                                     tell=context.tell, for_reading=for_reading)) as tasklist:
        yield tasklist
