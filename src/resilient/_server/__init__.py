"""Servers: the engine behind `resilient.asgi` and `resilient.wsgi`.

========== ===================================================================
answers    which status and headers an error of ours is answered with; pure
scopes     what is read of a request: its client, its deadline; pure
standard   the pipeline that a server has unless it is given one
exchange   one request or WebSocket: its admission, its task, its end
lifecycle  readiness and draining: from the start of a process to its end
front      what middlewares of every protocol have
middleware the ASGI application around an application
rpc        the interceptors of gRPC servers
wsgi       the WSGI application around an application
========== ===================================================================

May import: `_calls`, `_edges`, `_errors`, `_events`, `_http`, `_machines`,
`_observing`, `_policy`, `_runtimes`, `_values`, `policies`.
"""
