"""The host's RSA pair and Fernet. With aescrypt.py the only importer of cryptography.

Guards: that an existing key is never written over, that a key file is 0600 from its
first byte and whole or not there, and that a key is checked in full once for each
content of its file (OpenSSL's check of the primes costs some 0.2 to 0.4 s at each
load). Leaves alone: where tokens and results go.

Source: protocol page of Django Remotes, "Keys, registration, verification".
"""

import base64
import binascii
import contextlib
import hashlib
import json
import os

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from remotes import files
from remotes.errors import SettingsError

KEY_BITS = 4096
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)
# What cryptography raises for bytes that are no key, no ciphertext or no UTF-8.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error)


class PrivateKey:
    """A loaded private key; `sha256` is that of its file's content."""

    def __init__(self, key, path, sha256):
        self._key = key
        self.path = path
        self.sha256 = sha256

    def decrypt_text(self, encrypted, what):
        """The text in `encrypted` (base64 of RSA-OAEP). `what` names it in the error."""
        try:
            return self._key.decrypt(base64.b64decode(encrypted, validate=True), _OAEP).decode()
        except _UNREADABLE as error:
            raise SettingsError(
                f"{what} cannot be decrypted with {self.path}: it is damaged, or was encrypted for"
                " another key"
            ) from error

    def sign_ok(self):
        """The signature (base64) over the two characters `OK` that verifies a host."""
        signature = self._key.sign(b"OK", _PSS, hashes.SHA256())
        return base64.b64encode(signature).decode()

    def public_pem(self):
        """The public key as PEM text (SubjectPublicKeyInfo)."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()


def load(path, known_sha256=None, *, tell=lambda line: None):
    """The private key in the PEM file `path`.

    A file whose SHA-256 is `known_sha256` was checked before and is loaded unchecked.
    A file that others can read is told and made 0600. Errors: SettingsError.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(1 << 20)
    except OSError as error:
        raise SettingsError(f"cannot read the private key {path}: {error.strerror}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        key = serialization.load_pem_private_key(
            content, password=None, unsafe_skip_rsa_key_validation=sha256 == known_sha256
        )
    except _UNREADABLE as error:
        raise SettingsError(
            f"{path} holds no usable private key (PEM, not encrypted)"
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SettingsError(f"{path} holds a private key that is not RSA")
    _make_private(path, tell)
    return PrivateKey(key, path, sha256)


def _make_private(path, tell):
    try:
        if not files.is_open_to_others(path):
            return
        os.chmod(path, 0o600)
        tell(f"{path} could be read by others: it is 0600 now")
    except OSError:
        tell(f"{path} can be read by others, and its mode cannot be changed")


def generate(private_path, public_path, *, replace=False):
    """Makes a pair and writes both files, the public one last; gives the PrivateKey.

    An existing private key is written over with `replace` only; the public file is
    always written anew, since it follows from the private one. Errors: SettingsError.
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with files.told("write", private_path):
        beside = files.write_beside(private_path, content)
        try:
            if replace:
                os.replace(beside, private_path)
            else:
                files.rename_to_new(beside, private_path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        files.sync_folder(private_path)
    private = PrivateKey(key, private_path, hashlib.sha256(content).hexdigest())
    files.replace(public_path, private.public_pem().encode())
    return private


class CommandKey:
    """The Fernet key of one `command_get`, with which each of its fields is encrypted."""

    def __init__(self, text):
        try:
            self._fernet = Fernet(text)
        except _UNREADABLE as error:
            raise SettingsError("the command's key is no Fernet key") from error

    def decrypt_text(self, token):
        """The text in a Fernet token. ValueError if it is not one of this key."""
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except (InvalidToken, TypeError, AttributeError, UnicodeError) as error:
            raise ValueError("not a Fernet token of this key") from error


class ResultKey:
    """Encrypts what is posted: Fernet under base64 of the UUID's 32 hexadecimal digits.

    Source: protocol page, `command_post`.
    """

    def __init__(self, uuid):
        digits = uuid.replace("-", "").lower()
        if len(digits) != 32 or not all(digit in "0123456789abcdef" for digit in digits):
            raise SettingsError("the host's UUID in the settings is no UUID")
        self._fernet = Fernet(base64.urlsafe_b64encode(digits.encode()))

    def encrypt(self, output, result):
        """The body of a post: {"output", "result"}, from the output's text and the
        result's JSON text."""
        return {
            "output": self._fernet.encrypt(output.encode()).decode(),
            "result": self._fernet.encrypt(result.encode()).decode(),
        }

    def decrypt(self, body):
        """(output text, result as JSON has it) of a kept body. ValueError if it cannot be."""
        try:
            output = self._fernet.decrypt(body["output"].encode()).decode()
            return output, json.loads(self._fernet.decrypt(body["result"].encode()))
        except (InvalidToken, TypeError, KeyError, AttributeError) as error:
            raise ValueError("not a result of this host") from error
