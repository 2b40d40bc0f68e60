"""settings.py: no change is lost, nothing that cannot be read is written over."""

import copy
import os
import shutil
import signal
import stat
import subprocess
import sys

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remotes import files
from remotes.errors import DiskFullError, LockedError, SettingsError
from remotes.settings import Settings, default_path, parse_yaml
from tests import inside
from tests.conftest import CLIENT, PROJECT, RECORDINGS, Host, site

INI = RECORDINGS / "django-remotes" / "settings.ini"
BAD_YAML = b"server:\n  url: http://a/\n bad: [\n"
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.dates() \
    | st.floats(allow_nan=False)
NAMES = st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    NAMES, inner, max_size=3), max_leaves=6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "settings.yml"


def changed(path, section, name, value):
    """One change as an action makes it."""
    with Settings(path).changing() as document:
        document.setdefault(section, {})[name] = value


# -- what is written is what is read -----------------------------------------------------

@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_is_read_again(path, document):
    """Any value, under any name, of this version or another."""
    path.unlink(missing_ok=True)
    document = {name: value for name, value in document.items() if name != "version"}
    with Settings(path).changing() as written:
        written["other"] = document
    assert {"version": 1, "other": document} == Settings(path).document


def test_what_this_version_does_not_know_is_kept(path):
    """Sections and names of a later program survive a change, in their order."""
    path.write_text("version: 1\nlater: {a: [1, {b: null}]}\nserver: {url: http://a/, zone: x}\n")
    before = Settings(path).document
    changed(path, "server", "url", "http://b/")
    after = yaml.safe_load(path.read_text())
    assert {**before, "server": {"url": "http://b/", "zone": "x"}} == after
    assert list(before) == list(after)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abcdef"), st.integers()),
                max_size=12))
def test_changes_of_several_runs_all_count(path, changes):
    """Any interleaving of runs that read at their start and change later: nothing is lost."""
    path.unlink(missing_ok=True)
    runs = [Settings(path) for _ in range(3)]
    expected = {}
    for run, name, value in changes:
        with runs[run].changing() as document:
            document.setdefault("other", {})[name] = value
        expected[name] = value
    assert expected == Settings(path).document.get("other", {})


_CHANGER = """
import sys
sys.path.insert(0, sys.argv[1])
from remotes.settings import Settings
for number in range(40):
    with Settings(sys.argv[2]).changing() as document:
        document.setdefault("other", {})[f"{sys.argv[3]}{number}"] = number
"""


def test_two_processes_at_once_lose_nothing(path):
    """80 changes by two processes that know nothing of each other: all are there."""
    processes = [subprocess.Popen([sys.executable, "-c", _CHANGER, str(PROJECT), str(path), name])
                 for name in "ab"]
    assert [0, 0] == [process.wait(timeout=60) for process in processes]
    assert {f"{name}{number}" for name in "ab" for number in range(40)} == set(
        Settings(path).document["other"])


def test_a_change_that_fails_writes_nothing(path):
    """An exception within `changing` leaves the file as it was, and the lock free."""
    changed(path, "server", "url", "http://a/")
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        with Settings(path).changing() as document:
            document["server"] = {}
            raise ZeroDivisionError
    assert before == path.read_bytes()
    changed(path, "server", "url", "http://b/")


def test_a_lock_that_is_held_is_waited_for_and_named(path):
    """LockedError (11) names the process that holds it."""
    lock = files.Lock(str(path) + ".lock")
    with lock.held():
        with pytest.raises(LockedError, match=f"process {os.getpid()}, since 2") as caught:
            files.Lock(lock.path).acquire(0.05)
    assert 11 == caught.value.exit_code


# -- what cannot be read -----------------------------------------------------------------

@pytest.mark.parametrize("content, said", [
    (BAD_YAML, "line 3, column 2"), (b"- a\n- list\n", "a list"), (b"just text", "a text"),
    (b"5", "single value"), (b"version: 2\n", "newer"), (b"version: x\n", "version 'x'"),
    (b"server: [1]\n", "`server` must be a mapping"), (b"host: 5\n", "`host` must be a mapping"),
    (b"server:\n  url: [1]\n", "`server: url` must be"), (b"\x00\x01", "not valid YAML"),
    (b"a: \xff\xfe\n", "not valid YAML"), (b"a: !!python/object:os.system x\n", "line 1, column 4"),
    (b"a: 2001-99-99\n", "month"), (b"? [a]\n: b\n", "line 1, column 3"),
    (b"[host]\nno value\n", "looks like an INI file"), (b"a: &a [*a]\nb: *c", "line 2, column 4"),
    (b"%YAML 9.9\n---\na: 1\n", "line 1"),
], ids=ascii)
def test_settings_that_cannot_be_read_are_78_and_stay(path, content, said):
    """One line that names the file and the place; the file is never written over."""
    path.write_bytes(content)
    for words in (("--action=status", "--url=http://127.0.0.1:1/"), ("--action=config",),
                  ("--action=commands_list",)):
        result = inside.run(*words, f"--settings={path}")
        assert (78, "settings") == (result.code, result.answer["kind"])
        assert 1 == result.err.count("\n")
        assert str(path) in result.err and said in result.err
    assert content == path.read_bytes()


@pytest.mark.parametrize("text, place, name, first", [
    ("server: {url: a}\nhost: {}\nserver: {}\n", "line 3, column 1", "server", 1),
    ("other:\n- {deny: get, 'deny': run}\n", "line 2, column 15", "deny", 2),
    ("other: {5: a, 6: b, 0x5: c}\n", "line 1, column 21", "0x5", 1),
    ("other: {yes: a, true: b}\n", "line 1, column 17", "true", 1),
    ('other: {"a\\nb": 1, "a\\nb": 2}\n', "line 1, column 20", r"'a\nb'", 1),
    ("a: &a [{b: 1, b: 2}]\nc: *a\n", "line 1, column 15", "b", 1),
])
def test_a_name_that_stands_twice_is_told_with_its_place(path, text, place, name, first):
    """However it is written: YAML would take the last, and what the first said would be lost."""
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        Settings(path)
    assert f"{path} is not valid YAML: {place}: {name} stands there twice, first in line {first}" \
        == str(caught.value)


def test_a_name_that_does_not_stand_twice_is_taken(path):
    """What `<<` brings may be said otherwise, 5 is not "5", an alias is looked at once."""
    path.write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\ne: *a\nf: {5: x, '5': y, c: {c: z}}\n")
    own = {"b": 1, "c": 2}
    assert {"a": own, "d": {"b": 3, "c": 2}, "e": own,
            "f": {5: "x", "5": "y", "c": {"c": "z"}}} == Settings(path).document
    path.write_text("".join(
        f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9 if number else 'x')}]\n"
        for number in range(40)))
    assert 40 == len(Settings(path).document)


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text("[]{}:-?&*!|>'\"%@`#,\n \tahost01", max_size=40).map(
    str.encode) | st.builds(
        lambda text, at, byte: text[:at] + bytes([byte]) + text[at + 1:],
        st.just(INI.read_bytes()[:200]), st.integers(0, 199), st.integers(0, 255)))
def test_any_file_is_settings_or_an_error_of_ours(path, content):
    """No content of a file gets another exception out."""
    path.write_bytes(content)
    try:
        Settings(path)
    except SettingsError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("section, name", [
    ("host", "uuid"), ("host", "token"), ("host", "private_key"), ("server", "url"),
    ("endpoints", "commands_list"), ("endpoints", "discover"), ("server", "ca_file"),
])
@pytest.mark.parametrize("value", [5, True, "", "\udcff", "x"], ids=ascii)
def test_a_value_that_is_not_what_it_should_be_is_78(tmp_path, section, name, value):
    """Edited by hand, and wrong: an error of ours, whichever value it is."""
    host = Host(tmp_path)
    document = {"host": {"private_key": str(tmp_path / "key"), "uuid": "u", "token": "t"},
                "server": {"url": "http://127.0.0.1:1/"},
                "endpoints": {"commands_list": "/l/", "discover": "/d/"}}
    document[section][name] = value
    text = yaml.safe_dump(document)
    host.settings.write_text(text)
    for action in ("commands_list", "discover"):
        result = inside.run(f"--action={action}", f"--settings={host.settings}")
        assert result.code in (75, 78), result
    assert text == host.settings.read_text()


def test_a_folder_or_a_missing_folder_is_78(tmp_path):
    """Where no file can be: the message names the folder; nothing is made there."""
    (tmp_path / "folder").mkdir()
    missing = tmp_path / "missing" / "settings.yml"
    status = "--action=generate_keys", "--private_key=/nowhere/k", "--public_key=/nowhere/p"
    for place, said in ((tmp_path / "folder", "Is a directory"), (missing, "does not exist")):
        result = inside.run(*status, f"--settings={place}")
        assert (78, 1) == (result.code, result.err.count("\n"))
        assert said in result.err and str(place.parent) in result.err
    assert ["folder"] == os.listdir(tmp_path)


# -- files and modes ---------------------------------------------------------------------

def test_the_default_folder_is_made_private(tmp_path):
    """$XDG_CONFIG_HOME/remotes, 0700; any other folder must exist."""
    place = default_path({"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert str(tmp_path / "config" / "remotes" / "settings.yml") == place
    assert 0o700 == stat.S_IMODE(os.stat(os.path.dirname(place)).st_mode)


def test_a_link_is_followed(tmp_path):
    """The file it points to is replaced, not the link; lock and journal are beside the file."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.yml"
    link.symlink_to(tmp_path / "real" / "own.yml")
    changed(link, "server", "url", "http://a/")
    assert link.is_symlink()
    assert ["own.yml", "own.yml.lock"] == sorted(os.listdir(tmp_path / "real"))
    assert {"url": "http://a/"} == yaml.safe_load(link.read_text())["server"]
    assert str(tmp_path / "real" / "own.audit.jsonl") == Settings(link).beside("audit.jsonl")


@pytest.mark.parametrize("settings_name, name, beside", [
    ("settings.yml", "commands-journal.yml", "commands-journal.yml"),
    ("web2.yml", "commands-journal.yml", "web2.commands-journal.yml"),
    ("settings.ini", "audit.jsonl", "audit.jsonl"), ("web2", "audit.jsonl", "web2.audit.jsonl"),
    ("settings.yml", "lock", "settings.yml.lock"), ("web2.yml", "lock", "web2.yml.lock"),
])
def test_two_settings_in_one_folder_share_no_file(tmp_path, settings_name, name, beside):
    """Another name gives its stem to the files that belong to it."""
    assert str(tmp_path / beside) == Settings(tmp_path / settings_name).beside(name)


KILLED_AT = [sys.executable, str(PROJECT / "tests" / "killed_at.py")]


def test_killed_at_any_write_the_file_is_the_old_or_the_new_and_private(tmp_path, serve):
    """SIGKILL before and after each call that writes, under umask 0: whole, and 0600."""
    server = serve(site())
    host = Host(tmp_path)
    old = f"server:\n  url: {server.url}old/\n"
    words = ("--action=status", f"--url={server.url}", f"--settings={host.settings}")

    def run(point):
        host.settings.write_text(old)
        host.settings.chmod(0o600)
        return subprocess.run(
            [*KILLED_AT, str(point), *words], umask=0, capture_output=True, timeout=60,
            env={**host.environ, "KILL_COUNT": str(tmp_path / "count")}).returncode

    assert 0 == run(0)
    calls, new = int((tmp_path / "count").read_text()), host.settings.read_text()
    (tmp_path / "count").unlink()
    seen = []
    for point in range(2, 2 * calls + 2):
        assert -signal.SIGKILL == run(point)
        seen.append(host.settings.read_text())
        assert seen[-1] in (old, new)
        assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert {old, new} == set(seen)
    assert seen == sorted(seen, key=[old, new].index)
    assert 0 == run(0)


@given(st.integers(0, 200))
def test_what_a_killed_run_left_is_written_over(path, cut):
    """A file beside, cut at any byte, changes nothing for the next run."""
    changed(path, "server", "url", "http://a/")
    (path.parent / "settings.yml.remotes-new").write_bytes(path.read_bytes()[:cut])
    changed(path, "server", "ca_file", f"/{cut}")
    assert {"url": "http://a/", "ca_file": f"/{cut}"} == Settings(path).document["server"]
    assert ["settings.yml", "settings.yml.lock"] == sorted(os.listdir(path.parent))


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
sys.path.insert(0, sys.argv[1])
import client
raise SystemExit(client.main(sys.argv[3:]))
"""


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_full_disk_leaves_the_old_file(tmp_path, serve, room):
    """75, one line, and the settings are those of before, to the byte."""
    server = serve(site())
    host = Host(tmp_path)
    host.settings.write_text("server:\n  url: http://old/\n" + "# filler\n" * 20)
    before = host.settings.read_bytes()
    process = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(PROJECT), str(room), "--action=status",
         f"--url={server.url}", f"--settings={host.settings}"],
        env=host.environ, capture_output=True, text=True, timeout=60)
    assert (75, 1) == (process.returncode, process.stderr.count("\n")), process
    assert '"kind": "disk_full"' in process.stdout
    assert before == host.settings.read_bytes()
    assert not (tmp_path / "settings.yml.remotes-new").exists()


def test_no_room_is_told_as_such(path):
    """/dev/full says ENOSPC: DiskFullError, which is for now."""
    with pytest.raises(DiskFullError):
        with files.told("write", path), open("/dev/full", "w") as stream:
            stream.write("x")
            stream.flush()


UNPRIVILEGED = [sys.executable, str(PROJECT / "tests" / "unprivileged.py")]


def test_settings_that_are_read_only_can_be_read(enroll, serve):
    """78 where a change must be kept; what only reads goes on, with one line at the most."""
    server = serve(site("print(1)"))
    host = enroll(server)
    before = host.settings.read_bytes()
    host.settings.chmod(0o400)
    host.folder.chmod(0o500)

    def run(*words):
        process = subprocess.run(
            [*UNPRIVILEGED, *CLIENT, *words, f"--settings={host.settings}"], env=host.environ,
            capture_output=True, text=True, timeout=60)
        assert process.stderr.count("\n") <= 1, process.stderr
        return process.returncode

    try:
        assert 78 == run("--action=status", f"--url={server.url}")
        assert [0, 0] == [run("--action=commands_list"), run("--action=config")]
        assert before == host.settings.read_bytes()
    finally:
        host.folder.chmod(0o700)


# -- the reference client's INI ----------------------------------------------------------

@pytest.fixture
def ini(tmp_path, serve):
    """The recorded INI with its keys in a folder, for a running server that knows the host."""
    folder = tmp_path / "field"
    shutil.copytree(INI.parent, folder)
    for key in folder.glob("*.pem"):
        key.chmod(0o600)
    recorded = yaml.safe_load((folder / "exchanges.json").read_text())["host"]
    server = serve(site("print(1)"))
    server.state.add_host((folder / "host_public_key.pem").read_text(), recorded["uuid"],
                          recorded["token"])
    path = folder / "settings.ini"
    path.write_text(INI.read_text().replace("http://127.0.0.1:8900/", server.url))
    return path


def test_an_ini_of_the_field_works_without_registering(ini, tmp_path):
    """Keys, UUID, token and endpoints as they stand; the key's path is relative to the file."""
    host = Host(tmp_path)  # which is not the folder of the INI
    host.settings = ini
    before = ini.read_bytes(), sorted(os.listdir(ini.parent))
    listed = host.run("commands_list")
    assert ([{"group": 1, "command": 1}], 0) == (listed.answer["results"], listed.code)
    assert 0 == host.run("host_status").code
    assert 0 == host.run("commands_process", "--dry_run").code
    assert before == (ini.read_bytes(), sorted(os.listdir(ini.parent)))  # who only looked
    assert 0 == host.run("commands_process").code
    assert (before[0], 1) == ((ini.parent / "settings.ini.bak").read_bytes(),
                              yaml.safe_load(ini.read_text())["version"])


def test_reading_an_ini_leaves_it_as_it_is(ini):
    """`config` shows it; not a byte and no file more."""
    before = ini.read_bytes(), sorted(os.listdir(ini.parent))
    shown = inside.run("--action=config", f"--settings={ini}").answer
    assert str(ini.parent / "host_private_key.pem") == shown["options"]["private_key"]["value"]
    assert before == (ini.read_bytes(), sorted(os.listdir(ini.parent)))


def test_the_first_write_turns_an_ini_into_yaml(ini):
    """Under the same path; the old file is beside it as .bak, and all values are kept."""
    before, values = ini.read_bytes(), copy.deepcopy(Settings(ini).document)
    changed(ini, "server", "ca_file", "/a")
    backup = ini.parent / "settings.ini.bak"
    assert before == backup.read_bytes()
    assert 0o600 == stat.S_IMODE(backup.stat().st_mode) == stat.S_IMODE(ini.stat().st_mode)
    values["server"]["ca_file"] = "/a"
    assert {"version": 1, **values} == yaml.safe_load(ini.read_text())
    assert {"private_key", "public_key", "uuid", "token"} == set(values["host"])
    assert 7 == len(values["endpoints"])
    changed(ini, "server", "ca_file", "/b")
    assert before == backup.read_bytes()


@pytest.mark.parametrize("text, url", [
    ("[server]\nserver_url = http://h/%20%(x)s/\n", "http://h/%20%(x)s/"),
    ("[server]\r\nserver_url = http://h/\r\n", "http://h/"),
    ("\ufeff[server]\nserver_url = http://h/\n", "http://h/"),
    ("; made by hand\n\n[server]\nserver_url: http://h/\n", "http://h/"),
    ("[endpoints]\n[server]\nserver_url=http://h/\n", "http://h/"),
])
def test_an_ini_is_known_by_its_sections(path, text, url):
    """No interpolation, any line end, a byte order mark of an editor."""
    path.write_bytes(text.encode())
    assert url == Settings(path).get("server", "url")


@example(8)
@given(st.integers(0, 300))
def test_a_cut_ini_is_settings_or_an_error_and_never_lost(path, cut):
    """Half a file: read as far as it makes sense, or 78; it stays where it is."""
    path.write_bytes(INI.read_bytes()[:cut])
    try:
        Settings(path)
    except SettingsError:
        pass
    assert INI.read_bytes()[:cut] == path.read_bytes()


def test_a_value_that_is_none_of_its_tag_is_told_like_any_mistake():
    """YAML's own reader fails in ways of its own there."""
    for text in (b'a: !!int ""', b"a: !!bool x", b"a: !!timestamp x", b"a: !!float x"):
        with pytest.raises(SettingsError, match="not valid YAML"):
            parse_yaml(text, "path")
