"""Identity tokens in OpenRTB bid requests: put in by publishers, read by bidders.

OpenRTB 2.6 has extended identifiers (eids) at ``user.eids``, 2.5 at ``user.ext.eids``.
Requests pass through many hands, so each object in them may be missing, null or
something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import IdentityScope

__all__ = [
    "EID_SOURCES",
    "OpenRTBVersion",
    "add_openrtb_eid",
    "domain_or_app_in",
    "to_openrtb_eid",
    "tokens_in",
]

OpenRTBVersion: TypeAlias = Literal["2.5", "2.6"]
"""Which version's place for eids is used."""

EID_SOURCES: Final[Mapping[IdentityScope, str]] = {
    IdentityScope.UID2: "uidapi.com",
    IdentityScope.EUID: "euid.eu",
}
"""The ``source`` of the eids of each system."""

_PERSON_BASED: Final = 3  # AdCOM's agent type
# No partner name is published for EUID.
_UID_EXT: Final = {IdentityScope.UID2: {"rtiPartner": "UID2"}}
# Where each version keeps the eids.
_PATHS: Final[dict[str, tuple[str, ...]]] = {"2.6": ("user",), "2.5": ("user", "ext")}


def to_openrtb_eid(
    tokens: IdentityTokens,
    version: OpenRTBVersion = "2.6",
    *,
    scope: IdentityScope = IdentityScope.UID2,
) -> dict[str, Any]:
    """Return a bid request that holds the advertising token and nothing else.

    Use :func:`add_openrtb_eid` to add it to a request that has other content.
    ``{**request, **to_openrtb_eid(...)}`` would replace the whole user: its id, its
    consent and its other eids.

    Args:
        tokens: Usable tokens; their state is not checked.
        version: The OpenRTB version.
        scope: The system that the tokens belong to.

    Returns:
        ``{"user": {"eids": [eid]}}`` for 2.6, and for 2.5
        ``{"user": {"ext": {"eids": [eid]}}}``.

    Raises:
        InputError: If *version* is not 2.5 or 2.6.
    """
    return add_openrtb_eid({}, tokens, version, scope=scope)


def add_openrtb_eid(
    bid_request: Mapping[str, Any],
    tokens: IdentityTokens,
    version: OpenRTBVersion = "2.6",
    *,
    scope: IdentityScope = IdentityScope.UID2,
) -> dict[str, Any]:
    """Return a bid request with the advertising token added to its eids.

    Everything else stays: the user's id and consent, other eids, other fields. The eid
    is the one that Prebid.js makes (source, id, atype), for UID2 with its ``ext``. If
    the same token is present already, nothing is added.

    The eid goes to the place of *version*, unless only the other place has eids. Prebid
    Server ignores ``user.ext.eids`` as soon as a request has ``user.eids``, so a second
    place would hide the eids in the first one.

    Args:
        bid_request: The request as a decoded JSON object. It is not changed. The result
            shares the parts that are equal.
        tokens: Usable tokens; their state is not checked.
        version: The OpenRTB version.
        scope: The system that the tokens belong to.

    Raises:
        InputError: If *version* is not 2.5 or 2.6, or if the request, ``user``,
            ``user.ext`` or the eids are neither missing, null nor of the type that
            OpenRTB demands.
    """
    if version not in _PATHS:
        raise InputError("The OpenRTB version must be 2.5 or 2.6.")
    result = _copy(bid_request, "The bid request")
    if tokens.advertising_token in tokens_in(result, scope=scope):
        return result
    parent = result
    for name in _choose_place(result, version):
        child = parent.get(name)
        copy = {} if child is None else _copy(child, f"The bid request's {name}")
        parent[name] = parent = copy
    parent["eids"] = [*_list_of_eids(parent), _make_eid(tokens, scope)]
    return result


def tokens_in(
    bid_request: object, *, scope: IdentityScope = IdentityScope.UID2
) -> list[str]:
    """Return the identity tokens of a bid request, for a bidder to open.

    Reads ``user.eids`` (OpenRTB 2.6) and ``user.ext.eids`` (2.5), every entry of the
    system's source and every uid in it. Whatever is not of the expected type is
    skipped: a malformed part of a foreign request does not cost the rest, and never
    raises.

    Args:
        bid_request: The request as a decoded JSON object.
        scope: The system whose tokens are wanted.

    Returns:
        The tokens in the order of the request, each once. They are not validated.
    """
    source = EID_SOURCES[scope]
    ids = (
        uid.get("id")
        for path in _PATHS.values()
        for eid in _objects_in(_follow(bid_request, *path, "eids"))
        if eid.get("source") == source
        for uid in _objects_in(eid.get("uids"))
    )
    return list(dict.fromkeys(one for one in ids if isinstance(one, str) and one))


def domain_or_app_in(bid_request: object) -> str | None:
    """Return the domain or the app that a bid request names, or None.

    This is what :meth:`~uid2_async.BidstreamClient.decrypt` compares the tokens of
    pages and apps with: ``site.domain``, or else ``app.bundle``.

    Args:
        bid_request: The request as a decoded JSON object. It never raises.
    """
    for path in (("site", "domain"), ("app", "bundle")):
        name = _follow(bid_request, *path)
        if isinstance(name, str) and name:
            return name
    return None


def _choose_place(
    bid_request: Mapping[str, Any], version: OpenRTBVersion
) -> tuple[str, ...]:
    """Return the path to the object that holds, or is to hold, the eids."""
    used = [
        name
        for name, path in _PATHS.items()
        if _follow(bid_request, *path, "eids") is not None
    ]
    return _PATHS[version if version in used or not used else used[0]]


def _make_eid(tokens: IdentityTokens, scope: IdentityScope) -> dict[str, Any]:
    """Return the eid of the advertising token."""
    uid: dict[str, Any] = {"id": tokens.advertising_token, "atype": _PERSON_BASED}
    if scope in _UID_EXT:
        uid["ext"] = dict(_UID_EXT[scope])
    return {"source": EID_SOURCES[scope], "uids": [uid]}


def _copy(value: object, what: str) -> dict[str, Any]:
    """Return a shallow copy of an object; replacing anything else would lose it."""
    if isinstance(value, Mapping):
        return dict(value)
    raise InputError(
        f"{what} must be an object.", hint="Pass an OpenRTB request as a dict."
    )


def _list_of_eids(parent: Mapping[str, Any]) -> list[Any]:
    """Return the eids that are there; anything but a list would be lost."""
    eids = parent.get("eids")
    if eids is None:
        return []
    if isinstance(eids, list | tuple):
        return list(eids)
    raise InputError(
        "The bid request's eids must be a list.",
        hint="Pass an OpenRTB request as a dict.",
    )


def _follow(value: object, *path: str) -> Any:
    """Return what is at *path* in nested objects, or None."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _objects_in(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the objects in a list; of anything else, nothing."""
    if isinstance(value, list | tuple):
        yield from (one for one in value if isinstance(one, Mapping))


strip_tracebacks(globals())
