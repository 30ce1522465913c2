"""Deadlines where the bytes go by, for the sync transports of both families.

A client asks once for a timeout and then waits so long for each single read.
A head that drips, endless 103 answers, a chunk size sent digit by digit and
HTTP/2 frames that carry no answer each give it something to read, again and
again, so that no read ever times out. Async code is cancelled; sync code has
to look at the clock at every read and write.

So the network backend of a client's own transport is wrapped. A timeout that
is a `Left` knows its deadline, and is measured anew each time it is used; any
other is passed on as it is, so that sharing the transport with a bare client
changes nothing there.

Not covered: resolving a name, and each further address of a host, in which no
byte arrives; a transport that is not the client's own.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, Final

from resilient._http.body import Left

_PIECE: Final = 16_384
"""Bytes that are written at once, one TLS record: the socket's timeout is for
each part that the kernel takes."""


def keep_deadlines(transport: Any) -> None:
    """Have a client's own sync transport obey the deadlines of its requests."""
    pool = transport._pool
    backend = pool._network_backend
    backend_class, _ = _classes(type(pool).__module__)
    if not isinstance(backend, backend_class):
        pool._network_backend = backend_class(backend)


@functools.cache
def _classes(core: str) -> tuple[Any, Any]:
    """Return a backend and a stream for httpcore or httpcore2."""
    library: Any = importlib.import_module(core)

    class Stream(library.NetworkStream):  # type: ignore[misc]  # known at run time
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            if isinstance(timeout, Left):
                timeout = timeout.now(library.ReadTimeout)
            data: bytes = self._inner.read(max_bytes, timeout)
            return data

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            if not isinstance(timeout, Left):
                self._inner.write(buffer, timeout)
                return
            for start in range(0, len(buffer), _PIECE):
                left = timeout.now(library.WriteTimeout)
                self._inner.write(buffer[start : start + _PIECE], left)

        def close(self) -> None:
            self._inner.close()

        def start_tls(self, *args: Any, **kw: Any) -> Any:
            return Stream(self._inner.start_tls(*args, **kw))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    class Backend(library.NetworkBackend):  # type: ignore[misc]  # known at run time
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def connect_tcp(self, *args: Any, **kw: Any) -> Any:
            return Stream(self._inner.connect_tcp(*args, **kw))

        def connect_unix_socket(self, *args: Any, **kw: Any) -> Any:
            return Stream(self._inner.connect_unix_socket(*args, **kw))

        def sleep(self, seconds: float) -> None:
            self._inner.sleep(seconds)

    return Backend, Stream
