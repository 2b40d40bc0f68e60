"""What an action cannot avoid: its imports, its files, its one request; nothing else.

    bare.py SETTINGS status|host_status|commands_list

status: requests and yaml, and one GET. The others: cryptography as well, the key loaded
unchecked, the token decrypted, and one GET with it.
"""

import sys

import requests
import yaml


def main(settings_path, name):
    with open(settings_path, "rb") as stream:
        settings = yaml.load(stream, yaml.CSafeLoader)
    base = settings["server"]["url"]
    session = requests.Session()
    session.trust_env = False
    if name == "status":
        return session.get(base + "api/status/").json()
    token = decrypt(settings["host"]["private_key"], settings["host"]["token"])
    url = base.rstrip("/") + settings["endpoints"][name]
    return session.get(url, headers={"Authorization": f"Token {token}"}).json()


def decrypt(key_path, encrypted):
    """The text in `encrypted` (base64 of RSA-OAEP)."""
    import base64

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding

    with open(key_path, "rb") as stream:
        key = serialization.load_pem_private_key(
            stream.read(), None, unsafe_skip_rsa_key_validation=True)
    sha256 = hashes.SHA256()
    return key.decrypt(base64.b64decode(encrypted),
                       padding.OAEP(padding.MGF1(sha256), sha256, None)).decode()


if __name__ == "__main__":
    assert main(sys.argv[1], sys.argv[2])["status"] == "OK"
