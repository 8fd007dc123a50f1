"""Spans and metrics: their names, their tree, and nothing personal in them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from uid2_async import (
    BidstreamClient,
    BulkMapper,
    IdentityScope,
    IdentityTokens,
    KeyStore,
    MappedUID,
    UID2Client,
    errors,
)
from uid2_async.hooks import AttemptFailed, AttemptStarted, CallFinished
from uid2_async.operator import Fault, LocalOperator
from uid2_async.testing import ManualClock, retry_at_once

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from uid2_async.integrations.opentelemetry import OpenTelemetryHook

EMAIL = "canary.person@example.com"
PHONE = "+12345678901"

SPAN_ATTRIBUTES = {
    "error.type",
    "http.request.method",
    "http.request.resend_count",
    "http.response.status_code",
    "server.address",
    "server.port",
    "uid2.attempts",
    "uid2.operation",
    "uid2.trace_id",
}
METRIC_ATTRIBUTES = {
    "error.type",
    "keys",
    "operation",
    "outcome",
    "reason",
    "result",
    "type",
}
METRICS = {
    "uid2.client.clock_skew": "s",
    "uid2.client.concurrency_limit": "{request}",
    "uid2.client.identities": "{identity}",
    "uid2.client.inflight_requests": "{request}",
    "uid2.client.keys_age": "s",
    "uid2.client.operation.duration": "s",
    "uid2.client.retries": "{retry}",
    "uid2.client.throttle_wait": "s",
}


class Telemetry:
    """What a hook made, in memory."""

    def __init__(self) -> None:
        """Make providers of our own: the global ones can be set but once."""
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        self.hook = OpenTelemetryHook(
            tracer_provider=self.tracers, meter_provider=self.meters
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in that order."""
        return list(self.exporter.get_finished_spans())

    def metrics(self) -> dict[str, Any]:
        """Read all metrics by name."""
        data = self.reader.get_metrics_data()
        if data is None or not data.resource_metrics:
            return {}
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """Read the points of one metric by their attributes."""
        points = self.metrics()[name].data.data_points
        return {tuple(sorted(one.attributes.items())): one for one in points}


@pytest.fixture
def scope() -> IdentityScope:
    """Run in one system, since no span and no metric tells which."""
    return IdentityScope.UID2


@pytest.fixture
def telemetry() -> Telemetry:
    """Give a hook with its exporters."""
    return Telemetry()


@pytest.fixture
async def observed(
    operator: LocalOperator, telemetry: Telemetry
) -> AsyncIterator[UID2Client]:
    """Give an observed client."""
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        hooks=[telemetry.hook],
        retry=retry_at_once(_random=lambda: 0.5),
    ) as opened:
        yield opened


async def test_a_call_is_a_span_with_one_for_each_attempt(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """The tree, and the attributes of the stable semantic conventions."""
    operator.fail_next(Fault(status=503))

    await observed.generate_token(EMAIL)

    failed, succeeded, call = telemetry.spans
    port = int(operator.url.rpartition(":")[2])
    traces = [made.trace_id for made in operator.calls]
    assert call.parent is None
    assert call.context is not None
    assert failed.parent is not None
    assert succeeded.parent is not None
    assert failed.parent.span_id == succeeded.parent.span_id == call.context.span_id
    assert call.name == "uid2 v2/token/generate"
    assert call.kind is SpanKind.INTERNAL
    assert call.attributes == {
        "uid2.operation": "v2/token/generate",
        "uid2.attempts": 2,
    }
    assert failed.name == succeeded.name == "POST /v2/token/generate"
    assert failed.kind is succeeded.kind is SpanKind.CLIENT
    shared = {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": port,
        "uid2.operation": "v2/token/generate",
    }
    assert failed.attributes == shared | {
        "error.type": "ServerError",
        "http.response.status_code": 503,
        "uid2.trace_id": traces[0],
    }
    assert succeeded.attributes == shared | {
        "http.request.resend_count": 1,
        "http.response.status_code": 200,
        "uid2.trace_id": traces[1],
    }
    statuses = [span.status.status_code for span in telemetry.spans]
    assert statuses == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]


async def test_spans_belong_to_what_the_caller_does(
    observed: UID2Client, telemetry: Telemetry
) -> None:
    """Calls at once do not get into each other's trees, and nothing stays current."""
    tracer = telemetry.tracers.get_tracer("app")

    async def page(number: int) -> None:
        with tracer.start_as_current_span(f"page {number}"):
            await observed.generate_token(f"{number}@example.com")
            await observed.map_identities([f"{number}@example.com"])

    await asyncio.gather(*(page(number) for number in range(5)))

    spans = telemetry.spans
    ids = {span.context.span_id: span for span in spans if span.context}
    pages = [span for span in spans if span.name.startswith("page")]
    calls = [span for span in spans if span.name.startswith("uid2")]
    attempts = [span for span in spans if span.name.startswith("POST")]
    assert (len(pages), len(calls), len(attempts)) == (5, 10, 10)
    assert all(span.parent is None for span in pages)
    for one in calls:
        assert one.parent is not None
        assert ids[one.parent.span_id].name.startswith("page")
    for one in attempts:
        assert one.parent is not None
        above = ids[one.parent.span_id]
        assert one.attributes is not None
        assert above.attributes is not None
        assert above.attributes["uid2.operation"] == one.attributes["uid2.operation"]
        assert one.context is not None
        assert above.context is not None
        assert one.context.trace_id == above.context.trace_id


async def test_a_failed_call_is_an_error(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """Its class is told, on the span and in the duration."""
    operator.fail_next(Fault(status=401), times=2)

    with pytest.raises(errors.AuthError):
        await observed.generate_token(EMAIL)

    attempt, call = telemetry.spans
    for span in (attempt, call):
        assert span.attributes is not None
        assert span.attributes["error.type"] == "AuthError"
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert not span.events
    (attributes,) = telemetry.points("uid2.client.operation.duration")
    assert dict(attributes) == {
        "operation": "v2/token/generate",
        "outcome": "error",
        "error.type": "AuthError",
    }


async def test_a_cancelled_call_is_no_error(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """Both of its spans end, and it is in flight no more."""
    operator.fail_next(Fault(delay=60))
    task = asyncio.create_task(observed.generate_token(EMAIL))
    # Not while it connects: the operator would have to close what nobody has seen yet.
    while not operator.most_in_flight:  # noqa: ASYNC110 - it is on another thread
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    attempt, call = telemetry.spans
    for span in (attempt, call):
        assert span.attributes is not None
        assert span.attributes["error.type"] == "CancelledError"
        assert span.status.status_code is StatusCode.UNSET
    (attributes,) = telemetry.points("uid2.client.operation.duration")
    assert dict(attributes)["outcome"] == "cancelled"
    (in_flight,) = telemetry.points("uid2.client.inflight_requests").values()
    assert in_flight.value == 0


async def test_retries_are_counted_by_reason(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """A wish to slow down is also counted in seconds."""
    operator.fail_next(Fault(status=503))
    operator.fail_next(Fault(status=429, retry_after=3))
    await observed.generate_token(EMAIL)

    retries = telemetry.points("uid2.client.retries")
    assert {dict(one)["reason"]: point.value for one, point in retries.items()} == {
        "ServerError": 1,
        "RateLimitError": 1,
    }
    (waited,) = telemetry.points("uid2.client.throttle_wait").values()
    assert waited.count == 1
    assert 3 <= waited.sum < 3.5


async def test_people_are_counted_by_result(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """One at a time and in bulk."""
    operator.opt_out("gone@example.com")
    people = [EMAIL, PHONE, "gone@example.com", "no identity"]
    await observed.map_identities(people)
    async with BulkMapper(observed).map([EMAIL, "gone@example.com"]) as records:
        assert len([one async for one in records]) == 2

    counted = telemetry.points("uid2.client.identities")
    found = {
        (dict(one)["type"], dict(one)["result"]): point.value
        for one, point in counted.items()
    }
    assert found == {
        ("email", "mapped"): 2,
        ("email", "optout"): 2,
        ("email", "invalid"): 1,
        ("phone", "mapped"): 1,
    }
    (limit,) = telemetry.points("uid2.client.concurrency_limit").values()
    assert limit.value == 4


async def test_the_clock_skew_is_that_of_the_last_reply(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """In seconds, ahead of ours."""
    operator.advance(90)

    await observed.generate_token(EMAIL)

    (skew,) = telemetry.points("uid2.client.clock_skew").values()
    assert skew.value == pytest.approx(90, abs=5)


async def test_the_age_of_keys_is_read_when_it_is_asked_for(
    observed: UID2Client, telemetry: Telemetry
) -> None:
    """By the store's own clock; a store that is empty or gone says nothing."""
    clock = ManualClock()
    store = KeyStore(observed.fetch_bidstream_keys, clock=clock)
    telemetry.hook.observe_keys(store, "bidstream")
    assert "uid2.client.keys_age" not in telemetry.metrics()

    await store.ensure_fresh(3600)
    clock.advance(120)
    points = telemetry.points("uid2.client.keys_age")
    assert {one: point.value for one, point in points.items()} == {
        (("keys", "bidstream"),): 120.0
    }

    del store
    assert not telemetry.metrics().get("uid2.client.keys_age")


async def do_everything(
    client: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> list[str]:
    """Make every kind of call, in good and bad moments; list what must not be told."""
    operator.opt_out("gone.canary@example.com")
    tokens = await client.generate_token(EMAIL)
    assert isinstance(tokens, IdentityTokens)
    await client.generate_token("gone.canary@example.com")
    operator.fail_next(Fault(status=500, body=f"no {EMAIL}"))
    fresh = await client.refresh_token(tokens)
    assert isinstance(fresh, IdentityTokens)
    await client.validate_token(EMAIL, tokens.advertising_token)
    operator.fail_next(Fault(status=429))
    operator.fail_next(Fault(drop=True))
    found = await client.map_identities([EMAIL, PHONE, "canary, not valid"])
    mapped = found.get(EMAIL)
    assert isinstance(mapped, MappedUID)
    await client.opt_out_status([mapped.raw_uid])
    operator.fail_next(Fault(status=400, body=f"bad {EMAIL}"), times=2)
    with pytest.raises(errors.BadRequestError):
        await client.opt_out(EMAIL)
    store = KeyStore(client.fetch_bidstream_keys)
    telemetry.hook.observe_keys(store, "bidstream")
    async with store, BulkMapper(client).map([EMAIL, PHONE]) as records:
        assert len([one async for one in records]) == 2
        BidstreamClient(store).decrypt(tokens.advertising_token, "example.org")
        telemetry.metrics()
    return [
        "canary",
        PHONE,
        mapped.raw_uid,
        operator.api_key,
        operator.client_secret,
        tokens.advertising_token,
        tokens.refresh_token,
        fresh.advertising_token,
        fresh.refresh_token,
    ]


async def test_nothing_personal_and_no_secret_is_told(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """Only attributes of the list, and no value that we sent or got."""
    secrets = await do_everything(observed, operator, telemetry)

    found = [json.loads(span.to_json()) for span in telemetry.spans]
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    text = json.dumps(found) + data.to_json()
    for secret in secrets:
        assert secret not in text
        assert secret[:12] not in text or secret == "canary"
    assert {key for span in found for key in span["attributes"]} == SPAN_ATTRIBUTES
    assert not any(span["events"] for span in found)


async def test_the_metrics_are_those_of_the_documentation(
    observed: UID2Client, operator: LocalOperator, telemetry: Telemetry
) -> None:
    """Names and units, of which Prometheus makes its own, and the labels."""
    store = KeyStore(observed.fetch_bidstream_keys)
    telemetry.hook.observe_keys(store, "bidstream")
    await store.ensure_fresh(60)
    await do_everything(observed, operator, telemetry)
    telemetry.hook.observe_keys(store, "bidstream")

    metrics = telemetry.metrics()
    assert {name: one.unit for name, one in metrics.items()} == METRICS
    labels = {
        key
        for one in metrics.values()
        for point in one.data.data_points
        for key in point.attributes
    }
    assert labels == METRIC_ATTRIBUTES


async def test_events_outside_of_a_call_are_no_failure(telemetry: Telemetry) -> None:
    """As when a call that nobody awaits any more is thrown away."""
    telemetry.hook(AttemptStarted(endpoint="/x", attempt=1, trace_id="t"))
    telemetry.hook(
        AttemptFailed(
            endpoint="/x",
            attempt=1,
            trace_id="t",
            error_type="ServerError",
            status=500,
            elapsed=1.0,
        )
    )
    telemetry.hook(
        CallFinished(
            endpoint="/x", attempts=1, trace_id="t", elapsed=1.0, error_type=None
        )
    )

    assert telemetry.spans == []
    assert len(telemetry.points("uid2.client.operation.duration")) == 1
