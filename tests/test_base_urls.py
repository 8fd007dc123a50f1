"""Base URLs, API keys and the choice of a region."""

from __future__ import annotations

import pytest

from uid2_async import IdentityScope
from uid2_async.config import (
    PUBLISHED,
    check_api_key,
    normalize_base_url,
    sends_clear,
)
from uid2_async.errors import ConfigError
from uid2_async.transport import Failover


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://prod.uidapi.com", "https://prod.uidapi.com"),
        ("prod.uidapi.com", "https://prod.uidapi.com"),
        (" https://prod.uidapi.com/ ", "https://prod.uidapi.com"),
        ("https://prod.euid.eu/v2", "https://prod.euid.eu"),
        ("https://prod.euid.eu/v2/", "https://prod.euid.eu"),
        ("https://gateway.example/uid2/", "https://gateway.example/uid2"),
        ("https://[::1]:8080", "https://[::1]:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("HTTP://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:1", "http://[::1]:1"),
    ],
)
def test_a_base_url_is_brought_into_one_form(text: str, expected: str) -> None:
    """Scheme, slash and /v2 may be there or not."""
    assert normalize_base_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "https://", "https://:80", "ftp://host", "https://host:99999"),
        *("https://user:canary@host", "https://canary@host", "http://localhost@evil"),
        *("https://host?x=1", "https://host#x", "https://ho st", "https://host\n.x"),
        *(
            "http://host",
            "http://127.0.0.1.evil.com",
            "http://0x7f.1",
            "http://10.0.0.1",
        ),
        "http://prod.uidapi.com",
    ],
)
def test_a_wrong_base_url_is_refused_without_credentials(text: str) -> None:
    """Whatever is wrong, a password in the URL is not repeated."""
    with pytest.raises(ConfigError) as caught:
        normalize_base_url(text)

    assert "canary" not in str(caught.value)


def test_plain_http_can_be_allowed_but_not_for_published_hosts() -> None:
    """allow_http is only for private operators."""
    assert normalize_base_url("http://operator", allow_http=True) == "http://operator"
    for host in PUBLISHED:
        with pytest.raises(ConfigError, match="only https"):
            normalize_base_url(f"http://{host}", allow_http=True)


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("https://host", False),
        ("http://localhost:1", False),
        ("http://127.0.0.1", False),
        ("http://host", True),
    ],
)
def test_clear_text_beyond_this_machine_is_noticed(url: str, clear: bool) -> None:
    """Loopback traffic can be read by nobody else."""
    assert sends_clear(url) is clear


@pytest.mark.parametrize(
    ("key", "scope", "url"),
    [
        ("UID2-C-P-1-abc.def", IdentityScope.UID2, "https://prod.uidapi.com"),
        ("UID2-C-I-1-abc.def", IdentityScope.UID2, "https://operator-integ.uidapi.com"),
        ("UID2-C-L-1-abc.def", IdentityScope.UID2, "https://private.example"),
        ("EUID-C-P-1-abc.def", IdentityScope.EUID, "https://prod.euid.eu"),
        ("an older key/+=", IdentityScope.EUID, "https://private.example"),
        ("old", IdentityScope.UID2, "https://prod.uidapi.com"),
        ("UID2-C-P-1-abc.def", IdentityScope.UID2, "https://new.prod.uidapi.com"),
    ],
)
def test_a_key_that_fits_passes(key: str, scope: IdentityScope, url: str) -> None:
    """Keys of unknown shape pass, unless they cannot be sent."""
    check_api_key(key.replace(" ", "-"), scope, [url])


@pytest.mark.parametrize(
    ("key", "scope", "url", "message"),
    [
        ("", IdentityScope.UID2, "https://x", "empty"),
        ("canary\n", IdentityScope.UID2, "https://x", "printable"),
        ("canaryä", IdentityScope.UID2, "https://x", "printable"),
        ("canary key", IdentityScope.UID2, "https://x", "space"),
        ("EUID-C-P-1-canary", IdentityScope.UID2, "https://x", "belongs to EUID"),
        ("UID2-C-P-1-canary", IdentityScope.EUID, "https://x", "belongs to UID2"),
        ("canary", IdentityScope.EUID, "https://prod.uidapi.com", "serves UID2"),
        ("canary", IdentityScope.UID2, "https://integ.euid.eu", "serves EUID"),
        (
            "UID2-C-I-1-canary",
            IdentityScope.UID2,
            "https://prod.uidapi.com",
            "integration environment, but the base URL serves prod",
        ),
        (
            "EUID-C-P-1-canary",
            IdentityScope.EUID,
            "https://integ.euid.eu",
            "prod environment, but the base URL serves integration",
        ),
    ],
)
def test_a_key_that_cannot_be_right_is_refused(
    key: str, scope: IdentityScope, url: str, message: str
) -> None:
    """Another system or environment is noticed before anything is sent."""
    with pytest.raises(ConfigError, match=message) as caught:
        check_api_key(key, scope, [url])

    assert "canary" not in str(caught.value)


def test_the_first_region_serves_until_it_fails() -> None:
    """A failed region is skipped for the cool-down, then preferred again."""
    failover = Failover(["a", "b", "c"], cooldown=30)

    assert failover.pick(0) == "a"
    failover.cool_down("a", 0)
    assert failover.pick(1) == "b"
    failover.cool_down("b", 1)
    assert failover.pick(29.9) == "c"
    assert failover.pick(30) == "a"


def test_with_all_regions_down_the_first_to_recover_serves() -> None:
    """There is always a region to try."""
    failover = Failover(["a", "b"], cooldown=30)
    failover.cool_down("b", 0)
    failover.cool_down("a", 5)

    assert failover.pick(6) == "b"
    assert repr(failover) == "Failover(a, b)"


def test_there_must_be_a_region() -> None:
    """An empty list of base URLs is a mistake of configuration."""
    with pytest.raises(ConfigError):
        Failover([], cooldown=30)
