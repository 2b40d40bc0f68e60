"""aescrypt.py: containers that real servers wrote, and that are written here."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotes import aescrypt
from remotes.errors import RemotesError
from tests.conftest import RECORDINGS

FOLDER = RECORDINGS / "duplicati"
FILES = ["exchanges.json", "exchanges-2.3.0.4.json", "exchanges-2.1.0.5.json"]


def recorded(name):
    exchanges = json.loads((FOLDER / name).read_text())["exchanges"]
    found = next(item for item in exchanges if item["name"] == "export encrypted")
    return base64.b64decode(found["response"]["text"].removeprefix("base64:"))


@pytest.mark.parametrize("name", FILES)
def test_what_a_server_has_encrypted_can_be_read(name):
    """The recorded exports: JSON, with the secrets of the backup."""
    plain = json.loads(aescrypt.decrypt(recorded(name), "secret", "x"))
    assert "Home" == plain["Backup"]["Name"]
    assert "pass phrase" in [item["Value"] for item in plain["Backup"]["Settings"]]


@settings(max_examples=25)
@given(st.binary(max_size=70), st.text(max_size=8).filter(lambda text: text.isprintable()))
def test_what_is_encrypted_here_can_be_read(plain, passphrase):
    """Any length, to the byte, with any passphrase; each time otherwise."""
    content = aescrypt.encrypt(plain, passphrase)
    assert aescrypt.is_container(content)
    assert plain == aescrypt.decrypt(content, passphrase, "x")
    assert content != aescrypt.encrypt(plain, passphrase)


def test_a_wrong_passphrase_is_told():
    """Before anything is decrypted."""
    with pytest.raises(RemotesError, match="x cannot be decrypted: the passphrase is another"):
        aescrypt.decrypt(aescrypt.encrypt(b"plain", "right"), "wrong", "x")


def test_a_container_that_was_changed_or_cut_is_told():
    """Each byte but those of the version and of what is only said of the file."""
    content = aescrypt.encrypt(b"some text", "p")
    for place in range(7, len(content)):
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1:]
        if place == len(content) - 33:
            continue  # the length of the last block stands outside of what is signed
        with pytest.raises(RemotesError):
            aescrypt.decrypt(damaged, "p", "x")
    for length in range(4, len(content), 7):
        with pytest.raises(RemotesError):
            aescrypt.decrypt(content[:length], "p", "x")


def test_other_versions_are_named():
    """A file of version 3 is not taken for a damaged one."""
    with pytest.raises(RemotesError, match="version 3 of AES Crypt"):
        aescrypt.decrypt(b"AES\3\0" + bytes(200), "p", "x")
    assert not aescrypt.is_container(b'{"AES": 1}')
    assert not aescrypt.is_container(b"AES: text")
