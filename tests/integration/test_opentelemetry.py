"""OpenTelemetry's own instrumentation of httpx, inside of our transport and outside."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.loopback import Server, answer

from resilient import Pipeline, Retry, constant
from resilient.httpx import ResilientTransport, http_verdict

pytestmark = pytest.mark.real

RESENT = "http.request.resend_count"


def ask(server: Server, instrument: Any) -> None:
    """Make a request that is answered the third time."""
    server.script("/", answer(503), answer(503), answer(200))
    retry = Pipeline(Retry(backoff=constant(0)), classify=http_verdict)
    with httpx.Client(transport=ResilientTransport(retry)) as client:
        instrument(client)
        assert 200 == client.get(server.url).status_code


def test_instrumentation_sees_each_attempt_or_all_as_one() -> None:
    """As the page on HTTP clients says."""
    library: Any = pytest.importorskip("opentelemetry.instrumentation.httpx")
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    resent: list[Any] = []

    def hook(span: Any, request: Any) -> None:
        resent.append(request.extensions.get(RESENT))

    instrumentor = library.HTTPXClientInstrumentor()
    with Server() as server:
        instrumentor.instrument(tracer_provider=provider, request_hook=hook)
        try:
            ask(server, lambda client: None)
        finally:
            instrumentor.uninstrument()
        inner = spans.get_finished_spans()
        assert 3 == len(inner)
        assert [None, 1, 2] == resent
        assert all(RESENT not in (span.attributes or {}) for span in inner)
        spans.clear()
        ask(
            server,
            lambda client: instrumentor.instrument_client(
                client, tracer_provider=provider
            ),
        )
        assert 1 == len(spans.get_finished_spans())
