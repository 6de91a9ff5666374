"""Addresses of servers as messages and kept recipes may show them: gateways take keys in their paths."""

import re
from urllib.parse import urlsplit

_PLAIN = re.compile(r"(?!sk-|pk-|key|token)[a-z][a-z_-]{0,19}|v\d{1,2}[a-z]{0,5}\d?")  # a word or a version
_HIDDEN = "(not shown)"


def shown_address(address: str) -> str:
    """The address without user name, password and query, and without each part of the path that may be a key."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return _HIDDEN
    return f"{parts.scheme}://{host}" + "".join(
        f"/{part if _PLAIN.fullmatch(part) else _HIDDEN}" for part in parts.path.split("/") if part
    )


def hidden_in(address: str) -> list[str]:
    """The parts of an address's path that `shown_address` leaves out."""
    return [part for part in urlsplit(address).path.split("/") if part and not _PLAIN.fullmatch(part)]
