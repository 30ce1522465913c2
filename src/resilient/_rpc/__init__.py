"""Clients of gRPC: the engine behind `resilient.grpc`'s client interceptors.

======== =====================================================================
statuses what a status says of a server, and which RPCs may be sent again; pure
errors   our errors as gRPC's
standard the pipeline that a client has unless it is given one
passage  one RPC on its way through a pipeline
threads  interceptors for `grpc.intercept_channel`
tasks    interceptors for channels of `grpc.aio`
balanced channels to several endpoints, behind these interceptors
======== =====================================================================

Servers are in `_server.rpc`.

May import: `_calls`, `_edges`, `_errors`, `_http`, `_machines`, `_policy`, `_runtimes`,
`_server`, `_values`, `policies`.
"""
