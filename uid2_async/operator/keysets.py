"""Which keys seal and who sees which (docs/protocol.md 6.3 and 6.4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from uid2_async.operator.data import (
    MASTER_KEYSET,
    REFRESH_KEYSET,
    Client,
    Keyset,
    OperatorData,
)
from uid2_async.protocol.key import Key, active_key, by_activation

__all__ = ["Keysets"]

_FALLBACK_SITE = 2


class Keysets:
    """The keysets of an operator with their keys."""

    def __init__(self, data: OperatorData) -> None:
        """Index the keys; of those that activate together the last one seals."""
        self._keysets = {one.keyset_id: one for one in data.keysets}
        self._keys = {key.id: key for key in sorted(data.keys, key=lambda one: one.id)}
        groups: dict[int | None, list[Key]] = defaultdict(list)
        for key in data.keys:
            groups[key.keyset_id].append(key)
        self._groups = {keyset: by_activation(keys) for keyset, keys in groups.items()}
        self._defaults = {
            one.site_id: one for one in data.keysets if one.default and one.enabled
        }

    def key(self, key_id: int) -> Key | None:
        """Find a key by the id that a token names, whether it still seals or not.

        Its keyset plays no part, and may not even exist.
        """
        return self._keys.get(key_id)

    def site_of(self, key: Key) -> int | None:
        """Tell whose *key* is: the site of its keyset; None where that is unknown."""
        keyset = self._keysets.get(key.keyset_id or 0)
        return None if keyset is None else keyset.site_id

    def keyset_of(self, key: Key) -> Keyset:
        """Find the keyset of a key that someone may have, which therefore exists."""
        return self._keysets[key.keyset_id or 0]

    def default_keyset(self, site_id: int) -> Keyset | None:
        """Find what a site seals with, or None where it has nothing of its own."""
        return self._defaults.get(site_id)

    def master_key(self, now_ms: int) -> Key | None:
        """Choose the key of the outer shell of tokens."""
        return self._active(MASTER_KEYSET, now_ms)

    def refresh_key(self, now_ms: int) -> Key | None:
        """Choose the key of refresh tokens."""
        return self._active(REFRESH_KEYSET, now_ms)

    def site_key(self, site_id: int, now_ms: int) -> Key | None:
        """Choose the key of the inner shell: the site's own, else the fallback's."""
        for owner in (site_id, _FALLBACK_SITE):
            keyset = self._defaults.get(owner)
            key = None if keyset is None else self._active(keyset.keyset_id, now_ms)
            if key is not None:
                return key
        return None

    def _active(self, keyset_id: int, now_ms: int) -> Key | None:
        """Choose the key of a keyset that seals at *now_ms*."""
        return active_key(self._groups.get(keyset_id, ()), now_ms)

    def visible_to(self, client: Client) -> Sequence[Key]:
        """List the keys that *client* may have, by ascending id, expired ones too."""
        readable = {
            one.keyset_id for one in self._keysets.values() if _is_readable(one, client)
        }
        return [key for key in self._keys.values() if key.keyset_id in readable]

    def owners(self, keys: Sequence[Key]) -> Iterator[int]:
        """List the distinct sites that own *keys*, ascending."""
        yield from sorted({self.keyset_of(key).site_id for key in keys})


def _is_readable(keyset: Keyset, client: Client) -> bool:
    """Tell whether *client* may have the keys of *keyset*."""
    if keyset.keyset_id == MASTER_KEYSET:
        return True
    if keyset.keyset_id == REFRESH_KEYSET or not keyset.enabled:
        return False
    if keyset.site_id == client.site_id:
        return True
    if keyset.allowed_sites is None:
        return client.reads_ids
    return client.site_id in keyset.allowed_sites
