"""The retries of an SDK times ours: told once, with what switches them off."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from tests.http import families
from tests.http.families import URL, Http, in_every_client

from resilient import Pipeline, ResilientWarning
from resilient._errors import warnings as own_warnings
from resilient.testing import instant

TOLD = (
    r"this request comes again, though its transport has sent it 3 times and given"
    r" up: .* multiply ours; switch them off, as by max_retries=0"
)


def counted(number: int) -> dict[str, str]:
    """What an SDK of Stainless's says of its own retries."""
    return {"x-stainless-retry-count": str(number)}


@in_every_client
async def test_an_sdk_that_counts_its_retries_is_told_once(h: Http) -> None:
    """However long after; not of its first try, nor of another request."""
    async with h.client(h.script(503)) as client:
        await h.get(client, headers=counted(0))
        await h.get(client, headers=counted(0))
        await h.get(client, URL + "/others", headers=counted(0))
        await h.get(client, headers=counted(1))
        await h.get(client, headers=counted(0))
        await h.sleep(20)
        with pytest.warns(ResilientWarning, match=TOLD) as caught:
            await h.get(client, headers=counted(1))
        assert families.__file__ == caught[0].filename
        await h.get(client, headers=counted(0))
        await h.get(client, headers=counted(1))


@in_every_client
async def test_a_transport_around_that_retries_is_told(h: Http) -> None:
    """It sends the same object again."""
    transport = h.transport(h.script(503))
    request = h.library.Request("GET", URL)
    await h.handle(transport, request)
    with pytest.warns(ResilientWarning, match=TOLD):
        await h.handle(transport, request)


@in_every_client
async def test_the_same_request_at_once_is_told_of_installed_code(h: Http) -> None:
    """What a user's own code sends again is no SDK's, nor what streams."""

    async def twice(*, pause: float = 0.5, **kw: Any) -> None:
        async with h.client(h.script(503), retry_unsafe=True) as client:
            await h.post(client, **kw)
            await h.sleep(pause)
            await h.post(client, **kw)

    await twice(content=b"one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_warnings, "_INSTALLED", ("tests",))
        with pytest.warns(ResilientWarning, match=TOLD):
            await twice(content=b"one")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await twice(content=b"one", pause=3)
            await twice(content=b"one", pause=70)
            await twice(data={"a": "b"}, files={"f": b"12"})


@in_every_client
async def test_a_transport_without_retries_multiplies_nothing(h: Http) -> None:
    """Then the SDK's are the only ones."""
    async with h.client(h.script(503), Pipeline()) as client:
        for number in range(3):
            await h.get(client, headers=counted(number))


def test_the_frames_of_a_program_may_all_be_the_librarys(h: Http) -> None:
    """As in a thread that it began: no code of another is to blame."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_warnings, "_PASSED", ("/", "<"))
        assert not own_warnings.caller_is_installed(h.library)


@pytest.mark.parametrize("retries", [0, 2])
def test_openai_is_told_what_switches_its_retries_off(retries: int) -> None:
    """Nine requests for one call become three."""
    openai = pytest.importorskip("openai")
    base = openai.DefaultHttpxClient.__mro__[1].__module__
    h = Http(base.partition(".")[0], "sync")
    sent: list[Any] = []

    def step(request: Any) -> Any:
        sent.append(request)
        return h.library.Response(
            500, json={"error": {}}, headers={"retry-after-ms": "1"}
        )

    transport = h.transport(h.library.MockTransport(step), retry_unsafe=True)
    with h.library.Client(transport=transport) as http, instant():
        client = openai.OpenAI(api_key="none", http_client=http, max_retries=retries)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(openai.InternalServerError):
                client.models.list()
    told = [one for one in caught if issubclass(one.category, ResilientWarning)]
    assert (1 if retries else 0) == len(told)
    assert 3 * (1 + retries) == len(sent)
    assert all(one.filename == __file__ for one in told)
