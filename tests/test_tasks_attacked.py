"""What a hostile or broken task server, Duplicati or neighbour could do with tasks, and cannot:
hold up what is not its own, get done what the policy denies now, forge lines, fill the disk.
"""

import json
from datetime import datetime

from tests.conftest import job
from tests.logins import forward
from tests.rude import Rude, answer
from tests.test_tasks import ALL, HOUR, MINUTE, NOON, backups, refuse, task, turns  # noqa: F401
from tests.test_tasks_actions import at_work, config, policy, statuses  # noqa: F401


def test_answers_that_are_never_taken_come_behind_those_that_may_be(
        operator, serve_tasks, turns):  # noqa: F811
    """Forty of them: what is new is answered at once, what was kept behind them soon."""
    server = serve_tasks(*(task(f"bad/{number}", "resume") for number in range(40)),
                         task("good", "resume"))
    server.fault = refuse(404, "bad%2F")
    world = turns(operator(), server)
    for _ in range(6):
        world.turn()
        world.monotonic.now += MINUTE
    assert ["good"] == [*world.answers()]
    world.turn(task("new", "resume"))
    assert ["good", "new"] == [*world.answers()]


def test_cron_is_not_held_up_by_the_first_answers_either(at_work):  # noqa: F811
    """Each turn is a process of its own, and remembers nothing but the list; 75, kept."""
    host, _, server = at_work(*(task(f"bad/{number}", "resume") for number in range(12)),
                              task("good", "resume"))
    server.fault = refuse(404, "bad%2F")
    codes = [host.inside("tasks_process").code for _ in range(2)]
    assert ([75, 75], "refused") == (codes, server.state.state("host", "good"))


def test_what_duplicati_cannot_do_holds_up_no_other(play, operator, serve_tasks, turns):  # noqa: F811
    """A 500 each time for one backup: the others are done in the same turn; after 15 minutes it
    ends as an error."""
    duplicati_server = play("today", job("Home"), job("Broken"))

    def broken(request):
        if "/backup/2" in request.path:
            return answer(500, b'{"Error": "An error occurred"}')

    with Rude(forward(duplicati_server, broken)) as proxy:
        world = turns(operator(proxy), serve_tasks())
        world.turn(task(1, "get", backups(2)), task(2, "get", backups(1)),
                   task(3, "run", backups(1)))
        assert (["completed", "accepted"], [1, 3], None) == (
            [world.answers()[number][0] for number in (2, 3)], world.run.under_way,
            world.run.away_error)
        world.clock.now += 15 * MINUTE
        world.until_over()
    status, found = world.answers()[1]
    assert ("error", True) == (status, found["Message"].startswith("given up after 15 min: "))
    assert "completed" == world.answers()[3][0]


def test_the_policy_is_asked_again_before_a_task_is_begun(
        play, operator, serve_tasks, turns):  # noqa: F811
    """Three runs of one backup are accepted before the hour in which none may run: the first is
    done, the others are refused when their turn comes."""
    duplicati_server, server = play("today", job("Home")), serve_tasks()
    duplicati_server.state.hold("Home")
    world = turns(operator(duplicati_server), server,
                  {"deny": "run", "hours": hours(NOON + HOUR, NOON + 3 * HOUR)})
    world.turn(*(task(number, "run", backups(1)) for number in range(1, 4)))
    world.clock.now += 2 * HOUR
    duplicati_server.state.release("Home")
    world.until_over()
    assert ["completed", "refused", "refused"] == [
        world.answers()[number][0] for number in range(1, 4)]
    assert 1 == len(duplicati_server.state.tasks)


def hours(begin, end):
    """The hours of a rule from one moment to another, by this machine's clock."""
    return "-".join(f"{datetime.fromtimestamp(at):%H:%M}" for at in (begin, end))


def test_what_was_accepted_for_one_duplicati_is_not_done_by_another(
        play, operator, serve_tasks, turns):  # noqa: F811
    """The number that was judged is that of another backup there."""
    one, other = play("today", job("Home")), play("today", job("Payroll"))
    host, server = operator(one), serve_tasks()
    one.state.hold("Home")
    world = turns(host, server)
    world.turn(task(1, "run", backups(1)), task(2, "run", backups(1)))
    world.close()
    host.log_in(other.url)
    world = turns(host, server)
    world.turn()
    world.until_over()
    assert {1: "error", 2: "error"} == {number: status for number, (status, _)
                                       in world.answers().items()}
    assert {} == other.state.tasks


def test_an_abort_does_not_end_what_others_have_started(
        play, operator, serve_tasks, turns):  # noqa: F811
    """A task that joined a run which was under way is not its owner."""
    duplicati_server, server = play("today", job("Home")), serve_tasks()
    duplicati_server.state.hold("Home")
    host = operator(duplicati_server)
    host.inside("duplicati_run", "--id=Home")
    assert duplicati_server.state.wait_reached("Home", seconds=30)
    world = turns(host, server)
    world.turn(task(1, "run", backups(1)), task(2, "abort", {
        "Resources": [{"Type": "task", "ID": 1}]}))
    status, found = world.answers()[2]
    assert ("error", True) == (status, "not started by it" in found["Message"])
    duplicati_server.state.release("Home")
    world.until_over()
    assert ("completed", True) == (world.answers()[1][0], world.answers()[1][1]["joined"])


def test_one_backup_by_two_names_is_one(play, operator, serve_tasks, turns):  # noqa: F811
    """Its number and its name in one task: refused, and nothing runs twice."""
    duplicati_server = play("today", job("Home"))
    world = turns(operator(duplicati_server), serve_tasks(), {"allow": "run", "names": "Home"})
    found = world.whole(task(1, "run", backups(1, "Home")))
    assert ("refused", {}) == (found[1][0], duplicati_server.state.tasks)


def test_a_list_of_nothing_that_can_be_answered_costs_little(
        operator, serve_tasks, turns):  # noqa: F811
    """Some of them are told, then their number; so for a second list."""
    server = serve_tasks()
    world = turns(operator(), server)
    server.state.replace([])
    for number in range(100):
        server.state.add("host", {"Operation": f"run {number}"})
    world.turn(task(1, "resume"))
    assert (21, "100 tasks without a usable ID are left out", "refused") == (
        len(world.told), world.told[-1], world.answers()[1][0])


def test_the_deepest_task_is_refused_like_any_other(operator, serve_tasks, turns):  # noqa: F811
    """Nested as deep as one may be, and one level deeper; the next task is done."""
    def nested(levels):
        return json.loads("[" * levels + "]" * levels)

    world = turns(operator(), serve_tasks())
    found = world.whole(*(task(levels, "resume", X=nested(levels)) for levels in range(60, 68)),
                        task(1, "resume"))
    assert {"refused"} == {status for status, _ in found.values()} and 9 == len(found)
    assert [] == [line for line in world.told if "fault" in line]


def test_no_line_can_be_forged(at_work):  # noqa: F811
    """Line ends, signs that turn the order of letters, and length, in names and messages."""
    name = "x\nclient: tasks_process: all is well\u202e" + 5000 * "y"
    host, _, _ = at_work(task("a\u202eb", name), task(2, "run", backups("n\u202e\nclient: x")))
    result = host.inside("tasks_process", "--verbose")
    lines = result.err.splitlines()
    assert [] == [line for line in lines if line.startswith("client: ") or "\u202e" in line]
    assert max(map(len, lines)) < 1000 and len(result.out) < 5000
    audit = (host.folder / "audit.jsonl").read_text()
    assert (2, True) == (audit.count("\n"), len(audit) < 5000)


def test_what_is_kept_has_a_bound(at_work):  # noqa: F811
    """Tasks that are large and answers that are not taken: no more is fetched; 1, told."""
    host, _, server = at_work(*(
        task(number, "edit", backups(1), Changes={"Description": 20_000 * "x"})
        for number in range(20)))
    server.fault = refuse(503, "/result")
    assert 75 == host.inside("tasks_process", "--journal_limit=100K").code
    size = (host.folder / "task-list.yml").stat().st_size
    assert size < 400_000
    result = host.inside("tasks_process", "--journal_limit=50K")
    assert 0 != result.code and "is full" in result.answer["message"], result
    server.fault = None
    codes = [host.inside("tasks_process", "--journal_limit=100K").code for _ in range(12)]
    assert 0 == codes[-1]
    assert {"refused"} == {server.state.state("host", number) for number in range(20)}


def test_secrets_that_were_sent_are_not_kept(at_work):  # noqa: F811
    """An export with passwords, an edit that brings one: gone from the list once answered; listed
    again, the export is completed, but not done again."""
    secret = "hunter22-of-the-target"
    host, duplicati_server, server = at_work(
        task(1, "export", backups(1), Passwords=True),
        task(2, "edit", backups(1), Changes={"Settings": {"auth-password": secret}}))
    words = config(host, policy({"allow": ["edit", "export", "export_passwords"]}))
    assert {1: "completed", 2: "completed"} == statuses(host.inside("tasks_process", words))
    server.state.add("host", task(3, "export", backups(1), Passwords=True))
    assert {3: "completed"} == statuses(host.inside("tasks_process", words))
    assert secret in json.dumps(server.state.posts("host")[-1])
    assert secret not in (host.folder / "task-list.yml").read_text()
    heard = len(duplicati_server.state.requests)
    server.state.add("host", task(3, "export", backups(1), Passwords=True))
    result = host.inside("tasks_process", words)
    assert (0, heard) == (result.code, len(duplicati_server.state.requests))
    last = server.state.posts("host")[-1]
    assert ("completed", True) == (last["Status"], "not kept" in last["Data"]["Message"])


def test_a_kept_token_goes_to_its_own_server_only(play, operator, serve_tasks):
    """Another address gets none, unless one is given with it; and what is open at the former is
    told."""
    server, stranger = serve_tasks(task(1, "run", backups(1)), token="t" * 20), serve_tasks()
    heard = []
    stranger.fault = lambda stage, handler: heard.append(handler.headers["Authorization"]) or False
    duplicati_server = play("today", job("Home"))
    duplicati_server.state.hold("Home")
    host = operator(duplicati_server)
    token_file = host.folder / "token"
    token_file.write_text("t" * 20)
    host.inside("tasks_status", f"--tasks_url={server.url}", f"--tasks_token_file={token_file}")
    assert [1] == host.inside("tasks_process").answer["under_way"]
    result = host.inside("tasks_process", f"--tasks_url={stranger.url}")
    assert (0, {None}) == (result.code, set(heard))
    assert 1 == result.err.count("\n") and server.url in result.err
    assert {"url": stranger.url} == host.document()["tasks"]
    duplicati_server.state.release("Home")
    host.inside("tasks_status", f"--tasks_url={server.url}", f"--tasks_token_file={token_file}")
    assert {1: "completed"} == statuses(host.inside("tasks_process", "--wait"))


def test_an_abort_of_what_cannot_be_aborted_says_so(play, operator, serve_tasks, turns):  # noqa: F811
    """A change that was cut off, and stands behind it in the list."""
    world = turns(operator(play("today", job("Home"))), serve_tasks(), ALL)
    for number, entry, fields in (
            (1, task(1, "abort", {"Resources": [{"Type": "task", "ID": 2}]}), {}),
            (2, task(2, "resume"), {"phase": "changing", "state": "running"})):
        world.server.state.add("host", entry)
        world.list.note(number, **{"state": "accepted", "task": entry, "sha256": "a",
                                   "pins": [{"id": 2, "name": None}] if number == 1 else [],
                                   **fields})
    world.turn()
    assert ("error", True) == (world.answers()[1][0],
                               "cannot be aborted" in world.answers()[1][1]["Message"])
