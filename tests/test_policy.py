"""policy.py: the first rule that matches decides, else the table; a slip in a rule is an error."""

import os
import stat
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotes import policy
from remotes.errors import SettingsError
from remotes.operations import OPERATIONS
from remotes.policy import Policy, Rule

NOON = datetime(2026, 8, 22, 12)
# The protocol page's table, its last column.
ALLOWED = {"list", "get", "describe", "logs", "status", "versions", "files", "run", "verify",
           "abort"}
REFUSED = {"pause", "resume", "compact", "vacuum", "repair", "edit", "create", "update", "delete",
           "export", "restore", "dismiss"}
TEXT_OR_BAD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([*OPERATIONS, "all", "export_passwords", "backup", "22:00-06:00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3), max_leaves=4)


def rules(*listed):
    return Policy.read({"tasks": list(listed)})


def judge(host_policy, operation, *, of_type="backup", ids=("3",), name="Docs", now=NOON,
          passwords=False):
    return host_policy.verdict(operation, of_type, ids, name, now, passwords)


def told(section, where="/etc/config.yml"):
    """The one line that says what is wrong with a policy."""
    with pytest.raises(SettingsError) as caught:
        Policy.read(section, where)
    assert 1 == len(str(caught.value).splitlines())
    return str(caught.value)


# -- verdicts ------------------------------------------------------------------------------

@pytest.mark.parametrize("section", [None, {}, {"tasks": None}, {"tasks": []}])
def test_without_rules_the_table_decides(section):
    """Each operation is allowed or refused as on the page, and what is refused says so."""
    host_policy = Policy.read(section)
    assert set(OPERATIONS) == ALLOWED | REFUSED
    for operation in OPERATIONS:
        found = judge(host_policy, operation)
        assert (operation in ALLOWED, "by default") == (found.is_allowed, found.rule)
    assert "allowed by default" == judge(host_policy, "run").message
    assert "refused by default: edit is refused unless a rule allows it" == \
        judge(host_policy, "edit").message


def test_the_first_rule_that_matches_decides():
    """Whatever stands below, and whatever does not match above."""
    host_policy = rules({"deny": "run", "types": ["backup"], "ids": 4},
                        {"allow": ["delete", "edit"], "names": "Docs"},
                        {"deny": "all", "reason": "not on\n this host"}, {"allow": "all"})
    assert "allowed by rule 2 (allow delete, edit)" == judge(host_policy, "edit").message
    found = judge(host_policy, "run", ids=("4",))
    assert (False, "rule 1 (deny run)", "", "refused by rule 1 (deny run)") == (*found,
                                                                                found.message)
    assert "refused by rule 3 (deny all): not on this host" == judge(host_policy, "get").message


@pytest.mark.parametrize("rule, matching, other", [
    ({"names": "Docs"}, {"name": "Docs"}, {"name": "docs"}),
    ({"names": ["A", "Docs"]}, {"name": "Docs"}, {"name": None}),
    ({"ids": 3}, {"ids": ("3",)}, {"ids": ("33",)}),
    ({"ids": ["03", 5]}, {"ids": ("3",)}, {"ids": ()}),
    ({"ids": 3}, {"ids": ("03",)}, {"ids": ("30",)}),
    ({"ids": ["uuid-1"]}, {"ids": ("3", "uuid-1")}, {"ids": ("3",)}),
    ({"types": "database"}, {"of_type": "database"}, {"of_type": "backup"}),
    ({"types": ["backup", "notification"]}, {"of_type": "notification"}, {"of_type": "database"}),
    ({"types": "backup", "ids": 3, "names": "Docs"}, {}, {"name": "Other"}),
    ({"types": "backup", "ids": 3, "names": "Docs"}, {}, {"ids": ("4",)}),
    ({"types": "backup", "ids": 3, "names": "Docs"}, {}, {"of_type": "database"}),
    ({}, {"of_type": None, "ids": (), "name": None}, {}),
])
def test_a_rule_matches_by_all_that_it_gives(rule, matching, other):
    """One of each: type, ID, name. What is not known matches no rule that looks at it."""
    host_policy = rules({"allow": "delete", **rule})
    assert judge(host_policy, "delete", **matching).is_allowed
    assert (not rule) == judge(host_policy, "delete", **other).is_allowed


@pytest.mark.parametrize("name", [
    "Caf\u00e9", "Cafe\u0301", "caf\u00e9", "CAFE\u0301", " Caf\u00e9\t",
    "\U0001d402af\u00e9\u00a0",
], ids=ascii)
def test_a_name_is_denied_however_it_is_written_and_allowed_as_it_stands(name):
    """Else what is called nearly the same slips by the one, and is let in by the other."""
    for said in ("Caf\u00e9", "cafe\u0301 "):
        deny = rules({"deny": "run", "names": ["Docs", said]})
        assert not judge(deny, "run", name=name).is_allowed
        assert judge(deny, "run", name="Cafe").is_allowed
        assert judge(deny, "run", name=None).is_allowed
        allow = rules({"allow": "edit", "names": said})
        assert (name == said) == judge(allow, "edit", name=name).is_allowed


@pytest.mark.parametrize("hours, inside, outside", [
    ("22:00-06:00", ["22:00:00", "23:59:59", "00:00:00", "05:59:59"],
     ["21:59:59", "06:00:00", "12:00:00"]),
    ("9:00 - 17:30", ["09:00:00", "17:29:59"], ["08:59:59", "17:30:00", "00:00:00"]),
    ("18:00-24:00", ["18:00:00", "23:59:59"], ["17:59:59", "00:00:00"]),
    ("18:00-00:00", ["18:00:00", "23:59:59"], ["17:59:59", "00:00:00"]),
    ("00:00-24:00", ["00:00:00", "23:59:59"], []),
])
def test_hours_hold_their_start_and_not_their_end(hours, inside, outside):
    """Over midnight, too; the clock of this host counts, whatever its zone."""
    host_policy = rules({"allow": "restore", "hours": hours})
    for clock, is_allowed in [(one, True) for one in inside] + [(one, False) for one in outside]:
        now = datetime.fromisoformat(f"2026-08-22T{clock}.999999")
        for moment in (now, now.replace(tzinfo=timezone.utc)):
            assert is_allowed == judge(host_policy, "restore", now=moment).is_allowed, clock


@given(st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 1439))
def test_a_span_and_the_rest_of_the_day_are_apart(first, after, minute):
    """Each minute is in one of the two, unless the ends are one."""
    if first == after:
        return
    now = datetime(2026, 8, 22, *divmod(minute, 60))
    spans = [f"{one // 60:02}:{one % 60:02}-{two // 60:02}:{two % 60:02}"
             for one, two in ((first, after), (after, first))]
    within = [judge(rules({"allow": "edit", "hours": span}), "edit", now=now).is_allowed
              for span in spans]
    assert [False, True] == sorted(within)
    assert within[0] == ((minute - first) % 1440 < (after - first) % 1440)


def test_all_means_every_operation_of_the_table():
    """It allows what is refused by default, too."""
    host_policy = rules({"allow": "all"})
    assert {True} == {judge(host_policy, operation).is_allowed for operation in OPERATIONS}


@pytest.mark.parametrize("rule", [
    {"deny": "all", "names": "Docs"}, {"deny": "all", "ids": 3, "types": ["backup", "task"]},
    {"deny": ["delete", "get"], "types": ["backup", "database"], "names": "Docs", "ids": 3},
    {"deny": ["abort", "get"], "ids": 3}, {"deny": ["export_passwords", "get"], "names": "Docs"},
])
def test_a_rule_that_can_match_is_taken(rule):
    """`all` with names means those that have one; a task and a notification have an ID."""
    assert "rule 1" in judge(rules(rule), "get").rule


@pytest.mark.parametrize("listed, is_allowed, message", [
    ([], False, "refused by default: export_passwords is refused unless a rule allows it, and so"
                " is export"),
    ([{"deny": "export_passwords"}], False, "refused by rule 1 (deny export_passwords)"),
    ([{"allow": "all"}], False,
     "refused by default: passwords are refused unless a rule allows export_passwords"),
    ([{"allow": "export_passwords"}], False,
     "refused by default: export is refused unless a rule allows it"),
    ([{"deny": "export"}, {"allow": ["export", "export_passwords"]}], False,
     "refused by rule 1 (deny export)"),
    ([{"deny": "export_passwords", "reason": "never"}, {"allow": ["export", "export_passwords"]}],
     False, "refused by rule 1 (deny export_passwords): never"),
    ([{"allow": "all"}, {"allow": "export_passwords", "names": "Other"}], False,
     "refused by default: passwords are refused unless a rule allows export_passwords"),
    ([{"allow": "all"}, {"allow": "export_passwords", "names": "Docs"}], True,
     "allowed by rule 2 (allow export_passwords)"),
])
def test_passwords_leave_only_by_a_rule_of_their_own(listed, is_allowed, message):
    """And only if the export itself is allowed; a rule of theirs allows no export by itself."""
    host_policy = rules(*listed)
    found = judge(host_policy, "export", passwords=True)
    assert (is_allowed, message) == (found.is_allowed, found.message)
    has_export = any("all" in str(rule) or "'export'" in str(rule.get("allow")) for rule in listed)
    is_denied = bool(listed) and listed[0].get("deny") == "export"
    if not has_export or is_denied:
        assert not judge(host_policy, "export").is_allowed


def test_a_policy_says_whether_it_looks_at_ids_or_names():
    """Then the caller must know both before it asks."""
    assert [False, False, True, True] == [
        rules(*listed).needs_names for listed in
        ([], [{"deny": "run", "types": "backup", "hours": "1:00-2:00"}],
         [{"allow": "all"}, {"deny": "run", "names": "Docs"}], [{"deny": "run", "ids": 3}])]


# -- slips in rules ------------------------------------------------------------------------

@pytest.mark.parametrize("rule, part", [
    ({"deny": "delet"}, "deny: unknown operation delet; did you mean delete?"),
    ({"deny": ["run", "export_password"]}, "did you mean export_passwords?"),
    ({"allow": "run", "name": "Docs"}, "unknown name name; did you mean names?"),
    ({True: "run"}, "unknown name True"),
    ({"allow": "run", "types": "backups"}, "run takes backup"),
    ({"allow": "delete", "types": ["backup", "databas"]}, "types: unknown type databas; did you"),
    ({"allow": "delete", "types": ["backup", "databases"]}, "none of its operations takes databas"),
    ({"allow": ["run", "dismiss"], "types": "backup"}, "dismiss takes notification"),
    ({"deny": ["delete", "create"], "types": "backup"}, "create names no resource"),
    ({"deny": "create", "names": "Docs"}, "create names nothing that has an ID or a name"),
    ({"deny": "list", "ids": 3}, "list names nothing that has an ID or a name"),
    ({"deny": "abort", "names": "X"}, "abort names nothing that has a name"),
    ({"deny": ["run", "dismiss"], "names": "X"}, "dismiss names nothing that has a name"),
    ({"deny": "delete", "types": "notification", "names": "X"}, "a notification has no name"),
    ({"deny": "all", "types": ["backup", "task"], "names": "X"}, "types: a task has no name"),
    ({"deny": "all", "types": "backups", "names": "X"}, "backups has neither an ID nor a name"),
    ({"deny": "all", "types": ["backup", "systeminfo"], "ids": 3}, "systeminfo has neither"),
    ({}, "either `allow` or `deny`"), ({"allow": "run", "deny": "run"}, "either `allow` or `deny`"),
    ("run", "must be a mapping"), (None, "must be a mapping"),
    ({"allow": []}, "allow must be a text"), ({"allow": None}, "allow must be a text"),
    ({"allow": True}, "allow must be a text"), ({"allow": {"run": 1}}, "allow must be a text"),
    ({"allow": "run", "ids": True}, "ids must be numbers or texts"),
    ({"allow": "run", "ids": []}, "ids must be numbers or texts"),
    ({"allow": "run", "ids": 1.5}, "ids must be numbers or texts"),
    ({"allow": "run", "names": 3}, "names must be a text"),
    ({"allow": "run", "names": [""]}, "names must be a text"),
    ({"allow": "run", "reason": 3}, "reason must be a text"),
    *(({"allow": "run", "hours": hours}, "hours must") for hours in (
        "22:00-22:00", "22-06", "22:00", "24:00-06:00", "22:60-06:00", "22:00-24:01",
        "22:00-06:00:00", "", None, 1320, ["22:00-06:00"])),
])
def test_a_slip_in_a_rule_is_told_with_its_place(rule, part):
    """A rule that would be passed over, or never match, is an error and names the nearest."""
    message = told({"tasks": [{"allow": "run"}, rule]})
    assert message.startswith("/etc/config.yml: policy: tasks: rule 2")
    assert part in message


@pytest.mark.parametrize("section, where, message", [
    ({"task": []}, "/c.yml", "/c.yml: policy: unknown name task; did you mean tasks?"),
    ({"task": []}, None, "policy: unknown name task; did you mean tasks?"),
    ({"tasks": {"allow": "run"}}, None, "policy: tasks must be a list of rules"),
    ([], None, "policy must be a mapping with `tasks`"),
])
def test_a_policy_of_another_form_is_told(section, where, message):
    """With the config's path, if there is one."""
    assert message == told(section, where)


@given(st.dictionaries(st.sampled_from(["allow", "deny", "types", "ids", "names", "hours",
                                        "reason"]), TEXT_OR_BAD, max_size=4) | TEXT_OR_BAD)
def test_any_rule_is_one_or_an_error_of_ours(said):
    """Never another exception; and one that is taken can be asked."""
    try:
        host_policy = Policy.read({"tasks": [said]})
    except SettingsError:
        return
    assert isinstance(host_policy.rules[0], Rule)
    assert judge(host_policy, "run", passwords=True).message


# -- who may write it ----------------------------------------------------------------------

def status_of(mode, owner):
    """The status of a file of that owner."""
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))


@pytest.fixture
def me():
    """The user of this process, who is not root: root puts itself aside for so long."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(4711)
    yield os.geteuid()
    if is_root:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o444])
def test_a_config_of_root_or_of_this_user_is_taken(me, mode):
    """Others may read it."""
    assert policy.check_owner(status_of(mode, 0), "/etc/config.yml") is None
    assert policy.check_owner(status_of(mode, me), "/etc/config.yml") is None


@pytest.mark.parametrize("mode, other, part", [
    (0o600, 1, "belongs to user"), (0o444, 1, "belongs to user"), (0o666, 1, "belongs to user"),
    (0o664, 0, "chmod go-w /etc/config.yml"), (0o620, 0, "can be written by others"),
    (0o602, 0, "can be written by others"), (0o666, 0, "can be written by others"),
])
def test_a_config_that_others_can_write_is_refused(me, mode, other, part):
    """Whoever writes it decides what tasks may do on this host."""
    for owner in [me + other] if other else [0, me]:
        with pytest.raises(SettingsError, match=part) as caught:
            policy.check_owner(status_of(mode, owner), "/etc/config.yml")
        assert str(caught.value).startswith("/etc/config.yml ")
        assert 78 == caught.value.exit_code
