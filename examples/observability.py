"""The spans and metrics of a client in OpenTelemetry, on the console.

    pip install 'uid2-async[otel]' opentelemetry-sdk
    python examples/observability.py

It runs against an embedded operator, one of whose replies fails.
"""

from __future__ import annotations

import asyncio

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from uid2_async import BulkMapper, KeyStore, UID2Client
from uid2_async.integrations.opentelemetry import OpenTelemetryHook
from uid2_async.operator import Fault, LocalOperator


def set_up() -> tuple[TracerProvider, MeterProvider]:
    """Send spans and metrics to the console. A service sends them elsewhere."""
    resource = Resource.create({"service.name": "observability-example"})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(tracers)
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter())
    meters = MeterProvider([reader], resource=resource)
    metrics.set_meter_provider(meters)
    return tracers, meters


async def main() -> None:
    """Map, fetch keys and provoke a failure, in a span of the application."""
    hook = OpenTelemetryHook()
    async with (
        LocalOperator() as operator,
        UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
            hooks=[hook],
        ) as client,
        KeyStore(client.fetch_bidstream_keys) as keys,
    ):
        hook.observe_keys(keys, "bidstream")
        operator.opt_out("gone@example.com")
        operator.fail_next(Fault(status=503), path="/v3/identity/map")
        with trace.get_tracer("example").start_as_current_span("morning job"):
            people = ["user@example.com", "gone@example.com", "+12345678901"]
            await client.map_identities(people)
            async with BulkMapper(client).map(people) as records:
                async for _record in records:
                    pass
        meters.force_flush()


if __name__ == "__main__":
    tracers, meters = set_up()
    asyncio.run(main())
    tracers.shutdown()
    meters.shutdown()
