"""The applications of frameworks, wrapped: what clients get is what they got, and records say what the framework knows."""

import asyncio
import pathlib
import re
import sys

import pytest
from pom_support import burn_until_sampled, messages, use_django, walk

import profilomatic

httpx = pytest.importorskip("httpx")
wrap = profilomatic.asgi.wrap


def get(app, *paths, **options):
    """The responses of an application, in process; an exception of it is what a server would see."""
    async def main():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.request(options.get("method", "GET"), path, content=options.get("content")) for path in paths]

    return asyncio.run(main())


def same_as_bare(app, *paths, **options):
    """The wrapped application's responses, equal to the bare one's in status, headers and bytes."""
    def told(response):
        return response.status_code, response.headers.raw, response.content

    profilomatic.stop(30)
    bare = get(app, *paths, **options)
    profilomatic.start()
    wrapped = get(wrap(app), *paths, **options)
    assert [told(response) for response in wrapped] == [told(response) for response in bare]
    return wrapped


def work_until_sampled():
    if profilomatic.current_task_uuid():
        burn_until_sampled(2)


def names(record):
    return {node["function"].rsplit(".", 1)[-1] for node in walk(record)}


def routes(profiles, count):
    return [(record["action"]["route"], record["action"]["status"]) for record in profiles.flushed(count)]


# Starlette

def starlette_app(**options):
    applications = pytest.importorskip("starlette.applications")
    from starlette.background import BackgroundTask
    from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    async def user(request):
        return JSONResponse({"id": request.path_params["id"], "url": str(request.url_for("user", id=1))})

    async def body(request):
        return PlainTextResponse(await request.body())

    async def stream(request):
        async def chunks():
            for number in range(5):
                yield b"chunk %d" % number
                await asyncio.sleep(0)

        return StreamingResponse(chunks())

    async def after():
        work_until_sampled()

    async def background(request):
        return PlainTextResponse("done", background=BackgroundTask(after))

    async def fail(request):
        raise LookupError("of the endpoint")

    async def busy(request):
        busy_line()
        return PlainTextResponse("busy")

    def busy_line():
        work_until_sampled()

    def synchronous(request):
        return PlainTextResponse(profilomatic.current_task_uuid() or "none")

    routes = [
        Route("/users/{id:int}", user, name="user"), Route("/body", body, methods=["POST"]), Route("/stream", stream),
        Route("/background", background), Route("/fail", fail), Route("/busy", busy), Route("/sync", synchronous),
        Mount("/static", StaticFiles(directory=sys.prefix)), Mount("/sub/{tenant}", routes=[Route("/users/{id}", user)]),
    ]
    return applications.Starlette(routes=routes, **options)


def test_starlettes_responses_and_routes(profiles):
    same_as_bare(starlette_app(), "/users/7", "/stream", "/no/such", "/static/pyvenv.cfg", "/sub/a/users/b", "/background")
    assert routes(profiles, 6) == [
        ("/users/{id:int}", 200), ("/stream", 200), ("<not found>", 404), ("/static/{path}", 200), ("/sub/a/users/{id}", 200),
        ("/background", 200)]


def test_starlette_gets_the_body_of_a_request(profiles):
    response, = same_as_bare(starlette_app(), "/body", method="POST", content=b"x" * 100000)
    assert response.content == b"x" * 100000
    assert profiles.one()["action"]["bytes"] == 100000


def test_starlettes_background_tasks_are_part_of_the_request(profiles):
    get(wrap(starlette_app()), "/background")
    record = profiles.one()
    assert "after" in names(record) and record["action"]["phases"]["close"] > 0


def test_an_error_page_of_starlette_and_the_exception_behind_it(profiles):
    response, = same_as_bare(starlette_app(), "/fail")
    assert response.status_code == 500
    action = profiles.one()["action"]
    assert (action["outcome"], action["exception"], action["reason"]) == ("failed", "LookupError", "of the endpoint")
    assert (action["route"], action["status"]) == ("/fail", 500)


def test_wrap_is_a_middleware_of_starlette_too(profiles):
    app = starlette_app()
    app.add_middleware(wrap)
    assert get(app, "/users/7")[0].status_code == 200
    assert routes(profiles, 1) == [("/users/{id:int}", 200)]


@pytest.mark.parametrize("way", ["bare", "in a task of its own"])
def test_the_endpoint_is_in_the_tree_whatever_runs_it(profiles, way):
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    async def dispatch(request, call_next):
        return await call_next(request)

    middleware = [Middleware(BaseHTTPMiddleware, dispatch=dispatch)] if way != "bare" else []
    get(wrap(starlette_app(middleware=middleware)), "/busy")
    record = profiles.one()
    assert {"busy", "busy_line"} <= names(record)
    assert record["action"]["route"] == "/busy"
    assert not names(record) & {"run_forever", "_run_once", "_run", "run_until_complete"}


def test_an_endpoint_in_a_thread_knows_its_task(profiles):
    response, = get(wrap(starlette_app()), "/sync")
    assert response.text == profiles.one()["task_uuid"]


# FastAPI

def fastapi_app(**options):
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI(**options)
    router, below = fastapi.APIRouter(), fastapi.FastAPI()

    @router.get("/items/{id}")
    async def item(id: int):
        with profilomatic.action("load", id=id):
            return {"id": id}

    @app.post("/echo")
    async def echo(request: fastapi.Request):
        return await request.json()

    @app.get("/plain/{id}")
    def plain(id: int):
        return {"id": id}

    @below.get("/deep/{name}")
    async def deep(name: str):
        return name

    app.include_router(router, prefix="/api")
    app.mount("/below", below)
    return app


def test_fastapis_responses_and_routes(profiles):
    same_as_bare(fastapi_app(), "/api/items/3", "/api/items/wrong", "/plain/4", "/below/deep/x", "/below/no", "/nothing", "/openapi.json")
    assert routes(profiles, 7) == [
        ("/api/items/{id}", 200), ("/api/items/{id}", 422), ("/plain/{id}", 200), ("/below/deep/{name}", 200),
        ("<not found>", 404), ("<not found>", 404), ("/openapi.json", 200)]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
def test_fastapi_behind_a_proxy_has_its_root_path_once(profiles):
    same_as_bare(fastapi_app(root_path="/v1"), "/api/items/3", "/v1/api/items/3")
    assert routes(profiles, 2) == [("/v1/api/items/{id}", 200)] * 2


def test_actions_in_an_endpoint_of_fastapi_are_messages_of_the_request(profiles):
    get(wrap(fastapi_app()), "/api/items/3")
    start, end = messages(profiles.one())
    assert (start["action_type"], start["id"], end["action_status"]) == ("load", 3, "succeeded")


def test_a_body_of_json_reaches_fastapi(profiles):
    response, = same_as_bare(fastapi_app(), "/echo", method="POST", content=b'{"a": [1, 2]}')
    assert response.json() == {"a": [1, 2]}


def test_lifespan_and_websockets_of_starlette_pass(profiles):
    testclient = pytest.importorskip("starlette.testclient")
    from starlette.routing import WebSocketRoute

    events = []

    class Lifespan:
        def __init__(self, app):
            pass

        async def __aenter__(self):
            events.append("up")

        async def __aexit__(self, *_):
            events.append("down")

    async def talk(websocket):
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text() + " back")
        await websocket.close()

    app = starlette_app(lifespan=Lifespan)
    app.routes.append(WebSocketRoute("/talk", talk))
    with testclient.TestClient(wrap(app)) as client:
        assert client.get("/users/7").status_code == 200
        with client.websocket_connect("/talk") as socket:
            socket.send_text("there and")
            assert socket.receive_text() == "there and back"
    assert events == ["up", "down"]
    assert routes(profiles, 1) == [("/users/{id:int}", 200)]


# Django

@pytest.fixture(scope="module")
def django_app():
    pytest.importorskip("django")
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    async def user(request, id):
        busy_line()
        return HttpResponse("user %d of %s" % (id, request.headers.get("host")))

    def busy_line():
        work_until_sampled()

    def synchronous(request):
        return HttpResponse(profilomatic.current_task_uuid() or "none")

    async def named(request, id):
        request.scope["profilomatic.route"] = "/" + request.resolver_match.route
        return HttpResponse("named")

    async def stream(request):
        async def chunks():
            for number in range(5):
                yield b"chunk %d" % number

        return StreamingHttpResponse(chunks())

    async def fail(request):
        raise LookupError("of the view")

    class Urls:
        urlpatterns = [path("users/<int:id>", user), path("sync", synchronous), path("stream", stream), path("fail", fail),
                       path("named/<int:id>", named)]

    use_django(ROOT_URLCONF=Urls, MIDDLEWARE=[])
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()


def test_djangos_responses_and_routes(profiles, django_app):
    same_as_bare(django_app, "/users/7", "/stream", "/named/7", "/fail", "/no/such")
    records = profiles.flushed(5)
    assert [(record["action"]["route"], record["action"]["status"]) for record in records] == [
        ("/users/<id>", 200), ("/stream", 200), ("/named/<int:id>", 200), ("/fail", 500), ("<not found>", 404)]


def test_the_middleware_of_django_says_the_route_over_asgi_too(profiles, django_app):
    import profilomatic.django

    try:
        use_django(MIDDLEWARE=["profilomatic.django.Middleware"])
        app = profilomatic.django.get_asgi_application()
    finally:
        use_django(MIDDLEWARE=[])
    get(app, "/users/7", "/sync", "/no/such")
    assert [record["action"]["route"] for record in profiles.flushed(3)] == ["/users/<int:id>", "/sync", "<not found>"]


def test_the_lifespan_that_the_documents_give_to_django_delivers_what_was_served_last(profiles, django_app):
    """Before the server, which ends by a signal, may go on."""
    page = pathlib.Path(__file__).parents[3] / "docs" / "asgi.md"
    snippet, = re.findall(r"<!-- run: lifespan -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
    module = {}
    exec(compile(snippet, str(page), "exec"), module)
    sent, delivered = [], []

    async def serve():
        asked = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive():
            return {"type": next(asked)}

        async def send(message):
            sent.append(message["type"])

        await module["application"]({"type": "lifespan"}, receive, send)
        delivered.append(len(profiles.records))

    get(module["application"], "/no/such")
    asyncio.run(serve())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert delivered == [1]


def test_the_view_of_django_is_in_the_tree(profiles, django_app):
    get(wrap(django_app), "/users/7")
    record = profiles.one()
    assert {"user", "busy_line"} <= names(record)


def test_a_synchronous_view_of_django_knows_its_task(profiles, django_app):
    response, = get(wrap(django_app), "/sync")
    assert response.text == profiles.one()["task_uuid"]
