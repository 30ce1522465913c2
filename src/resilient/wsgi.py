"""Servers: a WSGI application behind a pipeline.

::

    app.wsgi_app = ResilientMiddleware(app.wsgi_app)

No framework and no server is imported: any that speaks WSGI will do.
"""

from __future__ import annotations

from resilient._server.answers import Answer, error_answer
from resilient._server.standard import standard_server_pipeline
from resilient._server.wsgi import ResilientMiddleware, remote_address

__all__ = [
    "Answer",
    "ResilientMiddleware",
    "error_answer",
    "remote_address",
    "standard_server_pipeline",
]

for _thing in (ResilientMiddleware, remote_address):
    _thing.__module__ = __name__
