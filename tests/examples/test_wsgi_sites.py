"""The example sites on Django and Flask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from uid2_async.operator import Fault, LocalOperator

EMAIL = "reader@example.com"


@pytest.fixture(params=["django_site", "flask_site"])
def visit(
    request: pytest.FixtureRequest,
    load: Callable[[str], ModuleType],
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., str]]:
    """Give what visits a site: the text of a page, or of the one after a form."""
    for name, value in {**env, "SITE_SECRET": "of the example " * 3}.items():
        monkeypatch.setenv(name, value)
    pytest.importorskip(request.param.partition("_")[0])
    make = _browse_django if request.param == "django_site" else _browse_flask
    yield from make(load(request.param))


def _browse_flask(site: ModuleType) -> Iterator[Callable[..., str]]:
    app = site.make_app()
    browser = app.test_client()

    def visit(path: str = "/", **form: str) -> str:
        if path == "/":
            return browser.get(path).text  # type: ignore[no-any-return] # Flask's is untyped
        return browser.post(path, data=form, follow_redirects=True).text  # type: ignore[no-any-return] # as above

    yield visit
    app.extensions["uid2"].client.close()


def _browse_django(site: ModuleType) -> Iterator[Callable[..., str]]:
    import django  # noqa: PLC0415 - may be missing
    from django.conf import settings  # noqa: PLC0415 - as above
    from django.test import Client, override_settings  # noqa: PLC0415 - as above

    from uid2_async.integrations.django import get_client  # noqa: PLC0415 - as above

    if not settings.configured:  # once in a process, by whichever test comes first
        settings.configure(SECRET_KEY="overridden below")
    django.setup()
    browser = Client(enforce_csrf_checks=True)

    def visit(path: str = "/", **form: str) -> str:
        page = browser.get("/").content.decode()
        if path == "/":
            return page
        token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[0]
        data = {**form, "csrfmiddlewaretoken": token}
        return browser.post(path, data=data, follow=True).content.decode()

    with override_settings(**site.make_settings()):
        yield visit
        get_client().close()


def test_a_visit(
    visit: Callable[..., str], operator: LocalOperator, caplog: pytest.LogCaptureFixture
) -> None:
    """Log in, read, log out: one request to the operator."""
    assert "Log in" in visit()
    assert "token is fresh" in visit("/login", email=EMAIL)
    assert "token is fresh" in visit()
    assert "Log in" in visit("/logout")
    assert [call.path for call in operator.calls] == ["/v2/token/generate"]


def test_somebody_who_opted_out(
    visit: Callable[..., str], operator: LocalOperator
) -> None:
    """The site remembers it, and does not ask again."""
    operator.opt_out(EMAIL)
    assert "has opted out" in visit("/login", email=EMAIL)
    assert "has opted out" in visit()
    assert len(operator.calls) == 1


@pytest.mark.parametrize("status", [200, 401])
def test_a_login_that_gives_no_tokens(
    visit: Callable[..., str], operator: LocalOperator, status: int
) -> None:
    """The page is served, and nobody keeps the tokens of another person."""
    visit("/login", email="before@example.com")
    operator.fail_next(Fault(status=status), times=9)
    email = "no email" if status == 200 else EMAIL
    assert ("not an email" if status == 200 else "Log in") in visit(
        "/login", email=email
    )
    assert "Log in" in visit()
