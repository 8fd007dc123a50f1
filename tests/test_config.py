"""Settings from environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from uid2_async import IdentityScope
from uid2_async.config import find_sources, list_faults, read_settings
from uid2_async.errors import ConfigError

BASE = {"UID2_API_KEY": "canary-key", "UID2_SECRET_KEY": "canary-secret"}


def test_all_variables_are_read() -> None:
    """The names that other SDKs use work here too."""
    settings = read_settings(
        IdentityScope.UID2,
        BASE | {"UID2_BASE_URL": "https://x", "UID2_ALLOW_HTTP": "1"},
    )

    assert settings.base_url == "https://x"
    assert settings.api_key == "canary-key"
    assert settings.client_secret == "canary-secret"
    assert settings.allow_http
    assert "canary" not in repr(settings)


def test_the_environment_stands_for_its_url() -> None:
    """UID2_ENV=integ needs no URL by heart; a URL beats it."""
    environ = BASE | {"UID2_ENV": "integ"}

    found = read_settings(IdentityScope.UID2, environ).base_url

    assert found == "https://operator-integ.uidapi.com"
    both = environ | {"UID2_BASE_URL": "https://mine"}
    assert read_settings(IdentityScope.UID2, both).base_url == "https://mine"


def test_euid_has_its_own_variables() -> None:
    """The variables of one scope are not used for the other."""
    environ = {"EUID_ENV": "prod", "EUID_API_KEY": "k", "EUID_CLIENT_SECRET": "s"}

    settings = read_settings(IdentityScope.EUID, environ)

    assert settings.base_url == "https://prod.euid.eu"
    assert settings.client_secret == "s"
    with pytest.raises(ConfigError, match="EUID_ENV"):
        read_settings(IdentityScope.EUID, BASE)


def test_a_value_may_lie_in_a_file(tmp_path: Path) -> None:
    """Container secrets are files; the line end does not belong to them."""
    secret = tmp_path / "secret"
    secret.write_text("from file\n", encoding="utf-8")
    environ = {
        "UID2_ENV": "prod",
        "UID2_API_KEY": "k",
        "UID2_SECRET_KEY_FILE": str(secret),
    }

    assert read_settings(IdentityScope.UID2, environ).client_secret == "from file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "Neither UID2_BASE_URL nor UID2_ENV is set"),
        ({"UID2_ENV": "staging"}, "UID2_ENV must be one of integ, prod"),
        ({"UID2_ENV": "prod", "UID2_API_KEY": ""}, "UID2_API_KEY is not set"),
        ({"UID2_ENV": "prod", "UID2_SECRET_KEY": ""}, "UID2_SECRET_KEY is not set"),
        ({"UID2_ENV": "prod", "UID2_ALLOW_HTTP": "maybe"}, "UID2_ALLOW_HTTP must be"),
        ({"UID2_BASE_URL_FILE": "/nonexistent"}, "file that UID2_BASE_URL_FILE names"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, str], message: str) -> None:
    """The message names the variable and shows no value."""
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(IdentityScope.UID2, BASE | change)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("scope", IdentityScope, ids=str)
def test_variables_of_the_other_system_are_noticed(scope: IdentityScope) -> None:
    """If only those are set, the scope is missing."""
    (other,) = set(IdentityScope) - {scope}
    environ = {f"{other}_ENV": "prod", f"{other}_API_KEY": "canary"}

    for fault in list_faults(scope, environ):
        assert f"IdentityScope.{other} or --scope {other.lower()}" in fault.hint
        assert "canary" not in str(fault)
    assert "--scope" not in list_faults(scope, {})[0].hint


def test_every_fault_can_be_listed() -> None:
    """All problems are reported at once."""
    faults = list_faults(IdentityScope.UID2, {"UID2_ALLOW_HTTP": "maybe"})

    assert [fault.message.split()[0] for fault in faults] == [
        "Neither",
        "UID2_API_KEY",
        "UID2_SECRET_KEY",
        "UID2_ALLOW_HTTP",
    ]
    assert list_faults(IdentityScope.UID2, BASE | {"UID2_ENV": "prod"}) == []


def test_the_variables_in_use_are_named() -> None:
    """For each setting the variables that are set, the one that counts first."""
    environ = BASE | {"UID2_ENV": "prod", "UID2_CLIENT_SECRET_FILE": "x"}
    environ |= {"UID2_CA_FILE": "x", "UID2_CA_FILE_FILE": "x"}

    assert find_sources(IdentityScope.UID2, environ | {"UID2_BASE_URL_FILE": ""}) == {
        "base_url": ["UID2_ENV"],
        "api_key": ["UID2_API_KEY"],
        "client_secret": ["UID2_SECRET_KEY", "UID2_CLIENT_SECRET_FILE"],
        "allow_http": [],
        "proxy": [],
        "ca_file": ["UID2_CA_FILE"],
        "timeout": [],
    }


def test_an_empty_variable_does_not_hide_a_file(tmp_path: Path) -> None:
    """Compose files and shells set variables to nothing; that is not set."""
    secret = tmp_path / "secret"
    secret.write_text("from file", encoding="utf-8")
    environ = {
        "UID2_ENV": "prod",
        "UID2_API_KEY": "k",
        "UID2_SECRET_KEY": "",
        "UID2_SECRET_KEY_FILE": str(secret),
    }

    assert read_settings(IdentityScope.UID2, environ).client_secret == "from file"
