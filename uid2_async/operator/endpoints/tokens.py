"""token/generate, token/validate and token/logout (docs/protocol.md 2.1, 2.3, 2.9)."""

from __future__ import annotations

from uid2_async.errors import TokenError
from uid2_async.models import IdentityScope
from uid2_async.operator.minting import SERVER_SIDE, Subject, mint_tokens
from uid2_async.operator.settings import EMBEDDED_OPT_OUT
from uid2_async.operator.tcf import (
    REQUIRED_PURPOSES,
    UnusableConsentError,
    read_consent,
)
from uid2_async.operator.world import Question, World
from uid2_async.protocol.refusal import (
    RefusedError,
    client_error,
    text_error,
    unknown_error,
)
from uid2_async.protocol.token_codec import AdvertisingToken, open_token
from uid2_async.protocol.tokens import (
    GenerateRequest,
    build_logout_reply,
    build_status_reply,
    build_tokens_reply,
    build_validate_reply,
    parse_generate_request,
    parse_logout_request,
    parse_validate_request,
)

__all__ = ["generate", "log_out", "no_active_key", "validate"]


def no_active_key() -> RefusedError:
    """Refuse because neither the site nor the fallback has a key."""
    return unknown_error("No active encryption key available")


def generate(world: World, question: Question) -> bytes:
    """Answer token/generate."""
    request = parse_generate_request(
        question.payload, phones=world.settings.enable_phone_support
    )
    if not _has_consent(world, request):
        return build_status_reply("insufficient_user_consent")
    identity = request.identity
    flh = world.buckets.first_level_hash(identity.data)
    if world.opt_outs.is_out(flh, identity.identity_type):
        return build_status_reply("optout")
    subject = Subject(
        flh=flh,
        identity_type=identity.identity_type,
        site_id=question.client.site_id,
        privacy_bits=SERVER_SIDE,
        established_ms=question.now_ms,
    )
    tokens = mint_tokens(world, subject, question.now_ms)
    if tokens is None:
        raise no_active_key()
    return build_tokens_reply(tokens)


def _has_consent(world: World, request: GenerateRequest) -> bool:
    """Judge the consent string, which only EUID operators look at.

    Raises:
        RefusedError: If there is one that cannot be read, or is of TCF version 1.
    """
    if world.scope is not IdentityScope.EUID or not request.has_consent:
        return True
    try:
        consent = read_consent(request.consent) if request.consent else None
    except UnusableConsentError:
        raise unknown_error("Unknown error while generating token v2") from None
    if consent is None:
        raise client_error("User consent is invalid")
    return consent.allows(REQUIRED_PURPOSES, world.settings.tcf_vendor_id)


def validate(world: World, question: Question) -> bytes:
    """Answer token/validate; neither expiry nor opt-out matters."""
    request = parse_validate_request(
        question.payload, phones=world.settings.enable_phone_support
    )
    token = _open_token(world, request.token)
    key = world.keysets.key(token.site_key_id)
    owner = None if key is None else world.keysets.site_of(key)
    if owner is None:
        # A key of a keyset that does not exist opens tokens, but is nobody's.
        raise text_error()
    if owner != question.client.site_id:
        raise client_error("Unauthorised to validate token")
    identity = request.identity
    raw_uid = world.buckets.raw_uid(
        world.buckets.first_level_hash(identity.data),
        identity.identity_type,
        question.now_ms,
    )
    return build_validate_reply(same=raw_uid == token.raw_uid)


def _open_token(world: World, text: str) -> AdvertisingToken:
    """Open an advertising token as strictly as the real operator."""
    try:
        return open_token(text, world.keysets.key, strict=True)
    except TokenError:
        pass
    raise client_error("Invalid token")


def log_out(world: World, question: Question) -> bytes:
    """Answer token/logout.

    A real operator passes it on to an opt-out service and fails without one. The
    built-in service takes effect at once; no other is called.
    """
    identity = parse_logout_request(
        question.payload, phones=world.settings.enable_phone_support
    )
    if world.settings.optout_api_uri != EMBEDDED_OPT_OUT:
        raise text_error()
    flh = world.buckets.first_level_hash(identity.data)
    raw_uid = world.buckets.raw_uid(flh, identity.identity_type, question.now_ms)
    world.opt_outs.add(flh, raw_uid, question.now_ms // 1000)
    return build_logout_reply()
