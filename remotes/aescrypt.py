"""AES Crypt containers, version 2: what Duplicati's servers export encrypted.

Guards: that a wrong passphrase or a damaged file is told before anything of it is used.
Leaves alone: what is inside. A file is encrypted and decrypted here, so that its
passphrase goes to no server, whose exports want it in the URL.

Source: the AES Crypt file format, version 2; protocol page of Duplicati, section 3.3.
"""

import hashlib
import hmac
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from remotes.errors import RemotesError

_BEGINNING = b"AES"
_VERSION = 2
_ROUNDS = 8192
_BLOCK = 16
_KEYS = 48  # an initial value and a key, encrypted
_MAC = 32


def is_container(content):
    """Whether `content` (bytes) begins as an AES Crypt file does."""
    return content[:3] == _BEGINNING and content[3:4] in (b"\0", b"\1", b"\2", b"\3")


def decrypt(content, passphrase, name):
    """The bytes in the container `content`. Errors: RemotesError, which names the file."""
    if content[3] != _VERSION:
        raise RemotesError(f"{name} is encrypted with version {content[3]} of AES Crypt's format;"
                           f" version {_VERSION} is understood")
    start = _after_extensions(content)
    end = len(content) - _MAC - 1
    body = start + _BLOCK + _KEYS + _MAC
    if start < 0 or body > end or (end - body) % _BLOCK:
        raise RemotesError(f"{name} is damaged: it does not end as an encrypted file does")
    initial = content[start:start + _BLOCK]
    keys, mac = content[start + _BLOCK:body - _MAC], content[body - _MAC:body]
    outer = _derived(passphrase, initial)
    if not hmac.compare_digest(_mac(outer, keys), mac):
        raise RemotesError(f"{name} cannot be decrypted: the passphrase is another one, or the"
                           " file is damaged")
    keys = _cipher(outer, initial).decryptor().update(keys)
    inner = keys[_BLOCK:]
    if not hmac.compare_digest(_mac(inner, content[body:end]), content[-_MAC:]):
        raise RemotesError(f"{name} is damaged: it is not what was encrypted")
    plain = _cipher(inner, keys[:_BLOCK]).decryptor().update(content[body:end])
    padding = -content[end] % _BLOCK
    return plain[:len(plain) - padding]


def encrypt(plain, passphrase):
    """`plain` (bytes) as a container that Duplicati and AES Crypt read."""
    initial, inner_initial, inner = os.urandom(_BLOCK), os.urandom(_BLOCK), os.urandom(32)
    outer = _derived(passphrase, initial)
    keys = _cipher(outer, initial).encryptor().update(inner_initial + inner)
    padding = -len(plain) % _BLOCK
    body = _cipher(inner, inner_initial).encryptor().update(plain + bytes([padding]) * padding)
    return b"".join((
        _BEGINNING, bytes([_VERSION, 0]), b"\0\0", initial, keys, _mac(outer, keys), body,
        bytes([len(plain) % _BLOCK]), _mac(inner, body),
    ))


def _after_extensions(content):
    """Where the extensions end (each: its length in two bytes, then so many); -1 if nowhere."""
    position = 5
    while position + 2 <= len(content):
        length = int.from_bytes(content[position:position + 2], "big")
        position += 2 + length
        if length == 0:
            return position
    return -1


def _derived(passphrase, initial):
    key, text = initial + bytes(_BLOCK), passphrase.encode("utf-16-le")
    for _ in range(_ROUNDS):
        key = hashlib.sha256(key + text).digest()
    return key


def _cipher(key, initial):
    return Cipher(algorithms.AES(key), modes.CBC(initial))


def _mac(key, content):
    return hmac.new(key, content, hashlib.sha256).digest()
