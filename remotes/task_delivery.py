"""Answers to tasks on their way to the task server: kept until it has them, one by one.

Guards: that an answer which the server does not take, whatever its reason, holds up no other;
that a server which is away is not asked for each of them. Leaves alone: what the answers are
(tasks), and how they are kept (tasklist).

Source: protocol page of the task server, "Addresses", "A result".
"""

import contextlib
import time

from remotes.errors import DiskFullError, RemotesError, TooLargeError, UnavailableError

# An answer that is not taken is sent again, from so often to so seldom.
_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 60.0, 3600.0
# After so many in a row that it does not take, no more are sent in this pass; those that were
# refused least often come first in the next one. So many that it fails at mean that it is ill.
_REFUSALS_IN_A_ROW, _FAILURES_IN_A_ROW = 10, 3
_KINDS_OF_ONE = ("server_error", "busy", "proxy_page")


class TaskDelivery:
    """The answers to the tasks of `tasklist`, for the task server `server`.

    `error`: why the server cannot be had in this pass, or None. `last_error`: by which the last
    answer that was not taken failed. `monotonic`: seconds, for the pauses.
    """

    def __init__(self, server, tasklist, *, tell, monotonic=time.monotonic):
        self.error = self.last_error = None
        self._server = server
        self._list = tasklist
        self._tell = tell
        self._monotonic = monotonic
        self._told = set()  # tasks whose acceptance the server has heard of
        self._again_at = {}  # task's id -> when its answer is sent again
        self._in_a_row = 0

    def begin_pass(self):
        """From now on the server is taken for one that can be had."""
        self.error = self.last_error = None
        self._in_a_row = 0

    def tell_accepted(self, task_id):
        """Tells the server, once, that a task is accepted; what matters is how it ends."""
        if task_id in self._told or self.error is not None:
            return
        try:
            self._server.post(task_id, {"ID": task_id, "Status": "accepted"})
        except RemotesError as error:
            if not _is_of_one_answer(error):
                self.error = error
        self._told.add(task_id)

    def is_listed(self, task_id):
        """The server lists what it was told of: it is told again."""
        self._told.discard(task_id)

    def deliver_kept(self, ids):
        """Sends the answers to these tasks that are due, those that failed least often first."""
        now = self._monotonic()
        due = [(self._list.fields(task_id).get("failures") or 0, place, task_id)
               for place, task_id in enumerate(ids) if self._again_at.get(task_id, now) <= now]
        for _, _, task_id in sorted(due, key=lambda row: row[:2]):
            if self.error is not None or self._in_a_row >= _REFUSALS_IN_A_ROW:
                return
            self.deliver(task_id)

    def deliver(self, task_id):
        """Sends the answer to a task that is over; True if the server has it now."""
        if self.error is not None or self._in_a_row >= _REFUSALS_IN_A_ROW:
            return False
        try:
            self._post(task_id, self._list.result(task_id))
        except RemotesError as error:
            self._not_taken(task_id, error)
            return False
        self._in_a_row = 0
        self._again_at.pop(task_id, None)
        self._told.discard(task_id)
        self._list.sent(task_id)
        return True

    def _post(self, task_id, document):
        try:
            self._server.post(task_id, document)
        except TooLargeError as error:
            short = {"Message": f"the result is too large for the server, and is left out: {error}"}
            self._server.post(task_id, {**document, "Data": short})

    def _not_taken(self, task_id, error):
        """Notes that an answer was not taken: whether that is the server's or this one's fault."""
        self.last_error = error
        self._in_a_row += 1
        is_ill = isinstance(error, UnavailableError) and self._in_a_row >= _FAILURES_IN_A_ROW
        if is_ill or not _is_of_one_answer(error):
            self.error = error
        if not _is_of_one_answer(error):
            return
        failures = self._list.fields(task_id).get("failures") or 0
        pause = min(_RETRY_SECONDS * 2.0 ** min(failures, 16), _LONGEST_RETRY_SECONDS)
        self._again_at[task_id] = self._monotonic() + pause
        with contextlib.suppress(DiskFullError):
            self._list.note(task_id, sync=False, failures=failures + 1)
        if failures == 0:
            self._tell(f"an answer to task {task_id} is not taken, and kept: {error}")


def _is_of_one_answer(error):
    """Whether an answer may have failed for what it is, and others may be taken. So may one that
    is forbidden: a login that is refused as a whole gets no list either.
    """
    return not isinstance(error, UnavailableError) or error.kind in _KINDS_OF_ONE
