"""The content of the page: calls, values, faults, API keys, and code to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

import attrs

from uid2_async.config import is_loopback
from uid2_async.errors import InputError, TokenError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import (
    Email,
    EmailHash,
    Identity,
    IdentityScope,
    IdentityType,
    Phone,
    PhoneHash,
)
from uid2_async.operator.console.calls import (
    CALLS_KEPT,
    CHARS_SHOWN,
    DecryptedBody,
    Exchange,
    decrypt_call,
    describe_refresh_token,
)
from uid2_async.operator.console.explanations import explain, format_fault
from uid2_async.operator.data import Credentials, OperatorData
from uid2_async.operator.dispatch import PATHS
from uid2_async.operator.indexes import (
    NEVER_OPTED_OUT,
    OPTED_OUT,
    OPTED_OUT_ON_REFRESH,
    DataIndex,
)
from uid2_async.operator.minting import RefreshTokenError, decrypt_refresh_token
from uid2_async.operator.state import ArmedFault
from uid2_async.protocol.inspection import ValueKind, describe, inspect_value
from uid2_async.protocol.token_codec import CLIENT_SIDE_GENERATED, open_token
from uid2_async.protocol.wire import iso

_HIDDEN_HEADERS: Final = frozenset({"cookie"})


def call_summary(exchange: Exchange) -> dict[str, Any]:
    """Summarize a call."""
    call = exchange.call
    known = exchange.client
    return {
        "number": exchange.number,
        "at_ms": exchange.at_ms,
        "took_ms": round(exchange.took_ms, 1),
        "method": call.method,
        "path": call.path,
        "status": call.status,
        "client": call.client if known is None else known.name,
        "items": call.items,
        "fault": None if call.fault is None else format_fault(call.fault),
    }


def call_view(exchange: Exchange, index: DataIndex) -> dict[str, Any]:
    """Decrypt a call, and explain why it failed."""
    reading = decrypt_call(exchange, index)
    call = exchange.call
    reply = exchange.reply
    answered = dict(reply.headers)
    if reply.content_type is not None:
        answered["Content-Type"] = reply.content_type
    return {
        **call_summary(exchange),
        "client_version": call.client_version,
        "trace_id": call.trace_id,
        "key": exchange.key_check.value,
        "sent_ms": reading.sent_ms,
        "reason": explain(exchange, reading, index.settings),
        "request": _body_view(reading.request, len(exchange.body)),
        "reply": _body_view(reading.reply, len(reply.body)),
        "request_headers": [
            [name, value]
            for name, value in sorted(call.headers.items())
            if name not in _HIDDEN_HEADERS
        ],
        "reply_headers": sorted([name.lower(), one] for name, one in answered.items()),
    }


def _body_view(part: DecryptedBody, size: int) -> dict[str, Any]:
    """Show a request or a reply, truncated if it is very long."""
    return {
        "how": part.how,
        "text": part.text[:CHARS_SHOWN],
        "cut": len(part.text) > CHARS_SHOWN,
        "json": part.data is not None,
        "bytes": size,
    }


def armed_view(armed: ArmedFault) -> dict[str, Any]:
    """Show an armed fault."""
    return {
        "number": armed.number,
        "what": format_fault(armed.fault),
        "times": armed.times,
        "path": armed.path,
    }


def operator_view(index: DataIndex, url: str) -> dict[str, Any]:
    """Return what does not change while the operator runs."""
    data = index.data
    built_in = OperatorData.sample(scope=data.scope)
    same = data.credentials == built_in.credentials
    return {
        "scope": data.scope.value,
        "calls_kept": CALLS_KEPT,
        "lifetimes": {
            "refresh_after": data.runtime.refresh_identity_token_after_seconds,
            "identity_expires_after": data.runtime.identity_token_expires_after_seconds,
            "refresh_expires_after": data.runtime.refresh_token_expires_after_seconds,
        },
        "roles": [
            {
                "name": name,
                "roles": list(one.roles),
                "site_id": one.site_id,
                "api_key": one.api_key,
                "client_secret": one.client_secret,
                "snippets": snippets(data.scope, url, one, built_in=same),
            }
            for name, one in data.credentials.items()
        ],
        "subscriptions": [
            {
                "subscription_id": pair.subscription_id,
                "public_key": pair.public_key,
                "domains": list(index.site(pair.site_id).domain_names),
            }
            for pair in data.keypairs
            if not pair.disabled
        ],
        "test_identities": [
            [[identities[kind] for kind in IdentityType], meaning]
            for identities, meaning in _TEST_IDENTITIES
        ],
        "paths": list(PATHS),
    }


_TEST_IDENTITIES: Final = (
    (OPTED_OUT, "always opted out"),
    (OPTED_OUT_ON_REFRESH, "opted out on refresh, only there"),
    (NEVER_OPTED_OUT, "never opted out"),
)

_Reader: TypeAlias = Callable[[DataIndex, str, int], dict[str, Any]]


def inspection_view(index: DataIndex, value: str, *, now_ms: int) -> dict[str, Any]:
    """Describe *value* like :func:`uid2_async.protocol.inspection.describe`.

    The field ``decrypted`` adds what only this operator knows.
    """
    value = _unwrap_reply(value)
    report = describe(inspect_value(value, now_ms=now_ms))
    text = value.strip()
    text = text if text.startswith("{") else unquote(text)
    parts = [name for name, part in report.items() if isinstance(part, dict)]
    if parts:
        tokens = IdentityTokens.from_json(text)
        for name in parts:
            _add_decrypted(report[name], getattr(tokens, name), index, now_ms)
    else:
        _add_decrypted(report, text, index, now_ms)
    return report


def _unwrap_reply(value: str) -> str:
    """Return the identity tokens of a reply that was copied from a call."""
    try:
        body = json.loads(value)["body"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return value
    return json.dumps(body) if isinstance(body, dict) else value


def _add_decrypted(
    report: dict[str, Any], text: str, index: DataIndex, now_ms: int
) -> None:
    """Add what only the operator knows to the report of one value."""
    for kind in report["kinds"]:
        reader = _READERS.get(kind)
        found = None if reader is None else reader(index, text, now_ms)
        if found:
            report["decrypted"] = {**report.get("decrypted", {}), **found}


def _decrypt_advertising_token(
    index: DataIndex, text: str, now_ms: int
) -> dict[str, Any]:
    """Decrypt an advertising token."""
    try:
        token = open_token(text, index.keysets.key)
    except TokenError:
        return {"decrypted": "no: it is not encrypted with keys of this sandbox"}
    created = token.created_ms
    return {
        "site_id": token.site_id,
        "established": iso(token.established_ms),
        **({} if created is None else {"created": iso(created)}),
        "expires": iso(token.expires_ms),
        "expired": token.expires_ms < now_ms,
        "client_side_generated": bool(token.privacy_bits & CLIENT_SIDE_GENERATED),
        "raw_uid": token.raw_uid,
    }


def _decrypt_refresh_token(index: DataIndex, text: str, now_ms: int) -> dict[str, Any]:
    """Decrypt a refresh token."""
    try:
        token, _ = decrypt_refresh_token(text, index.keysets.key)
    except RefreshTokenError as error:
        return {"decrypted": f"no: {error.reason.value}"}
    out = index.opt_outs.is_out_on_refresh(token.first_level_hash, token.identity_type)
    fields = describe_refresh_token(token)
    return {**fields, "expired": token.expires_ms < now_ms, "opted_out": out}


def _look_up_raw_uid(index: DataIndex, text: str, _now_ms: int) -> dict[str, Any]:
    """Return whether a raw UID is known to be opted out."""
    since = index.opt_outs.since_ms(text)
    return {} if since is None else {"opted_out_since": iso(since)}


def _identity_reader(*makers: type[Email | Phone | EmailHash | PhoneHash]) -> _Reader:
    """Return a function that looks up a text as each kind of identity."""

    def read(index: DataIndex, text: str, now_ms: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for maker in makers:
            fields = look_up(index, maker(text), now_ms=now_ms)
            prefix = f"as_{maker.kind}_" if len(makers) > 1 else ""
            found |= {f"{prefix}{name}": value for name, value in fields.items()}
        return found

    return read


def look_up(index: DataIndex, identity: Identity, *, now_ms: int) -> dict[str, Any]:
    """Return the raw UID of an identity, or nothing if it is invalid."""
    try:
        flh = index.first_level_hash(identity)
    except InputError:
        return {}
    kind = identity.identity_type
    return {
        "raw_uid": index.buckets.raw_uid(flh, kind, now_ms),
        "opted_out": index.opt_outs.is_out(flh, kind),
    }


_READERS: Final[Mapping[str, _Reader]] = {
    ValueKind.ADVERTISING_TOKEN: _decrypt_advertising_token,
    ValueKind.REFRESH_TOKEN: _decrypt_refresh_token,
    ValueKind.RAW_UID: _look_up_raw_uid,
    ValueKind.EMAIL: _identity_reader(Email),
    ValueKind.PHONE: _identity_reader(Phone),
    ValueKind.HASH: _identity_reader(EmailHash, PhoneHash),
}

_CONTAINER_URL = "http://uid2-sandbox:8080"


def environment(
    scope: IdentityScope, url: str, credentials: Credentials, *, allow_http: bool
) -> dict[str, str]:
    """Return the environment variables for :meth:`UID2Client.from_env`."""
    settings = {
        f"{scope}_BASE_URL": url,
        f"{scope}_API_KEY": credentials.api_key,
        f"{scope}_SECRET_KEY": credentials.client_secret,
    }
    if allow_http:
        settings[f"{scope}_ALLOW_HTTP"] = "1"
    return settings


def _shell_assignments(settings: Mapping[str, str]) -> list[str]:
    """Format variables for a shell."""
    return [f"{name}={shlex.quote(value)}" for name, value in settings.items()]


def snippets(
    scope: IdentityScope, url: str, credentials: Credentials, *, built_in: bool
) -> dict[str, str]:
    """Return code to paste, by language or tool.

    With the *built_in* data, a sandbox in a container has the same keys.
    """
    far = not is_loopback(urlsplit(url).hostname or "")
    settings = environment(scope, url, credentials, allow_http=far)
    exports = "".join(f"export {one}\n" for one in _shell_assignments(settings))
    found = {"Shell": exports}
    call = next(
        (one for role, one in _CALLS.items() if role in credentials.roles), None
    )
    if call is not None:
        found |= {name: exports + text for name, text in _programs(scope, call)}
    if built_in:
        found["Docker"] = _docker(scope, credentials)
    return found


@attrs.frozen
class _ExampleCall:
    """The call that tries a key."""

    path: str
    payload: str
    python: str


# By role, the first that a key has.
_CALLS: Final = {
    "GENERATOR": _ExampleCall(
        "/v2/token/generate",
        '{"email":"user@example.com","optout_check":1}',
        'generate_token("user@example.com")',
    ),
    "MAPPER": _ExampleCall(
        "/v3/identity/map",
        '{"email":["user@example.com"]}',
        'map_identities(["user@example.com"])',
    ),
    "ID_READER": _ExampleCall("/v2/key/bidstream", "{}", "fetch_bidstream_keys()"),
    "SHARER": _ExampleCall("/v2/key/sharing", "{}", "fetch_sharing_keys()"),
}
# Each as docs/sandbox.md has it, and how a shell runs it.
_PROGRAMS: Final = {
    "curl": ("call.sh", "{text}"),
    "Python": ("call.py.txt", "python3 - <<'END'\n{text}END\n"),
    "JavaScript": ("call.mjs", "node --input-type=module <<'END'\n{text}END\n"),
    "Java": ("Call.java", "cat > Call.java <<'END'\n{text}END\njava Call.java\n"),
    "Go": ("call.go", "cat > call.go <<'END'\n{text}END\ngo run call.go\n"),
}
_FILES: Final = files("uid2_async.operator.console") / "snippets"


def _programs(scope: IdentityScope, call: _ExampleCall) -> Iterator[tuple[str, str]]:
    """Yield a program that makes *call*, for each language."""
    first = _CALLS["GENERATOR"]
    changes = {
        first.path: call.path,
        first.payload: call.payload,
        json.dumps(first.payload): json.dumps(call.payload),
        first.python: call.python,
    }
    if scope is IdentityScope.EUID:
        changes["import BlockingClient"] = "import BlockingClient, IdentityScope"
        changes["from_env()"] = "from_env(IdentityScope.EUID)"
        changes["UID2_"] = "EUID_"
    for name, (file, frame) in _PROGRAMS.items():
        text = (_FILES / file).read_text(encoding="utf-8")
        for old, new in changes.items():
            text = text.replace(old, new)
        yield name, frame.format(text=text)


def _docker(scope: IdentityScope, credentials: Credentials) -> str:
    """Return commands for a sandbox and an application in a network of containers."""
    settings = environment(scope, _CONTAINER_URL, credentials, allow_http=True)
    option = " --scope euid" if scope is IdentityScope.EUID else ""
    start = f"uid2 sandbox --host 0.0.0.0 --port 8080 --console{option}"
    install = "pip install -q 'uid2-async[cli]'"
    lines = [
        "docker network create uid2",
        "docker run -d --name uid2-sandbox --network uid2 -p 127.0.0.1:8080:8080 \\",
        f'  python:3.13-slim sh -c "{install} && exec {start}"',
        "docker run --network uid2 \\",
        *(f"  -e {one} \\" for one in _shell_assignments(settings)),
        "  YOUR_IMAGE",
        "",
    ]
    return "\n".join(lines)
