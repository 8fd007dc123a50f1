"""An encrypted cookie, for applications without server-side sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError, InputError
from uid2_async.protocol import base64

_KEY_CHARS: Final = 32
_MONTH: Final = 30 * 24 * 3600
# The smallest limit of browsers (RFC 6265, 6.1), less the name and attributes.
_MAX_BYTES: Final = 3800


class SetsCookies(Protocol):
    """A response of aiohttp.web, Django, Flask, Starlette or FastAPI."""

    @property
    def set_cookie(self) -> Callable[..., object]:
        """Adds a Set-Cookie header."""
        ...


class SealedCookie(Unpicklable):
    """Stores a JSON object in a cookie that only this application can read or create.

    Signed cookies, such as the session cookies of Flask and Starlette, are not
    encrypted. They must not contain refresh tokens or response keys. This cookie is
    encrypted and authenticated with Fernet, and always HttpOnly.

    Example:
        >>> cookie = SealedCookie(key)
        >>> session = cookie.open(request.cookies.get(cookie.name))
        >>> cookie.save(response, {**session, "uid2": to_session(tokens)})
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        *,
        name: str = "uid2",
        domain: str | None = None,
        path: str = "/",
        secure: bool = True,
        same_site: Literal["Strict", "Lax", "None"] = "Lax",
        max_age: int = _MONTH,
    ) -> None:
        """Derive the encryption keys.

        Args:
            keys: A secret of the application, such as Django's or Flask's SECRET_KEY,
                or several, newest first. The first one encrypts, and all decrypt. To
                rotate, insert a new one at the front, and remove the old one after
                *max_age*.
            name: The name of the cookie.
            domain: The domain, including its subdomains. Defaults to the host alone.
            path: The path, including all paths below it.
            secure: Whether the cookie is sent only over https, or to localhost. Pass
                ``False`` for tests without https.
            same_site: Whether requests from other sites include it.
            max_age: How long browsers keep it, in seconds. Refresh tokens are valid for
                30 days.

        Raises:
            ConfigError: If there is no key, or one has fewer than 32 characters.
        """
        given = [keys] if isinstance(keys, str) else list(keys)
        if not given or any(len(key) < _KEY_CHARS for key in given):
            raise ConfigError(
                f"A secret of the cookie has fewer than {_KEY_CHARS} characters.",
                hint='Make one: python -c "import secrets; '
                'print(secrets.token_urlsafe(32))"',
            )
        self.name: str = name
        self._max_age = max_age
        self._attributes: dict[str, Any] = {
            "domain": domain,
            "path": path,
            "secure": secure,
            "httponly": True,
            "samesite": same_site,
        }
        self._fernet = MultiFernet([_derive(key, name) for key in given])

    def __repr__(self) -> str:
        """Show only the name."""
        return f"<SealedCookie {self.name}>"

    def open(self, value: str | None) -> dict[str, Any]:
        """Decrypt the cookie of a request.

        Returns:
            The object. It is empty if there is no cookie, or if the cookie was not
            encrypted with one of the keys.
        """
        try:
            text = self._fernet.decrypt((value or "").encode())
            found: dict[str, Any] = msgspec.json.decode(text, type=dict)
        except (InvalidToken, UnicodeError, msgspec.DecodeError):
            return {}
        return found

    def seal(self, content: Mapping[str, Any]) -> str:
        """Return the value of the cookie for a JSON object.

        Raises:
            InputError: If it is not JSON, or too large for a cookie.
        """
        try:
            text = msgspec.json.encode(dict(content))
        except (TypeError, msgspec.ValidationError):
            text = b""
        if not text:
            raise InputError("The content of a cookie must be a JSON object.")
        value = self._fernet.encrypt(text).decode()
        if len(value) > _MAX_BYTES:
            raise InputError(
                f"The cookie {self.name} is too large: {len(value)} bytes.",
                hint="Keep the rest in a session on the server.",
            )
        return value

    def save(self, response: SetsCookies, content: Mapping[str, Any]) -> None:
        """Set the cookie of a response, or delete it if *content* is empty.

        Args:
            response: A response of aiohttp.web, Django, Flask, Starlette or FastAPI.
            content: A JSON object.

        Raises:
            InputError: If *content* is not JSON, or too large for a cookie.
        """
        value, age = (self.seal(content), self._max_age) if content else ("", 0)
        response.set_cookie(self.name, value, max_age=age, **self._attributes)


def _derive(key: str, name: str) -> Fernet:
    """Derive the key of one cookie, so that cookies cannot be swapped."""
    info = f"uid2_async.SealedCookie {name}".encode()
    kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
    return Fernet(base64.encode(kdf.derive(key.encode())).translate(_URL_SAFE))


_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


strip_tracebacks(globals())
