"""Logs of a Duplicati server: their last rows, and those that have come since.

Guards: that nothing is left out and nothing told twice while a log is followed: more may have
come than a page holds, rows without a number may share a second, and numbers begin anew when
the server or a database does. Leaves alone: when to look, and what a row means.

Source: protocol page of Duplicati, sections 3.1 (logdata), 3.4 and 5.7.
"""

from collections import Counter

from remotes.duplicati import moments
from remotes.errors import UnavailableError

# Rows that a server gives at once (it takes no other numbers).
_LEAST_PAGE, _MOST_PAGE = 10, 500


class _Log:
    """A log of `server`, of which at most `lines` rows are wanted, none older than `since`
    (aware datetime, or None). Rows are mappings as the server gives them, oldest first.
    """

    def __init__(self, server, lines, since=None):
        self._server = server
        self._lines = max(1, lines)
        self._since = since

    def newest(self):
        """The last rows. Errors: those of the call."""
        raise NotImplementedError

    def after(self):
        """The rows that are new since the last call of `newest` or `after`, all of them."""
        raise NotImplementedError

    def doubt(self):
        """The server was away: it may have been started anew."""

    def _is_wanted(self, row):
        at = moment_of(row)
        return self._since is None or at is not None and at >= self._since


def moment_of(row):
    """When a row was written: aware datetime, or None."""
    return moments.parse(row.get("Timestamp", row.get("When")))


class _StoredRows(_Log):
    """A log that is read in pages, newest rows first.

    `_key` names the number by which it is paged; `_is_unique`: no two rows share one.
    """

    _key, _is_unique = "ID", True

    def __init__(self, *parts, **more):
        super().__init__(*parts, **more)
        self._last = None  # the highest key so far
        self._at_last = 0  # so many rows have it

    def newest(self):
        # All rows of the newest second are counted, also those that are too many.
        rows = self._pages(lambda rows: (
            len(rows) >= self._lines or not self._is_wanted(rows[-1])
        ) and (self._is_unique or _number(rows[-1], self._key) < _number(rows[0], self._key)))
        self._remember(rows)
        return [row for row in reversed(rows[:self._lines]) if self._is_wanted(row)]

    def after(self):
        last = -1 if self._last is None else self._last
        rows = self._pages(lambda rows: _number(rows[-1], self._key) < last
                           or self._is_unique and _number(rows[-1], self._key) == last)
        if rows and _number(rows[0], self._key) < last:
            self._last, last = None, -1  # the database was made anew
            rows = self._pages(lambda rows: False)
        new = [row for row in rows if _number(row, self._key) > last]
        equal = [row for row in rows if _number(row, self._key) == last >= 0]
        new += equal[:max(0, len(equal) - self._at_last)]  # the newest of that second come first
        self._remember(rows)
        return [row for row in reversed(new) if self._is_wanted(row)]

    def _remember(self, rows):
        counts = Counter(_number(row, self._key) for row in rows)
        highest = max(counts, default=-1)
        if highest >= 0 and (self._last is None or highest >= self._last):
            self._last, self._at_last = highest, counts[highest]

    def _pages(self, is_enough):
        """Rows, newest first, page by page until `is_enough(rows)`."""
        rows, before = [], None
        size = min(max(self._lines, _LEAST_PAGE), _MOST_PAGE)
        while True:
            page = self._page(size, before)
            rows += page if self._is_unique else _beyond(rows, page, self._key)
            if len(page) < size or is_enough(rows):
                return rows
            last = _number(page[-1], self._key)
            # Rows that share a number may stand on two pages: the next one begins with them.
            following = last if self._is_unique else last + 1
            if before is not None and following >= before:
                following = before - 1  # more of them than a page holds
            if last < 0 or following <= 0:
                return rows
            before = following

    def _page(self, size, before):
        raise NotImplementedError


def _number(row, key):
    """The key of a row; -1 if it has none."""
    number = row.get(key)
    return number if type(number) is int and number >= 0 else -1


def _beyond(rows, page, key):
    """The rows of a page that are not yet among `rows`, whose last ones it may repeat."""
    if not rows:
        return page
    last = _number(rows[-1], key)
    known = sum(_number(row, key) == last for row in rows)
    repeated = sum(_number(row, key) == last for row in page)
    return page[min(known, repeated):]


class BackupLog(_StoredRows):
    """The log of a backup; see Duplicati.log for its rows."""

    def __init__(self, server, backup_id, lines, since=None):
        super().__init__(server, lines, since)
        self._backup_id = backup_id

    def _page(self, size, before):
        return self._server.log(self._backup_id, page_size=size, before=before)


class RemoteLog(BackupLog):
    """What was done at the target of a backup."""

    def _page(self, size, before):
        return self._server.remote_log(self._backup_id, page_size=size, before=before)


class StoredLog(_StoredRows):
    """The server's own log of errors, whose rows have no number: it is paged by the second."""

    _key, _is_unique = "Timestamp", False

    def _page(self, size, before):
        return self._server.stored_log(page_size=size, before=before)


class LiveLog(_Log):
    """The live log from `level` on, which a server keeps in memory; numbers begin anew with it."""

    def __init__(self, server, level, lines, since=None):
        super().__init__(server, lines, since)
        self._level = level
        self._last = 0
        self._last_moment = None
        self._is_doubted = False
        self._renewals = server.session.renewals

    def newest(self):
        rows = self._poll(0, min(max(self._lines, _LEAST_PAGE), _MOST_PAGE))
        self._remember(rows)
        return [row for row in rows[-self._lines:] if self._is_wanted(row)]

    def after(self):
        if self._is_doubted or self._server.session.renewals > self._renewals:
            rows = self._after_doubt()
        else:
            rows = self._poll(self._last, _MOST_PAGE)
            if not rows and self._last and self._begins_anew():
                rows = self._after_doubt()
        self._remember(rows)
        return [row for row in rows if self._is_wanted(row)]

    def doubt(self):
        self._is_doubted = True

    def _begins_anew(self):
        """Whether all that there is has numbers below the last one."""
        rows = self._poll(0, _LEAST_PAGE)
        return bool(rows) and max(_number(row, "ID") for row in rows) < self._last

    def _after_doubt(self):
        """What is new, by its time: the same numbers may mean other entries by now."""
        rows = self._poll(0, _MOST_PAGE)
        self._is_doubted, self._renewals = False, self._server.session.renewals
        if rows and max(_number(row, "ID") for row in rows) < self._last:
            self._last = 0
            return rows
        if self._last_moment is None:
            return rows
        return [row for row in rows if (at := moment_of(row)) is None or at > self._last_moment]

    def _remember(self, rows):
        if not rows:
            return
        self._last = max(_number(row, "ID") for row in rows)
        self._last_moment = max(filter(None, map(moment_of, rows)), default=self._last_moment)

    def _poll(self, after, size):
        return self._server.live_log(level=self._level, after=after, page_size=size)


def follow(log, show, tell, stop, seconds=1.0, longest_seconds=60.0):
    """Calls `show(row)` for the last rows and each new one, until `stop(seconds)` is true.

    `stop` waits so long, or until it is known that it is enough. A server that is away, and a
    database that is locked, are waited for; `tell` gets a line when the server goes, and one
    when it is back. Errors: those of the calls, but for UnavailableError.
    """
    read, pause, is_away = log.newest, seconds, False
    while True:
        try:
            rows = read()
        except UnavailableError as error:
            is_locked = error.kind == "database_locked"
            pause = seconds if is_locked else min(pause * 2, longest_seconds)
            if not is_locked:
                log.doubt()
                if not is_away:
                    tell(f"following goes on, though {error}")
                is_away = True
        else:
            read, pause = log.after, seconds
            if is_away:
                tell("the server answers again")
            is_away = False
            for row in rows:
                show(row)
        if stop(pause):
            return
