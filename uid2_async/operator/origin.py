"""Who may call client-generate: the Origin and app-name checks (docs/protocol.md 2.10).

The host of an Origin is read as Java's ``URL`` reads it and judged as Guava's
``InternetDomainName`` does, since that is what the operator's answer hangs on.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

from uid2_async.protocol.java_text import trim

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

__all__ = [
    "MissingPublicSuffixListError",
    "app_allowed",
    "origin_allowed",
    "registrable_domain",
]

_LOCALHOST = "localhost"
_MAX_NAME = 253
_PORTS = range(-1, 2**31)  # what Java lets pass; the port itself plays no part
_PORT_DIGITS = 10

# At most one "@", and before it nothing that Java has refused there since its release
# 20; no brackets, so that an IPv6 address finds no match.
_ORIGIN = re.compile(
    r"(?:url:)?(?:https?|ftp|file|jrt)://(?:[^\x00-\x1f\x7f/?#@\[\\\]]*@)?"
    r"(?P<host>[^/?#@:\[\]]*)(?::(?P<port>[+-]?[0-9]+)?)?(?:[/?#].*)?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_INNER = r"[a-z0-9_\u0080-\U0010ffff-]"
_OUTER = r"[a-z0-9\u0080-\U0010ffff]"
_LABEL = rf"{_OUTER}(?:{_INNER}{{0,61}}{_OUTER})?"
# The last label starts with no digit, which tells names from IPv4 addresses.
_NAME = re.compile(rf"(?:{_LABEL}\.){{0,126}}(?![0-9]){_LABEL}")
# Lower case of ASCII alone, and the full stops of other scripts.
_FOLD = str.maketrans(
    string.ascii_uppercase + "\u3002\uff0e\uff61", string.ascii_lowercase + "..."
)


class MissingPublicSuffixListError(ImportError):
    """The package that holds the public suffix list is not installed."""

    def __init__(self) -> None:
        """Say how to install it."""
        super().__init__(
            "Judging an Origin needs the public suffix list: "
            "pip install 'uid2-async[sandbox]'"
        )


def registrable_domain(origin: str) -> str | None:
    """Return the public suffix and one label of the host in *origin*, in lower case.

    ``localhost`` and one label before it give ``localhost``, without any list.

    Args:
        origin: An Origin header, such as ``https://www.example.com:8443``, with each
            byte read as one character.

    Returns:
        Such as ``example.com``; None where there is none: no URL, an IP address, a bare
        public suffix, or a suffix that is not on the public suffix list.

    Raises:
        MissingPublicSuffixListError: If the list is needed and not installed.
    """
    name = _host_name(origin)
    if name is None:
        return None
    *before, last = name.split(".")
    if last == _LOCALHOST:
        return _LOCALHOST if len(before) <= 1 else None
    return _suffix_list().privatesuffix(name)


def origin_allowed(origin: str | None, domains: Collection[str]) -> bool:
    """Tell whether the registrable domain of *origin* is one of the site's *domains*.

    Args:
        origin: The Origin header, or None where there is none.
        domains: The site's ``domain_names``. One that is deeper than a registrable
            domain never matches.

    Raises:
        MissingPublicSuffixListError: If the list is needed and not installed.
    """
    if origin is None:
        return False
    domain = registrable_domain(origin)
    return domain is not None and domain in domains


def app_allowed(name: str, app_names: Collection[str]) -> bool:
    """Tell whether *name* is one of the site's *app_names*, whatever the case."""
    return any(_equal_ignoring_case(name, other) for other in app_names)


def _host_name(origin: str) -> str | None:
    """Return the host in *origin* if it is a domain name, in lower case."""
    found = _ORIGIN.fullmatch(trim(origin))
    if found is None or not _is_port(found["port"] or "0"):
        return None
    name = found["host"].translate(_FOLD).removesuffix(".")
    return name if len(name) <= _MAX_NAME and _NAME.fullmatch(name) else None


def _is_port(text: str) -> bool:
    """Tell whether Java takes a number for a port."""
    digits = text.lstrip("+-").lstrip("0") or "0"
    sign = "-" if text[0] == "-" else ""
    return len(digits) <= _PORT_DIGITS and int(sign + digits) in _PORTS


@cache
def _suffix_list() -> PublicSuffixList:
    """Load the public suffix list, its private part included, once."""
    try:
        from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 - an extra
    except ImportError:
        pass
    else:
        return PublicSuffixList(accept_unknown=False)
    raise MissingPublicSuffixListError


def _equal_ignoring_case(one: str, other: str) -> bool:
    """Compare as Java's ``equalsIgnoreCase``: character by character."""
    return len(one) == len(other) and all(
        a.upper() == b.upper() or a.lower() == b.lower()
        for a, b in zip(one, other, strict=True)
    )
