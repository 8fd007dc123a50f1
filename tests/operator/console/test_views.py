"""What is pasted from the console works as it is."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

import pytest

from uid2_async import IdentityScope, IdentityTokens, UID2Client
from uid2_async.operator import LocalOperator, OperatorData

ROLES = ["publisher", "advertiser", "bidder", "sharer", "everything"]


def snippets(desk: Any, role: str = "publisher", **headers: str) -> dict[str, str]:
    """Read the snippets of a role."""
    world = desk.send("GET", "/_console/operator", **headers).json
    (found,) = [one["snippets"] for one in world["roles"] if one["name"] == role]
    return {**found}


async def test_the_lines_for_a_shell(desk: Any) -> None:
    """They are an environment for UID2Client.from_env."""
    env = {}
    for line in snippets(desk)["Shell"].splitlines():
        export, pair = shlex.split(line)
        assert export == "export"
        env.update([pair.split("=", 1)])
    async with UID2Client.from_env(environ=env) as client:
        found = await client.generate_token("jane@example.com")

    assert isinstance(found, IdentityTokens)


@pytest.mark.parametrize("scope", list(IdentityScope))
async def test_the_lines_of_python(
    scope: IdentityScope, make_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They make a call; tests/docs/test_snippets.py runs the other languages."""
    data = OperatorData.sample(scope=scope)
    with LocalOperator.in_thread(data, console=True) as operator:
        text = snippets(make_desk(operator), "advertiser")["Python"]
        exports, _, program = text.removesuffix("END\n").partition(
            "python3 - <<'END'\n"
        )
        for line in exports.splitlines():
            name, _, value = shlex.split(line)[1].partition("=")
            monkeypatch.setenv(name, value)
        await asyncio.to_thread(exec, program, {})

        assert [call.path for call in operator.calls] == ["/v3/identity/map"]


@pytest.mark.parametrize("scope", list(IdentityScope))
def test_the_lines_for_docker(scope: IdentityScope, make_desk: Any) -> None:
    """Three commands: a network, and in it the sandbox and an application."""
    with LocalOperator.in_thread(
        OperatorData.sample(scope=scope), console=True
    ) as operator:
        text = snippets(make_desk(operator))["Docker"]
        key = operator.credentials["publisher"].api_key
    network, sandbox, application = text.replace("\\\n", "").splitlines()
    inner = shlex.split(sandbox)[-1]

    assert network == "docker network create uid2"
    assert "--network uid2" in sandbox
    assert "127.0.0.1:8080:8080" in sandbox
    assert "uid2 sandbox --host 0.0.0.0 --port 8080 --console" in inner
    assert ("--scope euid" in inner) is (scope is IdentityScope.EUID)
    assert f"{scope}_API_KEY={key}" in shlex.split(application)
    assert f"{scope}_BASE_URL=http://uid2-sandbox:8080" in shlex.split(application)
    assert f"{scope}_ALLOW_HTTP=1" in shlex.split(application)


def test_another_world_has_other_keys_in_a_container(make_desk: Any) -> None:
    """Then there is nothing to paste for one."""
    world = OperatorData.load("tests/conformance/uid2/world")
    with LocalOperator.in_thread(world, console=True) as operator:
        desk = make_desk(operator)
        name = next(iter(operator.credentials))
        assert "Docker" not in snippets(desk, name)


def test_the_url_is_that_of_the_page(desk: Any) -> None:
    """A published port of a container is another one than the operator's."""
    text = snippets(desk, Host="localhost:8080")["Shell"]

    assert "UID2_BASE_URL=http://localhost:8080\n" in text
    assert "ALLOW_HTTP" not in text


def test_from_another_machine_http_is_allowed(make_desk: Any) -> None:
    """Where the console is reached by an address that is not this machine's."""
    with LocalOperator.in_thread(console=True, host="0.0.0.0") as operator:  # noqa: S104 - that is the case
        found = snippets(make_desk(operator), Host="10.1.2.3:8080")

    assert "UID2_ALLOW_HTTP=1" in found["Shell"]
    assert "UID2_ALLOW_HTTP=1" in found["Python"]


def test_the_world_is_shown(desk: Any) -> None:
    """Keys by role, subscriptions, test identities, paths and lifetimes."""
    world = desk.see("operator")

    assert [one["name"] for one in world["roles"]] == ROLES
    assert world["roles"][0]["roles"] == ["GENERATOR"]
    (subscription,) = world["subscriptions"]
    assert subscription["domains"] == ["example.com", "localhost"]
    assert "private" not in str(world)
    assert [["optout@example.com", "+00000000000"], "always opted out"] in world[
        "test_identities"
    ]
    assert "/v2/token/refresh" in world["paths"]
    assert world["lifetimes"]["refresh_after"] == 3_600
