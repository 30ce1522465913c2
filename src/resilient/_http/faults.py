"""Whose fault an error of a client is, and how far its request came.

Judged by what happened, not by the class that a client raises: of an HTTP/2
connection that goes away a client may say that *it* violated the protocol, and
one class, ConnectError, stands for a server that is down, a certificate that
cannot be verified and a process without file descriptors.

The facts are in the chain of an error – a client's, its HTTP library's, the
socket's, TLS's or h2's – and in what the network noted of the attempt.

==================================== ======== ====== =======================
what happened                        fault    sent   another try
==================================== ======== ====== =======================
no place in the pool, no file        ours     no     may mend it
descriptor, no port, client closed
certificate, host name, TLS alert    TLS's    no     will not, but may at
                                                     another endpoint
scheme, URL, header of the request   lasting  no     will not
proxy: 403, 407, bad credentials
no connection, a proxy's other words server's no     may mend it
the head could not be written        server's no     may mend it
HTTP/2: refused; above the last      server's no     may mend it
stream of a GOAWAY; headers that h2
did not take any more
anything else of the network         server's maybe  may mend it
not of the network                   lasting  maybe  will not
==================================== ======== ====== =======================
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from enum import Enum
from types import TracebackType
from typing import Any, Final, NamedTuple, cast


class Fault(Enum):
    """Whose fault an error is."""

    OURS = "ours"
    SERVERS = "server's"
    TLS = "TLS's"
    LASTING = "lasting"


class Facts(NamedTuple):
    """What an error says.

    Attributes:
        fault: Whose fault it is.
        sent: Whether anything of the request may have been processed.
    """

    fault: Fault
    sent: bool


_SHORTAGES: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EADDRINUSE,
        errno.EBADF,
    }
)
"""Of sockets: no descriptors, memory or ports left here, or closed by us."""

_REFUSED_STREAM: Final = 7
"""Of HTTP/2: nothing was processed, RFC 9113, 8.7."""

_REFUSED_BY_PROXY: Final = (
    "403 ",
    "407 ",
    "Invalid username",
    "Requested ",
    "Tunnel connection failed: 403 ",
    "Tunnel connection failed: 407 ",
)
"""How a ProxyError begins where the proxy does not want us: an HTTP status, what
httpcore says of SOCKS, and what `http.client` does, of which urllib3's is made."""

_TLS_MISMATCHES: Final = (
    "ALERT",
    "WRONG_VERSION_NUMBER",
    "UNSUPPORTED_PROTOCOL",
    "NO_PROTOCOLS_AVAILABLE",
    "HTTP_REQUEST",
    "NO_SHARED_CIPHER",
)
"""Words in OpenSSL's reasons for handshakes that will not work next time."""

_PASSING_ALERTS: Final = ("INTERNAL_ERROR", "USER_CANCELLED", "CLOSE_NOTIFY")

_NO_MORE_STREAMS: Final = ("TooManyStreamsError", "NoAvailableStreamIDError")

_LONGEST_CHAIN: Final = 16


def facts(error: Exception, library: Any, head: bool | None) -> Facts:
    """Judge an error of a client's.

    Args:
        error: As the client raised it.
        library: The client library.
        head: Whether the head of the request was written, of HTTP/1.1; None:
            unknown.
    """
    chain = list(_chain(error))
    sent = _sent(error, library, chain) and head is not False
    if any(
        isinstance(link, library.PoolTimeout) or _is_shortage(link) for link in chain
    ):
        return Facts(Fault.OURS, sent)
    if any(map(_is_mismatch, chain)):
        return Facts(Fault.TLS, sent)
    if isinstance(error, library.UnsupportedProtocol):
        return Facts(Fault.LASTING, sent)
    if isinstance(error, library.ProxyError):
        refused = any(str(link).startswith(_REFUSED_BY_PROXY) for link in chain)
        # Of aiohttp's.
        refused = refused or getattr(error, "status", None) in (403, 407)
        return Facts(Fault.LASTING if refused else Fault.SERVERS, sent)
    h2 = next((link for link in chain if _is_of_h2(link)), None)
    if h2 is not None:
        return _of_h2(h2, sent)
    is_servers = isinstance(error, library.TransportError) and not isinstance(
        error, library.LocalProtocolError
    )
    return Facts(Fault.SERVERS if is_servers else Fault.LASTING, sent)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, the outermost first.

    NB: not by ``__context__``, in which the error may stand that the user
    handles; and httpcore empties ``__cause__``, but keeps it as an argument.
    """
    pending: list[object] = [error]
    for _ in range(_LONGEST_CHAIN):
        if not pending:
            return
        link = pending.pop(0)
        if not isinstance(link, BaseException):
            continue
        yield link
        if isinstance(link, BaseExceptionGroup):
            pending += cast("BaseExceptionGroup[BaseException]", link).exceptions
        pending.append(link.__cause__ or (link.args[0] if link.args else None))
        # Of urllib3's about a proxy.
        pending.append(getattr(cast("Any", link), "original_error", None))


def _is_shortage(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in _SHORTAGES) or (
        # Of anyio and trio: our side closed the connection.
        type(error).__name__ == "ClosedResourceError"
    )


def _is_mismatch(error: BaseException) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    if not isinstance(error, ssl.SSLError):
        return False
    reason = getattr(error, "reason", None) or ""
    return any(word in reason for word in _TLS_MISMATCHES) and not any(
        word in reason for word in _PASSING_ALERTS
    )


def _sent(error: Exception, library: Any, chain: list[BaseException]) -> bool:
    """Tell whether a server may have processed something of the request."""
    unsent = (
        library.ConnectError,
        library.ConnectTimeout,
        library.PoolTimeout,
        library.ProxyError,
        library.UnsupportedProtocol,
    )
    for link in chain:
        if isinstance(link, unsent):
            return False
        said: Any = link.args[0] if link.args else None
        last: int | None = getattr(said, "last_stream_id", None)
        if last is not None:
            # A server that goes away says which stream was the last it took.
            stream = _stream_id(link)
            return last != 0 and (stream is None or stream <= last)
        if getattr(said, "error_code", None) == _REFUSED_STREAM:
            return False
    return True


# -- HTTP/2


def _is_of_h2(error: BaseException) -> bool:
    return type(error).__module__ == "h2.exceptions"


def _of_h2(error: BaseException, sent: bool) -> Facts:
    """Judge an error of h2's: in what it was doing, and in what state.

    NB: it raises the same classes for what the peer and for what we do wrong;
    a connection that was told to go away takes every further frame, either
    way, for a violation.
    """
    doing: list[str] = []
    gone = False
    for frame in _frames(error):
        if frame.f_globals.get("__name__") != "h2.connection":
            continue
        if frame.f_code.co_name == "receive_data":
            last = _last_stream(frame.f_locals.get("events"))
            stream = _stream_id(error)
            if last is not None and stream is not None:
                sent = sent and stream <= last
            return Facts(Fault.SERVERS, sent)
        doing.append(frame.f_code.co_name)
        # NB: not the state as it is now, which is closed after any error.
        state = frame.f_locals.get("old_state")
        gone = gone or getattr(state, "name", None) == "CLOSED"
    kind = type(error).__name__
    if kind in _NO_MORE_STREAMS:
        return Facts(Fault.OURS, False)
    if gone:
        return Facts(Fault.SERVERS, sent and "send_headers" not in doing)
    # The peer may have reset what we were still sending; the rest is ours.
    servers = kind == "StreamClosedError"
    return Facts(Fault.SERVERS if servers else Fault.LASTING, sent)


def _last_stream(events: Any) -> int | None:
    """Return the last stream of a GOAWAY among events that h2 did not hand out."""
    found = [getattr(event, "last_stream_id", None) for event in events or ()]
    return next((place for place in found if place is not None), None)


def _stream_id(error: BaseException) -> int | None:
    """Return the stream of a request, of which httpcore tells only its frames."""
    for frame in _frames(error):
        if frame.f_code.co_name in ("handle_request", "handle_async_request"):
            stream = frame.f_locals.get("stream_id")
            if isinstance(stream, int):
                return stream
    return None


def _frames(error: BaseException) -> Iterator[Any]:
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
