"""Identity tokens in OpenRTB bid requests."""

from __future__ import annotations

from typing import Any, Literal

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import IdentityScope
from uid2_async.publisher.systems import SYSTEMS

__all__ = ["to_openrtb_eid"]

_PERSON_BASED = 3  # AdCOM's agent type


def to_openrtb_eid(
    tokens: IdentityTokens,
    version: Literal["2.5", "2.6"] = "2.6",
    *,
    scope: IdentityScope = IdentityScope.UID2,
) -> dict[str, Any]:
    """Make the part of an OpenRTB bid request that carries the advertising token.

    Prebid.js makes the same eid (source, id, atype) without the ``ext`` for UID2.

    Args:
        tokens: Usable ones: their state is not looked at.
        version: 2.5 has eids as an extension of the user, 2.6 as a part of it.
        scope: Which system the tokens are of.

    Returns:
        ``{"user": {"eids": [eid]}}`` for 2.6, and for 2.5
        ``{"user": {"ext": {"eids": [eid]}}}``, to be merged into the request.

    Raises:
        InputError: If *version* is another one.
    """
    system = SYSTEMS[scope]
    uid: dict[str, Any] = {"id": tokens.advertising_token, "atype": _PERSON_BASED}
    if system.eid_ext:
        uid["ext"] = dict(system.eid_ext)
    eids = {"eids": [{"source": system.eid_source, "uids": [uid]}]}
    if version == "2.6":
        return {"user": eids}
    if version == "2.5":
        return {"user": {"ext": eids}}
    raise InputError("The OpenRTB version must be 2.5 or 2.6.")


strip_tracebacks(globals())
