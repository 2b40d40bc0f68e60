"""actions/registration.py: one host in the end, wherever it was broken off."""

import os
import queue
import random
import signal
import stat
import subprocess
import sys
import time

import pytest
import yaml

from tests import inside, rude
from tests.certificates import Authority
from tests.conftest import PROJECT, REGISTRATION_TOKEN, Host, site
from tests.rude import Rude, answer

KILLED_AT = [sys.executable, str(PROJECT / "tests" / "killed_at.py")]
REQUESTS = ("status", "discover", "register", "verify")


@pytest.fixture
def newcomer(tmp_path, key_pem):
    """newcomer(name) -> a Host without settings; its keys are there, unless told otherwise."""
    def make(name="host", *, has_keys=True):
        host = Host(tmp_path / name)
        host.folder.mkdir()
        if has_keys:
            for suffix, content in (("key", key_pem[0]), ("pub", key_pem[1])):
                path = host.folder / f"host.{suffix}"
                path.write_text(content)
                path.chmod(0o600)
        return host

    return make


def words_of(host, server, token=REGISTRATION_TOKEN):
    """The options of new_host for a host and a server."""
    return (f"--url={server.url}", f"--token={token}", f"--private_key={host.folder / 'host.key'}",
            f"--public_key={host.folder / 'host.pub'}")


def new_host(host, server, *words, **more):
    return host.run("new_host", *words_of(host, server), *words, **more)


def run_inside(host, action, *words):
    """The same in this process: faster, where nothing is killed."""
    return inside.run(f"--action={action}", f"--settings={host.settings}", *words)


def assert_one_verified_host(host, server):
    """Exactly one host is verified at the server, and it is the one of the settings."""
    verified = [known for known in server.state.hosts() if known["verified"]]
    assert 1 == len(verified)
    status = host.run("host_status")
    assert (0, verified[0]["id"]) == (status.code, status.answer["id"])


# -- the seed, line by line --------------------------------------------------------------

def test_each_step_alone_does_what_the_seed_says(serve, tmp_path):
    """status, discover, generate_keys, host_register, host_verify, host_status, as typed."""
    server = serve(site("print(1)"))
    host = Host(tmp_path)
    private, public = str(tmp_path / "private.pem"), str(tmp_path / "public.pem")
    status = host.run("status", "--url", server.url)
    assert {"status": "OK", "app_name": "Django Remotes", "version": "0.3.2",
            "server_url": server.url, "discover": "/api/v1/discover/"} == status.answer
    discover = host.run("discover")
    assert ["endpoints", "status"] == sorted(discover.answer)
    assert 6 == len(discover.answer["endpoints"])
    kept = host.document()
    assert {**discover.answer["endpoints"], "discover": "/api/v1/discover/"} == kept["endpoints"]
    made = host.run("generate_keys", "--private_key", private, "--public_key", public)
    assert ("OK", True) == (made.answer["status"], made.answer["changed"])
    assert [private, public] == [host.document()["host"][name]
                                 for name in ("private_key", "public_key")]
    registered = host.run("host_register", "--token", REGISTRATION_TOKEN)
    assert "OK" == registered.answer["status"]
    assert [False] == [known["verified"] for known in server.state.hosts()]
    assert server.state.hosts()[0]["uuid"] == registered.answer["uuid"]
    verified = host.run("host_verify", "--token", REGISTRATION_TOKEN)
    assert "OK" == verified.answer["status"]
    assert host.document()["host"]["token"] == verified.answer["encrypted"]
    whole = host.run("host_status").answer
    assert (["All hosts"], "OK") == ([group["name"] for group in whole["hosts_groups"]],
                                     whole["status"])
    assert [{"group": 1, "command": 1}] == host.run("commands_list").answer["results"]
    assert {"private.pem", "public.pem", "settings.yml"} <= {
        path.name for path in tmp_path.iterdir() if not stat.S_IMODE(path.stat().st_mode) & 0o077}


def test_new_host_is_all_steps_in_one(serve, newcomer):
    """One command, with keys made on the way; a second time changes nothing anywhere."""
    server = serve(site())
    host = newcomer(has_keys=False)
    result = host.run("new_host", *(word for option in words_of(host, server)
                                    for word in option.split("=", 1)))
    assert (0, True) == (result.code, result.answer["changed"]), result
    assert ["status", "discover", "generate_keys", "host_register", "host_verify",
            "changed"] == list(result.answer)
    assert_one_verified_host(host, server)
    before = host.settings.read_bytes(), (host.folder / "host.key").read_bytes()
    again = new_host(host, server)
    assert (0, False) == (again.code, again.answer["changed"])
    assert before == (host.settings.read_bytes(), (host.folder / "host.key").read_bytes())
    assert_one_verified_host(host, server)
    assert 1 == len(server.state.hosts())


def test_openssl_takes_the_keys(serve, newcomer):
    """The independent judge: a valid private key, whose public key is the other file."""
    host = newcomer(has_keys=False)
    words = (f"--private_key={host.folder / 'k'}", f"--public_key={host.folder / 'p'}")
    assert 0 == run_inside(host, "generate_keys", *words).code

    def openssl(*words):
        return subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30)

    try:
        openssl("version")
    except FileNotFoundError:
        return  # no judge on this machine
    checked = openssl("pkey", "-in", host.folder / "k", "-check", "-noout")
    assert 0 == checked.returncode, checked
    derived = openssl("pkey", "-in", host.folder / "k", "-pubout").stdout
    assert derived == (host.folder / "p").read_text()
    text = openssl("pkey", "-in", host.folder / "k", "-noout", "-text").stdout
    assert "4096 bit" in text and "65537" in text


# -- broken off --------------------------------------------------------------------------

@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_killed_at_any_request_and_run_again_there_is_one_host(serve, newcomer, request_name,
                                                               stage):
    """SIGKILL when a request has arrived, or when the server has done it and not answered."""
    server = serve(site())
    host = newcomer()
    processes = queue.Queue()

    def kill(at, handler):
        if at == stage and request_name in handler.path and server.fault:
            server.fault = None
            process = processes.get(timeout=30)
            process.kill()
            process.wait()
            return True
        return False

    server.fault = kill
    process = host.start("new_host", *words_of(host, server))
    processes.put(process)
    process.communicate(timeout=60)
    assert -signal.SIGKILL == process.returncode
    result = new_host(host, server)
    assert 0 == result.code, result
    assert_one_verified_host(host, server)
    lost = stage == "after" and request_name == "register"
    assert (2 if lost else 1) == len(server.state.hosts())


def run_killed_at(host, server, point, **more):
    count = host.folder / "count"
    process = subprocess.run(
        [*KILLED_AT, str(point), "--action=new_host", f"--settings={host.settings}",
         *words_of(host, server)], capture_output=True, text=True, timeout=60, umask=0,
        env={**host.environ, "KILL_COUNT": str(count)}, **more)
    calls = int(count.read_text()) if count.exists() else None
    count.unlink(missing_ok=True)
    return process.returncode, calls


def check_killed_at(serve, host, point):
    """Kills new_host at one write, runs it again: one host, private files, nothing left."""
    server = serve(site())
    assert -signal.SIGKILL == run_killed_at(host, server, point)[0], point
    open_files = [path.name for path in host.folder.iterdir()
                  if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert [] == open_files
    assert 0 == new_host(host, server).code
    assert_one_verified_host(host, server)
    assert [] == [path.name for path in host.folder.iterdir() if path.name.endswith(".remotes-new")]


def kill_points(serve, newcomer):
    """All points at which tests/killed_at.py can kill new_host with the keys yet to be made."""
    code, calls = run_killed_at(newcomer("counted", has_keys=False), serve(site()), 0)
    assert 0 == code
    return list(range(2, 2 * calls + 2))


def test_killed_at_any_write_and_run_again_there_is_one_host(serve, newcomer):
    """SIGKILL at writes of settings and keys all over the run (`make soak`: at every one)."""
    points = kill_points(serve, newcomer)
    for point in points[3::max(1, len(points) // 8)]:
        check_killed_at(serve, newcomer(f"host-{point}", has_keys=False), point)


@pytest.mark.soak
def test_killed_at_every_write_and_run_again_there_is_one_host(serve, newcomer):
    """The whole matrix."""
    for point in kill_points(serve, newcomer):
        check_killed_at(serve, newcomer(f"host-{point}", has_keys=False), point)


@pytest.mark.soak
def test_killed_at_50_random_moments_there_is_one_verified_host(serve, newcomer):
    """new_host killed by the clock and run again: the same host for all its later calls."""
    seed = int(os.environ.get("REMOTES_SEED") or random.randrange(1 << 32))
    print(f"\nREMOTES_SEED={seed}", file=sys.stderr)  # stdout is not heard under xdist
    chance = random.Random(seed)
    begun = time.monotonic()
    assert 0 == new_host(newcomer("measured", has_keys=False), serve(site())).code
    whole_seconds = time.monotonic() - begun
    for number in range(50):
        server, host = serve(site()), newcomer(f"host-{number}", has_keys=False)
        process = host.start("new_host", *words_of(host, server))
        try:
            process.wait(chance.uniform(0, whole_seconds))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        assert 0 == new_host(host, server).code, f"moment {number} of REMOTES_SEED={seed}"
        assert_one_verified_host(host, server)


def test_two_at_once_make_one_host(serve, newcomer):
    """The second ends with 11 and names the first; the first is not disturbed."""
    server = serve(site())
    host = newcomer()
    arrived, go_on = queue.Queue(), queue.Queue()

    def hold(stage, handler):
        if stage == "before" and "register" in handler.path:
            arrived.put(True)
            go_on.get(timeout=60)
        return False

    server.fault = hold
    first = host.start("new_host", *words_of(host, server))
    arrived.get(timeout=30)
    for action in ("new_host", "host_register", "host_verify", "generate_keys"):
        words = {"new_host": words_of(host, server),
                 "generate_keys": words_of(host, server)[2:]}.get(action, ("--token=x",))
        second = run_inside(host, action, *words)
        assert (11, "locked") == (second.code, second.answer["kind"])
        assert f"process {first.pid}, since 2" in second.err
    go_on.put(True)
    first.communicate(timeout=60)
    assert 0 == first.returncode
    assert_one_verified_host(host, server)


# -- never again without --force ---------------------------------------------------------

def test_a_verified_host_is_not_registered_or_verified_again(serve, enroll):
    """The answers say what --force would destroy, and the server hears nothing of it."""
    server = serve(site())
    host = enroll(server)
    before = host.document()["host"]
    register = run_inside(host, "host_register", "--token=any")
    assert (0, False, host.known["uuid"]) == (
        register.code, register.answer["changed"], register.answer["uuid"])
    assert "--force would register a second one" in register.answer["message"]
    verify = run_inside(host, "host_verify", "--token=any")
    assert (0, False) == (verify.code, verify.answer["changed"])
    assert "the present token is refused from then on" in verify.answer["message"]
    assert [] == server.requests
    assert before == {name: host.document()["host"][name] for name in before}


def test_force_registers_and_verifies_again(serve, enroll):
    """A second host, a second token: whoever insists gets it."""
    server = serve(site())
    host = enroll(server)
    token = f"--token={REGISTRATION_TOKEN}"
    verified = run_inside(host, "host_verify", token, "--force")
    assert (0, True) == (verified.code, verified.answer["changed"])
    assert host.known["token"] != server.state.hosts()[0]["token"]
    registered = run_inside(host, "host_register", token, "--force")
    assert (0, True) == (registered.code, registered.answer["changed"])
    assert [True, False] == [known["verified"] for known in server.state.hosts()]
    assert "token" not in host.document()["host"]
    assert 78 == run_inside(host, "host_status").code
    assert 0 == run_inside(host, "host_verify", token).code
    assert 0 == run_inside(host, "host_status").code


def test_existing_keys_are_kept_and_used(serve, newcomer):
    """generate_keys on keys that are there: nothing changes but the settings."""
    host = newcomer()
    keys = {path.name: path.read_bytes() for path in host.folder.iterdir()}
    words = (f"--private_key={host.folder / 'host.key'}",
             f"--public_key={host.folder / 'host.pub'}")
    made = run_inside(host, "generate_keys", *words)
    assert (0, True) == (made.code, made.answer["changed"])
    assert "is there and is kept" in made.answer["message"]
    again = run_inside(host, "generate_keys", *words)
    assert (0, False) == (again.code, again.answer["changed"])
    assert keys == {name: (host.folder / name).read_bytes() for name in keys}


def test_a_missing_public_key_is_written_from_the_private_one(newcomer, key_pem):
    """Killed between the two files: the next run completes the pair."""
    host = newcomer()
    (host.folder / "host.pub").unlink()
    made = run_inside(host, "generate_keys", f"--private_key={host.folder / 'host.key'}",
                      f"--public_key={host.folder / 'host.pub'}")
    assert (0, True) == (made.code, made.answer["changed"])
    assert key_pem == tuple((host.folder / f"host.{name}").read_text() for name in ("key", "pub"))


@pytest.mark.parametrize("private, public", [
    ("new.key", "other.pub"), ("host.key", "other.pub"), ("other.pub", "new.pub"),
    ("same", "same"), ("host.key", "host.key"),
])
def test_a_file_that_is_no_key_of_the_pair_is_not_written_over(newcomer, private, public):
    """The public key of another pair, or the private key itself, under the wrong option."""
    host = newcomer()
    (host.folder / "other.pub").write_text("the key of another host\n")
    before = {path.name: path.read_bytes() for path in host.folder.iterdir()}
    made = run_inside(host, "generate_keys", f"--private_key={host.folder / private}",
                      f"--public_key={host.folder / public}")
    assert made.code in (1, 2, 78), made
    assert 1 == made.err.count("\n")
    assert before == {name: (host.folder / name).read_bytes() for name in before}
    assert not (host.folder / "new.key").exists()


def test_force_makes_new_keys_and_forgets_the_host(serve, enroll):
    """What was encrypted for the former key is of no use: it is not kept."""
    host = enroll(serve(site()))
    before = (host.folder / "host.key").read_bytes()
    words = (f"--private_key={host.folder / 'host.key'}",
             f"--public_key={host.folder / 'host.pub'}")
    made = run_inside(host, "generate_keys", *words, "--force")
    assert (0, True) == (made.code, made.answer["changed"])
    assert before != (host.folder / "host.key").read_bytes()


def test_a_registered_host_keeps_its_key(serve, enroll, key_pem):
    """Another --private_key is refused, and the message says what --force would do."""
    server = serve(site())
    host = enroll(server)
    before = host.settings.read_bytes()
    words = (f"--private_key={host.folder / 'new.key'}", f"--public_key={host.folder / 'new.pub'}")
    for action, more in (("generate_keys", ()),
                         ("new_host", (f"--url={server.url}", "--token=any"))):
        refused = run_inside(host, action, *words, *more)
        assert (1, "failed") == (refused.code, refused.answer["kind"])
        assert "--force would make" in refused.err and "forget its UUID and token" in refused.err
    assert not (host.folder / "new.key").exists()
    assert yaml.safe_load(before)["host"] == host.document()["host"]


def test_a_key_that_is_gone_is_not_replaced_unasked(serve, enroll):
    """A registered host whose key file is missing: 1 from generate_keys, 78 from the rest."""
    server = serve(site())
    host = enroll(server)
    (host.folder / "host.key").unlink()
    assert 1 == new_host(host, server).code
    assert not (host.folder / "host.key").exists()
    result = run_inside(host, "host_status")
    assert (78, 1) == (result.code, result.err.count("\n"))
    assert str(host.folder / "host.key") in result.err


def test_a_key_of_another_host_is_78(serve, enroll, newcomer):
    """UUID and token that this key cannot decrypt; nothing is asked of the server."""
    server = serve(site())
    host = enroll(server)
    other = newcomer("other", has_keys=False)
    assert 0 == run_inside(other, "generate_keys", f"--private_key={other.folder / 'k'}",
                           f"--public_key={other.folder / 'p'}").code
    (host.folder / "host.key").write_bytes((other.folder / "k").read_bytes())
    for action, words in (("host_status", ()), ("commands_list", ()), ("commands_process", ()),
                          ("host_register", ("--token=t",)), ("host_verify", ("--token=t",))):
        result = run_inside(host, action, *words)
        assert (78, 1) == (result.code, result.err.count("\n")), (action, result)
        assert "another key" in result.err
    assert [] == server.requests


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n",
                                     b"\xff"])
def test_a_private_key_that_is_none_is_78(serve, enroll, content):
    """One line that names the file; the file stays."""
    host = enroll(serve(site()))
    (host.folder / "host.key").write_bytes(content)
    result = run_inside(host, "host_status")
    assert (78, 1) == (result.code, result.err.count("\n"))
    assert str(host.folder / "host.key") in result.err
    assert content == (host.folder / "host.key").read_bytes()


def test_a_key_that_others_can_read_is_told_and_made_private(serve, enroll):
    """0644 becomes 0600, with one line; the second time there is nothing to tell."""
    host = enroll(serve(site()))
    (host.folder / "host.key").chmod(0o644)
    first, second = run_inside(host, "host_status"), run_inside(host, "host_status")
    assert (0, 1, 0) == (first.code, first.err.count("\n"), second.err.count("\n"))
    assert "could be read by others" in first.err
    assert 0o600 == stat.S_IMODE((host.folder / "host.key").stat().st_mode)


# -- which server ------------------------------------------------------------------------

def test_a_registered_host_is_not_sent_to_another_server_unasked(serve, enroll):
    """Its token would go there: 1, and nothing is kept; with --force it is."""
    server, other = serve(site()), serve(site())
    host = enroll(server)
    refused = run_inside(host, "status", f"--url={other.url}")
    assert 1 == refused.code
    assert server.url in refused.err and "--force" in refused.err
    assert server.url == host.document()["server"]["url"]
    assert 0 == run_inside(host, "status", f"--url={other.url}", "--force").code
    assert other.url == host.document()["server"]["url"]


@pytest.mark.parametrize("said, follow, kept", [
    ("{typed}", False, "{typed}"), ("{typed}", True, "{typed}"),
    ("http://inner.example:8000/", False, "{typed}"),
    ("http://inner.example:8000/", True, "http://inner.example:8000/"),
    ("{typed}sub/", False, "{typed}sub/"),
])
def test_server_url_is_followed_while_it_names_the_typed_host(said, follow, kept, tmp_path):
    """A server behind a proxy gives its inner name: told, and not followed without the option."""
    host = Host(tmp_path)

    def status(server, connection, request):
        reply = {"status": "OK", "server_url": said.format(typed=server.url), "discover": "/d/"}
        return answer(200, reply)(server, connection, request)

    with Rude(status) as server:
        result = run_inside(host, "status", f"--url={server.url}",
                            *(["--follow_url"] if follow else []))
        assert 0 == result.code, result
        assert kept.format(typed=server.url) == host.document()["server"]["url"]
        is_told = "inner" in said and not follow
        assert is_told == ("--follow_url uses the other" in result.err)
        assert (1 if is_told else 0) == result.err.count("\n")


def test_options_for_certificates_are_kept_with_the_server(serve, tmp_path):
    """14 without --ca_file and without the client's certificate; given once, they hold."""
    own = Authority(tmp_path)
    certificate, key = own.sign("client")
    server = serve(site(), ssl_context=own.context(wants_client=True))
    host = Host(tmp_path)
    assert 14 == run_inside(host, "status", f"--url={server.url}").code
    assert not host.settings.exists()
    words = (f"--url={server.url}", f"--ca_file={own.ca_file}",
             f"--client_certificate={certificate}", f"--client_key={key}")
    assert 0 == run_inside(host, "status", *words).code
    assert {"url": server.url, "ca_file": own.ca_file, "client_certificate": certificate,
            "client_key": key} == host.document()["server"]
    assert 0 == run_inside(host, "discover").code
    missing = run_inside(host, "discover", "--ca_file=/no/such/file")
    assert (78, 1) == (missing.code, missing.err.count("\n"))
    assert "--ca_file /no/such/file" in missing.err


# -- what the server refuses -------------------------------------------------------------

def test_a_wrong_registration_token_is_12(serve, newcomer):
    """What was learnt is kept; with the right token it goes on from there."""
    server = serve(site())
    host = newcomer()
    refused = run_inside(host, "new_host", *words_of(host, server, "wrong"))
    assert (12, "login_refused", {"detail": "Invalid token."}) == (
        refused.code, refused.answer["kind"], refused.answer["answer"])
    assert 1 == refused.err.count("\n")
    assert {"url": server.url} == host.document()["server"]
    assert [] == server.state.hosts()
    assert 0 == run_inside(host, "new_host", *words_of(host, server)).code
    assert_one_verified_host(host, server)


@pytest.mark.parametrize("action, encrypted", [
    ("host_register", "bm90IGZvciB0aGlzIGtleQ=="), ("host_register", "no base64 \u2603"),
    ("host_register", ""), ("host_verify", "AAAA"),
])
def test_an_answer_that_the_key_cannot_read_is_not_kept(serve, enroll, action, encrypted):
    """A UUID or token for another key would make the settings useless."""
    host = enroll(serve(site()))
    document = host.document()
    with Rude(answer(200, {"status": "OK", "encrypted": encrypted})) as server:
        document["server"]["url"] = server.url
        host.settings.write_text(yaml.safe_dump(document))
        assert 78 == run_inside(host, action, "--token=t", "--force").code
    kept = host.document()["host"]
    assert document["host"] == {name: kept[name] for name in document["host"]}


@pytest.mark.parametrize("manner", [
    rude.reset, rude.close_early, rude.html, rude.half_json, rude.truncate, rude.gzip_rubbish,
    rude.redirect("/api/status/"), rude.redirect("http://evil.example/"), answer(500, b"<html>"),
    answer(200, {"status": "OK", "server_url": "no address", "discover": "/d/"}),
    answer(200, {"status": "OK", "server_url": "http://a/", "discover": 5}),
    answer(200, {"status": "OK", "server_url": "http://a/", "discover": "//evil/"}),
], ids=range(12))
def test_nothing_is_kept_of_a_server_that_is_none(tmp_path, manner):
    """75 or 78, JSON, one line, and no settings file."""
    host = Host(tmp_path)
    with Rude(manner) as server:
        result = run_inside(host, "status", f"--url={server.url}")
    assert result.code in (75, 78)
    assert (result.code, 1) == (result.answer["exit"], result.err.count("\n"))
    assert not host.settings.exists()


@pytest.mark.parametrize("action", ["host_register", "host_verify"])
def test_nothing_is_asked_of_the_server_that_could_not_be_kept(serve, enroll, action):
    """With a full disk neither registered nor verified: what exists on the server stays so."""
    import resource

    server = serve(site("print(1)"))
    host = enroll(server)
    host.run("host_status")  # the key's check is remembered now
    before = server.state.hosts()
    result = host.run(action, "--force", f"--token={REGISTRATION_TOKEN}", preexec_fn=lambda:
                      resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    assert (75, "disk_full", before) == (result.code, result.answer["kind"], server.state.hosts())
    assert 0 == host.run("host_status").code
