"""Our errors as gRPC's, with a status, for code that knows no other."""

from __future__ import annotations

from typing import Any, Final

import grpc  # type: ignore[import-untyped]  # its stubs are a package of others
import grpc.aio  # type: ignore[import-untyped]

from resilient._errors import errors as ours
from resilient._http.client_library import mirror_of, mirrors
from resilient._server.answers import rpc_status_name


class _Status(grpc.aio.AioRpcError):  # type: ignore[misc]  # grpc is untyped
    """What gRPC asks of an error of either kind of channel."""

    # NB: gRPC's own show an error of a status, and pickle that.
    def __repr__(self) -> str:
        return Exception.__repr__(self)

    def __reduce__(self) -> Any:
        return Exception.__reduce__(self)

    def code(self) -> Any:
        """Return the status that a server of ours would have answered with."""
        error: Any = self
        return grpc.StatusCode[rpc_status_name(error)]

    def details(self) -> str:
        """Return the text of the error."""
        return str(self)

    def initial_metadata(self) -> None:
        """Return None: no server was asked, or none has answered."""

    def trailing_metadata(self) -> None:
        """Return None: no server was asked, or none has answered."""

    def debug_error_string(self) -> str:
        """Return the text of the error."""
        return str(self)


class RejectedError(ours.RejectedError, _Status):
    """A `resilient.RejectedError` that is a `grpc.RpcError` too."""


class BulkheadFullError(ours.BulkheadFullError, _Status):
    """A `resilient.BulkheadFullError` that is a `grpc.RpcError` too."""


class CircuitOpenError(ours.CircuitOpenError, _Status):
    """A `resilient.CircuitOpenError` that is a `grpc.RpcError` too."""


class ConcurrencyLimitedError(ours.ConcurrencyLimitedError, _Status):
    """A `resilient.ConcurrencyLimitedError` that is a `grpc.RpcError` too."""


class NoEndpointError(ours.NoEndpointError, _Status):
    """A `resilient.NoEndpointError` that is a `grpc.RpcError` too."""


class RateLimitedError(ours.RateLimitedError, _Status):
    """A `resilient.RateLimitedError` that is a `grpc.RpcError` too."""


class ThrottledError(ours.ThrottledError, _Status):
    """A `resilient.ThrottledError` that is a `grpc.RpcError` too."""


class DeadlineExceededError(ours.DeadlineExceededError, _Status):
    """A `resilient.DeadlineExceededError` that is a `grpc.RpcError` too."""


class TimeoutExceededError(ours.TimeoutExceededError, _Status):
    """A `resilient.TimeoutExceededError` that is a `grpc.RpcError` too."""


_MIRRORS: Final = mirrors(globals())


def as_rpc_error(error: Exception) -> Exception:
    """Return an error as gRPC's, where it is one of ours."""
    mirror = mirror_of(type(error), _MIRRORS, grpc.RpcError)
    if mirror is not None:
        # NB: the very object in another class, so that its traceback, notes and
        # cause stay, and a Retry further out knows it again.
        error.__class__ = mirror
    return error
