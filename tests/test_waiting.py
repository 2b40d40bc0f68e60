"""waiting.py by a clock of the tests' own: how often a server is asked, and for how long."""

import tracemalloc
import urllib.parse

import pytest
import yaml

from remotes.actions.running import build_context, find_action
from remotes.duplicati.tasks import Started
from remotes.duplicati.waiting import AWAY_LIMIT_SECONDS, Wait
from remotes.errors import UnavailableError, WaitTimeoutError
from tests.rude import Rude, answer, close_early, reset

NUMBER = 7


class Clock:
    """Seconds that pass when somebody pauses, and not else."""

    def __init__(self):
        self.now = 1000.0
        self.pauses = 0

    def read(self):
        return self.now

    def pause(self, seconds):
        assert 0 <= seconds <= 60
        self.now += seconds
        self.pauses += 1


class Waited:
    """A server whose task runs until `seconds` of the clock have passed. `long_poll(query)` gives
    the manner of a long poll; None: it is held for as long as was asked for.
    """

    def __init__(self, clock, seconds, long_poll=None, *, state="running"):
        self.clock, self.until, self.long_poll = clock, clock.now + seconds, long_poll
        self.state = state
        self.event = 5
        self.long_polls = 0

    def __call__(self, server, connection, request):
        path, _, query = request.path.partition("?")
        if path.endswith(f"/task/{NUMBER}"):
            said = {"Status": "Completed" if self.is_over else "Running"}
            return answer(200, said)(server, connection, request)
        query = dict(urllib.parse.parse_qsl(query))
        if "longpoll" in query:
            self.long_polls += 1
            if self.long_poll is not None:
                manner = self.long_poll(self)
                return (manner or answer(200, self.serverstate()))(server, connection, request)
            self.clock.now = min(self.clock.now + float(query["duration"].rstrip("s")),
                                 max(self.until, self.clock.now))
        return answer(200, self.serverstate())(server, connection, request)

    @property
    def is_over(self):
        return self.clock.now >= self.until

    def serverstate(self):
        task = {"Item1": NUMBER, "Item2": "1"}
        runs = self.state == "running" and not self.is_over
        waits = self.state == "queued" and not self.is_over
        return {"ActiveTask": task if runs else None, "SchedulerQueueIds": [task] if waits else [],
                "ProgramState": "Running", "LastEventID": self.event + self.is_over}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connect(tmp_path):
    """connect(url) -> a Duplicati at it, with the session of a settings file."""
    opened = []

    def make(url):
        path = tmp_path / "settings.yml"
        path.write_text(yaml.safe_dump({"duplicati": {"servers": {"default": {
            "url": url, "generation": "token", "access_token": "a.b.c"}}}}))
        context = build_context(find_action("duplicati_status"),
                                {"settings": str(path), "http_timeout": "5"}, {}, print, print)
        opened.append(context.duplicati())
        return opened[-1]

    yield make
    for server in opened:
        server.close()


def waiting(server, clock, **more):
    return Wait(server, Started(NUMBER, "1"), clock=clock.read, pause=clock.pause, **more)


def at_once(waited):
    """A server that does not know how to wait."""


def at_once_with_news(waited):
    """A server in which something happens all the time."""
    waited.event += 1


def refused(waited):
    return answer(400, {"Error": "The duration must be between 10 seconds and 1 hour", "Code": 400})


def cut_by_closing(waited):
    return close_early


def cut_by_reset(waited):
    return reset


def cut_by_a_page(waited):
    return answer(504, b"<html><title>Gateway Time-out</title></html>")


@pytest.mark.parametrize("long_poll", [
    None, at_once, at_once_with_news, refused, cut_by_closing, cut_by_reset, cut_by_a_page])
@pytest.mark.parametrize("state", ["running", "queued"])
def test_little_is_asked_in_twenty_seconds(connect, clock, long_poll, state):
    """At most 30 requests, whether long polls work or not; the end is known two seconds after."""
    waited = Waited(clock, 20, long_poll, state=state)
    with Rude(waited) as rude:
        ending = waiting(connect(rude.url), clock).until_over()
        assert "over" == ending.state
        assert len(rude.requests) <= (6 if long_poll is None else 30)
    assert clock.now - waited.until <= (0 if long_poll is None else 2)
    if long_poll not in (None, at_once_with_news):
        assert waited.long_polls <= 3


@pytest.mark.parametrize("seconds", [0.3, 7, 10, 10.5, 25.5, 61, 400.25])
@pytest.mark.parametrize("long_poll", [None, at_once, at_once_with_news, refused, cut_by_closing])
def test_the_end_of_patience_is_exact(connect, clock, seconds, long_poll):
    """--wait_timeout: to the moment, and not a request more than it takes."""
    began = clock.now
    with Rude(Waited(clock, 10**6, long_poll)) as rude, pytest.raises(
            WaitTimeoutError, match="it runs"):
        waiting(connect(rude.url), clock).until_over(seconds)
    assert clock.now == pytest.approx(began + seconds, abs=1e-6)


def test_a_server_that_stays_away_is_given_up_after_a_quarter_of_an_hour(connect, clock):
    """75; it was asked now and then, told about once, and the clock went no further."""
    lines = []
    with Rude(close_early) as rude:
        server = connect(rude.url)
        with pytest.raises(UnavailableError):
            waiting(server, clock, tell=lines.append).until_over()
        assert len(rude.requests) <= 2 * 90  # a request that breaks off is sent once more
    assert AWAY_LIMIT_SECONDS <= clock.now - 1000.0 <= AWAY_LIMIT_SECONDS + 20
    assert 1 == len(lines) and "goes on, though" in lines[0]


def test_a_server_that_is_away_ends_no_patience_early(connect, clock):
    """--wait_timeout holds while it is away, to the moment; the message says what is wrong."""
    with Rude(close_early) as rude, pytest.raises(WaitTimeoutError, match="is over is not known"):
        waiting(connect(rude.url), clock).until_over(33.3)
    assert clock.now == pytest.approx(1033.3, abs=1e-6)


def test_a_server_that_comes_back_is_waited_for_as_before(connect, clock):
    """Away for ten minutes of the clock, twice; long polls work again then."""
    waited = Waited(clock, 4000)
    lines = []

    def manner(server, connection, request):
        gone = clock.now - 1000.0
        if 100 <= gone < 700 or 1000 <= gone < 1600:
            return None
        return waited(server, connection, request)

    with Rude(manner) as rude:
        ending = waiting(connect(rude.url), clock, tell=lines.append).until_over()
    assert ("over", 4) == (ending.state, len(lines)), lines
    assert waited.long_polls > 100


def test_a_wait_of_a_week_does_not_grow(connect, clock):
    """Nothing is kept of one look for the next but what is written over."""
    week = 7 * 86400.0
    places = []

    def leap(waited):
        clock.now += week / 1000
        rude.requests.clear()

    def look(place, state):
        if len(places) in (200, 800):
            shot = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(True, "*/remotes/*")])
            sizes.append(sum(trace.size for trace in shot.statistics("filename")))
        places.append(place)

    sizes = []
    tracemalloc.start()
    try:
        with Rude(Waited(clock, week, leap)) as rude:
            ending = waiting(connect(rude.url), clock, on_look=look).until_over()
    finally:
        tracemalloc.stop()
    assert ("over", {"running"}) == (ending.state, set(places))
    assert sizes[1] - sizes[0] < 64 * 1024, sizes


@pytest.mark.parametrize("other", ["1", "2"])
def test_a_counter_of_events_that_falls_is_a_restart(clock, connect, other):
    """No connection broke and no session ended: the number is the task's no more, be the run that
    has it now one of another backup or of the same.
    """
    def restart(waited):
        waited.event = 2  # it was 5: the server began anew
        return answer(200, {**waited.serverstate(),
                            "ActiveTask": {"Item1": NUMBER, "Item2": other}})

    with Rude(Waited(clock, 60, restart)) as server:
        ending = waiting(connect(server.url), clock).until_over(600)
    assert "restarted" == ending.state


def test_a_number_of_another_backup_is_a_restart(clock, connect):
    """Even where the counter of events has come further than it was."""
    def restart(waited):
        waited.event += 10
        waited.clock.now += 20
        return answer(200, {**waited.serverstate(),
                            "ActiveTask": {"Item1": NUMBER, "Item2": "2"}})

    with Rude(Waited(clock, 60, restart)) as server:
        ending = waiting(connect(server.url), clock).until_over(600)
    assert "restarted" == ending.state
