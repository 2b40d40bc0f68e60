"""The demo Duplicati server, held against what real servers of four releases answered."""

import pytest

from tests.recorded import exchanges
from tests.replaying import Replay

RELEASES = ("2.0.8.1", "2.1.0.5", "2.3.0.4", "today")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def make_files(replay):
    """The files that the recorded servers had."""
    home, srv = replay.folder / "home" / "ann", replay.folder / "srv"
    write(home / "a.txt", b"a" * 120)
    write(home / "docs" / "résumé [x].txt", b"1234")
    if replay.is_legacy:
        write(home / "docs" / "report.txt", b"r" * 280)
        write(home / "photo.jpg", b"p" * 400000)
    else:
        write(home / "docs" / "report.txt", b"r" * 330)
        write(home / "docs" / "deep" / "long.bin", b"l" * 70000)
        write(home / "photos" / "1.jpg", b"1" * 300000)
        write(home / "photos" / "2.jpg", b"2" * 400000)
        (home / "link").symlink_to("a.txt")
    write(srv / "small" / "s.txt", b"12")
    for number in range(60):
        write(srv / "photos" / f"f{number:02}.bin", b"%03d" % number)
    (replay.folder / "backup").mkdir()


def change_files(replay):
    """What was changed between the first and the second run."""
    home = replay.folder / "home" / "ann"
    write(home / "docs" / "new.txt", b"new" * 2)
    (home / "photos" / "1.jpg").unlink(missing_ok=True)


def hold(name, phase="middle"):
    return lambda replay: replay.state.hold(name, phase)


def release(name):
    return lambda replay: replay.state.release(name)


def reach(name, phase="middle"):
    def step(replay):
        assert replay.state.wait_reached(name, phase), name
    return step


def step_to(name, phase):
    return [hold(name, phase), reach(name, phase)]


def idle(replay):
    assert replay.state.wait_idle(20)


def run(key):
    def step(replay):
        state = replay.state
        state.engine.add(state.store.backup(key), "Backup")
        idle(replay)
    return step


def stand_still(replay):
    replay.state.engine.pause(0)


def go_on(replay):
    replay.state.engine.resume()


def old_generations(replay):
    """A session that was renewed three times, known by the cookies of the two exchanges that
    use its first and its last token."""
    first = session = replay.login()
    for _ in range(3):
        session = replay.renew(session[1], session[2])
    by_name = {one["name"]: one["request"] for one in replay.exchanges}
    for name, (_, token, nonce) in (
            ("refresh with a cookie three generations old", first),
            ("newest refresh after an old one was used", session)):
        request = by_name[name]
        replay.known[request["headers"]["Cookie"].partition("=")[2]] = token
        if nonce:
            replay.known[request["json"]["Nonce"]] = nonce
    revoked = by_name["access token of a revoked family"]["headers"]["Authorization"]
    replay.known[revoked.partition(" ")[2]] = session[0]


def session_to_end(replay):
    """A session for the two exchanges that log out, and those that look what came of it."""
    session = replay.login()
    by_name = {one["name"]: one["request"] for one in replay.exchanges}
    replay.known[by_name["logout"]["headers"]["Cookie"].partition("=")[2]] = session[1]
    if session[2]:
        replay.known[by_name["logout"]["json"]["Nonce"]] = session[2]
    token = by_name["access token after logout"]["headers"]["Authorization"].partition(" ")[2]
    replay.known[token] = session[0]


def keep_one_version(replay):
    """Edits the job that has been restored from, as the recorded one was."""
    store = replay.state.store
    job = store.backup("7")
    job["Settings"].append({"Filter": "", "Name": "keep-versions", "Value": "1",
                            "Argument": None})
    store.save_backup("7", job)


def change_photos(replay):
    """Other files than at the run before."""
    folder = ("home", "ann") if replay.is_legacy else ("srv", "photos")
    write(replay.folder.joinpath(*folder) / "new.bin", str(len(replay.state.tasks)).encode())


def know_last_task(number):
    def step(replay):
        replay.numbers[number] = max(replay.state.tasks)
    return step


def minutes_later(replay):
    """The families were renewed long ago."""
    replay.state.store.change("UPDATE families SET refreshed = 0")


def restart(replay):
    replay.state.crash_and_restart()


def expire(replay):
    replay.state.expire_tokens()


# What has to be so before an exchange is sent: what the recorded server came to by itself.
BEFORE = {
    "refresh with a cookie three generations old": [old_generations],
    "logout without nonce": [session_to_end],
    "run": [hold("Plain")],
    "task just started": [reach("Plain")],
    "task completed": [release("Plain")],
    "run the second time": [change_files],
    "run slow": [hold("Slow")],
    "run slow again while it runs": [reach("Slow")],
    "run slow to be stopped": [idle],
    "stop": [reach("Slow"), stand_still],
    "stop after the current file": [reach("Slow"), stand_still],
    "task stopped": [go_on, release("Slow")],
    "export": [idle],
    "run with a missing source": [idle],
    "edit to slow the restore": [run("7"), hold("Slow2", "Starting_Operation")],
    "progressstate of a restore: Starting_Operation": [reach("Slow2", "Starting_Operation")],
    "progressstate of a restore: Restore_DownloadingRemoteFiles": step_to("Slow2", "middle"),
    "progressstate of a restore: Restore_Complete": step_to("Slow2", "Restore_Complete"),
    "progressstate after a restore": [release("Slow2"), idle],
    "run with retention and compacting": [
        keep_one_version, change_photos, hold("Slow2", "Starting_Operation")],
    "progressstate of a backup: Starting_Operation": [reach("Slow2", "Starting_Operation")],
    "progressstate of a backup: Backup_ProcessingFiles": [
        *step_to("Slow2", "middle"), stand_still],
    "progressstate of a backup: Backup_WaitForUpload": [
        go_on, *step_to("Slow2", "Backup_WaitForUpload")],
    "progressstate of a backup: Backup_Delete": step_to("Slow2", "Backup_Delete"),
    "progressstate of a backup: Verify_Running": step_to("Slow2", "Verify_Running"),
    "progressstate of a backup: Backup_Complete": step_to("Slow2", "Backup_Complete"),
    "log after retention and compacting": [release("Slow2"), idle],
    "run, server to be killed": [hold("Slow2")],
    "task before the kill": [reach("Slow2")],
    "access token after a restart": [restart],
    "run after a restart: numbers begin anew": [change_photos],
    "task after a restart ended": [idle],
    "long poll that runs out": [idle],
    "v2 list-folder, names in lower case": [idle],
    "expired access token": [expire],
    "refresh with the former cookie and nonce, twelve minutes after they were replaced": [
        minutes_later],
}
BEFORE_LEGACY = {
    "run": [hold("Plain")],
    "serverstate after run (0)": [reach("Plain")],
    "task after its end": [release("Plain"), idle],
    "run the second time": [change_files],
    "filesets": [idle],
    "task of a restore": [idle],
    "log after the operations": [idle],
    "task of a run that failed": [idle, know_last_task(16)],
    "run slow": [change_photos, hold("Plain")],
    "run slow again": [reach("Plain")],
    "task aborted": [idle],
    "log after an abort": [release("Plain")],
    "run before a delete": [idle, hold("Plain")],
    "delete while running": [reach("Plain")],
    "backup after a delete while running": [release("Plain"), idle],
}
# Kinds are compared, but not the values that mean something elsewhere.
KINDS_ONLY = {
    "systeminfo": "which options and modules there are is not the demo server's",
    "logdata poll": "the recorded server had other things to log before",
    "logdata poll, page too large": "likewise",
    "logdata poll after errors": "likewise",
    "filesets with a partial one": "the recorded server had made one more, of what was aborted",
}
# Kinds of requests that are not sent again, by the end of their path or the exchange's name.
LEFT_OUT = {
    "/commandline": "the client starts no command line",
    "/filesystem": "the client does not browse the server's own files",
    "/backupdefaults": "the client does not use them",
    "/remotecontrol/status": "the client does not use it",
    "/remoteoperation/dbpath": "the client does not use it",
    "/api/v2/destination/test": "the client does not use it",
    "2.1.0.5: edit: put back with the placeholders":
        "the recorded request has its days as they were corrected afterwards; a test has long ones",
    "2.0.8.1: log after a stop":
        "that run had been told to stop in a moment that cannot be found again",
}


def left_out(release_name, exchange):
    """Why an exchange is not sent; None if it is."""
    path = exchange["request"]["path"].partition("?")[0]
    return next((why for what, why in LEFT_OUT.items() if path.endswith(what)
                 or "/commandline/" in path or what == f"{release_name}: {exchange['name']}"), None)


def named(release_name):
    """The exchanges of a release that are sent, each with a name of its own."""
    return [(release_name, number) for number, exchange in enumerate(exchanges(release_name))
            if not left_out(release_name, exchange)]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """replayed(release) -> {number of the exchange: differences}; each is replayed once."""
    cache = {}

    def replay(name):
        if name not in cache:
            before = BEFORE_LEGACY if name.startswith("2.0") else BEFORE
            one = Replay(name, tmp_path_factory.mktemp(name), before, left_out, KINDS_ONLY)
            make_files(one)
            try:
                cache[name] = {one.exchanges.index(exchange): lines
                               for exchange, lines in one.run()}
            finally:
                one.close()
        return cache[name]
    return replay


@pytest.mark.parametrize(("release_name", "number"), [
    pytest.param(*pair, id=f"{pair[0]}-{pair[1]}-{exchanges(pair[0])[pair[1]]['name']}")
    for name in RELEASES for pair in named(name)])
def test_the_demo_server_answers_as_the_recorded_one(replayed, release_name, number):
    """Status, reason, type, headers, names and kinds of values, and the values that matter."""
    assert [] == replayed(release_name)[number]


def test_what_the_older_of_two_releases_answered_is_what_the_younger_one_did(replayed):
    """Where the recordings of 2.0.6.3 and 2.0.8.1 differ is known, and is nothing else."""
    younger = {one["name"]: one["response"] for one in exchanges("2.0.8.1")}
    other = {one["name"] for one in exchanges("2.0.6.3") if one["name"] in younger and (
        one["response"]["status"], one["response"]["headers"].get("Content-Type")) != (
        younger[one["name"]]["status"], younger[one["name"]]["headers"].get("Content-Type"))}
    assert set() == other
