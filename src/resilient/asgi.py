"""Servers: an ASGI application behind a pipeline.

::

    app = ResilientMiddleware(app, standard_server_pipeline())

No framework and no server is imported: any that speaks ASGI 3 will do.
"""

from __future__ import annotations

from resilient._server.answers import (
    Answer,
    App,
    Message,
    Receive,
    Scope,
    Send,
    error_answer,
)
from resilient._server.lifecycle import Lifecycle, LifecycleState
from resilient._server.middleware import ResilientMiddleware, exception_handler
from resilient._server.scopes import peer_address
from resilient._server.standard import standard_server_pipeline

__all__ = [
    "Answer",
    "App",
    "Lifecycle",
    "LifecycleState",
    "Message",
    "Receive",
    "ResilientMiddleware",
    "Scope",
    "Send",
    "error_answer",
    "exception_handler",
    "peer_address",
    "standard_server_pipeline",
]

for _thing in (
    Answer,
    Lifecycle,
    LifecycleState,
    ResilientMiddleware,
    error_answer,
    exception_handler,
    peer_address,
    standard_server_pipeline,
):
    _thing.__module__ = __name__
