"""keys.py: what it makes is read by openssl, what openssl makes is read by it."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st

from remotes import keys
from remotes.errors import SettingsError
from tests.conftest import RECORDINGS, encrypt
from tests.torn import in_child, killed_everywhere

RECORDED = RECORDINGS / "django-remotes"
UUID = "46be9131-379c-41d3-899a-11950f12022f"
OAEP = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256",
        "-pkeyopt", "rsa_mgf1_md:sha256"]
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there")


def openssl(*words, stdin=b""):
    done = subprocess.run(["openssl", *map(str, words)], input=stdin, capture_output=True,
                          timeout=60, check=True)
    return done.stdout + done.stderr


def mode(path):
    return os.stat(path).st_mode & 0o777


@pytest.fixture
def key_path(tmp_path, key_pem):
    path = tmp_path / "host.key"
    path.write_text(key_pem[0])
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(private key file, public key file, PrivateKey) as `generate` makes them."""
    folder = tmp_path_factory.mktemp("keys")
    former = os.umask(0)
    try:
        private, public = folder / "a.key", folder / "a.pub"
        return private, public, keys.generate(str(private), str(public))
    finally:
        os.umask(former)


# -- pairs ---------------------------------------------------------------------------------

@needs_openssl
def test_openssl_finds_a_made_pair_good(pair):
    """Checked in full by another program; the public file belongs to the private one."""
    private, public, key = pair
    text = openssl("rsa", "-in", private, "-check", "-noout", "-text")
    assert b"RSA key ok" in text
    assert b"Private-Key: (4096 bit" in text and b"publicExponent: 65537" in text
    assert public.read_bytes() == openssl("pkey", "-in", private, "-pubout")
    assert public.read_text() == key.public_pem()


def test_a_made_pair_is_pkcs8_and_private(pair):
    """0600 for both under any umask; nothing else lies in the folder."""
    private, public, _ = pair
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert (0o600, 0o600, ["a.key", "a.pub"]) == (
        mode(private), mode(public), sorted(os.listdir(private.parent)))


def test_a_made_key_is_known_by_its_sum(pair):
    """What `generate` gives can be loaded unchecked by the sum of its file."""
    private, _, key = pair
    assert key.sha256 == keys.load(str(private), key.sha256).sha256


def test_an_existing_key_is_never_written_over(key_path):
    """Not by `generate` without `replace`; the public file of it stays, too."""
    public = key_path.parent / "host.pub"
    public.write_text("its public key")
    before = key_path.read_bytes()
    with pytest.raises(SettingsError, match="exist"):
        keys.generate(str(key_path), str(public))
    assert (before, "its public key", ["host.key", "host.pub"]) == (
        key_path.read_bytes(), public.read_text(), sorted(os.listdir(key_path.parent)))


def test_an_existing_key_is_replaced_when_that_is_asked_for(key_path):
    """Both files are new, and belong together."""
    before = key_path.read_bytes()
    public = key_path.parent / "host.pub"
    keys.generate(str(key_path), str(public), replace=True)
    assert before != key_path.read_bytes()
    assert keys.load(str(key_path)).public_pem() == public.read_text()


def load(path):
    return load_pem_private_key(path.read_bytes(), None, unsafe_skip_rsa_key_validation=True)


def kill_a_generation_everywhere(folder, pem_path):
    """In a process of its own: see the test. One pair serves all kills: making it is slow."""
    key = load(Path(pem_path))
    keys.rsa.generate_private_key = lambda **more: key
    private, public = Path(folder, "host.key"), Path(folder, "host.pub")

    def begin():
        for path in Path(folder).iterdir():
            path.unlink()

    def check(acknowledged):
        assert all(mode(path) == 0o600 for path in Path(folder).iterdir())
        if private.exists():
            load(private)
        assert private.exists() or not public.exists()
        assert not public.exists() or public.read_bytes().endswith(b"-----END PUBLIC KEY-----\n")
        assert not acknowledged or public.exists()

    print(killed_everywhere(
        begin, lambda acknowledge: (keys.generate(str(private), str(public)), acknowledge()),
        check))


def test_a_generation_killed_at_any_call_leaves_no_key_or_a_whole_one(tmp_path, key_path):
    """Never a public key without its private one, never a byte that others can read."""
    (tmp_path / "made").mkdir()
    kills = in_child(kill_a_generation_everywhere, str(tmp_path / "made"), str(key_path))
    assert int(kills) > 30


# -- loading ---------------------------------------------------------------------------------

def broken(pem):
    """A key of the right shape whose numbers do not belong together."""
    der = bytearray(base64.b64decode("".join(pem.splitlines()[1:-1])))
    der[-40] ^= 1
    text = base64.encodebytes(bytes(der)).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{text}-----END PRIVATE KEY-----\n"


def test_a_broken_key_is_refused(key_path, key_pem):
    """Its numbers are checked when its file is first met, and when the file has changed."""
    known = keys.load(str(key_path)).sha256
    key_path.write_text(broken(key_pem[0]))
    for sha256 in (None, known):
        with pytest.raises(SettingsError, match="no usable private key"):
            keys.load(str(key_path), sha256)


def test_a_key_whose_sum_is_known_is_not_checked_again(key_path, key_pem):
    """The check costs as much as a cron turn; shown by a key that would not pass it."""
    key_path.write_text(broken(key_pem[0]))
    sha256 = keys.hashlib.sha256(key_path.read_bytes()).hexdigest()
    assert sha256 == keys.load(str(key_path), sha256).sha256


@pytest.mark.parametrize("content", [
    b"", b"no key", b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    (RECORDED / "host_public_key.pem").read_bytes(),
])
def test_what_is_no_private_key_is_refused(key_path, content):
    """78, and the file is named."""
    key_path.write_bytes(content)
    with pytest.raises(SettingsError, match="host.key holds no usable private key"):
        keys.load(str(key_path))


@needs_openssl
@pytest.mark.parametrize("words, told", [
    (["genpkey", "-algorithm", "ed25519"], "is not RSA"),
    (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-aes128",
      "-pass", "pass:secret"], "not encrypted"),
])
def test_other_kinds_of_keys_are_refused(key_path, words, told):
    """Another algorithm, and one under a password."""
    key_path.write_bytes(subprocess.run(["openssl", *words], capture_output=True, timeout=60,
                                        check=True).stdout)
    with pytest.raises(SettingsError, match=told):
        keys.load(str(key_path))


def test_a_key_that_is_not_there_is_named(tmp_path):
    """78."""
    with pytest.raises(SettingsError, match="cannot read the private key .*gone"):
        keys.load(str(tmp_path / "gone"))


def test_a_key_that_others_can_read_is_told_and_made_private(key_path):
    """Once: after that it is as it should be."""
    key_path.chmod(0o644)
    told = []
    for _ in range(2):
        keys.load(str(key_path), keys.hashlib.sha256(key_path.read_bytes()).hexdigest(),
                  tell=told.append)
    assert ([f"{key_path} could be read by others: it is 0600 now"], 0o600) == (
        told, mode(key_path))


# -- what passes between host and server -----------------------------------------------------

@needs_openssl
def test_openssl_verifies_the_signature(pair, tmp_path):
    """RSA-PSS over `OK`, MGF1 SHA-256, salt of the maximum length (4096 bits: 478)."""
    _, public, key = pair
    signature = tmp_path / "signature"
    signature.write_bytes(base64.b64decode(key.sign_ok()))
    (tmp_path / "ok").write_bytes(b"OK")
    answer = openssl(
        "dgst", "-sha256", "-verify", public, "-signature", signature,
        "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:478",
        "-sigopt", "rsa_mgf1_md:sha256", tmp_path / "ok")
    assert b"Verified OK" in answer


@needs_openssl
def test_what_openssl_has_encrypted_is_decrypted(pair):
    """RSA-OAEP, MGF1 and hash SHA-256, no label, base64."""
    _, public, key = pair
    encrypted = openssl("pkeyutl", "-encrypt", "-pubin", "-inkey", public, *OAEP,
                        stdin=UUID.encode())
    assert UUID == key.decrypt_text(base64.b64encode(encrypted).decode(), "it")


def test_what_the_real_server_sent_is_decrypted(key_path):
    """UUID and token of the recordings, as in its exchanges and in its host's settings."""
    key_path.write_bytes((RECORDED / "host_private_key.pem").read_bytes())
    key = keys.load(str(key_path))
    host = json.loads((RECORDED / "exchanges.json").read_text())["host"]
    ini = dict(line.split(" = ", 1) for line in (RECORDED / "settings.ini").read_text().split("\n")
               if " = " in line)
    assert [host["uuid"]] * 2 == [
        key.decrypt_text(text, "it") for text in (host["uuid_encrypted"], ini["uuid"])]
    assert [host["token"]] * 2 == [
        key.decrypt_text(text, "it") for text in (host["token_encrypted"], ini["token"])]
    assert (RECORDED / "host_public_key.pem").read_text() == key.public_pem()


def test_what_is_for_another_key_is_named(pair, key_pem):
    """78: other hosts' text, no base64, base64 of something else, nothing at all."""
    _, _, key = pair
    for text in (encrypt(key_pem[1], "x"), "!", base64.b64encode(b"x").decode(), "", 7):
        with pytest.raises(SettingsError, match="the token cannot be decrypted with .*a.key"):
            key.decrypt_text(text, "the token")


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_field_of_a_command_is_decrypted(text):
    """Fernet, as the server encrypts each."""
    key = Fernet.generate_key()
    assert text == keys.CommandKey(key.decode()).decrypt_text(
        Fernet(key).encrypt(text.encode()).decode())


def test_a_field_that_is_none_of_this_key_is_a_value_error():
    """Whatever it is."""
    key = keys.CommandKey(Fernet.generate_key().decode())
    other = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    for token in (other, "", "\u2603", "\ud800", None, 7, {}):
        with pytest.raises(ValueError):
            key.decrypt_text(token)


@pytest.mark.parametrize("text", ["", "short", "\u2603" * 44, None, 7])
def test_what_is_no_key_of_a_command_is_refused(text):
    """An error of ours, no traceback."""
    with pytest.raises(SettingsError, match="no Fernet key"):
        keys.CommandKey(text)


@given(st.text(st.characters(exclude_categories=("Cs",))), st.lists(st.text(max_size=5)))
def test_a_result_is_encrypted_for_the_server_and_read_again(output, result):
    """Its key is base64 of the UUID's 32 digits, as the server computes it."""
    server = Fernet(base64.urlsafe_b64encode(UUID.replace("-", "").encode()))
    key = keys.ResultKey(UUID.upper())
    body = key.encrypt(output, json.dumps(result))
    assert output == server.decrypt(body["output"].encode()).decode()
    assert result == json.loads(server.decrypt(body["result"].encode()))
    assert (output, result) == key.decrypt(body)


@pytest.mark.parametrize("body", [None, {}, {"output": "x", "result": "y"}, {"output": 1}, []])
def test_a_kept_result_that_cannot_be_read_is_a_value_error(body):
    """What a damaged journal can hold."""
    with pytest.raises(ValueError):
        keys.ResultKey(UUID).decrypt(body)


@pytest.mark.parametrize("uuid", ["", "x", UUID[:-1], UUID + "0", UUID[:-1] + "g", "\u0661" * 32])
def test_what_is_no_uuid_is_refused(uuid):
    """78."""
    with pytest.raises(SettingsError, match="no UUID"):
        keys.ResultKey(uuid)
