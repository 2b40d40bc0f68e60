"""AES Crypt containers, version 2: how Duplicati encrypts an export.

Guards: that what is written here can be opened by any AES Crypt, and the other way round; that
a wrong passphrase and a damaged file are told apart from success.
Leaves alone: versions 0, 1 and 3.

The format: "AES", version, a reserved byte; extensions, each after its length of two bytes, up
to one of length 0; IV; the IV and key of the data, encrypted for the passphrase; HMAC of those;
the data in AES-256-CBC; its length modulo 16; HMAC of the data.
"""
import hashlib
import hmac
import os
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ROUNDS, BLOCK = 8192, 16


def _stretch(passphrase: str, iv: bytes) -> bytes:
    key, secret = iv + bytes(16), passphrase.encode("utf-16-le")
    for _ in range(ROUNDS):
        key = hashlib.sha256(key + secret).digest()
    return key


def _cipher(key: bytes, iv: bytes) -> Cipher:
    return Cipher(algorithms.AES(key), modes.CBC(iv))


def encrypt(content: bytes, passphrase: str, made_by: str) -> bytes:
    """A container of `content`; `made_by` is the one extension that it has."""
    outer_iv, inner_iv, inner_key = os.urandom(16), os.urandom(16), os.urandom(32)
    key = _stretch(passphrase, outer_iv)
    extension = b"CREATED_BY\0" + made_by.encode()
    head = b"AES\x02\0" + struct.pack(">H", len(extension)) + extension + b"\0\0" + outer_iv
    wrapped = _cipher(key, outer_iv).encryptor().update(inner_iv + inner_key)
    padding = -len(content) % BLOCK
    data = _cipher(inner_key, inner_iv).encryptor().update(content + bytes(padding))
    return (head + wrapped + hmac.digest(key, wrapped, "sha256") + data
            + bytes([len(content) % BLOCK]) + hmac.digest(inner_key, data, "sha256"))


def decrypt(container: bytes, passphrase: str) -> bytes:
    """What is in a container. ValueError if it is none, or the passphrase is not the right one."""
    if container[:4] != b"AES\x02":
        raise ValueError("Invalid header marker")
    place = 5
    while (length := int.from_bytes(container[place:place + 2], "big")) and place < len(container):
        place += 2 + length
    place += 2
    outer_iv, wrapped = container[place:place + 16], container[place + 16:place + 64]
    key = _stretch(passphrase, outer_iv)
    if not hmac.compare_digest(hmac.digest(key, wrapped, "sha256"),
                               container[place + 64:place + 96]):
        raise ValueError("Invalid password or corrupted data")
    inner = _cipher(key, outer_iv).decryptor().update(wrapped)
    data, rest, proof = container[place + 96:-33], container[-33], container[-32:]
    if not hmac.compare_digest(hmac.digest(inner[16:], data, "sha256"), proof):
        raise ValueError("Invalid password or corrupted data")
    content = _cipher(inner[16:], inner[:16]).decryptor().update(data)
    return content[:len(content) - (-rest % BLOCK)]
