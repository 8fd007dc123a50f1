"""Identity tokens in OpenRTB bid requests: publishers add them, and bidders read them.

OpenRTB 2.6 keeps extended identifiers (eids) in ``user.eids``, and 2.5 in
``user.ext.eids``. Bid requests come from untrusted sources, so each object in them may
be missing, null or of another type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeAlias

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import IdentityScope

OpenRTBVersion: TypeAlias = Literal["2.5", "2.6"]
"""The OpenRTB version, which determines where the eids are."""

EID_SOURCES: Final[Mapping[IdentityScope, str]] = {
    IdentityScope.UID2: "uidapi.com",
    IdentityScope.EUID: "euid.eu",
}
"""The ``source`` of the eids of each system."""

_PERSON_BASED: Final = 3  # AdCOM's agent type
# No partner name is published for EUID.
_UID_EXT: Final = {IdentityScope.UID2: {"rtiPartner": "UID2"}}
# The path of the eids in each version.
_PATHS: Final[dict[str, tuple[str, ...]]] = {"2.6": ("user",), "2.5": ("user", "ext")}


def to_openrtb_eid(
    tokens: IdentityTokens,
    version: OpenRTBVersion = "2.6",
    *,
    scope: IdentityScope = IdentityScope.UID2,
) -> dict[str, Any]:
    """Return a bid request that contains only the advertising token.

    To add the token to a request with other content, use :func:`add_openrtb_eid`.
    ``{**request, **to_openrtb_eid(...)}`` would replace the whole user, with its ID,
    consent and other eids.

    Args:
        tokens: Usable tokens. Their state is not checked.
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

    Everything else is preserved, such as the user's ID and consent, and other eids. The
    eid equals the one that Prebid.js creates (source, id, atype, and for UID2 ``ext``).
    If the same token is already present, nothing is added.

    The eid is added in the place of *version*, unless only the other place has eids.
    Prebid Server ignores ``user.ext.eids`` if a request has ``user.eids``, so a second
    place would hide the existing eids.

    Args:
        bid_request: The request as a decoded JSON object. It is not changed. The result
            shares its unchanged parts.
        tokens: Usable tokens. Their state is not checked.
        version: The OpenRTB version.
        scope: The system that the tokens belong to.

    Raises:
        InputError: If *version* is not 2.5 or 2.6, or if the request, ``user``,
            ``user.ext`` or the eids have the wrong type. They may be missing or null.
    """
    if version not in _PATHS:
        raise InputError("The OpenRTB version must be 2.5 or 2.6.")
    result = _copy(bid_request, "The bid request")
    if tokens.advertising_token in tokens_in(result, scope=scope):
        return result
    parent = result
    for name in _choose_parent_path(result, version):
        child = parent.get(name)
        copy = {} if child is None else _copy(child, f"The bid request's {name}")
        parent[name] = parent = copy
    parent["eids"] = [*_list_of_eids(parent), _make_eid(tokens, scope)]
    return result


def tokens_in(
    bid_request: object, *, scope: IdentityScope = IdentityScope.UID2
) -> list[str]:
    """Return the identity tokens of a bid request, for a bidder to decrypt.

    Reads ``user.eids`` (OpenRTB 2.6) and ``user.ext.eids`` (2.5), with every entry of
    the system's source and every uid in it. Values of the wrong type are skipped, so
    that a malformed part of a request does not affect the rest. Never raises.

    Args:
        bid_request: The request as a decoded JSON object.
        scope: The system whose tokens to return.

    Returns:
        The tokens in the order of the request, without duplicates. They are not
        validated.
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
    """Return the domain or the app in a bid request, or None.

    :meth:`~uid2_async.BidstreamClient.decrypt` compares it with the domains and apps of
    the site that generated the token. It is ``site.domain`` or, if that is missing,
    ``app.bundle``.

    Args:
        bid_request: The request as a decoded JSON object. Never raises.
    """
    for path in (("site", "domain"), ("app", "bundle")):
        name = _follow(bid_request, *path)
        if isinstance(name, str) and name:
            return name
    return None


def _choose_parent_path(
    bid_request: Mapping[str, Any], version: OpenRTBVersion
) -> tuple[str, ...]:
    """Return the path to the object that contains, or will contain, the eids."""
    used = [
        name
        for name, path in _PATHS.items()
        if _follow(bid_request, *path, "eids") is not None
    ]
    return _PATHS[version if version in used or not used else used[0]]


def _make_eid(tokens: IdentityTokens, scope: IdentityScope) -> dict[str, Any]:
    uid: dict[str, Any] = {"id": tokens.advertising_token, "atype": _PERSON_BASED}
    if scope in _UID_EXT:
        uid["ext"] = dict(_UID_EXT[scope])
    return {"source": EID_SOURCES[scope], "uids": [uid]}


def _copy(value: object, what: str) -> dict[str, Any]:
    """Return a shallow copy of an object. Raise for any other type."""
    if isinstance(value, Mapping):
        return dict(value)
    raise InputError(
        f"{what} must be an object.", hint="Pass an OpenRTB request as a dict."
    )


def _list_of_eids(parent: Mapping[str, Any]) -> list[Any]:
    """Return the existing eids. Raise if they are not a list."""
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
    """Return the value at *path* in nested objects, or None."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _objects_in(value: object) -> Iterator[Mapping[str, Any]]:
    """Yield the objects in a list, or nothing if *value* is not a list."""
    if isinstance(value, list | tuple):
        yield from (one for one in value if isinstance(one, Mapping))


strip_tracebacks(globals())
