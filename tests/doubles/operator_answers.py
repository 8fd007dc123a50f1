"""Calls an endpoint of the operator without HTTP and without an envelope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from uid2_async.operator import OperatorData
from uid2_async.operator.indexes import AuthorizedRequest, DataIndex

BASE = datetime(2026, 3, 10, tzinfo=UTC)

Handler = Callable[[DataIndex, AuthorizedRequest], bytes]


def sample_index(**settings: Any) -> DataIndex:
    """Index the sample data, with some settings changed."""
    data = OperatorData.sample(base=BASE)
    return DataIndex(
        attrs.evolve(data, settings=attrs.evolve(data.settings, **settings))
    )


def answer(
    handle: Handler, payload: Mapping[str, Any] | None, **settings: Any
) -> bytes:
    """Answer *payload* as the client with every role would be answered."""
    index = sample_index(**settings)
    call = AuthorizedRequest(
        client=index.data.clients[-1],
        payload=None if payload is None else dict(payload),
        now_ms=int(BASE.timestamp() * 1000),
    )
    return handle(index, call)
