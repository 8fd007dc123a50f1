"""token/client-generate (docs/protocol.md 2.10)."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async.operator.data import Site
from uid2_async.operator.endpoints.tokens import no_active_key
from uid2_async.operator.minting import CLIENT_SIDE, Subject, mint_tokens
from uid2_async.operator.origin import app_allowed, origin_allowed
from uid2_async.operator.world import World
from uid2_async.protocol.client_side import (
    ClientGenerateRequest,
    open_client_generate_request,
    parse_client_generate_request,
)
from uid2_async.protocol.identity_input import (
    IdentityInput,
    InputFault,
    read_identity_input,
)
from uid2_async.protocol.refusal import RefusedError, client_error
from uid2_async.protocol.tokens import build_status_reply, build_tokens_reply

__all__ = ["client_generate"]

_HASHES = ("email_hash", "phone_hash")


def client_generate(
    world: World, body: bytes, *, origin: str | None, now_ms: int
) -> tuple[bytes, AESGCM]:
    """Answer token/client-generate.

    Args:
        world: The operator's data.
        body: The outer JSON.
        origin: The Origin header, or None.
        now_ms: The operator's clock.

    Returns:
        The reply's JSON, and the cipher that seals it.

    Raises:
        RefusedError: With the first fault in the order of docs/protocol.md 2.10.
    """
    request = parse_client_generate_request(body)
    found = world.keypair(request.subscription_id)
    if found is None:
        raise client_error("bad subscription_id")
    pair, private_key = found
    if pair.disabled:
        raise RefusedError(401, "unauthorized", "Unauthorized")
    if world.settings.client_side_token_generate_domain_name_check_enabled:
        _check_home(world.site(pair.site_id), request, origin)
    fields, cipher = open_client_generate_request(request, private_key)
    identity = _read_hash(fields, phones=world.settings.enable_phone_support)
    flh = world.buckets.first_level_hash(identity.data)
    if world.opt_outs.is_out(flh, identity.identity_type):
        return build_status_reply("optout"), cipher
    subject = Subject(
        flh=flh,
        identity_type=identity.identity_type,
        site_id=pair.site_id,
        privacy_bits=CLIENT_SIDE,
        established_ms=now_ms,
    )
    tokens = mint_tokens(world, subject, now_ms)
    if tokens is None:
        raise no_active_key()
    return build_tokens_reply(tokens), cipher


def _check_home(site: Site, request: ClientGenerateRequest, origin: str | None) -> None:
    """Refuse apps and web pages that are not the site's."""
    if request.app_name is not None:
        if not app_allowed(request.app_name, site.app_names):
            raise RefusedError(403, "invalid_app_name", "unexpected app name")
    elif not origin_allowed(origin, site.domain_names):
        raise RefusedError(403, "invalid_http_origin", "unexpected http origin")


def _read_hash(fields: Mapping[str, object], *, phones: bool) -> IdentityInput:
    """Read the one hash of the inner JSON; DII as it is does not count."""
    hashes = {key: fields.get(key) for key in _HASHES}
    if hashes["phone_hash"] is not None and not phones:
        raise client_error("phone support not enabled")
    identity = read_identity_input(hashes, phones=phones)
    if identity is InputFault.MISSING:
        which = "exactly one of: email_hash, phone_hash" if phones else "email_hash"
        raise client_error(f"please provide {which}")
    if isinstance(identity, InputFault):
        raise client_error("Invalid Identifier")
    return identity
