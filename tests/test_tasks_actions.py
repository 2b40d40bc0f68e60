"""actions/tasks.py: tasks as a person, cron and a service manager meet them, through the client."""

import json
import os
import signal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remotes.errors import EXIT_CODES
from remotes.operations import task_id
from tests.certificates import Authority
from tests.conftest import job
from tests.processes import WAIT_LIMIT_SECONDS
from tests.rude import Rude, answer
from tests.test_commands import limited
from tests.test_duplicati_any_json import BODIES, ODD, STATUSES
from tests.test_monitor import Monitor, hear, service_manager
from tests.test_tasks import backups, refuse, task

TOKEN = "token-of-the-operator"


@pytest.fixture
def at_work(play, operator, serve_tasks):
    """at_work(*tasks, jobs=…, release=…) -> (host, Duplicati, task server): the host is logged in
    at the one, and knows the other.
    """
    def make(*tasks, jobs=None, release="today"):
        duplicati_server = play(release, *([job("Home")] if jobs is None else jobs))
        server = serve_tasks(*tasks)
        host = operator(duplicati_server)
        assert 0 == host.inside("tasks_status", f"--tasks_url={server.url}").code
        server.requests.clear()
        return host, duplicati_server, server

    return make


def config(host, content, mode=0o600):
    """The words that name a config of that content."""
    path = host.folder / "config.yml"
    path.write_text(content)
    path.chmod(mode)
    return f"--config={path}"


def policy(*rules):
    """The content of a config with these rules."""
    return json.dumps({"policy": {"tasks": list(rules)}})


def methods(server):
    return [method for method, _, _ in server.requests]


def statuses(result):
    """ID -> status of the tasks that are over in an answer."""
    return {one["id"]: one["status"] for one in result.answer["tasks"]}


# -- tasks_status, tasks_list, tasks_policy ------------------------------------------------

def test_address_token_and_certificate_are_kept(play, operator, serve_tasks, tmp_path):
    """Once the server has answered; what is kept of Duplicati's certificate is not for it, nor
    the other way round.
    """
    one, other = Authority(tmp_path, "one"), Authority(tmp_path, "other")
    duplicati_server = play("today", job("Home"), ssl_context=one.context())
    server = serve_tasks(task(1, "get", backups(1)), token=TOKEN, ssl_context=other.context())
    host = operator(duplicati_server, f"--ca_file={one.ca_file}")
    words = [f"--tasks_url={server.url}api/tasks", f"--ca_file={other.ca_file}"]
    token_file = tmp_path / "token"
    for given_words, code in (((), 78), (words[:1], 14), (words, 12)):
        assert code == host.inside("tasks_status", *given_words).code
        assert "tasks" not in host.document()
    token_file.write_text(TOKEN + "\n")
    result = host.inside("tasks_status", *words, f"--tasks_token_file={token_file}")
    assert (0, server.url, True, str(host.folder / "task-list.yml"), []) == (
        result.code, *(result.answer[name] for name in ("url", "has_tasks", "list", "tasks")))
    assert {"url": server.url, "token_file": str(token_file),
            "ca_file": other.ca_file} == host.document()["tasks"]
    assert TOKEN not in host.settings.read_text()
    result = host.inside("tasks_process")
    assert (0, {1: "completed"}) == (result.code, statuses(result)), result


def test_the_list_tells_what_would_become_of_each_and_answers_nothing(at_work):
    """With the rule that says so; nothing is noted, of Duplicati no more is asked than names."""
    host, duplicati_server, server = at_work(
        task(1, "get", backups("Home")), task(2, "get", backups("Private")),
        task(3, "resume"), task(4, "run", {"Ressources": []}), {"Operation": "run"},
        task(6, "get", backups("Nope")), jobs=(job("Home"), job("Private")))
    words = config(host, policy({"deny": "get", "names": "Private", "reason": "not for you"},
                                {"allow": "resume"}))
    heard = len(duplicati_server.state.requests)
    result = host.inside("tasks_list", words)
    assert [(1, "accepted", "allowed by default"),
            (2, "refused", "refused by rule 1 (deny get): not for you"),
            (3, "accepted", "allowed by rule 2 (allow resume)"),
            (4, "refused", 'run takes no "Ressources"; did you mean Resources?'),
            (None, "left out", "it has no usable ID"),
            (6, "unclear", f"{duplicati_server.url} has no backup named 'Nope'")] == [
        (row["id"], row["verdict"], row["why"]) for row in result.answer["tasks"]]
    assert (0, ["GET"], False) == (result.code, methods(server),
                                   (host.folder / "task-list.yml").exists())
    assert all(method == "GET" for method, _ in duplicati_server.state.requests[heard:])
    assert 0 == host.inside("tasks_process", words).code
    server.state.add("host", task(3, "resume"))
    rows = host.inside("tasks_list", words).answer["tasks"]
    assert {3: "answered", None: "left out"} == {row["id"]: row["verdict"] for row in rows}


@pytest.mark.parametrize("words, code, rule", [
    (["run"], 0, "by default"), (["delete"], 13, "by default"), (["resume"], 0, "rule 2 (allow "),
    (["get", "--type=backup", "--id=1"], 0, "by default"),
    (["get", "--type=backup", "--id=2"], 13, "rule 1 (deny get)"),
    (["get", "--type=backup", "--id=Private"], 13, "rule 1 (deny get)"),
    (["get", "--type=notification", "--id=2"], 0, "by default"),
    (["export"], 0, "rule 2 (allow "), (["export_passwords"], 13, "by default"),
    (["rum"], 2, "did you mean run?"), (["get", "--type=task"], 2, "must be one of backup"),
    (["run", "--id=Nope"], 10, "no backup named 'Nope'"),
])
def test_the_policy_can_be_asked(at_work, words, code, rule):
    """The verdict and the rule that gave it; 13 for what is refused."""
    host, _, server = at_work(jobs=(job("Home"), job("Private")))
    rules = policy({"deny": "get", "names": "Private"}, {"allow": ["resume", "export"]})
    result = host.inside("tasks_policy", f"--operation={words[0]}", *words[1:],
                         config(host, rules))
    assert code == result.code, result
    if code in (0, 13):
        (verdict,) = result.answer["verdicts"]
        assert verdict["rule"].startswith(rule)
        assert ("allowed", "refused")[code != 0] == verdict["verdict"]
    else:
        assert rule in result.answer["message"]
    assert [] == server.requests


# -- what must be right before anything is fetched -----------------------------------------

def test_a_policy_that_others_may_have_written_does_nothing(at_work):
    """Nor one that is wrong: 78, one line, and the task server hears nothing at all."""
    host, duplicati_server, server = at_work(task(1, "run", backups(1)))
    rules = policy({"allow": "all"})
    cases = [(rules, 0o620, -1, "can be written by others"), (rules, 0o602, -1, "chmod go-w"),
             (policy({"allow": "rum"}), 0o600, -1, "did you mean run?")]
    if os.geteuid() == 0:
        cases.append((rules, 0o600, 4711, "belongs to user 4711"))
    heard = len(duplicati_server.state.requests)
    for content, mode, owner, part in cases:
        words = config(host, content, mode)
        os.chown(host.folder / "config.yml", owner, -1)
        for action in ("tasks_process", "tasks_monitor", "tasks_list"):
            result = host.inside(action, words)
            assert (78, True, 1) == (result.code, part in result.answer["message"],
                                     result.err.count("\n")), result
        (host.folder / "config.yml").unlink()
    assert ([], heard) == (server.requests, len(duplicati_server.state.requests))


def test_without_a_login_nothing_is_fetched(operator, serve_tasks):
    """78: a task that was fetched could only be failed."""
    host, server = operator(), serve_tasks(task(1, "run", backups(1)))
    for action in ("tasks_process", "tasks_monitor"):
        result = host.inside(action, f"--tasks_url={server.url}")
        assert (78, True) == (result.code, "duplicati_login" in result.answer["message"])
    assert [] == server.requests


@pytest.mark.parametrize("size", [0, 200, 20000])
def test_with_a_full_disk_nothing_is_fetched_and_nothing_lost(at_work, size):
    """75, one line; with room again it goes on where it was."""
    host, duplicati_server, server = at_work()
    duplicati_server.state.hold("Home")
    server.state.add("host", task(1, "run", backups(1)))
    assert [1] == host.inside("tasks_process").answer["under_way"]
    duplicati_server.state.release("Home")
    server.state.add("host", task(2, "status"))
    server.requests.clear()
    result = limited(host, "tasks_process", size)
    assert (75, "disk_full", 1) == (result.code, result.answer["kind"], result.err.count("\n"))
    assert [] == server.requests
    result = host.inside("tasks_process", "--wait")
    assert (0, {1: "completed", 2: "completed"}) == (result.code, statuses(result))
    assert 1 == len(duplicati_server.state.tasks)


# -- tasks_process -------------------------------------------------------------------------

def test_a_turn_ends_and_the_next_tells_what_became_of_it(at_work):
    """Without --wait it does not wait; --wait_timeout is 124, and the work goes on; how tasks
    end is no failure of the turn.
    """
    host, duplicati_server, server = at_work(task("x", "run", backups(1)), task(2, "resume"),
                                             jobs=(job("Home", ending="error"),))
    duplicati_server.state.hold("Home")
    result = host.inside("tasks_process")
    assert (0, ["x"], {2: "refused"}, "") == (
        result.code, result.answer["under_way"], statuses(result), result.err)
    result = host.inside("tasks_process", "--wait", "--wait_timeout=0.1")
    assert (124, ["x"], []) == (
        result.code, result.answer["under_way"], result.answer["tasks"]), result
    duplicati_server.state.release("Home")
    result = host.inside("tasks_process", "--wait")
    assert (0, [], {"x": "error"}) == (result.code, result.answer["under_way"], statuses(result))
    assert "error" == server.state.state("host", "x")
    lines = (host.folder / "audit.jsonl").read_text().splitlines()
    assert [(2, "resume", "refused"), ("x", "run", "error")] == [
        (line["id"], line["operation"], line["status"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize("status, code", [(503, 75), (404, 75), (403, 12)])
def test_a_result_that_is_not_taken_is_told_and_kept(at_work, status, code):
    """The turn fails so that cron tells; the next one delivers."""
    host, _, server = at_work(task(1, "status"))
    server.fault = refuse(status, "")
    result = host.inside("tasks_process")
    (report,) = result.answer["tasks"]
    assert (code, "completed", False) == (result.code, report["status"], report["delivered"])
    assert f" answers {status}" in result.answer["message"]
    (row,) = host.inside("tasks_status").answer["tasks"]
    assert (1, "status", "done", 1) == tuple(
        row[name] for name in ("id", "operation", "state", "not_taken"))
    server.fault = None
    assert 0 == host.inside("tasks_process").code
    assert [(1, "completed")] == [(one["ID"], one["Status"]) for one in server.state.posts()]


NAMES = st.sampled_from(["run", "get", "abort", "delete", "edit", "restore", "logs", "files"])
RESOURCES = st.lists(st.fixed_dictionaries({}, optional={
    "Type": st.sampled_from(["backup", "task", "notification"]) | ODD,
    "ID": st.sampled_from([1, "Home", "1"]) | ODD}) | ODD, max_size=3)
ENTRIES = st.fixed_dictionaries({"ID": st.integers(0, 50) | ODD}, optional={
    "Operation": NAMES | ODD, "Resources": RESOURCES | ODD, "Expires": ODD, "Changes": ODD,
    "Config": ODD, "Path": ODD, "Time": ODD, "Duration": ODD, "RestorePath": ODD}) | ODD


def test_any_json_is_answered_or_an_error_of_ours(at_work):
    """Whatever is listed, or stands in place of a list: never a fault of this program, and each
    entry that can be answered is.
    """
    host, _, _ = at_work()
    words = config(host, policy({"allow": "all"}))

    @given(listed=st.lists(ENTRIES, max_size=3) | ODD, status=st.sampled_from(STATUSES))
    @settings(max_examples=40)
    @example(listed=BODIES[3], status=200)
    @example(listed=BODIES[6], status=200)
    @example(listed=[{"ID": 1, "Operation": "run", "Resources": [{"Type": "backup", "ID": 1}]}] * 2,
             status=200)
    def check(listed, status):
        def manner(proxy, connection, request):
            if request.method == "GET" and request.path.endswith("/status"):
                return answer(303)(proxy, connection, request)
            return answer(*(status, listed) if request.method == "GET" else (200, b""))(
                proxy, connection, request)

        with Rude(manner) as proxy:
            for action in ("tasks_list", "tasks_process"):
                result = host.inside(action, f"--tasks_url={proxy.url}", words)
                assert result.code in {*EXIT_CODES} - {70}, result
            answered = {json.loads(request.body)["ID"] for request in proxy.requests
                        if request.method == "POST"}
        if result.code == 0 and isinstance(listed, list):
            assert {known for entry in listed if (known := task_id(entry)) is not None
                    and entry.get("Operation") != "abort"} <= answered

    check()


# -- tasks_monitor -------------------------------------------------------------------------

@pytest.fixture
def monitor():
    """monitor(host, *words) -> a running Monitor; all end with the test."""
    started = []

    def start(host, *words, interval="0.2"):
        started.append(Monitor(host.start("tasks_monitor", *words, f"--interval={interval}")))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.ended()


def ended(running):
    """(ID, status) of the next task that is over."""
    event = running.event("task")
    return event["id"], event["status"]


def test_a_monitor_does_what_arrives_and_says_each_in_a_line(at_work, monitor, tmp_path):
    """Another run ends with 11 meanwhile; SIGTERM is 0, and one event tells the end."""
    host, _, server = at_work(task(1, "get", backups(1)))
    with service_manager(host, tmp_path) as line:
        running = monitor(host)
        assert {"event": "task", "id": 1, "operation": "get", "status": "completed",
                "message": "", "delivered": True} == running.event("task")
        hear(line, "STATUS=waiting for the next turn")
    result = host.inside("tasks_process")
    assert (11, "locked", True) == (result.code, result.answer["kind"],
                                    f"process {running.process.pid}, " in result.err)
    server.state.add("host", task(2, "resume"))
    assert (2, "refused") == ended(running)
    running.signal(signal.SIGTERM)
    assert {"event": "stopped", "signal": 15} == running.event("stopped")
    refused = "refused by default: resume is refused unless a rule allows it"
    assert (0, ["task 1 get: completed\n", f"task 2 resume: refused ({refused})\n"]) \
        == running.ended()
    assert running.events.empty()


def test_sighup_reads_the_policy_again(at_work, monitor, tmp_path):
    """It holds from the next task on; one that is wrong, or that others could write, does not."""
    host, _, server = at_work(task(1, "resume"))
    words = config(host, policy())
    with service_manager(host, tmp_path) as line:
        running = monitor(host, words)
        hear(line, "READY=1")
        assert (1, "refused") == ended(running)
        config(host, policy({"allow": "resume"}))
        running.signal(signal.SIGHUP)
        hear(line, "READY=1")
    server.state.add("host", task(2, "resume"))
    assert (2, "completed") == ended(running)
    for number, content, mode, part in (
            (3, policy({"deny": "resum"}), 0o600, "did you mean resume"),
            (4, policy({"deny": "resume"}), 0o620, "by others")):
        config(host, content, mode)
        running.signal(signal.SIGHUP)
        assert part in running.line("the former config and settings stay in force: ")
        server.state.add("host", task(number, "resume"))
        assert (number, "completed") == ended(running)


def test_a_run_outlives_the_monitor_and_the_next_one_tells_its_end(at_work, monitor, tmp_path):
    """SIGTERM waits for no run: it goes on in Duplicati; its end is seen between the turns."""
    host, duplicati_server, server = at_work(task(1, "run", backups("Home")))
    duplicati_server.state.hold("Home")
    running = monitor(host)
    assert duplicati_server.state.wait_reached("Home", seconds=WAIT_LIMIT_SECONDS)
    running.signal(signal.SIGTERM)
    running.event("stopped")
    assert (0, []) == running.ended()
    with service_manager(host, tmp_path) as line:
        running = monitor(host, interval="3600")
        hear(line, "STATUS=waiting for the next turn")
    duplicati_server.state.release("Home")
    assert (1, "completed") == ended(running)
    assert "completed" == server.state.state("host", 1)
    assert 1 == len(duplicati_server.state.tasks)
