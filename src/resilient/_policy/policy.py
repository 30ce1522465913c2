"""What a policy is, and what its author implements.

Implement `around`, an ordinary coroutine that awaits ``proceed(call)`` as
often as it likes and returns an `Outcome`. It waits through ``call.runtime``
only, so that it works in every colour. Policies that only decide who may pass
have it written for them: see `AdmissionPolicy`.

Rules that every policy keeps:

* An `Exception` is never raised through a policy: it travels in an `Outcome`.
  What is raised – cancellation, KeyboardInterrupt, GeneratorExit, a bug in a
  predicate – is unwinding: give permits back, decide nothing, await nothing.
* Nothing of one call is stored on the policy. Locks are held for machine
  calls alone; events are sent after they are released.
* Each constructor parameter is kept in an attribute of the same name – with an
  underscore before it where `Policy` has a member of that name, as Retry's
  ``attempts`` – so that `repr` and `with_` can be read off the signature.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import FunctionType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NoReturn,
    TypeAlias,
    cast,
    overload,
)
from weakref import ReferenceType, WeakValueDictionary, ref

from resilient._calls.call import Call, Placement, running
from resilient._calls.outcome import Outcome
from resilient._edges.blocks import Attempts, Guard, unrepeatable
from resilient._edges.functions import async_edge, sync_edge
from resilient._edges.generators import async_generator_edge, generator_edge
from resilient._edges.managers import async_manager_edge, manager_edge
from resilient._edges.steps import Proceed, Steps, coroutine_step, proceed_by
from resilient._errors.errors import RejectedError
from resilient._errors.tracebacks import forget_frame
from resilient._errors.warnings import warn
from resilient._events.counters import UNCOUNTED, Counters, counters_of
from resilient._events.events import CallRejected, Event, WarningRaised, located
from resilient._events.listeners import (
    Listener,
    broadcast,
    global_listeners,
    log_warning_once,
    send,
)
from resilient._policy.order import defeats
from resilient._values.callables import colour_of, name_of
from resilient._values.locks import Lock
from resilient._values.records import Configured, make_again
from resilient._values.spelling import (
    arguments_of,
    format_call,
    format_value,
    parameters_of,
)
from resilient._values.traits import NONE, Trait

if TYPE_CHECKING:
    from types import CoroutineType
    from typing import Never, ParamSpec, Self

    from typing_extensions import TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")
    F = TypeVar("F", covariant=True, default=Never)
else:
    from typing import TypeVar

    F = TypeVar("F", covariant=True)


Usage: TypeAlias = Literal[
    "sync",
    "async",
    "generator",
    "async generator",
    "context manager",
    "async context manager",
    "guard",
    "attempts",
    "requests",
]

_EDGES: dict[str, Callable[[Policy[Any], Callable[..., Any]], Callable[..., Any]]] = {
    "sync": sync_edge,
    "async": async_edge,
    "generator": generator_edge,
    "async generator": async_generator_edge,
    "context manager": manager_edge,
    "async context manager": async_manager_edge,
}


class _DirectUse:
    """What a policy keeps that is used itself, and not only inside another.

    Attributes:
        alias: What it is called after where it was given no name.
        checked: Usages that were found to have a meaning.
        edges: Of functions that `call`, or `acall`, is given again and again.
    """

    __slots__ = ("alias", "async_edges", "checked", "edges")

    def __init__(self) -> None:
        self.alias: str | None = None
        self.checked: tuple[Usage, ...] = ()
        self.edges: _Edges = {}
        self.async_edges: _Edges = {}


_Edges: TypeAlias = "dict[Callable[..., Any], Callable[..., Any]]"

_MOST_EDGES: Final = 32
"""Functions whose edges a policy keeps: more than most programs call under one."""


def _keep(edges: _Edges, fn: Callable[..., Any], edge: Callable[..., Any]) -> None:
    """Keep an edge, if its function keeps nothing else alive."""
    if type(fn) is FunctionType and not (fn.__closure__ or fn.__dict__):
        if len(edges) >= _MOST_EDGES:
            edges.clear()
        edges[fn] = edge


class Policy(Configured, Generic[F]):
    """Something that stands around calls and makes them resilient.

    ``F`` is what the policy adds to the return type of the functions it
    protects: the type of a `Fallback`'s value, else `Never`.

    One policy may protect many functions, from many threads and event loops:
    they share its state. It is used in five spellings:

    * ``@policy`` on a function, method, generator, partial or callable object;
    * ``policy.call(fn, …)`` and ``await policy.acall(fn, …)``;
    * ``with policy.guard(): …``, where the block need not run twice;
    * ``for attempt in policy.attempts(): …``, where it may have to.
    """

    __slots__ = (
        "__weakref__",
        "_direct_use",
        "_listeners",
        "_name",
        "_parent",
        "_placement",
        "counters",
    )

    _cures: ClassVar[Mapping[str, str]] = {
        "counters": "policies of one name have one set of counts, which goes on"
    }

    traits: Trait = NONE
    """What it may do: see `Trait`. A property where it depends on arguments."""

    metrics: tuple[tuple[str, ...], ...] = ()
    """What it counts, so that it can be seen to be 0: each a metric, and the
    values of its labels but for the pipeline and the policy."""

    def __init__(self, name: str | None = None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a string, got {name!r}")
        self._name = name
        self._direct_use: _DirectUse | None = None
        # The first policy that it was put into.
        self._parent: ReferenceType[Policy[Any]] | None = None
        self._placement: Placement | None = None
        self.counters: Counters = UNCOUNTED
        self._listeners: Sequence[Listener] = global_listeners
        living[id(self)] = self

    def around(self, proceed: Proceed, call: Call) -> Awaitable[Outcome]:
        """Stand around one call; an ``async def``.

        Args:
            proceed: What is inside: ``await proceed(call)`` returns an
                `Outcome` and never raises an `Exception`.
            call: The call. A policy that narrows its ``deadline`` restores it.

        Returns:
            The outcome: the inner one, or one of the policy's own.
        """
        raise NotImplementedError

    def link(self, inside: Steps) -> Steps:
        """Return its steps, with those inside it; see `_edges.steps`."""
        proceed, around = proceed_by(inside), self.around

        # NB: no partial. As a call of C's ends, Ctrl-C may come, and leave a
        # coroutine that is never awaited.
        def bound(call: Call) -> Awaitable[Outcome]:
            return around(proceed, call)

        return coroutine_step(bound)

    def reset(self) -> None:
        """Forget everything learnt: as new. Calls under way go on."""

    def is_pristine(self) -> bool:
        """Whether it is as good as new: `PerKey` drops such policies first."""
        return True

    def is_restrictive(self) -> bool:
        """Whether it refuses now what a new one would let pass.

        `PerKey` does not drop such policies: their protection would be lost.
        """
        return False

    # -- Names and copies

    @property
    def name(self) -> str | None:
        """Its name; without one, that of the function it first decorated."""
        return self._name or self._alias

    @property
    def label(self) -> str:
        """The name where there is one, else the kind of policy."""
        return self._name or self._alias or type(self).__name__

    @property
    def _alias(self) -> str | None:
        return None if self._direct_use is None else self._direct_use.alias

    def _used_directly(self) -> _DirectUse:
        if self._direct_use is None:
            self._direct_use = _DirectUse()
        return self._direct_use

    def _name_after(self, protected: str) -> None:
        """Take a name from the first thing that it protects."""
        # NB: a second caller waits until the counters go by that name.
        with _naming:
            if self._alias is None:
                self._used_directly().alias = protected
                self._forget_placement()
                count_in(self, counters_of(self.placement.policy))

    def error_name(self, call: Call) -> str:
        """Return what to call this policy in an error of `call`.

        Its own name; else that of the pipeline around it; else what it was
        called after, or the function.
        """
        whole = None if call.policy is None else call.policy._name  # pyright: ignore[reportPrivateUsage]  # a Policy's
        return self._name or whole or self._alias or call.name

    def _attach_to(self, parent: Policy[Any]) -> None:
        """Take note of the policy that this one was put into, the first time."""
        if self._parent is None or self._parent() is None:
            self._parent = ref(parent)
            self._forget_placement()
        if Trait.KEYED in parent.traits:
            self._unregister()

    def _unregister(self) -> None:
        # NB: a place in it takes 200 bytes, and there may be ten thousand
        # keys: what a `PerKey` has inside is found there.
        living.pop(id(self), None)
        for policy in self.children():
            policy._unregister()

    def _leave_store(self) -> None:
        """Give back what is on lease from a store, as a PerKey drops it."""
        for policy in self.children():
            policy._leave_store()

    @property
    def placement(self) -> Placement:
        """What telemetry calls the pipeline that it is in, and itself there."""
        placement = self._placement
        if placement is None or placement.root() is None:
            placement = self._placement = self._place()
        return placement

    def _place(self) -> Placement:
        root: Policy[Any] = self
        keyed: Policy[Any] | None = None
        while root._parent is not None and (parent := root._parent()) is not None:
            root = parent
            if Trait.KEYED in root.traits:
                keyed = root
        if keyed is not None:
            return keyed.placement
        return Placement(ref(root), root.label, self.label)

    def _forget_placement(self) -> None:
        self._placement = None
        for policy in self.children():
            policy._forget_placement()

    def children(self) -> Sequence[Policy[Any]]:
        """Return the policies that stand in this one."""
        return ()

    def _start_counting(self) -> None:
        """Count its calls, under the name that it has now."""
        if self.counters is UNCOUNTED:
            with _naming:
                if self.counters is UNCOUNTED:
                    count_in(self, counters_of(self.placement.policy))

    def status(self) -> dict[str, Any]:
        """Return what can be seen of it now, as JSON has it.

        Metrics without ``resilient.``, and their values: a number, a state,
        or numbers by label; and what else `health` is to show.
        """
        return {}

    def with_(self, **changes: Any) -> Self:
        """Return a copy with other arguments and fresh state.

        Args:
            **changes: Constructor arguments by name.

        Raises:
            TypeError: The constructor has no such argument.
        """
        positional, keywords = arguments_of(self, Policy)
        for key, parameter in parameters_of(self).items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                positional = changes.pop(key, positional)
        return type(self)(*positional, **{**keywords, **changes})

    # NB: by whatever protocol: what a policy has learnt is about this process,
    # and its lock, waiters and listeners could not be shared.

    def __copy__(self) -> Self:
        return self.with_()

    def __deepcopy__(self, memo: object) -> Self:
        return self.with_()

    def __replace__(self, /, **changes: Any) -> Self:
        return self.with_(**changes)

    def __reduce__(self) -> tuple[Any, ...]:
        positional, keywords = arguments_of(self, Policy)
        parameters = parameters_of(self)
        given = {
            key: value
            for key, value in keywords.items()
            # NB: a default may be an object that is one in each process.
            if value is not parameters[key].default
        }
        again = make_again, (type(self), positional, given)
        return again if self.counters is UNCOUNTED else (*again, (self._alias,))

    def __setstate__(self, state: tuple[str | None]) -> None:
        # NB: of a function that was pickled by value the wrapper is made
        # without the decorator, which would have begun to count.
        [alias] = state
        begin_use(self, alias=alias)

    def __repr__(self) -> str:
        return format_call(self, Policy)

    # -- Events

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener(event)` called for everything this policy does.

        It is called in the thread or task of the call, after the fact and
        outside every lock. What it raises is logged and changes nothing.

        Returns:
            A function that ends the subscription; calling it again is fine.

        Raises:
            TypeError: `listener` is not a plain function of the event.
        """
        check_listener(listener)
        with _subscribing:
            self._listeners = (*self._own_listeners, listener, broadcast)
        ended = False

        def unsubscribe() -> None:
            # NB: the same listener may be subscribed twice; each ends its own.
            nonlocal ended
            with _subscribing:
                if not ended:
                    ended, rest = True, list(self._own_listeners)
                    rest.remove(listener)
                    self._listeners = (*rest, broadcast) if rest else global_listeners

        return unsubscribe

    @property
    def _own_listeners(self) -> Sequence[Listener]:
        listeners = self._listeners
        return () if listeners is global_listeners else listeners[:-1]

    @property
    def has_listeners(self) -> bool:
        """Whether there are listeners; build no event otherwise."""
        return bool(self._listeners)

    def emit(
        self,
        event: Event,
        call: Call | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Tell the listeners.

        Args:
            event: What happened.
            call: The call that it happened to; it says which pipeline.
            error: The error that the event is about, if it is about one.
        """
        _, pipeline, policy = self.placement
        if call is not None and call.policy is not None:
            pipeline = call.policy.placement.policy
        send(self._listeners, located(event, pipeline, policy, error))

    def reject(self, error: RejectedError, call: Call) -> Outcome:
        """Refuse a call: count it, tell the listeners, and return the outcome."""
        kind = type(error).__name__
        call.count("resilient.rejections", self.placement.policy, kind, "enforced")
        if self._listeners:
            reason = getattr(error, "reason", None)
            event = CallRejected(self.label, call.name, kind, reason, error.retry_after)
            self.emit(event, call, error)
        return Outcome(None, error)

    def warning_raised(self, text: str) -> None:
        """Log a warning that a filter made an error of, and tell listeners."""
        log_warning_once(text, "%s", text)
        if self._listeners:
            call = running()
            name = None if call is None else call.name
            self.emit(WarningRaised(self.label, name, text), call)

    # -- The five spellings

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        """Refuse a spelling in which this policy has no meaning.

        Args:
            usage: The way of use.
            classified: Whether a pipeline says what a failure is.

        Raises:
            TypeError: It has none; the text says which to use.
        """
        repeats = Trait.RERUNS | Trait.RACES | Trait.ANSWERS
        if usage == "guard" and self.traits & repeats:
            raise unrepeatable(self, "guard")
        if usage in _WHAT and Trait.ANSWERS in self.traits:
            raise TypeError(
                f"{self!r} may answer in the place of its function, which has"
                f" no meaning for {_WHAT[usage]}"
            )
        if usage == "requests" and self.traits & (Trait.SHARES | Trait.REMEMBERS):
            raise TypeError(
                f"{self!r} may give one answer to several calls, which a response"
                " that can be read once cannot be: put it around a function"
            )

    def _check_composed(self, *, classified: bool) -> None:
        """Refuse a pipeline in which this policy has no meaning.

        Args:
            classified: Whether the pipeline says what a failure is.
        """

    def _warn_of_order(self, inside: Sequence[Policy[Any]]) -> None:
        """Warn of what defeats itself where this stands outside others."""
        for text in defeats(self, inside):
            warn(text)

    def check_function(self, fn: Callable[..., Any]) -> None:
        """Refuse a function that this policy cannot protect as written.

        Raises:
            TypeError: It cannot; the text says what is missing.
        """

    def _check_usage_once(self, usage: Usage) -> None:
        use = self._used_directly()
        if usage not in use.checked:
            # NB: first, for another thread goes by what it sees here.
            begin_use(self, usage)
            use.checked = (*use.checked, usage)

    @overload
    def __call__(
        self, fn: Callable[P, CoroutineType[Any, Any, T]], /
    ) -> Callable[P, CoroutineType[Any, Any, T | F]]: ...
    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T | F]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T | F]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate a function.

        Args:
            fn: A plain function, coroutine function, generator, async
                generator, method, `functools.partial` or callable object, or
                what `contextlib.contextmanager` or `asynccontextmanager` made:
                then entering is the attempt, and permits last until the exit.

        Returns:
            A function of the same signature.

        Raises:
            TypeError: It cannot be protected as written; see `accept`.
        """
        if isinstance(fn, (classmethod, staticmethod)):
            kind = type(cast("object", fn)).__name__
            raise TypeError(
                f"a {kind} object cannot be decorated by a policy: put"
                f" @{kind} above the policy, not below"
            )
        if isinstance(fn, type) or not callable(fn):
            hint = "a class is protected method by method"
            if not isinstance(fn, type):
                hint = f"a decorator needs its parentheses, @{type(self).__name__}(…)"
            raise TypeError(
                f"a policy decorates functions, got {format_value(fn)}; {hint}"
            )
        colour = colour_of(fn)
        self._check_usage_once(colour)
        self.check_function(fn)
        self._name_after(name_of(fn))
        inside = decorators_of(fn)
        self._warn_of_order(inside)
        wrapper = _EDGES[colour](self, fn)
        # NB: a callable object with `__get__` is a routine to `inspect`, and so is
        # a partial since 3.14. Without a name, neither is like a function.
        if inspect.isroutine(fn) and hasattr(fn, "__name__"):
            functools.update_wrapper(wrapper, fn)
        else:
            wrapper.__name__ = wrapper.__qualname__ = name_of(fn)
            functools.update_wrapper(wrapper, fn, ("__module__", "__doc__"), ())
        wrapper.__dict__[_DECORATORS] = (self, *inside)
        return wrapper

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | F:
        """Call a plain function under this policy.

        Raises:
            TypeError: `fn` is a coroutine function or a generator.
        """
        __tracebackhide__ = True
        use, edge = self._direct_use, None
        # NB: the type: to hash anything else may run code of the user's.
        if use is not None and type(fn) is FunctionType:
            edge = use.edges.get(fn)
        if edge is None:
            if colour_of(fn) != "sync":
                raise _miscalled(fn, "`call` takes plain functions")
            self._check_usage_once("sync")
            edge = sync_edge(self, fn)
            # NB: not for a first call, which may be the only one: what is kept
            # is a cycle.
            if use is not None:
                _keep(use.edges, fn, edge)
        try:
            return edge(*args, **kwargs)  # type: ignore[no-any-return]
        except BaseException as error:
            forget_frame(error)
            raise

    async def acall(
        self,
        fn: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | F:
        """Call a function under this policy, and await what it returns.

        Args:
            fn: A coroutine function, or anything else that returns an
                awaitable: a lambda, a client's method, a partial.
            *args: Its arguments.
            **kwargs: Its arguments.

        Raises:
            TypeError: `fn` is a generator, or what it returned cannot be
                awaited.
        """
        __tracebackhide__ = True
        use, edge = self._direct_use, None
        # NB: as in `call`.
        if use is not None and type(fn) is FunctionType:
            edge = use.async_edges.get(fn)
        if edge is None:
            colour = colour_of(fn)
            if colour not in ("sync", "async"):
                raise _miscalled(fn, "`acall` awaits what a function returns")
            self._check_usage_once("async")
            edge = async_edge(self, fn, plain=colour == "sync")
            if use is not None:
                _keep(use.async_edges, fn, edge)
        try:
            return await edge(*args, **kwargs)  # type: ignore[no-any-return]
        except BaseException as error:
            forget_frame(error)
            raise

    def guard(self, *, key: Any = None) -> Guard:
        """Return a context manager, sync and async, that protects one block.

        Args:
            key: The call's key, for `PerKey`.

        Raises:
            TypeError: This policy may have to run the block again, or answer
                in its place.
        """
        self._check_usage_once("guard")
        return Guard(self, key)

    def attempts(self, *, key: Any = None) -> Attempts:
        """Return an iterator, sync and async, over attempts at one block.

        Leaving the loop after a failed block gives everything back when the
        iterator dies: at once where only the ``for`` has it. Kept in a
        variable it keeps what stands outside its attempts, too: a total
        `Timeout` stays armed and cancels what the task does next.

        Args:
            key: The call's key, for `PerKey`.

        Raises:
            TypeError: This policy may answer in the block's place.
        """
        self._check_usage_once("attempts")
        return Attempts(self, key)

    def __enter__(self) -> NoReturn:
        # A shared object would have to keep one call's state: a sync
        # dependency of a web framework loses its slot that way.
        raise TypeError(
            f"{self.label!r} is shared and cannot be entered itself: use"
            " `with policy.guard():`, an object for each block"
        )

    def __exit__(self, *exc: object) -> NoReturn:
        raise NotImplementedError  # pragma: no cover - __enter__ refused

    async def __aenter__(self) -> NoReturn:
        self.__enter__()

    async def __aexit__(self, *exc: object) -> NoReturn:
        raise NotImplementedError  # pragma: no cover - __aenter__ refused


def begin_use(
    policy: Policy[Any],
    *usages: Usage,
    classified: bool = False,
    alias: str | None = None,
) -> None:
    """Have a policy used itself, and not only inside another: count its calls.

    Args:
        policy: The policy.
        *usages: The ways of use.
        classified: Whether the user of the policy says what a failure is.
        alias: What it is called after where it has no name.

    Raises:
        TypeError: It has no meaning in one of these usages.
    """
    for usage in usages:
        policy.check_usage(usage, classified=classified)
    if alias is not None:
        policy._name_after(alias)  # pyright: ignore[reportPrivateUsage]  # ours
    policy._start_counting()  # pyright: ignore[reportPrivateUsage]  # ours


_DECORATORS = "_resilient_decorators"


def count_in(policy: Policy[Any], counters: Counters) -> None:
    """Have a policy count its calls there, from now on."""
    # NB: past `__setattr__`, which refuses it.
    object.__setattr__(policy, "counters", counters)


def decorators_of(fn: Callable[..., Any]) -> tuple[Policy[Any], ...]:
    """Return the policies that decorate a function already, outermost first."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    # NB: no `getattr`, which a mock answers whatever it is asked.
    attributes: dict[str, Any] = getattr(fn, "__dict__", {})
    return cast("tuple[Policy[Any], ...]", attributes.get(_DECORATORS, ()))


def check_listener(listener: object) -> None:
    """Refuse what could not listen.

    Raises:
        TypeError: It is not a plain function of the event.
    """
    if not callable(listener) or colour_of(listener) != "sync":
        raise TypeError(
            f"`listener` must be a plain function of the event, got {listener!r}"
        )


# NB: it may be taken again by a signal handler or finalizer on the same thread.
_subscribing = Lock()
_naming = Lock()

living: WeakValueDictionary[int, Policy[Any]] = WeakValueDictionary()
"""Every policy there is but those inside a `PerKey`, oldest first."""


_A: dict[str, str] = {
    "async": "a coroutine function",
    "generator": "a generator",
    "async generator": "an async generator",
    "context manager": "a context manager",
    "async context manager": "a context manager",
}
_WHAT: dict[str, str] = {
    "attempts": "a block: use a function",
    "generator": "a generator, whose items the consumer has seen",
    "async generator": "a generator, whose items the consumer has seen",
    "context manager": "a context manager: use a function",
    "async context manager": "a context manager: use a function",
}


def _miscalled(fn: Callable[..., Any], rule: str) -> TypeError:
    """Return the error for a function that needs another usage."""
    colour = colour_of(fn)
    hint = "acall" if colour == "async" else "the decorator"
    return TypeError(f"{rule}, {format_value(fn)} is {_A[colour]}: use {hint}")
