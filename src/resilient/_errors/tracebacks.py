"""Tracebacks that show the user's frames, and one of the library's."""

from __future__ import annotations

import os
import types

HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep


def strip(error: BaseException) -> None:
    """Take the library's own frames off the outer end of a traceback.

    NB: a bare ``raise`` afterwards does not put the present frame back.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(HERE):
        trace = trace.tb_next
    BaseException.with_traceback(error, trace)


def forget_frame(error: BaseException) -> None:
    """Take the frame that is catching `error` off its traceback.

    NB: a bare ``raise`` afterwards does not put it back, so that a frame of
    ours between two others is not shown.
    """
    trace = error.__traceback__
    if trace is not None:  # pragma: no branch - it was raised
        BaseException.with_traceback(error, trace.tb_next)


def raised_by(policy: object, error: Exception) -> Exception:
    """Prepare an error that a policy's edge is about to raise.

    An error object that is raised again and again keeps the traceback of each
    time. What Python itself adds is Python's affair; of the frame that the
    edge adds, the one of the time before goes.
    """
    newer: list[types.TracebackType] = []
    entry = error.__traceback__
    while entry is not None:
        frame = entry.tb_frame
        if (
            frame.f_code.co_filename.startswith(HERE)
            and frame.f_locals.get("policy") is policy
        ):
            # NB: copied, for setting `tb_next` looks for loops in all the rest.
            trace = entry.tb_next
            for later in reversed(newer):
                trace = types.TracebackType(
                    trace, later.tb_frame, later.tb_lasti, later.tb_lineno
                )
            BaseException.with_traceback(error, trace)
            break
        newer.append(entry)
        entry = entry.tb_next
    return error
