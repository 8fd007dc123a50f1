"""The unmodified official SDK drives ``uid2 sandbox``, and crosses tokens with ours."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tokens_by_ring import decrypt, encrypt
from uid2_async import (
    IdentityScope,
    IdentityTokens,
    KeyRing,
    MappedUID,
    UID2Client,
)
from uid2_async.models import ms_from_datetime
from uid2_async.protocol.token_rules import ClientType

sdk = pytest.importorskip("uid2_client")

pytestmark = [
    pytest.mark.differential,
    # Consent is the subject of other tests.
    pytest.mark.filterwarnings("ignore:generate_token without tcf:UserWarning"),
    # The official SDK leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EXPORT = re.compile(
    r"export (?:UID2|EUID)_BASE_URL=(?P<url>\S+) (?:UID2|EUID)_API_KEY=(?P<key>\S+) "
    r"(?:UID2|EUID)_SECRET_KEY=(?P<secret>\S+)"
)


# All that an EUID needs; UID2 operators do not look at it.
CONSENT = "CPehNtWPehNtWABAMBFRACBoALAAAEJAAIYgAKwAQAKgArABAAqAAA"


class Sandbox:
    """A running ``uid2 sandbox`` and what it printed."""

    def __init__(self, scope: IdentityScope, process: subprocess.Popen[str]) -> None:
        """Read the printed lines: a comment with the name, then the environment."""
        self.scope = scope
        self.keys: dict[str, tuple[str, str, str]] = {}
        assert process.stdout is not None
        name = ""
        while "everything" not in self.keys:
            line = process.stdout.readline()
            assert line, "the sandbox ended"
            if line.startswith("# "):
                name = line[2:].split()[0].rstrip(":")
            elif found := EXPORT.match(line):
                self.keys[name] = (found["url"], found["key"], found["secret"])

    def ours(self, name: str) -> UID2Client:
        """Make our client with the key of *name*."""
        url, key, secret = self.keys[name]
        return UID2Client(url, api_key=key, client_secret=secret, scope=self.scope)

    def sharing(self, name: str) -> Any:
        """Make their client for sharing, with its keys."""
        client = sdk.SharingClient(*self.keys[name])
        assert client.refresh().success
        return client


@pytest.fixture(scope="module", params=list(IdentityScope))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Run ``uid2 sandbox`` in a process of its own."""
    command = [sys.executable, "-m", "uid2_async", "sandbox", "--scope", request.param]
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(  # noqa: S603 - our own command
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environ,
    ) as process:
        try:
            yield Sandbox(request.param, process)
        finally:
            process.terminate()


def now_ms() -> int:
    """Tell the time."""
    return ms_from_datetime(dt.datetime.now(dt.UTC))


def test_they_generate_and_refresh(sandbox: Sandbox) -> None:
    """Tokens come and are renewed, for email, phone and hash; opt-outs are seen."""
    client = sdk.Uid2PublisherClient(*sandbox.keys["publisher"])
    make = sdk.TokenGenerateInput

    for asked in (
        make.from_email("user@example.com"),
        make.from_email("user@example.com").do_not_hash(),
        make.from_phone("+12345678901"),
        make.from_hashed_email("tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ="),
    ):
        identity = client.generate_token(asked).get_identity()
        renewed = client.refresh_token(identity)
        assert renewed.is_success()
        assert renewed.get_identity().get_refresh_token()
    assert client.generate_token(make.from_email("optout@example.com")).is_optout()
    leaving = client.generate_token(make.from_email("refresh-optout@example.com"))
    assert client.refresh_token(leaving.get_identity()).is_optout()


async def test_they_map_as_we_do(sandbox: Sandbox) -> None:
    """v2 and v3 maps of theirs give the raw UIDs that ours gives."""
    emails = ["user@example.com", "optout@example.com", "other@example.com"]
    keys = sandbox.keys["advertiser"]
    async with sandbox.ours("advertiser") as client:
        ours = await client.map_identities([*emails, "+12345678901"])
    v3 = sdk.IdentityMapV3Client(*keys).generate_identity_map(
        sdk.IdentityMapV3Input.from_emails(emails).with_phone("+12345678901")
    )
    v2 = sdk.IdentityMapClient(*keys).generate_identity_map(
        sdk.IdentityMapInput.from_emails(emails)
    )

    assert list(v3.unmapped_identities) == list(v2.unmapped_identities)
    for asked, row in zip([*emails, "+12345678901"], ours, strict=True):
        if not isinstance(row, MappedUID):
            assert asked in v3.unmapped_identities
            continue
        theirs = v3.mapped_identities[asked]
        assert theirs.current_raw_uid == row.raw_uid
        assert theirs.previous_raw_uid == row.previous_raw_uid
        assert theirs.refresh_from == row.refresh_from
        if asked in emails:
            assert v2.mapped_identities[asked].get_raw_uid() == row.raw_uid


async def test_they_list_buckets_as_we_do(sandbox: Sandbox) -> None:
    """The buckets that rotated since an instant are the same."""
    since = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    keys = sandbox.keys["advertiser"]
    theirs = sdk.IdentityMapClient(*keys).get_identity_buckets(since).buckets
    async with sandbox.ours("advertiser") as client:
        with pytest.warns(DeprecationWarning, match="buckets"):
            ours = await client.identity_buckets(since)

    assert {one.get_bucket_id() for one in theirs} == {one.bucket_id for one in ours}


async def test_tokens_cross_both_ways(sandbox: Sandbox) -> None:
    """Either side opens what the operator and the other side made."""
    async with (
        sandbox.ours("advertiser") as advertiser,
        sandbox.ours("publisher") as publisher,
        sandbox.ours("sharer") as sharer,
        sandbox.ours("bidder") as bidder,
    ):
        found = await advertiser.map_identities(["user@example.com", "+12345678901"])
        ring = await sharer.fetch_sharing_keys()
        bids = await bidder.fetch_bidstream_keys()
        published = await publisher.generate_token(
            "user@example.com", tcf_consent_string=CONSENT
        )
    assert isinstance(published, IdentityTokens)
    token = published.advertising_token
    theirs = sdk.BidstreamClient(*sandbox.keys["bidder"])
    assert theirs.refresh().success

    opened = decrypt(token, bids, now_ms=now_ms(), client=ClientType.BIDSTREAM)
    answer = theirs.decrypt_token_into_raw_uid(token, "example.com")

    assert answer.success
    first = found[0]
    assert isinstance(first, MappedUID)
    assert answer.uid == opened.raw_uid == first.raw_uid
    for row in found:
        assert isinstance(row, MappedUID)
        cross_sharing_tokens(row.raw_uid, ring, sandbox)


def cross_sharing_tokens(raw_uid: str, ring: KeyRing, sandbox: Sandbox) -> None:
    """Let each side open the other's sharing token."""
    theirs = sandbox.sharing("sharer")
    ours = encrypt(
        raw_uid, ring, now_ms=now_ms(), master_iv=os.urandom(12), site_iv=os.urandom(12)
    )
    assert theirs.decrypt_token_into_raw_uid(ours).uid == raw_uid
    made = theirs.encrypt_raw_uid_into_token(raw_uid)
    assert made.success
    opened = decrypt(
        made.encrypted_data, ring, now_ms=now_ms(), client=ClientType.SHARING
    )
    assert opened.raw_uid == raw_uid
