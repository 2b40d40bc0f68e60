"""tasks.py, executor.py, task_calls.py: a turn, from the task server's list to its answers, with
both demo servers. Time comes in as an argument; looks follow each other at once.
"""

import contextlib
import json
import re
import threading
from datetime import datetime

import pytest

from demo import duplicati
from remotes import audit, executor, tasks
from remotes.actions.performing import Performer
from remotes.actions.running import build_context, find_action
from remotes.duplicati.tasks import Started
from remotes.errors import RemotesError
from remotes.operations import OPERATIONS
from remotes.policy import Policy
from remotes.tasklist import TaskList
from remotes.taskserver import TaskServer
from tests.conftest import PASSWORD, job
from tests.logins import end_sessions, forward
from tests.processes import eventually
from tests.rude import Rude

NOON = 1_750_000_020  # a full minute
MINUTE, HOUR = 60, 3600
ALL = {"allow": "all"}
# What differs between two servers that were asked the same.
PARTICULAR = [(re.compile(pattern), word) for pattern, word in (
    (r"/[^\"]*/(duplicati|operator)-\d", "FOLDER"), (r"http://127\.0\.0\.1:\d+/", "URL"),
    (r"\d{4}-?\d\d-?\d\d[T ]\d\d:?\d\d:?\d\d(\.\d+)?(Z| \+00|[+-]\d\d:?\d\d)?", "TIME"),
    (r'(?<=(econds|_bytes)": )[\d.]+', "0"), (r'(?<="task": )\d+', "0"),
    (r"\b[A-Z]{10}(?=\.sqlite)", "DATABASE"))]


class Clock:
    """A clock that stands at `now`."""

    def __init__(self, now=NOON):
        self.now = now

    def __call__(self):
        return self.now


class Turns:
    """The tasks that `server` has for `host`, turn by turn in this process. `told`: the lines."""

    def __init__(self, host, server, *rules, clock=None):
        self.host, self.server = host, server
        self.clock, self.monotonic, self.told = clock or Clock(), Clock(0.0), []
        with contextlib.ExitStack() as opened:
            context = build_context(find_action("tasks_process"), {"settings": str(host.settings)},
                                    {}, self.told.append, print)
            task_server = opened.enter_context(
                contextlib.closing(TaskServer(context.transport(), server.url)))
            performer = opened.enter_context(contextlib.closing(Performer(context)))
            self.list = opened.enter_context(contextlib.closing(TaskList(
                str(host.folder / "task-list.yml"), task_server.base, tell=self.told.append,
                clock=self.clock)))
            self.run = tasks.TasksRun(
                task_server, self.list, Policy.read({"tasks": list(rules)}),
                executor.Executor(performer, self.list, clock=self.clock),
                audit.Audit(str(host.folder / "audit.jsonl"), tell=self.told.append),
                tell=self.told.append, clock=self.clock, monotonic=self.monotonic)
            self.close = opened.pop_all().close

    def turn(self, *entries):
        """A turn, after which these tasks are new at the server; the results that it has got."""
        for entry in entries:
            self.server.state.add("host", entry)
        before = len(self.server.state.posts("host"))
        self.run.process()
        return self.server.state.posts("host")[before:]

    def failing_turn(self, *entries):
        """A turn that fails; the error of ours."""
        with pytest.raises(RemotesError) as caught:
            self.turn(*entries)
        return caught.value

    def until_over(self):
        """Looks until nothing goes on."""
        eventually(lambda: self.run.next_look() is None or self.run.look(), "the end of all tasks")

    def whole(self, *entries):
        """What the server has for each of these tasks in the end: ID -> (Status, Data)."""
        self.turn(*entries)
        self.until_over()
        return self.answers()

    def answers(self):
        """ID -> (Status, Data) of the last answer to each task."""
        return {said["ID"]: (said["Status"], said.get("Data"))
                for said in self.server.state.posts("host")}


@pytest.fixture
def turns():
    """turns(host, server, *rules, clock=…) -> Turns; all are closed with the test."""
    with contextlib.ExitStack() as opened:
        yield lambda *given, **more: opened.enter_context(
            contextlib.closing(Turns(*given, **more)))


def backups(*ids):
    return {"Resources": [{"Type": "backup", "ID": one} for one in ids]}


def task(number, operation, resources=None, **more):
    return {"ID": number, "Operation": operation, **(resources or {}), **more}


def see_running(world, server):
    """The run of Home is under way, and that has been seen: what happens then is not its start."""
    assert server.state.wait_reached("Home")
    world.run.look()


def leave(server):
    """The Duplicati server is away, its state stays."""
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def come_back(server):
    """The Duplicati server is there again, at its port, for the length of a `with`."""
    back = duplicati.make_server(server.state, server.server_address[1])
    thread = threading.Thread(target=back.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        leave(back)
        thread.join()


def general(found):
    """A document without what is particular to one server and moment."""
    text = json.dumps(found, sort_keys=True)
    for pattern, word in PARTICULAR:
        text = pattern.sub(word, text)
    return json.loads(text)


# -- what operations mean ------------------------------------------------------------------

def pairs(folder):
    """Each operation as (what a task says, words of the action that prints the same)."""
    def of_backup(name, *words, id=1, **more):
        kind = ("--type=backup",) if name in ("get", "describe") else ()
        return {"Operation": name, **backups(id), **more}, (
            f"duplicati_{name}", "--id=1", *kind, *words)

    def listing(name):
        return {"Operation": "list", "Resources": [{"Type": name}]}, (
            "duplicati_list", f"--type={name}")

    def of_notification(name, *words):
        return {"Operation": name, "Resources": [{"Type": "notification", "ID": 1}]}, (
            f"duplicati_{name}", *words, "--id=1")

    def bare(name, *words, **more):
        return {"Operation": name, **more}, (f"duplicati_{name}", *words)

    return [
        of_backup("run", "--wait", id="Home"),
        ({"Operation": "run", **backups(2)}, ("duplicati_run", "--id=2", "--wait")),
        *map(listing, OPERATIONS["list"].types),
        of_backup("get"), of_backup("describe", id="Home"),
        of_notification("get", "--type=notification"),
        bare("status"), of_backup("versions"),
        of_backup("files", "--filter=*.txt", "--time=0s", Filter="*.txt", Time="0s"),
        *(of_backup(name, "--wait") for name in ("verify", "compact", "vacuum", "repair")),
        of_backup("restore", "--wait", f"--restore_path={folder}/back", "--path=*.txt",
                  "--overwrite", RestorePath=f"{folder}/back", Paths=["*.txt"], Overwrite=True),
        of_backup("logs", "--type=backup", "--lines=2", Lines=2),
        of_backup("logs", "--type=remote", Remote=True),
        bare("logs", "--type=stored"), bare("logs", "--type=live", "--level=Error", Level="Error"),
        bare("pause", "--duration=90s", Duration=90), bare("resume"),
        of_backup("edit", "--set=Settings.keep-versions=5", "--confirm=yes",
                  Changes={"Settings": {"keep-versions": "5"}}),
        bare("create", f"--file={written(folder, 'New')}", Config=document(folder, "New")),
        of_backup("update", f"--file={written(folder, 'Changed')}", "--confirm=yes",
                  Config=document(folder, "Changed")),
        of_notification("dismiss"),
        of_backup("delete", "--type=backup", "--confirm=Changed"),
    ]


def document(folder, name):
    """A backup as `create` and `update` take it."""
    return {"Backup": {"Name": name, "TargetURL": f"file://{folder}/{name}",
                       "Sources": [f"{folder}/"],
                       "Settings": [{"Name": "--no-encryption", "Value": "true"}]}}


def written(folder, name):
    """The path of a file with that."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document(folder, name)))
    return path


def printed(answer):
    """What a task's result should have of an action's answer: a task of Duplicati by itself."""
    found = {name: value for name, value in answer.items()
             if name not in ("status", "exit", "kind", "message")}
    if "tasks" in found:
        (row,) = found.pop("tasks")
        del found["changed"]
        return {**row, **found}
    return found


@pytest.mark.parametrize("release", ["2.0.8.1", "today"])
def test_each_operation_gives_what_its_action_prints(play, operator, serve_tasks, turns, release):
    """By resource. What reads is asked of the same server, what changes of one that is alike."""
    jobs = job("Home"), job("Photos", ending="warning")
    host, twin = (operator(play(release, *jobs)) for _ in range(2))
    world = turns(host, serve_tasks(), ALL)
    seen = set()
    for number, ((entry, own), (_, words)) in enumerate(zip(
            pairs(host.folder), pairs(twin.folder), strict=True)):
        operation = entry["Operation"]
        status, found = world.whole({"ID": number, **entry})[number]
        reads = OPERATIONS[operation].manner == "reads"
        expected = host.inside(*own) if reads else twin.inside(*words)
        assert "completed" == status, (entry, found)
        told = found.pop("Message", "")  # which a server's page shows, though it is completed
        assert (found.get("result") == "warning") == told.startswith("it ended with warnings: ")
        assert general(printed(expected.answer)) == general(found), entry
        seen.add(operation)
    assert {*OPERATIONS} - {"abort", "export"} == seen
    assert [] == world.told


def test_an_export_holds_passwords_only_by_a_rule_of_its_own(play, operator, serve_tasks, turns):
    """Else it is what the file would hold that has none; with passwords, that which has them."""
    secret = {"--encryption-module": "aes", "--passphrase": "passphrase-of-the-tests"}
    host = operator(play("today", {"name": "Home", "settings": secret}))
    server = serve_tasks(task(1, "export", backups(1)), task(2, "export", backups(1),
                                                             Passwords=True))
    refused = "refused by default: passwords are refused unless a rule allows export_passwords"
    world = turns(host, server, {"allow": "export"})
    said = world.whole()
    assert ("refused", {"Message": refused}) == said[2]
    world.close()
    world = turns(host, server, {"allow": ["export", "export_passwords"]})
    said[2] = world.whole(task(3, "export", backups(1), Passwords=True))[3]
    for number, words in ((1, ["--no_passwords"]), (2, [])):
        path = host.folder / f"export-{number}"
        assert 0 == host.inside("duplicati_export", "--id=1", "--file_format=json",
                                f"--output_path={path}", *words).code
        expected = {"backups": [json.loads(path.read_text())], "has_passwords": number == 2}
        assert ("completed", expected) == said[number]
        assert (number == 2) == ("passphrase-of-the-tests" in json.dumps(said[number]))


# -- what the policy says ------------------------------------------------------------------

LEAST = {"Config": {"Backup": {}}, "Changes": {"Description": ""}, "RestorePath": "/back"}


def least(number, kind):
    """The least that a task of that kind of operation says."""
    return task(number, kind.name, {"Resources": [{"Type": kind.types[0], "ID": 1}]}
                if kind.types else None, **{name: LEAST[name] for name in kind.needs})


def test_what_is_refused_by_default_asks_nothing_of_duplicati(play, operator, serve_tasks, turns):
    """Each operation of the table, with its reason; Duplicati need not be there for it."""
    kinds = [kind for kind in OPERATIONS.values() if not kind.is_allowed]
    duplicati_server = play("today", job("Home"))
    host = operator(duplicati_server)
    leave(duplicati_server)
    world = turns(host, serve_tasks(*(least(*one) for one in enumerate(kinds))))
    assert {number: ("refused", {"Message": f"refused by default: {kind.name} is refused unless"
                                            " a rule allows it"})
            for number, kind in enumerate(kinds)} == world.whole()
    assert 12 == len(kinds)


def test_a_rule_knows_a_backup_by_name_and_number(play, operator, serve_tasks, turns):
    """Whatever the task calls it; one resource that is refused refuses the task, and what it
    says tells rule and reason.
    """
    host = operator(play("today", job("Home"), job("Private")))
    rules = ({"deny": "get", "names": "Private", "reason": "not for you"},
             {"deny": "get", "types": "notification"}, {"deny": "describe", "ids": 2})
    world = turns(host, serve_tasks(), *rules)
    private = ("refused", {"Message": "refused by rule 1 (deny get): not for you"})
    by_id = ("refused", {"Message": "refused by rule 3 (deny describe)"})
    found = world.whole(
        task(1, "get", backups(2)), task(2, "get", backups("Private")),
        task(3, "get", backups(1, 2)), task(4, "describe", backups("Private")),
        task(5, "describe", backups("02")), task(6, "get", backups(1)))
    assert [private] * 3 + [by_id] * 2 == [found[number] for number in range(1, 6)]
    assert "completed" == found[6][0]


def test_what_was_judged_is_what_is_done(play, operator, serve_tasks, turns):
    """By its number, though another backup bears the name meanwhile."""
    duplicati_server = play("today", job("Home"), job("Private"))
    state = duplicati_server.state
    state.hold("Home")
    rules = ({"deny": "all", "names": "Private"}, ALL)
    world = turns(operator(duplicati_server), serve_tasks(), *rules)
    world.turn(task(1, "run", backups(1)), task(2, "verify", backups("Home")))
    for key, name in (("1", "Other"), ("2", "Home")):
        state.store.save_backup(key, {**state.store.backup(key), "Name": name})
    state.release("Home")
    world.until_over()
    status, found = world.answers()[2]
    assert ("completed", "1", "Test") == (status, found["id"], found["operation"])


def test_a_rule_holds_at_its_hours(play, operator, serve_tasks, turns):
    """By this host's clock, at the moment of the turn."""
    world = turns(operator(play("today")), serve_tasks(), {
        "allow": "resume", "hours": f"{datetime.fromtimestamp(NOON):%H:%M}-"
                                    f"{datetime.fromtimestamp(NOON + HOUR):%H:%M}"})
    for number, now in enumerate((NOON - 1, NOON, NOON + HOUR - 1, NOON + HOUR)):
        world.clock.now = now
        world.turn(task(number, "resume"))
    assert ["refused", "completed", "completed", "refused"] == [
        world.answers()[number][0] for number in range(4)]


# -- results -------------------------------------------------------------------------------

def test_several_resources_have_a_result_each(play, operator, serve_tasks, turns):
    """In their order; if one failed, the task did, and the others were done all the same."""
    host = operator(play("2.0.8.1", job("Home"), job("Bad", ending="error"), job("Photos")))
    world = turns(host, serve_tasks())
    said = world.whole(task(1, "run", backups(1, 2, "Photos")), task(2, "get", backups(1, "Bad")),
                       task(3, "get", backups(1, 9)), task(4, "get", backups("Nope")))
    status, found = said[1]
    assert ("error", {"Message", "Results"}) == (status, set(found))
    assert found["Message"].startswith("1 of 3 failed: ")
    assert [("backup", "1", "completed", "1"), ("backup", "2", "error", "2"),
            ("backup", "Photos", "completed", "3")] == [
        (row["Type"], row["ID"], row["Status"], row["Data"]["id"]) for row in found["Results"]]
    status, found = said[2]
    assert ("completed", {"Results"}, ["1", "Bad"]) == (
        status, set(found), [row["ID"] for row in found["Results"]])
    assert ("error", ["completed", "error"]) == (
        said[3][0], [row["Status"] for row in said[3][1]["Results"]])
    assert ("error", True) == (said[4][0], "no backup named 'Nope'" in said[4][1]["Message"])


def test_background_tasks_are_accepted_and_others_done_meanwhile(
        play, operator, serve_tasks, turns):
    """`accepted` first, the end later, by looks; what reads is answered in the same turn."""
    duplicati_server = play("today", job("Home"))
    duplicati_server.state.hold("Home")
    world = turns(operator(duplicati_server), serve_tasks())
    said = world.turn(task("a/b", "run", backups(1)), task(2, "list", {"Resources": [
        {"Type": "backups"}]}))
    assert [("a/b", "accepted"), (2, "completed")] == [(one["ID"], one["Status"]) for one in said]
    assert (["a/b"], [2]) == (world.run.under_way, [one.task_id for one in world.run.reports])
    duplicati_server.state.release("Home")
    world.until_over()
    assert ("completed", "success") == (world.answers()["a/b"][0],
                                        world.answers()["a/b"][1]["result"])
    assert [] == world.turn()


# -- aborting ------------------------------------------------------------------------------

def abort(number, target):
    return task(number, "abort", {"Resources": [{"Type": "task", "ID": target}]})


@pytest.mark.parametrize("release", ["2.0.8.1", "2.1.0.5", "today"])
def test_an_abort_ends_what_runs_what_waits_and_what_was_not_begun(
        play, operator, serve_tasks, turns, release):
    """Each is told as aborted, nothing of it goes on; a task that is not there is an error."""
    duplicati_server = play(release, job("Home", seconds=300), job("Photos", seconds=300))
    state = duplicati_server.state
    world = turns(operator(duplicati_server), serve_tasks())
    world.turn(task(1, "run", backups(1)), task(2, "run", backups(2)),
               task(3, "verify", backups(1)))
    world.turn(abort(4, 3), abort(5, 2), abort(6, 9), abort(7, 7))
    said = world.answers()
    assert ("completed", {"task": 3, "state": "not begun"}) == said[4]
    assert [("error", {"Message": f"no task {one} is under way"}) for one in (9, 7)] == [
        said[6], said[7]]
    assert 5 not in said
    world.turn(abort(8, 1))
    world.until_over()
    said = world.answers()
    assert ["completed", "completed"] == [said[5][0], said[8][0]]
    assert ("error", {"Message": "aborted before it was begun"}) == said[3]
    assert [("error", "aborted")] * 2 == [(said[number][0], said[number][1]["result"])
                                          for number in (1, 2)]
    assert state.wait_idle(0) and 2 == len(state.tasks)


# -- Duplicati away ------------------------------------------------------------------------

def test_what_cannot_be_done_is_held_and_done_when_duplicati_is_back(
        play, operator, serve_tasks, turns):
    """What runs there goes on in the same way; looks become seldom, and nothing is answered but
    what needs no Duplicati.
    """
    duplicati_server = play("today", job("Home"), job("Photos"))
    duplicati_server.state.hold("Home")
    world = turns(operator(duplicati_server), serve_tasks())
    world.turn(task(1, "run", backups(1)))
    see_running(world, duplicati_server)
    leave(duplicati_server)
    said = world.turn(task(2, "get", backups("Photos")), task(3, "run", backups(2)),
                      task(4, "status"), task(5, "run", backups(9)), abort(6, 5),
                      task(7, "resume"))
    assert [(3, "accepted"), (5, "accepted"), (6, "completed"), (7, "refused")] == [
        (one["ID"], one["Status"]) for one in said]
    assert ([1, 2, 3, 4, 5], 2.0) == (world.run.under_way, world.run.next_look())
    duplicati_server.state.release("Home")
    world.clock.now += 14 * MINUTE
    world.run.look()
    with come_back(duplicati_server):
        world.until_over()
    found = world.answers()
    assert ["completed"] * 4 + ["error"] == [found[number][0] for number in range(1, 6)]
    assert 2 == len(duplicati_server.state.tasks)


@pytest.mark.parametrize("release", ["2.0.8.1", "today"])
def test_after_a_quarter_of_an_hour_it_is_given_up(play, operator, serve_tasks, turns, release):
    """For each by itself: away, or a login that is refused; what runs there is waited for on."""
    duplicati_server = play(release, job("Home"), job("Photos"))
    state = duplicati_server.state
    state.hold("Home")
    host = operator(duplicati_server)
    world = turns(host, serve_tasks())
    world.turn(task(1, "run", backups(1)))
    see_running(world, duplicati_server)
    end_sessions(duplicati_server)
    (host.folder / "password").write_text("another one\n")
    assert [] == world.turn(task(2, "status"), task(3, "get", backups(2)))
    leave(duplicati_server)
    world.clock.now += 15 * MINUTE - 1
    assert [] == world.turn(task(4, "get", backups("Photos")))
    world.clock.now += 1
    for number, (status, found) in ((one["ID"], (one["Status"], one["Data"]["Message"]))
                                    for one in world.turn()):
        assert ("error", True) == (status, found.startswith("given up after 15 min: ")), number
    assert {1, 4} == {*world.run.under_way} and {2, 3} <= {*world.answers()}
    (host.folder / "password").write_text(PASSWORD)
    state.release("Home")
    with come_back(duplicati_server):
        world.until_over()
    assert ["completed", "completed"] == [world.answers()[number][0] for number in (1, 4)]


# -- the task server away ------------------------------------------------------------------

def refuse(status, path, method="POST"):
    """A hook that answers a request to a path with this status; to each path if it is empty. Its
    `paths` are those to which it did.
    """
    def hook(stage, handler):
        is_meant = stage == "before" and handler.command == method and path in handler.path
        if is_meant:
            hook.paths.append(handler.path)
            handler.wfile.write(b"HTTP/1.1 %d Whatever\r\nContent-Length: 0\r\n"
                                b"Location: /elsewhere\r\nConnection: close\r\n\r\n" % status)
        return is_meant

    hook.paths = []
    return hook


def lose(stage, handler):
    """A hook: each result is taken, and the answer to it is lost."""
    return stage == "after" and handler.command == "POST"


def die(stage, handler):
    """A hook: no request is answered."""
    return True


@pytest.mark.parametrize("fault", [refuse(503, ""), refuse(401, ""), lose, die],
                         ids=["busy", "token", "lost", "away"])
def test_results_are_kept_until_the_task_server_takes_them(
        play, operator, serve_tasks, turns, fault):
    """What goes on ends meanwhile, and is told to the next process; nothing is done twice."""
    duplicati_server = play("today", job("Home"))
    duplicati_server.state.hold("Home")
    host, server = operator(duplicati_server), serve_tasks()
    world = turns(host, server)
    world.turn(task(1, "run", backups(1)))
    server.fault = fault
    duplicati_server.state.release("Home")
    with contextlib.suppress(RemotesError):
        world.turn(task(2, "resume"))
    world.until_over()
    kept, error = world.run.undelivered()
    assert ([1] if fault is die else [1, 2], True) == (kept, isinstance(error, RemotesError))
    assert kept == sorted(report.task_id for report in world.run.reports
                          if not report.is_delivered)
    server.fault = None
    world.close()
    world = turns(host, server)
    world.turn()
    assert {1: "completed", 2: "refused"} == {
        number: status for number, (status, _) in world.answers().items()}
    assert (1, ([], None), []) == (len(duplicati_server.state.tasks), world.run.undelivered(),
                                  world.turn())


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 500, 503])
def test_one_answer_that_is_not_taken_holds_up_no_other(
        play, operator, serve_tasks, turns, status):
    """It is told once, and tried again after a minute, then less and less often."""
    server = serve_tasks(*(task(number, "resume") for number in range(1, 6)))
    server.fault = fault = refuse(status, "/tasks/2/")
    world = turns(operator(), server)
    tries = []
    for _ in range(8):
        world.turn()
        tries.append(len(fault.paths))
        world.monotonic.now += MINUTE
    assert [1, 3, 4, 5] == [*world.answers()]
    assert [1, 2, 2, 3, 3, 3, 3, 4] == tries
    assert (1, [2]) == (len(world.told), world.run.undelivered()[0])
    server.fault = None
    world.monotonic.now += HOUR
    assert [2] == [one["ID"] for one in world.turn()]


def test_a_result_that_is_too_large_is_told_as_such(play, operator, serve_tasks, turns):
    """413: the same status, and why there is no more."""
    server = serve_tasks(task(1, "resume"), task(2, "run", {"Ressources": []}))
    large = refuse(413, "/tasks/1/")
    server.fault = lambda stage, handler: \
        b"left out" not in handler.body and large(stage, handler)
    said = turns(operator(), server).whole()
    status, found = said[1]
    assert "refused" == status
    assert found["Message"].startswith("the result is too large for the server, and is left out: ")
    assert 'run takes no "Ressources"; did you mean Resources?' == said[2][1]["Message"]


# -- tasks that come again, or too late ------------------------------------------------------

def test_a_task_that_is_listed_again_gets_its_former_result(play, operator, serve_tasks, turns):
    """For 12 hours, also by the next process, and Duplicati hears nothing of it; with another
    content, or later, it is a new one.
    """
    duplicati_server = play("today", job("Home"), job("Photos"))
    state, host, server = duplicati_server.state, operator(duplicati_server), serve_tasks()
    world = turns(host, server)
    first = world.whole(task(1, "run", backups(1)), task(2, "resume"))
    world.close()
    clock = Clock(NOON + 12 * HOUR - 1)
    world = turns(host, server, clock=clock)
    heard = len(state.requests)
    said = world.turn(task(2, "resume"), {"Operation": "run", "ID": 1, **backups(1)})
    assert [(1, *first[1]), (2, *first[2])] == sorted(
        (one["ID"], one["Status"], one["Data"]) for one in said)
    assert (heard, 2) == (len(state.requests), len(world.told))
    world.whole(task(1, "run", backups(2)))
    assert 2 == len(state.tasks)
    clock.now += 12 * HOUR
    world.whole(task(1, "run", backups(2)))
    assert 3 == len(state.tasks)


def test_a_task_on_the_list_is_the_same_whatever_the_server_lists(
        play, operator, serve_tasks, turns):
    """It is done once, told as accepted anew, and answered once."""
    duplicati_server = play("today", job("Home"), job("Photos"))
    duplicati_server.state.hold("Home")
    world = turns(operator(duplicati_server), serve_tasks())
    for backup_id in (1, 2, 1):
        said = world.turn(task(1, "run", backups(backup_id)))
        assert [{"ID": 1, "Status": "accepted"}] == said
    duplicati_server.state.release("Home")
    world.until_over()
    assert ("completed", "1") == (world.answers()[1][0], world.answers()[1][1]["id"])
    assert 1 == len(duplicati_server.state.tasks)


def test_what_has_expired_is_refused(play, operator, serve_tasks, turns):
    """A host that comes back after weeks does not do what was meant for then; what was accepted
    in time is done.
    """
    duplicati_server = play("today", job("Home"))
    now = datetime.fromtimestamp(NOON).astimezone()
    world = turns(operator(duplicati_server), serve_tasks())
    run = task(1, "run", backups(1), Expires=now.isoformat())
    world.clock.now += 1
    (said,) = world.turn(run)
    assert ("refused", True) == (said["Status"], "it has expired" in said["Data"]["Message"])
    world.clock.now -= 1
    duplicati_server.state.hold("Home")
    world.turn({**run, "ID": 2}, task(3, "verify", backups(1), Expires=now.isoformat()))
    world.close()
    world = turns(world.host, world.server, clock=Clock(NOON + HOUR))
    duplicati_server.state.release("Home")
    world.turn()
    world.until_over()
    assert ["completed"] * 2 == [world.answers()[number][0] for number in (2, 3)]


def test_what_cannot_be_answered_is_told_once(play, operator, serve_tasks, turns):
    """An entry without a usable ID; what has one but no sense is refused."""
    server = serve_tasks({"Operation": "run"}, {"ID": None}, {"ID": 1})
    host = operator()
    world = turns(host, server)
    world.turn()
    world.turn()
    world.close()
    again = turns(host, server)
    again.turn()
    assert 2 == len(world.told) and [] == again.told
    assert all(line.startswith("a task without a usable ID is left out: ") for line in world.told)
    assert {1: ("refused", {"Message": "it names no Operation"})} == world.answers()


# -- what a former process left ----------------------------------------------------------------

def test_what_was_begun_is_not_done_a_second_time(play, operator, serve_tasks, turns):
    """A change, a task that may have been started, what was damaged: interrupted. What reads is
    done again; a run without a trace is started when its request cannot be on its way any more.
    """
    duplicati_server = play("today", job("Home"), job("Photos"))
    world = turns(operator(duplicati_server), serve_tasks(), ALL)
    started = Started(None, "1", "Home", asked_at=float(NOON), row=0).kept()
    for entry, fields in (
            (task(1, "resume"), {"phase": "changing"}),
            (task(2, "verify", backups(1)), {"phase": "starting", "started": started}),
            (task(3, "get", backups(1)), {"doubted": True}), (task(4, "status"), {}),
            (task(5, "run", backups(1)), {"phase": "starting", "started": started}),
            (task(6, "resume"), {"state": "fetched", "doubted": True})):
        world.server.state.add("host", entry)
        world.list.note(entry["ID"], **{
            "state": "accepted", "task": entry, "sha256": "aa", "pins": [{"id": "1", "name": None}],
            **fields})
    world.close()
    world = turns(world.host, world.server, ALL)
    world.turn()
    found = world.answers()
    assert ["error", "error", "error", "completed", "accepted", "error"] == [
        found[number][0] for number in range(1, 7)]
    for number in (1, 2, 3, 6):
        assert found[number][1]["Message"].startswith("interrupted: "), number
    assert ([5], {}) == (world.run.under_way, duplicati_server.state.tasks)
    world.clock.now += 5
    world.until_over()
    assert ("completed", 1) == (world.answers()[5][0], len(duplicati_server.state.tasks))


class Nowhere:
    """A connection on which nothing arrives."""

    @staticmethod
    def sendall(content):
        pass


def test_an_answer_of_duplicati_that_is_lost_leaves_it_unknown(
        play, operator, serve_tasks, turns):
    """A change is not made again, a task that may be there not started again; a run is found."""
    duplicati_server = play("today", job("Home"), job("Photos"))
    whole, lost = forward(duplicati_server), []

    def lose_answers(proxy, connection, request):
        if request.method == "GET" or "/auth/" in request.path:
            return whole(proxy, connection, request)
        lost.append(request.path)
        whole(proxy, Nowhere, request)  # and the connection is closed

    with Rude(lose_answers) as proxy:
        world = turns(operator(proxy), serve_tasks(), ALL)
        world.turn(task(1, "pause"), task(2, "verify", backups(1)), task(3, "run", backups(2)))
        duplicati_server.state.engine.resume()
        world.until_over()
        found = world.answers()
    assert ["error", "error", "completed"] == [found[number][0] for number in (1, 2, 3)]
    assert found[1][1]["Message"].endswith("; whether it was done is not known")
    assert found[2][1]["Message"].endswith("; whether it was started is not known")
    assert (3, 2) == (len(lost), len(duplicati_server.state.tasks))
