"""Who calls: API keys, roles and service links (docs/protocol.md 1.2, 1.8 and 2.5)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha512

from uid2_async.operator.data import Client, OperatorData, ServiceLink
from uid2_async.protocol.identity import MapV2Request
from uid2_async.protocol.java_text import trim
from uid2_async.protocol.refusal import RefusedError, unknown_error

__all__ = ["ApiKeys", "ServiceLinks", "unauthorized"]

_SCHEME = "bearer "


def unauthorized() -> RefusedError:
    """Refuse as for an unknown key, a disabled one and a missing role alike."""
    return RefusedError(401, "unauthorized", None)


class ApiKeys:
    """The API keys of an operator, of which only salted hashes are kept."""

    def __init__(self, clients: Iterable[Client]) -> None:
        """Take the *clients* of the operator's data."""
        self._clients = tuple(clients)
        self._known: dict[str, Client] = {}

    def find(self, authorization: str | None) -> Client | None:
        """Find the client of an ``Authorization`` header, disabled or not.

        The scheme's letter case does not matter, and exactly one space follows it. What
        stands around is trimmed as Java does it: control characters and spaces.
        """
        header = trim(authorization or "")
        if header[: len(_SCHEME)].lower() != _SCHEME:
            return None
        return self._find_key(header[len(_SCHEME) :])

    def _find_key(self, key: str) -> Client | None:
        """Find the client of an API key; hashing is done once for a good one."""
        known = self._known.get(key)
        if known is not None:
            return known
        data = key.encode()
        for client in self._clients:
            if sha512(client.key_salt + data).digest() == client.key_hash:
                self._known[key] = client
                return client
        return None

    def authorize(
        self, authorization: str | None, roles: frozenset[str]
    ) -> Client | None:
        """Find the client of the header if it is enabled and has one of *roles*."""
        client = self.find(authorization)
        if client is None or client.disabled or not client.roles & roles:
            return None
        return client


class ServiceLinks:
    """For whom the API keys of services may map (docs/protocol.md 2.5)."""

    def __init__(self, data: OperatorData) -> None:
        """Index the links that count."""
        self._validate = data.settings.validate_service_links
        self._services = data.services
        self._links = {
            (link.service_id, link.link_id): link
            for link in data.service_links
            if "MAPPER" in link.roles and not link.disabled
        }

    def check(self, client: Client, request: MapV2Request | None = None) -> None:
        """Refuse *client* if it maps for a service without a good link.

        Args:
            client: Who calls.
            request: The request; None for v3, which cannot name a link.

        Raises:
            RefusedError: 401, if the link is not good, or nobody can tell; 500, if it
                is, but its service is not listed.
        """
        if client.service_id == 0:
            return
        if self._validate:
            if request is None or not request.has_link:
                return
            # Java looks up the service and the link as one text, in which a null is
            # spelled like a link of that name.
            name = "null" if request.link_id is None else request.link_id
            link = self._links.get((client.service_id, name))
            if link is not None:
                self._check_service(link)
                return
        raise RefusedError(401, "unauthorized", "Invalid link_id")

    def _check_service(self, link: ServiceLink) -> None:
        """Fail as the operator does on counting by the name of an unlisted service.

        Raises:
            RefusedError: If the service of *link* is not listed.
        """
        is_listed = self._services is None or link.service_id in self._services
        if not is_listed and link.name.strip():
            raise unknown_error("Unknown error while mapping identity v2")
