"""OpenTelemetry: a hook that creates spans and metrics from a client's events.

Requires the extra ``otel``. docs/observability.md lists all names. The attributes are
those of the events, and contain no DII, token, UID, key, header or body.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextvars import Token
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import attrs
from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from uid2_async._traceback import strip_tracebacks
from uid2_async._version import __version__
from uid2_async.hooks import (
    AttemptFailed,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Event,
    IdentitiesAnswered,
    LimitChanged,
    RetryScheduled,
    Throttled,
)
from uid2_async.keystore import KeyStore

__all__ = ["OpenTelemetryHook"]

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
_OK: Final = 200


class OpenTelemetryHook:
    """Observes clients with metrics, and with a span for each call and each attempt.

    One hook can serve any number of clients and their bulk jobs. The spans are children
    of the current span. Each is itself the current span during its call or attempt, so
    that the HTTP library's own spans become its children.

    Example:
        >>> hook = OpenTelemetryHook()
        >>> client = UID2Client.from_env(hooks=[hook])
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        """Create the instruments.

        Args:
            tracer_provider: The provider for spans. Defaults to the global provider.
            meter_provider: The provider for metrics. Defaults to the global provider.
        """
        name = "uid2_async"
        self._tracer = trace.get_tracer(name, __version__, tracer_provider)
        # The current call is stored in the context of its task.
        self._key = context.create_key("uid2-call")
        self._meters = _Meters(metrics.get_meter(name, __version__, meter_provider))

    def __call__(self, event: Event, /) -> None:
        """Handle *event*."""
        found = context.get_value(self._key)
        call = found if isinstance(found, _CallSpan) else None
        match event:
            case CallStarted():
                self._begin(_operation(event.endpoint))
            case AttemptStarted() if call is not None:
                call.begin_attempt(self._tracer, event)
            case AttemptFailed() if call is not None:
                call.last_error = event.error_type
                call.end_attempt(event.region, event.status, event.error_type)
            case RetryScheduled():
                self._meters.count_retry(event, reason=call.last_error if call else "")
            case CallFinished():
                if call is not None:
                    call.end(event)
                self._meters.count_call(event)
            case IdentitiesAnswered():
                self._meters.count_identities(event)
            case Throttled():
                self._meters.throttle_wait.record(event.delay)
            case LimitChanged():
                self._meters.limit = event.limit

    def _begin(self, operation: str) -> None:
        """Start the span of a call."""
        span = self._tracer.start_span(
            f"uid2 {operation}", attributes={"uid2.operation": operation}
        )
        call = _CallSpan(span)
        here = context.set_value(self._key, call, trace.set_span_in_context(span))
        call.token = context.attach(here)
        self._meters.in_flight.add(1, {"operation": operation})

    def observe_keys(self, store: KeyStore, name: str) -> None:
        """Report the age of a store's keys for as long as the store exists.

        Args:
            store: The key store.
            name: A name such as ``bidstream``, unique for each store.
        """
        self._meters.stores[name] = store


@attrs.define(eq=False)
class _CallSpan:
    """The spans of a call and of its open attempt.

    The tokens restore the contexts before.
    """

    span: Span
    token: Token[Context] | None = None
    attempt: tuple[Span, Token[Context]] | None = None
    last_error: str = ""

    def begin_attempt(self, tracer: trace.Tracer, event: AttemptStarted) -> None:
        """Start the span of an attempt, as a child of its call's span."""
        attributes: dict[str, AttributeValue] = {
            "http.request.method": "POST",
            "uid2.operation": _operation(event.endpoint),
            "uid2.trace_id": event.trace_id,
        }
        if event.attempt > 1:
            attributes["http.request.resend_count"] = event.attempt - 1
        span = tracer.start_span(
            f"POST {event.endpoint}", kind=SpanKind.CLIENT, attributes=attributes
        )
        self.attempt = span, context.attach(trace.set_span_in_context(span))

    def end_attempt(
        self, region: str | None, status: int | None, error_type: str | None
    ) -> None:
        """End the span of the attempt, if one is open."""
        if self.attempt is None:
            return
        span, token = self.attempt
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if region is not None:
            span.set_attributes(_server(region))
        _end(span, error_type)
        context.detach(token)
        self.attempt = None

    def end(self, event: CallFinished) -> None:
        """End the span of the call, and that of its attempt if it is still open."""
        status = _OK if event.error_type is None else None
        self.end_attempt(event.region, status, event.error_type)
        self.span.set_attribute("uid2.attempts", event.attempts)
        _end(self.span, event.error_type)
        if self.token is not None:
            context.detach(self.token)


class _Meters:
    """The instruments. Their units become a part of the names in Prometheus."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._duration = meter.create_histogram(
            "uid2.client.operation.duration",
            unit="s",
            description="Duration of calls, including all attempts.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._retries = meter.create_counter(
            "uid2.client.retries",
            unit="{retry}",
            description="Attempts after a failed attempt.",
        )
        self._identities = meter.create_counter(
            "uid2.client.identities",
            unit="{identity}",
            description="People in calls, by result.",
        )
        self.in_flight = meter.create_up_down_counter(
            "uid2.client.inflight_requests",
            unit="{request}",
            description="Calls in progress.",
        )
        self.throttle_wait = meter.create_histogram(
            "uid2.client.throttle_wait",
            unit="s",
            description="Time waited because of the operator's rate limit.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.limit: int | None = None
        self._skew: float | None = None
        self.stores: WeakValueDictionary[str, KeyStore] = WeakValueDictionary()
        self._create_gauges(meter)

    def _create_gauges(self, meter: metrics.Meter) -> None:
        """Create gauges that are read on export. Older SDKs lose a gauge's value."""
        meter.create_observable_gauge(
            "uid2.client.concurrency_limit",
            callbacks=[lambda _options: _observed(self.limit)],
            unit="{request}",
            description="Concurrent batches of the last bulk job.",
        )
        meter.create_observable_gauge(
            "uid2.client.clock_skew",
            callbacks=[lambda _options: _observed(self._skew)],
            unit="s",
            description="Offset of the operator's clock from this machine's.",
        )
        meter.create_observable_gauge(
            "uid2.client.keys_age",
            callbacks=[self._read_ages],
            unit="s",
            description="Age of the keys since they were fetched.",
        )

    def _read_ages(self, _options: object) -> Iterable[metrics.Observation]:
        """Read the age of the keys of each store that has keys."""
        for name, store in sorted(self.stores.items()):
            age = store.age
            if math.isfinite(age):
                yield metrics.Observation(age, {"keys": name})

    def count_call(self, event: CallFinished) -> None:
        """Count the end of a call."""
        operation = _operation(event.endpoint)
        self.in_flight.add(-1, {"operation": operation})
        attributes = {"operation": operation, "outcome": _outcome(event.error_type)}
        if event.error_type is not None:
            attributes["error.type"] = event.error_type
        self._duration.record(event.elapsed, attributes)
        if event.error_type is None:
            self._skew = event.skew

    def count_retry(self, event: RetryScheduled, *, reason: str) -> None:
        """Count a retry."""
        operation = _operation(event.endpoint)
        self._retries.add(1, {"operation": operation, "reason": reason})
        if reason == "RateLimitError":
            self.throttle_wait.record(event.delay)

    def count_identities(self, event: IdentitiesAnswered) -> None:
        """Count identities by result."""
        attributes = {
            "operation": _operation(event.endpoint),
            "type": event.kind,
            "result": event.result,
        }
        self._identities.add(event.count, attributes)


def _observed(value: float | None) -> list[metrics.Observation]:
    """Return a value as an observation, or nothing if it is None."""
    return [] if value is None else [metrics.Observation(value)]


def _operation(endpoint: str) -> str:
    """Return the name of an operation by its path, such as ``v2/token/generate``."""
    return endpoint.removeprefix("/")


def _outcome(error_type: str | None) -> str:
    """Classify the end of a call. A cancellation does not count as an error."""
    if error_type is None:
        return "success"
    return "cancelled" if error_type == "CancelledError" else "error"


def _end(span: Span, error_type: str | None) -> None:
    """End *span*. An error is recorded only by its class."""
    if error_type is not None:
        span.set_attribute("error.type", error_type)
    if _outcome(error_type) == "error":
        span.set_status(StatusCode.ERROR)
    span.end()


@lru_cache(maxsize=64)
def _server(region: str) -> dict[str, AttributeValue]:
    """Split a base URL into the attributes of the semantic conventions."""
    parts = urlsplit(region)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return {"server.address": parts.hostname or "", "server.port": port}


strip_tracebacks(globals())
