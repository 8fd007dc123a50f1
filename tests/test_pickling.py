"""What holds secrets is neither pickled nor copied; errors are pickled."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import attrs
import msgspec
import pytest

import uid2_async
from canaries import API_KEY, CLIENT_SECRET, KEY
from uid2_async import (
    BidstreamClient,
    BlockingClient,
    IdentityScope,
    KeyStore,
    SessionPool,
    SharingClient,
    UID2Client,
    errors,
)
from uid2_async._private import Secret
from uid2_async.bulk.database import Query, Table
from uid2_async.bulk.stores import StoreFile
from uid2_async.client_side import ClientSideClient
from uid2_async.config import Settings
from uid2_async.operator import LocalOperator, OperatorData, data
from uid2_async.operator.salts import BucketIds
from uid2_async.protocol.envelope import AesGcmEnvelope
from uid2_async.protocol.keyring import Key, KeyRing, KeysBody
from uid2_async.protocol.wire import Call
from uid2_async.publisher import TokenRefresher
from uid2_async.publisher.sealed_cookie import SealedCookie
from uid2_async.transport import Request

URL = "https://operator.example"
WORLD = OperatorData.sample()
KEY_OPTIONS = {"id": 1, "secret": KEY, "created": 0, "activates": 0, "expires": 9}


def client() -> UID2Client:
    """Make a client."""
    return UID2Client(URL, api_key=API_KEY, client_secret=CLIENT_SECRET)


def used_envelope() -> AesGcmEnvelope:
    """Make an envelope that keeps a cipher."""
    envelope = AesGcmEnvelope()
    envelope.seal(b"", key=KEY, now_ms=0, nonce=bytes(8), iv=bytes(12))
    return envelope


def page_client() -> ClientSideClient:
    """Make a client of a page."""
    pair = WORLD.keypairs[0]
    return ClientSideClient(
        URL,
        subscription_id=pair.subscription_id,
        server_public_key=pair.public_key,
        origin="https://www.example.com",
    )


HOLDERS: dict[type, Callable[[], Any]] = {
    AesGcmEnvelope: used_envelope,
    BidstreamClient: lambda: BidstreamClient(KeyStore(client())),
    BlockingClient: lambda: BlockingClient(
        URL, api_key=API_KEY, client_secret=CLIENT_SECRET
    ),
    BucketIds: lambda: BucketIds("", "canary"),
    Call: lambda: Call(path="/", parse=bytes, reply_key=KEY),
    ClientSideClient: page_client,
    Key: lambda: Key(**KEY_OPTIONS),
    KeyRing: lambda: KeyRing(keys={1: Key(**KEY_OPTIONS)}),
    KeyStore: lambda: KeyStore(client()),
    KeysBody: lambda: KeysBody(keys=(Key(**KEY_OPTIONS),)),
    LocalOperator: LocalOperator,
    OperatorData: lambda: WORLD,
    Request: lambda: Request(
        path="/", headers={"Authorization": API_KEY}, body=b"", timeout=1
    ),
    Secret: lambda: Secret(KEY),
    Query: lambda: Query("postgresql://name:canary@host/db", "SELECT 1"),
    SealedCookie: lambda: SealedCookie("canary " * 8),
    SessionPool: lambda: SessionPool(URL, proxy="http://name:canary@proxy"),
    Settings: lambda: Settings(
        base_url=URL,
        api_key=API_KEY,
        client_secret=CLIENT_SECRET,
        scope=IdentityScope.UID2,
        allow_http=False,
    ),
    SharingClient: lambda: SharingClient(KeyStore(client())),
    StoreFile: lambda: StoreFile(url="https://host/canary", fs=None, key="canary"),
    Table: lambda: Table("postgresql://name:canary@host/db", "people"),
    TokenRefresher: lambda: TokenRefresher(client()),
    UID2Client: client,
    data.Client: lambda: WORLD.clients[0],
    data.ClientSideKeypair: lambda: WORLD.keypairs[0],
    data.Credentials: lambda: data.Credentials(
        site_id=1, api_key=API_KEY, client_secret=CLIENT_SECRET
    ),
    data.SaltKey: lambda: data.SaltKey(1, API_KEY, ""),
    data.Salts: lambda: WORLD.salts,
}
"""Every class that holds a secret, and how to make one."""

HARMLESS = {
    "IdentityTokens": "the tokens of one person; sessions keep them",
    "Fault": "says whether to use a wrong key",
    "FileJob": "names of columns",
    "MapOptions": "names of columns",
    "DeltaWriter": "names of columns",
    "ItemSource": "returns an item's identity",
    "IdentityKind": "the name of an endpoint's list",
    "RecordedCall": "names of keys in JSON",
    "HttpReply": "names of keys in JSON",
    "SaltRow": "dates of salts",
    "TokensBody": "the tokens of one person",
    "ClientGenerateRequest": "the public key of one request",
}
_SUSPICIOUS = re.compile(
    r"secret|api_key|password|proxy|^_?keys?$|private|credential|response_key|_key$"
)


def public_classes() -> Iterator[type]:
    """Give every class that a module defines under a public name."""
    for found in pkgutil.walk_packages(uid2_async.__path__, "uid2_async."):
        if ".integrations" in found.name or found.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(found.name)
        except ImportError:
            # It needs an extra, which not every Python has here.
            continue
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", "") == module.__name__
            if name[0] == "_" or not (is_own and inspect.isclass(value)):
                continue
            if not issubclass(value, BaseException):
                yield value


def names_in(kind: type) -> set[str]:
    """List the fields of a class, and what its constructor takes."""
    names: set[str] = set()
    if attrs.has(kind):
        names |= {field.name for field in attrs.fields(kind)}
    if issubclass(kind, msgspec.Struct):
        names |= set(kind.__struct_fields__)
    with suppress(TypeError, ValueError):
        names |= set(inspect.signature(kind).parameters)
    return names


def test_no_public_class_that_may_hold_a_secret_is_left_out() -> None:
    """A new one must be listed here."""
    suspects = {
        kind
        for kind in public_classes()
        if any(_SUSPICIOUS.search(name) for name in names_in(kind))
    }
    left = {kind.__name__ for kind in suspects - set(HOLDERS)}
    assert len(suspects) > 20
    assert left - set(HARMLESS) == set()


@pytest.mark.parametrize("kind", HOLDERS, ids=lambda kind: kind.__qualname__)
def test_what_holds_secrets_is_not_pickled(kind: type) -> None:
    """Whatever the protocol, and neither copied in depth."""
    holder = HOLDERS[kind]()
    assert type(holder) is kind
    takes: list[Callable[[Any], Any]] = [
        lambda value, number=number: pickle.dumps(value, number)
        for number in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for take in (*takes, copy.deepcopy, lambda value: pickle.dumps([{"a": value}])):
        with pytest.raises(TypeError, match="cannot be copied or pickled") as caught:
            take(holder)
        assert API_KEY not in str(caught.value)


def test_errors_are_pickled() -> None:
    """Processes hand them on."""
    error = errors.AuthError("no", status=401)
    error.reused_connection = True
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert type(again) is errors.AuthError
    assert vars(again) == vars(error)
