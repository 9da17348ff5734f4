"""The API key of a policy server: from a file or the environment, never from a command line."""

import hmac
import ipaddress
import logging
import os
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "DEXHIL_API_KEY"
MIN_LENGTH = 16

# For websockets, which logs headers with the key on level DEBUG, and a traceback for everyone who speaks no HTTP.
QUIET = logging.getLogger("dexhil.serving.websockets")
QUIET.setLevel(logging.CRITICAL)


def read_key(path: Path | None = None) -> str:
    """The key in the file, else in the environment variable DEXHIL_API_KEY, else "". Raises ValueError without it."""
    source = str(path) if path else VARIABLE
    key = (path.read_text() if path else os.environ.get(VARIABLE, "")).strip()
    if (path or key) and not (len(key) >= MIN_LENGTH and key.isascii() and key.isprintable() and " " not in key):
        raise ValueError(
            f"{source}: expected a key of at least {MIN_LENGTH} printable ASCII characters without spaces, "
            f"got {len(key)} characters; make one with `openssl rand -hex 32`"
        )
    return key


def check_host(host: str, key: str) -> None:
    """Raises ValueError where a server would be reachable from other machines without a key."""
    if not key and not is_loopback(host):
        raise ValueError(
            f"host {host!r}: others can reach it, so a key is required; set {VARIABLE} or give a file with the key"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def authorization(key: str) -> str:
    """Value of the header `Authorization`."""
    return f"Api-Key {key}"


def authorized(headers: Sequence[str], key: str) -> bool:
    """Whether the only `Authorization` header of a request carries the key; compared in constant time."""
    given = [header.encode(errors="surrogateescape") for header in headers]
    return len(given) == 1 and hmac.compare_digest(given[0], authorization(key).encode())
