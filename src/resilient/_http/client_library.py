"""The classes of one client library, and ours that derive from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import attrs

from resilient._errors.errors import ResilientError
from resilient._http.body import Body, Chunks, Upload


@attrs.frozen
class ClientLibrary:
    """The classes of one client library.

    Attributes:
        module: The library itself, for its public names.
        body: Our `Body`, as a stream of that library.
        upload: Our `Upload`, as a stream of that library.
        errors: Our errors, each with the one that is the library's too.
        chunks: Our `Chunks`, as a stream of that library.
        in_memory: The library's class of bodies that are in memory.
        hedges: Whether a request can be sent twice at once.
    """

    module: Any
    body: type[Body]
    upload: type[Upload]
    errors: dict[type[Exception], type[Exception]]
    chunks: type[Chunks]
    in_memory: Any = attrs.field(
        init=False, default=attrs.Factory(lambda it: it.module.ByteStream, True)
    )
    hedges: ClassVar[bool] = True

    def mirror(self, kind: type[Exception]) -> type[Exception] | None:
        """Return the class of an error of ours that is the library's too.

        Of a class that a policy author derived from ours it is made here.
        """
        return mirror_of(kind, self.errors, self.module.TransportError)

    def as_clients(self, error: Exception, request: Any) -> Exception:
        """Return an error as the library's, where it is one of ours."""
        mirror = self.mirror(type(error))
        if mirror is not None:
            # NB: the very object in another class, so that its traceback, notes
            # and cause stay, and a Retry further out knows it again.
            error.__class__ = mirror
            error.request = request  # type: ignore[attr-defined]  # it has one now
        return error

    def whole(self, response: Any, request: Any, room: float) -> Any:
        """Return a copy of a response that is in memory, which others may read.

        Args:
            response: The response.
            request: Its request.
            room: Bytes that it may have when it is decoded.

        Returns:
            None: It has more, or cannot be decoded.
        """
        if "content-encoding" in response.headers:
            decoded = self._copied(response, request, _slices(response.stream))
            try:
                for chunk in decoded.iter_bytes():
                    room -= len(chunk)
                    if room < 0:
                        return None
            except self.module.DecodingError:
                return None
        copied = self._copied(response, request)
        copied.read()
        return copied

    def _copied(
        self, response: Any, request: Any, slices: list[bytes] | None = None
    ) -> Any:
        # NB: what the transport reads the client does not, and its `elapsed`
        # would be missing.
        return self.module.Response(
            response.status_code,
            headers=response.headers,
            stream=response.stream if slices is None else self.chunks(slices),
            request=request,
        )


SLICE: Final = 1024
"""Bytes that are decoded at once: gzip makes a thousand times as many of them."""


def _slices(body: Any) -> list[bytes]:
    return [
        chunk[start : start + SLICE]
        for chunk in body
        for start in range(0, len(chunk), SLICE)
    ]


def mirrors(names: Mapping[str, Any]) -> dict[type[Exception], type[Exception]]:
    """Return the errors of a client's module, by those of ours that they are too.

    Args:
        names: What the module has; its errors have the names of ours.
    """
    return {
        next(base for base in kind.__mro__[1:] if base.__name__ == kind.__name__): kind
        for kind in names.values()
        if isinstance(kind, type) and issubclass(kind, ResilientError)
    }


def mirror_of(
    kind: type[Exception],
    errors: dict[type[Exception], type[Exception]],
    root: type[Exception],
) -> type[Exception] | None:
    """Return the class of an error of ours that is another library's too.

    Of a class that a policy author derived from ours it is made here.

    Args:
        kind: The class of an error.
        errors: Our errors, each with the one that is the library's too.
        root: The library's class of errors, of which none of ours needs a mirror.

    Returns:
        None: It is no error of ours, or is the library's already.
    """
    mirror = errors.get(kind)
    if mirror is None and not issubclass(kind, root):
        base = next((base for base in kind.__mro__ if base in errors), None)
        if base is not None:
            names = {
                "__module__": kind.__module__,
                "__qualname__": kind.__qualname__,
                "__doc__": kind.__doc__,
                "__reduce__": _reduce_plain,
            }
            made = type(kind.__name__, (kind, errors[base]), names)
            mirror = errors.setdefault(kind, made)
    return mirror


def _reduce_plain(error: Exception) -> tuple[Any, ...]:
    """Pickle an error as what its author wrote: its mirror has no address."""
    kind: Any = type(error).__mro__[1]
    return (kind, *kind.__reduce__(error)[1:])
