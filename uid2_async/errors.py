"""The errors of uid2_async, arranged by who must act.

All errors can be pickled. None contains DII, a token, a UID, a key or a secret, because
errors are logged. The built-in ``TimeoutError`` and ``ConnectionError`` are not base
classes, so that ``except TimeoutError`` catches only the caller's own timeout.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import ClassVar

from uid2_async._private import printable

__all__ = [
    "AuthError",
    "BadRequestError",
    "CallTimeoutError",
    "CertificateError",
    "ClientClosedError",
    "ClientForkError",
    "ClientLoopError",
    "ClockSkewError",
    "ConfigError",
    "ConnectError",
    "EnvelopeError",
    "ExpiredTokenError",
    "InputError",
    "InvalidTokenError",
    "JobError",
    "KeysUnavailableError",
    "OperatorError",
    "PayloadTooLargeError",
    "ProtocolError",
    "RateLimitError",
    "ServerError",
    "StalledError",
    "TokenError",
    "TokenFailure",
    "TransportError",
    "UID2Error",
    "UnexpectedStatusError",
]


class UID2Error(Exception):
    """The base class of all errors that this library raises.

    ``str(error)`` is the message. The hint, and the call that failed, are notes
    (``__notes__``): tracebacks and ``logging.exception`` show them below the message.

    Example:
        >>> try:
        ...     await client.generate_token("not an address")
        ... except UID2Error as error:
        ...     print(error.retryable)
        False

    Attributes:
        message: What failed, without any personal data or secret.
        hint: What to do about it.
        retryable: Whether the same call may succeed later. The retry policy decides
            this (:func:`uid2_async.retry.classify`).
        endpoint: The path of the call that failed, such as ``/v2/token/generate``, or
            None outside of a call.
        trace_id: The ``UID-Trace-Id`` of the last attempt, for the operator's support
            team; None if nothing was sent.
        attempts: How many attempts the call made; 0 if nothing was sent.
        region: The base URL of the last attempt, or None if the transport does not
            report it.
        reused_connection: Whether it was received over a connection that had served
            another request before, and may therefore belong to another request.
    """

    default_hint: ClassVar[str] = "See the documentation of the call that raised this."

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        """Keep *message*, and *hint* where it says more than the class's own.

        Both become printable: a message may name a file or repeat an operator.
        """
        message = printable(f"{message}")
        super().__init__(message)
        self.message: str = message
        self.hint: str = printable(f"{hint or self.default_hint}")
        self.retryable: bool = False
        self.endpoint: str | None = None
        self.trace_id: str | None = None
        self.attempts: int = 0
        self.region: str | None = None
        self.reused_connection: bool = False
        # Immutable, so that a shallow copy cannot share it.
        self._added_notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the message. The hint is :attr:`hint`, and a note."""
        return printable(self.message)

    @property
    def __notes__(self) -> list[str]:
        """The hint, what identifies the call, and what :meth:`add_note` was given.

        They are computed on access: the hint and the call may be set after
        the error was made, and no copy, pickle or second waiter can repeat them.
        """
        return [*self._own_notes(), *self._added_notes]

    @__notes__.setter
    def __notes__(self, notes: Iterable[str]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] # BaseException fills a list
        own = self._own_notes()
        self._added_notes = tuple(note for note in notes if note not in own)

    def add_note(self, note: str, /) -> None:
        """Add a note, which tracebacks show below the message."""
        if not isinstance(note, str):
            raise TypeError("note must be str.")
        self._added_notes = (*self._added_notes, note)

    def _own_notes(self) -> list[str]:
        """List the notes that follow from the attributes."""
        context = self._context()
        call = [printable(f"[{', '.join(context)}]")] if context else []
        return [printable(self.hint), *call]

    def _context(self) -> list[str]:
        """List what identifies the call."""
        context = []
        if self.endpoint is not None:
            context.append(f"POST {self.endpoint}")
        if self.attempts:
            context.append(f"attempts {self.attempts}")
        if self.trace_id is not None:
            context.append(f"trace id {self.trace_id}")
        return context


class InputError(UID2Error, ValueError):
    """A value that the caller passed is wrong; raised before anything is sent.

    The message names the kind of the value and its place, never the value.
    """

    default_hint = "Correct the value that the message names and call again."


class ConfigError(UID2Error, ValueError):
    """A setting is wrong: base URL, API key, client secret or an option."""

    default_hint = "Correct the setting that the message names."


class JobError(UID2Error):
    """A job, its folder or its state cannot be used: locked, changed or damaged.

    Nothing that was finished before is lost by it.
    """

    default_hint = "Remove the cause that the message names, and run the job again."


class TransportError(UID2Error):
    """No usable HTTP answer came back."""

    default_hint = "Check the network between this machine and the operator."


class ConnectError(TransportError):
    """The operator could not be reached: refused, unresolvable, or it hung up.

    Attributes:
        disconnected: True where a connection that stood was lost before the reply; a
            kept one may have been closed by the operator in the meantime.
    """

    default_hint = "Check the base URL, DNS, the firewall and any proxy."

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        disconnected: bool = False,
    ) -> None:
        """Keep what happened and when."""
        super().__init__(message, hint=hint)
        self.disconnected: bool = disconnected


class CertificateError(TransportError):
    """The operator's certificate was not accepted; never retried."""

    default_hint = (
        "Check the host name, this machine's clock and its CA bundle. For a private "
        "CA, set UID2_CA_FILE (or EUID_CA_FILE), or pass ca_file= to the client."
    )


class CallTimeoutError(TransportError):
    """The call did not finish within its timeout."""

    default_hint = "Raise timeout=, or check the operator's latency."


class StalledError(TransportError):
    """A bulk job stopped, because no batch has succeeded for its stall_timeout."""

    default_hint = "Check the operator. The results returned so far are complete."


class OperatorError(UID2Error):
    """The operator answered, and the answer is no (docs/protocol.md 1.7).

    Attributes:
        status: The HTTP status code.
        code: The operator's status word, such as ``client_error``, or None.
        retry_after: How many seconds the operator asked to wait, or None.
    """

    default_hint = "Change the request as the operator's message says."

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        status: int = 0,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep what the operator said."""
        super().__init__(message, hint=hint)
        self.status: int = status
        self.code: str | None = None if code is None else printable(f"{code}")
        self.retry_after: float | None = retry_after

    def _context(self) -> list[str]:
        """Add the operator's own words."""
        context = super()._context()
        if self.status:
            context.append(f"HTTP {self.status}")
        if self.code is not None:
            context.append(f"status {self.code}")
        if self.retry_after is not None:
            context.append(f"retry after {self.retry_after:g} s")
        return context


class BadRequestError(OperatorError):
    """The operator could not accept the request (HTTP 400)."""


class AuthError(OperatorError):
    """The API key was not accepted, or the client secret does not belong to it."""

    default_hint = (
        "Check that the API key is enabled, belongs to this environment and has the "
        "role that the endpoint needs."
    )


class InvalidTokenError(OperatorError):
    """The operator does not recognize the token (HTTP 400)."""

    default_hint = "Generate a new token. This one can no longer be used."


class ExpiredTokenError(OperatorError):
    """The refresh token has expired (HTTP 400)."""

    default_hint = "Generate a new token. The refresh token has expired."


class ClockSkewError(OperatorError):
    """The operator refused the time in the envelope (docs/protocol.md 1.4).

    Attributes:
        offset: By how many seconds the operator's clock is ahead of the time that was
            sent; None where the operator gave no usable time.
        corrected: True where the same call would be sent with a better time.
        late: True where the time was right, so that the request was too slow.
    """

    default_hint = "Set this machine's clock (NTP). It is off by a minute or more."

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        status: int = 0,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Keep what the operator said; how far the clock is off is found out later."""
        super().__init__(
            message, hint=hint, status=status, code=code, retry_after=retry_after
        )
        self.offset: float | None = None
        self.corrected: bool = False
        self.late: bool = False

    def _context(self) -> list[str]:
        """Add by how much the time was off."""
        context = super()._context()
        if self.offset is not None:
            side = "behind" if self.offset > 0 else "ahead of"
            context.append(
                f"the time sent was {abs(self.offset):.0f} s {side} the operator's"
            )
        return context


class RateLimitError(OperatorError):
    """The operator asks to slow down (HTTP 429)."""

    default_hint = "Send fewer requests at once, or wait for retry_after seconds."


class ServerError(OperatorError):
    """The operator or its edge failed (HTTP 5xx)."""

    default_hint = (
        "Try again later. If it persists, give the trace ID to the operator's support."
    )


class PayloadTooLargeError(OperatorError):
    """The request body is over the operator's limit of 1 MiB (HTTP 413)."""

    default_hint = "Send fewer items in one call."


class UnexpectedStatusError(OperatorError):
    """An HTTP status that no operator sends here: a redirect, 404, 405 and the like."""

    default_hint = "Check the base URL: this does not look like an operator."


class EnvelopeError(UID2Error):
    """The reply could not be opened: forged, cut, foreign or sealed with another key.

    One message for every cause, so that nothing can be learnt from the difference.

    Attributes:
        foreign_nonce: True where the reply was sealed with the right key but answers
            another request: a replay or a mix-up, and never to be retried.
        untimely: True where it answers this request, but with a time that is more than
            ten minutes off: never to be retried either.
    """

    default_hint = (
        "Check that the client secret belongs to the API key, and that no proxy or "
        "portal answers in the operator's place."
    )

    def __init__(
        self,
        message: str = "The operator's reply could not be opened.",
        *,
        hint: str | None = None,
    ) -> None:
        """Keep the one message."""
        super().__init__(message, hint=hint)
        self.foreign_nonce: bool = False
        self.untimely: bool = False


class ProtocolError(UID2Error):
    """The reply is not of the documented shape.

    Attributes:
        path: Where, such as ``body.email_hash[3].u``; empty for the reply as a whole.
        unparseable_http: True where not even HTTP could be read.
    """

    default_hint = (
        "Update uid2_async. If it persists, report the path and the trace ID."
    )

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        path: str = "",
        unparseable_http: bool = False,
    ) -> None:
        """Keep the place of the deviation, never its value."""
        super().__init__(message, hint=hint)
        self.path: str = path
        self.unparseable_http: bool = unparseable_http


class KeysUnavailableError(UID2Error):
    """No key ring has been loaded yet, or all of its keys have expired."""

    default_hint = "Fetch the keys again and check that the key has access to them."


class TokenFailure(Enum):
    """Why a token could not be decrypted or encrypted (docs/protocol.md 6.6).

    Not a ``str``, so that ``isinstance(found, str)`` is true for a token only.
    """

    INVALID_PAYLOAD = "invalid payload"
    VERSION_NOT_SUPPORTED = "token version not supported"
    INVALID_IDENTITY_SCOPE = "invalid identity scope"
    NOT_AUTHORIZED_FOR_MASTER_KEY = "not authorized for master key"
    NOT_AUTHORIZED_FOR_KEY = "not authorized for key"
    EXPIRED_TOKEN = "token expired"  # noqa: S105 - a status text, no secret
    DOMAIN_OR_APP_NAME_CHECK_FAILED = "domain or app name check failed"
    INVALID_TOKEN_LIFETIME = "invalid token lifetime"  # noqa: S105 - as above

    def __str__(self) -> str:
        """Return the value, to be read by people."""
        return self.value


class TokenError(UID2Error):
    """A token could not be decrypted or made locally.

    Attributes:
        reason: The cause, one of :class:`TokenFailure`.
    """

    default_hint = "See the reason. Discard an expired or invalid token."

    def __init__(
        self,
        reason: TokenFailure = TokenFailure.INVALID_PAYLOAD,
        *,
        hint: str | None = None,
    ) -> None:
        """Keep the cause; the message is its text."""
        super().__init__(f"The token was rejected: {reason}.", hint=hint)
        self.reason: TokenFailure = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the reason, since the message is made from it."""
        return (type(self), (self.reason,), self.__dict__)


class ClientClosedError(UID2Error):
    """The client was closed before the call, or while it was made."""

    default_hint = "Create a new client, or close this one later."


class ClientLoopError(UID2Error):
    """The client is used in another event loop than the one that it runs in."""

    default_hint = "Create one client in each event loop."


class ClientForkError(UID2Error):
    """The client was made before this process was forked."""

    default_hint = "Create the client in the worker, after the fork."
