"""What UID2 and EUID are called in browsers.

The names are those of the official web SDK (uid2-web-integrations) and of Prebid.js
(modules uid2IdSystem and euidIdSystem).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from uid2_async.models import IdentityScope

__all__ = ["SYSTEMS", "System"]


@attrs.frozen(kw_only=True)
class System:
    """The names of one system.

    Attributes:
        prebid_name: The Prebid module, and the prefix of its parameters.
        identity_cookie: Where the web SDK keeps the whole identity.
        token_cookie: Where Prebid finds the advertising token of a server.
    """

    prebid_name: str
    identity_cookie: str
    token_cookie: str


SYSTEMS: Final[Mapping[IdentityScope, System]] = {
    IdentityScope.UID2: System(
        prebid_name="uid2",
        identity_cookie="__uid_2",
        token_cookie="__uid2_advertising_token",  # noqa: S106 - a cookie's name
    ),
    IdentityScope.EUID: System(
        prebid_name="euid",
        identity_cookie="__euid",
        token_cookie="__euid_advertising_token",  # noqa: S106 - as above
    ),
}
