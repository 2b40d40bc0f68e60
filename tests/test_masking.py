"""masking.py, secret_texts.py: no secret is shown, and each can be put back."""

import copy
import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remotes.duplicati.masking import (
    STARS,
    is_placeholder,
    is_secret_name,
    masked,
    masked_text,
    placeholders,
    restored,
    secrets_of,
)
from remotes.errors import ForeignServerError, RefusedError

SECRET_NAMES = [
    "passphrase", "--passphrase", "auth-password", "authid", "aws-secret-access-key",
    "aws_secret_access_key", "azure-access-key", "access-sas-token", "b2-applicationkey",
    "cos-secret-key", "oss-access-key-secret", "openstack-apikey", "storj-api-key",
    "storj-secret", "sia-password", "ssh-key", "send-mail-password", "send-xmpp-password",
    "send-telegram-api-key", "new-passphrase", "secret-provider", "webservice-password",
    "webservice-pre-auth-tokens", "webservice-sslcertificatepassword", "settings-encryption-key",
    "auth-two-factor-key", "two-factor", "server-passphrase", "server-passphrase-salt",
    "server-passphrase-trayicon", "server-passphrase-trayicon-hash", "jwt-config", "pbkdf-config",
    "remote-control-config", "client-license-key", "session-auth", "AccessToken", "RefreshNonce",
    "SigninToken", "socketToken", "Token", "Nonce", "Salt", "Password", "RefreshToken_8200",
    "AccountKey", "ApiKey", "access_key_secret", "gcs-private-key", "ftp-pass",
]
OPEN_NAMES = [
    "s3-storage-class", "use-ssl", "auth-username", "aws-access-key-id", "b2-accountid",
    "secret-provider-pattern", "secret-provider-cache", "encryption-module", "dblock-size",
    "keep-time", "keep-versions", "ssh-keyfile", "webservice-token-duration", "pass-command",
    "Key", "UrlKey", "ReportedHostKey", "ssh-host-key", "Name", "Value", "Hash", "TaskID",
    "HelpId", "StatusCode", "password_file", "passphrase-file", "MessageLogTag", "Expression",
    "PasswordPlaceholder", "block-hash-algorithm", "compression-module", "key-size", "encrypted",
    "DisplayNames", "Tags", "Sources", "monkey-patch", "SecretProviderModules", "",
]
# A secret never looks like what surrounds it, and is long enough to be looked for.
secret = st.text("abcXYZ019", min_size=5).map(lambda text: "5ecret" + text)
spaced = st.lists(secret, min_size=1, max_size=3).map(" ".join)


def documents_with(hidden):
    """(document, ) shapes in which servers and people write the secret `hidden`."""
    return [
        {"Settings": [{"Filter": "", "Name": "passphrase", "Value": hidden, "Argument": None}]},
        {"Settings": {"--auth-password": hidden, "keep-versions": "5"}},
        {"Backup": {"TargetURL": f"s3://bucket/x?auth-username=ann&auth-password={hidden}&a=b"}},
        {"Backup": {"TargetURL": f"webdavs://ann:{hidden}@host:443/folder?use-ssl=true"}},
        {"AdditionalTargetURLs": [{"UrlKey": "a", "TargetUrl": f"b2://x?b2-applicationkey={hidden}",
                                   "Options": {"auth-password": hidden}}]},
        {"Sources": ["/home/", f"@/mail|imap://host?auth-password={hidden}"]},
        {"DisplayNames": {f"@/mail|imap://host?auth-password={hidden}": "mail"}},
        {"Options": ["--a=b", f"--passphrase={hidden}"]},
        {"Command": f'duplicati-cli backup "file:///x?auth-password={hidden}&c=d" /home/'
                    f' --passphrase="{hidden}" --keep-versions=5'},
        {"server-passphrase": hidden, "server-passphrase-salt": hidden, "jwt-config": hidden},
        {"--send-mail-password": hidden, "startup-delay": "0s"},
        {"webservice-pre-auth-tokens": [hidden, hidden]},
        {"Message": json.dumps({"Settings": [{"Name": "passphrase", "Value": hidden}]})},
        {"Message": json.dumps({"Messages": [json.dumps({"AccessToken": hidden})]})},
        [[{"name": "server-passphrase", "value": hidden}]],
    ]


@given(spaced)
def test_no_secret_is_shown_wherever_it_stands(hidden):
    """The secret is nowhere in the masked document, is found, and all else is as it was."""
    for document in documents_with(hidden):
        before = copy.deepcopy(document)
        shown = masked(document)
        assert "5ecret" not in json.dumps(shown)
        assert {hidden} == secrets_of(document)
        assert document == before
        assert json.dumps(shown) == json.dumps(document).replace(
            hidden, STARS) or "Message" in json.dumps(document)


@given(secret)
def test_no_secret_is_shown_in_the_middle_of_a_line(hidden):
    """Log lines and error messages: URLs, options, pairs, headers, JSON."""
    for line in [
        f"cannot reach ftp://ann:{hidden}@host/x: refused",
        f"2026-01-01 12:00 - [Error]: https://host/x?token={hidden} answered 403",
        f"started with --passphrase={hidden} --keep-versions=5",
        f"started with '--passphrase={hidden}'",
        f'arguments: "--auth-password={hidden}", "x"',
        f"DefaultEndpointsProtocol=https;AccountKey={hidden}",
        f"sent Authorization: Bearer {hidden}, and was refused",
        f'the answer was {{"AccessToken": "{hidden}", "RefreshNonce":"{hidden}"}}',
        f"@/mail|imap://host?auth-password={hidden}",
        f"https://a?x=1 --passphrase={hidden}",
        f"two: s3://a?auth-password={hidden} s3://b?auth-password={hidden}",
    ]:
        assert "5ecret" not in masked_text(line), line
        assert STARS in masked_text(line)


@pytest.mark.parametrize("password", ["p@ss", "pa/ss", "pa?ss", "p#s", "1234", "a:b", "x y"])
def test_a_password_that_was_not_escaped_is_masked_as_a_whole(password):
    """Before the last @ all is password."""
    assert f"ftp://ann:{STARS}@host/x" == masked_text(f"ftp://ann:{password}@host/x")


@pytest.mark.parametrize("text", [
    "http://host:8200/ann@example.com", "file:///a/b:c@d", "http://[::1]:8200/", "a@b:c",
    "https://host/x?use-ssl=true&a=b", "12:30 --keep-versions=5", "s3://bucket?s3-storage-class=X",
    "Basic things", "the token is old", "passphrase", "a = b", "--no-encryption=true",
])
def test_what_is_no_secret_is_left_as_it_is(text):
    """Nothing is masked that merely looks a little like it."""
    assert text == masked_text(text)
    assert {"Description": text} == masked({"Description": text})


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_name_is_known(name):
    """Options of type Password in the catalogues, and what the servers mask or hide."""
    assert is_secret_name(name)
    assert {name: STARS} == masked({name: "some secret"})


@pytest.mark.parametrize("name", OPEN_NAMES)
def test_an_open_name_is_no_secret(name):
    """Names that contain key, pass, secret or token, and hold none."""
    assert not is_secret_name(name)


@pytest.mark.parametrize("name, value", [
    ("client-license-key", "True"), ("server-ssl-certificate", "False"),
    ("autogenerated-passphrase", "True"), ("disable-signin-tokens", ""),
    ("has-asked-for-password-protection", "true"), ("webservice-enable-forever-token", "true"),
    ("force-passphrase-from-stdin", "1"), ("passphrase", ""), ("passphrase", None),
    ("IsUnencryptedOrPassphraseStored", True), ("use-token", False),
])
def test_a_switch_is_shown(name, value):
    """True and False in place of a secret, empty texts, and switches that name one."""
    assert {name: value} == masked({name: value})


def test_a_switch_that_holds_something_else_is_masked():
    """A password in the wrong place is a password."""
    assert {"force-passphrase-from-stdin": STARS} == masked({"force-passphrase-from-stdin": "pw"})
    assert {"auth-password": STARS} == masked({"auth-password": "true"})
    assert {"pin-password": STARS} == masked({"pin-password": 1234})


@pytest.mark.parametrize("text, is_one", [
    ("*" * 15, True), ("*" * 10, True), ("****", True), ("***", False), ("", False),
    ("***** *", False), ("**** ", False), (None, False), (5, False), (["****"], False)])
def test_a_placeholder_is_more_than_three_stars_and_nothing_else(text, is_one):
    """15 stars of today's servers, 10 of the old ones."""
    assert is_one is is_placeholder(text)


@pytest.mark.parametrize("part", [
    '"', "a", "\\", '\\"', '"a":"', "a=b ", "a://b ", "a://", "x=y&", "@", '\\"a\\":\\"', "eyJ",
    '"Name":"a","Value":"', "--a='", "Bearer ", "http://u:", ":/", ".", "****", "a://b?c=",
])
def test_no_text_takes_long(part):
    """A hundred thousand of anything: no recursion, and nothing that grows with its square."""
    text = "a://b?c=d " + part * (100_000 // len(part)) + "=x"
    began = time.process_time()
    assert "5ecret" not in masked_text(text + " auth-password=5ecret")
    assert time.process_time() - began < 5


def test_a_document_that_is_nested_without_end_is_an_error_of_ours():
    """No traceback, however deep a server's answer is."""
    document = "x"
    for _ in range(5000):
        document = [document]
    with pytest.raises(ForeignServerError):
        masked(document)


# -- any JSON at all ---------------------------------------------------------------------------

hints = st.sampled_from([
    "://", "?", "&", "=", "@", ":", '"', "'", "\\", '\\"', " ", "|", "-", "--", "*", "****", STARS,
    "passphrase", "password", "x", "Name", "Value", "Bearer ", "eyJabcdefgh.a.b", "s3", "key",
    '"Name":"passphrase","Value":"', "\n", "true", ";", "{", "}", ",", "auth-password=", "#"])
texts = st.one_of(st.text(), st.lists(hints, max_size=9).map("".join))
names = st.one_of(st.sampled_from([*SECRET_NAMES, *OPEN_NAMES, "Settings", "value", "ID"]), texts)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4),
        st.fixed_dictionaries({"Name": names, "Value": inner}),
        st.lists(st.fixed_dictionaries({"Name": names, "Value": texts}), max_size=4)),
    max_leaves=12)


@settings(max_examples=500)
@given(texts)
@example('Bearer Bearer ************')
def test_masking_a_text_twice_masks_it_once(text):
    """Idempotent."""
    once = masked_text(text)
    assert once == masked_text(once)


@settings(max_examples=300)
@given(json_values)
def test_masking_any_document_twice_masks_it_once(document):
    """Idempotent, and what is left holds no secret."""
    once = masked(document)
    assert once == masked(once)
    assert set() == secrets_of(once)


@settings(max_examples=300)
@given(json_values)
def test_what_was_masked_can_be_put_back_whole(document):
    """restored(masked(x), x) == x, for any JSON, names twice over, clear or masked."""
    before = json.dumps(document)
    assert before == json.dumps(restored(masked(document), document))


# -- putting back ------------------------------------------------------------------------------

ORIGINAL = {
    "Backup": {"Name": "Home", "TargetURL": "s3://b/x?auth-username=a&auth-password=5ecret",
               "Sources": ["/home/", "@/a|x://h?auth-password=1", "@/b|x://h?auth-password=2"],
               "AdditionalTargetURLs": [
                   {"UrlKey": "one", "TargetUrl": "ftp://u:first@h/"},
                   {"UrlKey": "two", "TargetUrl": "ftp://u:second@h/"}]},
    "Settings": [{"Name": "passphrase", "Value": "A"}, {"Name": "x-password", "Value": "B"}],
}


def test_an_edit_beside_a_secret_keeps_it():
    """A URL whose path was changed; a list that lost an item; a list in another order."""
    edited = masked(ORIGINAL)
    edited["Backup"]["TargetURL"] = edited["Backup"]["TargetURL"].replace("/x", "/y")
    edited["Backup"]["Sources"].pop(1)
    edited["Backup"]["AdditionalTargetURLs"].reverse()
    edited["Settings"].reverse()
    backup = restored(edited, ORIGINAL)["Backup"]
    assert "s3://b/y?auth-username=a&auth-password=5ecret" == backup["TargetURL"]
    assert ["two", "one"] == [item["UrlKey"] for item in backup["AdditionalTargetURLs"]]
    assert ["ftp://u:second@h/", "ftp://u:first@h/"] == [
        item["TargetUrl"] for item in backup["AdditionalTargetURLs"]]
    assert ["B", "A"] == [item["Value"] for item in restored(edited, ORIGINAL)["Settings"]]
    assert "/home/" == backup["Sources"][0]


def test_a_new_secret_goes_through():
    """What is no placeholder is what the user wrote."""
    edited = masked(ORIGINAL)
    edited["Settings"][0]["Value"] = "new"
    edited["Backup"]["TargetURL"] = "s3://b/x?auth-username=a&auth-password=new"
    found = restored(edited, ORIGINAL)
    assert "new" == found["Settings"][0]["Value"]
    assert "s3://b/x?auth-username=a&auth-password=new" == found["Backup"]["TargetURL"]


def test_what_a_server_has_masked_stays_masked():
    """Servers from 2.3.0 on restore their own placeholders."""
    hidden = masked(ORIGINAL)
    assert hidden == restored(masked(hidden), hidden)
    hidden["Settings"][0]["Value"] = "*" * 10
    assert hidden == restored(masked(hidden), hidden)


@pytest.mark.parametrize("edited", [
    {"Settings": [{"Name": "auth-password", "Value": STARS}]},
    {"Settings": [{"Name": "passphrase", "Value": "A"}], "passphrase": "*****"},
    {"Backup": {"TargetURL": f"s3://b/x?auth-username=a&other-password={STARS}"}},
    {"Backup": {"TargetURL": f"s3://u:{STARS}@b/x"}},
    {"Backup": {"Sources": [f"@/c|x://h?password={STARS}"]}},
])
def test_a_placeholder_that_stands_for_nothing_is_refused(edited):
    """It would become the secret itself on servers before 2.3."""
    with pytest.raises(RefusedError, match="stars in place of a secret"):
        restored(edited, ORIGINAL)


def test_placeholders_are_found_by_their_paths():
    """For messages that say where to write a secret."""
    document = masked({"Settings": {"passphrase": "a", "x": "****"}, "Name": "****",
                       "TargetURL": "s3://b?auth-password=x", "List": [{"Name": "passphrase",
                                                                        "Value": "x"}]})
    assert ["Settings.passphrase", "TargetURL", "List.0.passphrase"] == placeholders(document)
