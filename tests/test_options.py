"""actions/options.py: where a value comes from, its type, and no name taken for another."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from remotes.actions import ACTIONS, OPTIONS, option_names
from remotes.actions.options import COMMON, Config, convert, load_config
from remotes.errors import SettingsError, UsageError
from tests import inside
from tests.rude import Rude, answer

EVERY_OPTION = [pytest.param(option, id=option.name) for option in OPTIONS.values()]
SECRET = "a-secret-token-0123456789"


def shown(*words, environ=None):
    """The `options` of the config action."""
    result = inside.run("--action=config", *words, environ=environ)
    assert 0 == result.code, result
    return result.answer["options"]


@pytest.fixture
def place(tmp_path):
    """The options for settings that are not there, and for a config file to be written."""
    return (tmp_path, f"--settings={tmp_path / 'settings.yml'}",
            f"--config={tmp_path / 'config.yml'}")


def write(path, document):
    path.write_text(yaml.safe_dump(document))


# -- precedence ----------------------------------------------------------------------------

def test_each_layer_beats_those_below(place):
    """Command line, then environment, config (for the action, then for all), settings, default."""
    folder, settings, config = place
    assert {"value": None, "from": "default"} == shown(settings)["ca_file"]
    write(folder / "settings.yml", {"server": {"ca_file": "/settings"}})
    assert {"value": "/settings", "from": "settings"} == shown(settings)["ca_file"]
    write(folder / "config.yml", {"options": {"ca_file": "/all"}})
    assert {"value": "/all", "from": "config"} == shown(settings, config)["ca_file"]
    write(folder / "config.yml", {"options": {"ca_file": "/all"},
                                  "actions": {"config": {"ca_file": "/one"}}})
    assert {"value": "/one", "from": "config"} == shown(settings, config)["ca_file"]
    environ = {"REMOTES_CA_FILE": "/environment"}
    assert {"value": "/environment", "from": "environment"} == shown(
        settings, config, environ=environ)["ca_file"]
    assert {"value": "/typed", "from": "command line"} == shown(
        settings, config, "--ca_file=/typed", environ=environ)["ca_file"]


@pytest.mark.parametrize("option", EVERY_OPTION)
def test_every_option_can_be_said_everywhere(place, option):
    """On the command line, in the environment and in the config, with the same result."""
    folder, settings, config = place
    if option.name in ("settings", "config"):
        return  # which say where the others are
    text = {"text": "a text", "path": "/a/path", "seconds": "2.5", "count": "7", "size": "2K",
            "flag": "true", "words": "a word"}.get(option.kind, option.kind[1])
    typed = f"--{option.name}" if option.kind == "flag" else f"--{option.name}={text}"
    write(folder / "config.yml", {"options": {option.name: text}})
    if option.name == "output":
        return  # changes the form of what is looked at here; see test_client.py
    rows = [shown(settings, typed)] if option.is_typed else []
    rows += [shown(settings, config),
             shown(settings, environ={f"REMOTES_{option.name.upper()}": text})]
    assert ["command line", "config", "environment"][-len(rows):] == [
        row[option.name]["from"] for row in rows]
    assert 1 == len({repr(row[option.name]["value"]) for row in rows})
    if option.is_secret:
        assert "********" == rows[0][option.name]["value"]


def test_settings_and_config_are_found_by_the_environment(place):
    """$REMOTES_SETTINGS and $REMOTES_CONFIG; the command line beats them; -S is short."""
    folder, settings, config = place
    write(folder / "config.yml", {"options": {"interval": 7}})
    environ = {"REMOTES_SETTINGS": str(folder / "settings.yml"),
               "REMOTES_CONFIG": str(folder / "config.yml")}
    result = inside.run("--action=config", environ=environ).answer
    assert [str(folder / "settings.yml"), str(folder / "config.yml"), 7.0] == [
        result["settings"]["path"], result["config"]["path"],
        result["options"]["interval"]["value"]]
    result = inside.run("--action=config", "-S", folder / "other.yml", environ=environ).answer
    assert str(folder / "other.yml") == result["settings"]["path"]


def test_a_config_that_is_named_must_be_there(place):
    """78, wherever it was named."""
    folder, settings, config = place
    for result in (inside.run("--action=config", settings, config), inside.run(
            "--action=config", settings, environ={"REMOTES_CONFIG": str(folder / "config.yml")})):
        assert (78, 1) == (result.code, result.err.count("\n"))
        assert str(folder / "config.yml") in result.err


# -- names -----------------------------------------------------------------------------------

def test_hyphens_are_accepted_in_names_and_left_in_values(place):
    """--http-timeout is --http_timeout; what stands after = is not touched."""
    folder, settings, config = place
    options = shown(settings, "--http-timeout=3", "--private-key=/a-b/c-d", "--dry-run")
    assert [3.0, "/a-b/c-d", True] == [options[name]["value"] for name in (
        "http_timeout", "private_key", "dry_run")]


@pytest.mark.parametrize("word, said", [
    ("--http_timeou=3", "did you mean --http_timeout?"), ("--sett=/a", "--sett;"),
    ("--tokn=x", "did you mean --token?"), ("--forc", "did you mean --force?"),
    ("stray", "unknown argument stray"), ("-x", "unknown argument -x"),
    ("--force=yes", "force"), ("--url", "expected one argument"), ("--zzzzzz", "--zzzzzz"),
])
def test_a_name_that_is_not_known_is_usage(word, said):
    """2; no abbreviations; the nearest name is given where there is one."""
    result = inside.run("--action=config", word)
    assert (2, "usage", 1) == (result.code, result.answer["kind"], result.err.count("\n"))
    assert said in result.err


def test_a_password_cannot_be_typed_where_everybody_sees_it():
    """2 for --password; its value is not repeated, and the way to do it is named."""
    result = inside.run("--action=config", f"--password={SECRET}")
    assert 2 == result.code and "--password_file" in result.err
    assert SECRET not in result.out + result.err


def test_several_words_stand_after_one_option_or_after_several(place):
    """--id 1 2 --id=Home: three of them."""
    _, settings, _ = place
    for words in (("--id", "1", "2", "--id=Home"), ("--id=1", "2", "Home"),
                  ("--id=1", "--id", "2", "Home"), ("--id=1", "2", "--lines=3", "--id=Home")):
        assert ["1", "2", "Home"] == shown(settings, *words)["id"]["value"]
    assert ["-x"] == shown(settings, "--path=-x")["path"]["value"]


def test_no_abbreviation_of_any_option_is_taken():
    """Not a single one, even where it is unique."""
    for name in OPTIONS:
        for cut in range(1, len(name)):
            if name[:cut] not in OPTIONS and name[:cut] != "help"[:cut]:
                assert 2 == inside.run("--action=config", f"--{name[:cut]}=1").code, name[:cut]


@pytest.mark.parametrize("words, said", [
    ((), "say what to do"), (("--action=comands_list",), "did you mean commands_list?"),
    (("--action=",), "unknown action"), (("--action",), "expected one argument"),
    (("--action=zzz", "--help"), "unknown action zzz"),
])
def test_an_action_that_is_not_known_is_usage(words, said):
    """2, with the nearest name."""
    result = inside.run(*words)
    assert (2, 1) == (result.code, result.err.count("\n"))
    assert said in result.err


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_an_option_that_an_action_does_not_take_is_usage(action):
    """Each of them, for each action: 2, and the message names both."""
    for name in set(OPTIONS) - set(option_names(action)):
        if not OPTIONS[name].is_typed:
            continue
        typed = f"--{name}" if OPTIONS[name].kind == "flag" else f"--{name}=1"
        result = inside.run(f"--action={action.name}", typed)
        assert (2, f"--action={action.name} takes no --{name}") == (
            result.code, result.answer["message"])


@pytest.mark.parametrize("action", [action for action in ACTIONS.values() if action.needs],
                         ids=lambda action: action.name)
def test_an_option_that_an_action_needs_is_asked_for(action, tmp_path):
    """2, and all that are missing are named at once."""
    result = inside.run(f"--action={action.name}", f"--settings={tmp_path / 's.yml'}")
    assert (2, 1) == (result.code, result.err.count("\n"))
    assert all(f"--{name}" in result.err for name in action.needs)
    assert [] == list(tmp_path.iterdir())


# -- types -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.text(max_size=3), inner, max_size=2), max_leaves=3)


@pytest.mark.parametrize("option", EVERY_OPTION)
@given(value=JSON | st.text("0123456789.-+eEkKmMgGinfaN_ ", max_size=8))
@example(value="-5k")
@example(value="1e400k")
@example(value="nan")
@example(value="/a\0b")
def test_any_value_is_converted_or_usage(option, value):
    """Whatever a command line, an environment or YAML gives: the right type, or UsageError."""
    try:
        converted = convert(option, value, "here")
    except UsageError as error:
        assert str(error).startswith(f"here: {option.name} must be ")
        return
    if option.kind == "words":
        assert converted and all(isinstance(word, str) and word for word in converted)
    elif option.kind in ("text", "path", "answer"):
        assert isinstance(converted, str) and (converted or option.name == "value")
        assert option.kind != "path" or converted.startswith("/") and "\0" not in converted
    elif option.kind == "flag":
        assert converted in (True, False)
    elif option.kind == "seconds":
        assert isinstance(converted, float) and 0 <= converted < 1e10
    elif option.kind in ("count", "size"):
        assert type(converted) is int and converted >= 0
    else:
        assert converted in option.kind


@pytest.mark.parametrize("name, text, value", [
    ("output_limit", "0", 0), ("output_limit", "512K", 524288), ("output_limit", "1.5m", 1572864),
    ("output_limit", "1G", 1 << 30), ("interval", "0.5", 0.5), ("splay", "0", 0.0),
    ("command", "23", 23), ("force", "Yes", True), ("force", "off", False),
    ("private_key", "~root/x", "/root/x"),
])
def test_values_as_people_write_them(name, text, value):
    """Units of size, words for flags, a home folder."""
    assert value == convert(OPTIONS[name], text, "here")


@pytest.mark.parametrize("word", [
    "--http_timeout=soon", "--http_timeout=0", "--http_timeout=-1", "--http_timeout=nan",
    "--interval=0", "--command=1.5", "--command=x", "--output=xml", "--output_limit=-1",
    "--output_limit=1T", "--settings=", "--url=",
])
def test_a_wrong_value_is_usage_on_the_command_line(word):
    """2, and the message says what is wanted."""
    result = inside.run("--action=config", word)
    assert (2, 1) == (result.code, result.err.count("\n"))
    assert "command line: " in result.err and " must be " in result.err


def test_a_wrong_value_in_the_environment_is_usage():
    """2, and the variable is named; an empty one is none."""
    result = inside.run("--action=config", environ={"REMOTES_HTTP_TIMEOUT": "soon"})
    assert 2 == result.code
    assert "$REMOTES_HTTP_TIMEOUT" in result.err


# -- the config file -----------------------------------------------------------------------

@pytest.mark.parametrize("document, said", [
    ({"option": {}}, "unknown section option; did you mean options?"),
    ({"options": {"htp_timeout": 3}}, "unknown option htp_timeout; did you mean http_timeout?"),
    ({"options": {"http-timeout": 3}}, "did you mean http_timeout?"),
    ({"actions": {"new_hots": {}}}, "unknown action new_hots; did you mean new_host?"),
    ({"actions": {"status": {"urll": "x"}}}, "actions: status: unknown option urll"),
    ({"actions": {"status": {"interval": 5}}}, "actions: status: it takes no interval"),
    ({"options": {"settings": "/a"}}, "settings cannot be said here"),
    ({"options": {"http_timeout": "soon"}}, "http_timeout must be a number of seconds"),
    ({"options": {"url": ["a"]}}, "url must be a text"), ({"options": {"force": 5}}, "true or"),
    ({"options": [1]}, "options must be a mapping"), ({"actions": 5}, "actions must be a mapping"),
    ({"actions": {"status": [1]}}, "status must be a mapping"), ([1], "holds a list"),
    ({5: {}}, "unknown section 5"), ({"options": {5: 1}}, "unknown option 5"),
    ({"options": {"private_key": "a\0b"}}, "private_key must be a path"),
], ids=str)
def test_a_config_that_is_wrong_is_78(place, document, said):
    """For each action, not only for the one that it concerns; the owner's file stays."""
    folder, settings, config = place
    write(folder / "config.yml", document)
    before = (folder / "config.yml").read_bytes()
    for action in ("config", "commands_pending"):
        result = inside.run(f"--action={action}", settings, config)
        assert (78, 1) == (result.code, result.err.count("\n")), result
        assert str(folder / "config.yml") in result.err and said in result.err
    assert before == (folder / "config.yml").read_bytes()


@pytest.mark.parametrize("content, said", [
    ("options:\n  url: [\n", "line 3, column 1"),
    ("policy: {tasks: []}\noptions: {}\npolicy: {}\n", "line 3, column 1: policy stands there"),
    ("policy:\n  tasks:\n  - {deny: get, deny: run}\n", "line 3, column 17: deny stands there"),
])
def test_a_config_that_is_no_yaml_names_line_and_column(place, content, said):
    """78, like settings; nor does a name stand twice in it, of which YAML would lose one."""
    folder, settings, config = place
    (folder / "config.yml").write_text(content)
    result = inside.run("--action=config", settings, config)
    assert (78, 1) == (result.code, result.err.count("\n"))
    assert f"{folder / 'config.yml'} is not valid YAML: {said}" in result.err


@pytest.mark.parametrize("document", [
    None, {"options": None, "actions": None, "policy": None}, {"actions": {"config": None}},
], ids=str)
def test_an_empty_section_of_a_config_is_one_without_values(place, document):
    """As it is left when everything in it is commented out."""
    folder, settings, config = place
    write(folder / "config.yml", document)
    assert "default" == shown(settings, config)["interval"]["from"]


@given(JSON | st.dictionaries(
    st.sampled_from(["options", "actions", "policy", "other"]), st.dictionaries(
        st.sampled_from([*OPTIONS, *ACTIONS]) | st.integers(), JSON, max_size=3), max_size=3))
def test_any_config_is_taken_or_78(document):
    """Whatever YAML can hold."""
    if not isinstance(document, dict):
        return
    try:
        Config("config.yml", document, ACTIONS)
    except SettingsError as error:
        assert "config.yml" in str(error)


def test_every_option_of_every_action_can_stand_in_its_section(tmp_path):
    """`actions: NAME:` takes what the action takes."""
    values = {"text": "x", "path": "/x", "seconds": 1, "count": 1, "size": 1, "flag": True,
              "words": ["x", "y"]}
    for action in ACTIONS.values():
        own = {name: values.get(OPTIONS[name].kind, OPTIONS[name].kind[0])
               for name in option_names(action) if name not in ("settings", "config")}
        write(tmp_path / "config.yml", {"actions": {action.name: own}})
        config = load_config(str(tmp_path / "config.yml"), ACTIONS)
        assert set(own) == set(config.for_action(action.name))


# -- the registration token ----------------------------------------------------------------

@pytest.mark.parametrize("typed, environ, options, expected", [
    (["--token=typed"], {"REMOTES_TOKEN": "environment"}, {"token": "config"}, "typed"),
    ([], {"REMOTES_TOKEN": "environment"}, {"token": "config"}, "environment"),
    ([], {}, {"token": "config"}, "config"),
    (["--token_file=FILE"], {"REMOTES_TOKEN": "environment"}, {}, "from-the-file"),
    ([], {"REMOTES_TOKEN_FILE": "FILE"}, {"token": "config"}, "from-the-file"),
    ([], {}, {"token_file": "FILE"}, "from-the-file"),
    ([], {"REMOTES_TOKEN": "environment"}, {"token_file": "FILE"}, "environment"),
])
def test_the_token_need_not_stand_on_a_command_line(place, key_pem, typed, environ, options,
                                                    expected):
    """From $REMOTES_TOKEN, a file or the config: what is said first counts."""
    folder, settings, config = place
    (folder / "token").write_text("from-the-file\n")
    (folder / "key").write_text(key_pem[0])
    (folder / "key").chmod(0o600)

    def filled(text):
        return str(folder / "token") if text == "FILE" else text

    with Rude(answer(401, {"detail": "Invalid token."})) as server:
        write(folder / "settings.yml", {
            "host": {"private_key": str(folder / "key")}, "server": {"url": server.url},
            "endpoints": {"host_register": "/register/"}})
        write(folder / "config.yml", {"options": {
            name: filled(value) for name, value in options.items()}})
        result = inside.run(
            "--action=host_register", settings, config,
            *(word.replace("FILE", str(folder / "token")) for word in typed),
            environ={name: filled(value) for name, value in environ.items()})
        assert 12 == result.code
        assert [f"Token {expected}"] == [
            request.headers["authorization"] for request in server.requests]
        assert expected not in result.out + result.err or expected == "config"


@pytest.mark.parametrize("content, said", [
    (None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "no text"),
])
def test_a_token_file_without_a_token_is_78(place, content, said):
    """One line that names the file."""
    folder, settings, config = place
    if content is not None:
        (folder / "token").write_bytes(content)
    result = inside.run("--action=host_verify", settings, f"--token_file={folder / 'token'}")
    assert (78, 1) == (result.code, result.err.count("\n"))
    assert str(folder / "token") in result.err and said in result.err


def test_config_shows_no_secret(place):
    """Masked wherever they come from: command line, environment, config, settings."""
    folder, settings, config = place
    write(folder / "config.yml", {"options": {"token": SECRET},
                                  "actions": {"new_host": {"token": SECRET}, "status": None}})
    write(folder / "settings.yml", {"host": {"token": SECRET, "uuid": SECRET}})
    for words in ((), ("--output=yaml",), ("--output=table",), ("--debug",)):
        for typed in ((), (f"--token={SECRET}",)):
            result = inside.run("--action=config", settings, config, *words, *typed,
                                environ={"REMOTES_TOKEN": SECRET})
            assert 0 == result.code
            assert SECRET not in result.out + result.err


def test_common_options_are_taken_by_every_action():
    """The ten of the table."""
    assert all(set(COMMON) <= set(option_names(action)) for action in ACTIONS.values())


@pytest.mark.parametrize("token", ["# a note\nneedle", "needle\rx", "the needle",
                                   "日本-needle", "needle\x00"])
def test_a_token_that_cannot_travel_is_refused_and_not_shown(tmp_path, token):
    """78 before anything is sent; not a word of it in stdout, stderr or --debug."""
    path = tmp_path / "token"
    path.write_text(token)
    words = ["--action=host_register", f"--settings={tmp_path / 'settings.yml'}", "--debug"]
    for result in (inside.run(*words, f"--token_file={path}"),
                   inside.run(*words, f"--token={token}")):
        assert 78 == result.code
        assert "needle" not in result.out + result.err and "日" not in result.out + result.err
