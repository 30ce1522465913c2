"""The page on Flask and Django, served by gunicorn and uvicorn as it says."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.loopback import Server as Stock
from tests.loopback import answer
from tests.server.servers import PATIENCE, Server, free_port, running

import resilient

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs/how-to/protect-a-flask-or-django-service.md"
TEXT = PAGE.read_text("utf-8")
FILES = dict(re.findall(r"^```py\n# (\S+)\n(.*?)^```$", TEXT, re.M | re.S))
COMMANDS = [shlex.split(each) for each in re.findall(r"^```sh\n(.*)\n```$", TEXT, re.M)]
BUDGET = "X-Request-Timeout-Ms"
JSON = {"Accept": "application/json"}

SETTINGS = """
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
SECRET_KEY = "of a test"
USE_TZ = True
# In the place of users in a database.
for _name in ("sessions.middleware.Session", "auth.middleware.Authentication"):
    MIDDLEWARE.remove(f"django.contrib.{_name}Middleware")
MIDDLEWARE.insert(1, "shop.urls.Authentication")
"""

URLS = """
import asyncio, time, types
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils.deprecation import MiddlewareMixin
from resilient import CircuitOpenError, remaining
from shop.views import search

noted = []

class Authentication(MiddlewareMixin):
    def process_request(self, request):
        name = request.headers.get("User", "")
        request.user = types.SimpleNamespace(get_username=lambda: name)

def left(request):
    return JsonResponse(remaining(), safe=False)

def slow(request):
    noted.append("slow")
    time.sleep(1)
    return HttpResponse("slow")

async def patient(request):
    noted.append("patient")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        noted.append("cancelled")
        raise

async def later(request):
    raise CircuitOpenError("payments", 12.3)

def bug(request):
    raise LookupError("bug")

def state(request):
    return JsonResponse({"noted": noted})

urlpatterns = [
    path(view.__name__, view)
    for view in (search, left, slow, patient, later, bug, state)
] + [path("readyz", state)]
"""


def test_the_page_has_six_files_and_three_commands() -> None:
    """One that is not understood would not be run."""
    assert [
        "shop.py",
        "shop/wsgi.py",
        "shop/middleware.py",
        "shop/settings.py",
        "shop/views.py",
        "shop/asgi.py",
    ] == [*FILES]
    assert ["gunicorn", "gunicorn", "uvicorn"] == [each[0] for each in COMMANDS]


def installed(*modules: str) -> None:
    """Skip a test whose packages are missing, but not in CI."""
    for module in modules:
        if "CI" not in os.environ:
            pytest.importorskip(module)
        importlib.import_module(module)


@contextmanager
def served(folder: Path, command: list[str], **environment: str) -> Iterator[Server]:
    """Run a command of the page in a folder, on a port of its own."""
    program, *arguments = command
    port = free_port()
    at = (
        ["--bind", f"127.0.0.1:{port}"]
        if program == "gunicorn"
        else ["--port", str(port)]
    )
    quiet = ["--log-level", "warning"]
    environment["PYTHONPATH"] = str(Path(resilient.__file__).parents[1])
    with running([program, *at, *quiet, *arguments], port, folder, environment) as one:
        yield one


def written(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def flask(folder: Path, old: str, new: str) -> None:
    """Write the page's file with a number that no slow machine misses."""
    assert 1 == FILES["shop.py"].count(old)
    written(folder, {"shop.py": FILES["shop.py"].replace(old, new)})


def test_flask_answers_and_passes_the_deadline_on(tmp_path: Path) -> None:
    """What a caller allows reaches the service behind, whose circuit opens."""
    installed("flask", "gunicorn")
    flask(tmp_path, "timeout=5", "timeout=60")
    hurry = {BUDGET: "25000"}
    with Stock() as behind, served(tmp_path, COMMANDS[0], STOCK_URL=behind.url) as shop:
        behind.script("/tea", answer(200, body=b"7"))
        behind.script("/milk", answer(404))
        behind.script("/salt", answer(500))
        with shop.client() as client:
            tea = client.get("/stock/tea", headers=hurry)
            late = client.get("/stock/tea", headers={BUDGET: "0"})
            assert 404 == client.get("/unknown").status_code
            assert 500 == client.get("/stock/milk").status_code
            # Two processes have a circuit each.
            refused = until_status(503, lambda: client.get("/stock/salt", headers=JSON))

    assert (200, "7") == (tea.status_code, tea.text)
    assert (504, "Gateway Timeout\n") == (late.status_code, late.text)
    passed_on = float(dict(behind.requests[0].headers)[BUDGET.lower()])
    assert 0 < passed_on <= 25_000
    assert "application/problem+json" == refused.headers["content-type"]
    assert "Service Unavailable" == refused.json()["title"]
    assert 1 <= int(refused.headers["retry-after"])


def until(fact: Callable[[], object]) -> None:
    """Ask again until something is so."""
    end = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < end, "asked in vain"


def until_status(status: int, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask until the answer has a status."""
    seen: list[httpx.Response] = []

    def asked() -> bool:
        seen[:] = [ask()]
        return seen[0].status_code == status

    until(asked)
    return seen[0]


def test_flask_limits_each_client(tmp_path: Path) -> None:
    """By address, in each of two processes."""
    installed("flask", "gunicorn")
    flask(tmp_path, "RateLimiter(50)", "RateLimiter(3, per=3600)")
    with served(tmp_path, COMMANDS[0], STOCK_URL="http://127.0.0.1:9") as shop:
        with shop.client() as client:
            refused = until_status(429, lambda: client.get("/unknown"))

    assert 1 <= int(refused.headers["retry-after"])
    assert refused.headers["ratelimit"].startswith('"default";r=0;t=')


@pytest.fixture
def django(tmp_path: Path) -> Path:
    """A project of Django's with the files of the page."""
    installed("django")
    files = {name: text for name, text in FILES.items() if name.startswith("shop/")}
    files["shop/settings.py"] += SETTINGS
    assert "delay=5.0" in files["shop/asgi.py"]
    files["shop/asgi.py"] = files["shop/asgi.py"].replace("delay=5.0", "delay=600.0")
    return written(tmp_path, {"shop/__init__.py": "", "shop/urls.py": URLS, **files})


def test_django_behind_wsgi(django: Path) -> None:
    """Views have a deadline, users a limit; what has begun is finished at the end."""
    installed("gunicorn")
    with served(django, [*COMMANDS[1], "--workers", "1"]) as shop:
        with shop.client() as client:
            check_views(client)
            seen: list[httpx.Response] = []

            def slow() -> None:
                with shop.client() as another:
                    seen.append(another.get("/slow"))

            thread = threading.Thread(target=slow)
            thread.start()
            shop.wait_for(lambda state: "slow" in state["noted"])
        shop.terminate()
        thread.join(PATIENCE)
        assert 0 == shop.process.wait(PATIENCE)
    assert [200] == [each.status_code for each in seen]


def test_django_behind_asgi(django: Path) -> None:
    """The same; late and unwanted views are cancelled, and SIGTERM is delayed."""
    cancels = version() >= (6, 1)
    if not cancels:
        # As the page says.
        asgi = django / "shop/asgi.py"
        old = "lifecycle=lifecycle,"
        new = f"{old} cancel_on_disconnect=False,"
        asgi.write_text(asgi.read_text("utf-8").replace(old, new), "utf-8")
    with served(django, COMMANDS[2]) as shop:
        with shop.client() as client:
            check_views(client)
            url = urlsplit(shop.url)
            with socket.create_connection((url.hostname, url.port), PATIENCE) as one:
                one.sendall(b"GET /patient HTTP/1.1\r\nHost: shop.example\r\n\r\n")
                shop.wait_for(lambda state: "patient" in state["noted"])
            shop.wait_for(lambda state: state["noted"].count("cancelled") == 1)
            cut = until_status(
                504, lambda: client.get("/patient", headers={BUDGET: "300"})
            )
            assert "Gateway Timeout\n" == cut.text
            if cancels:
                until(
                    lambda: (
                        client.get("/patient", headers={BUDGET: "300"}).is_error
                        and client.get("/state").json()["noted"].count("cancelled") > 1
                    )
                )
            assert 200 == client.get("/readyz").status_code
            shop.terminate()
            until_status(503, lambda: client.get("/readyz"))
        with shop.client() as client:
            assert 200 == client.get("/state").status_code
        # A second one is not delayed; uvicorn ends by the signal that it got.
        shop.terminate()
        assert shop.process.wait(PATIENCE) in (0, -signal.SIGTERM)


def version() -> tuple[int, int]:
    """Return the version of Django."""
    major, minor, *_ = importlib.metadata.version("django").split(".")
    return int(major), int(minor)


def check_views(client: httpx.Client) -> None:
    """Ask what both kinds of server answer alike."""
    tea = {"q": "tea"}
    ann = {"User": "Ann"}
    found = client.get("/search", params=tea, headers=ann)
    assert (200, "nothing is called tea") == (found.status_code, found.text)
    refused = until_status(429, lambda: client.get("/search", params=tea, headers=ann))
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    another = client.get("/search", params=tea, headers={"User": "Bob"})
    assert 200 == another.status_code
    assert 0 < client.get("/left", headers={BUDGET: "25000"}).json() <= 25
    assert 504 == client.get("/left", headers={BUDGET: "0"}).status_code
    refused = client.get("/later", headers=JSON)
    assert (503, "13") == (refused.status_code, refused.headers["retry-after"])
    assert "Service Unavailable" == refused.json()["title"]
    assert 500 == client.get("/bug").status_code
