"""What is recorded of a request and of messages, and what never is: secrets, bodies, headers, ids that are none."""

import io
import json

import pytest
from pom_support import messages
from wsgi_server import Server, environ, listed, ok

import profilomatic

wrap = profilomatic.wsgi.wrap

SECRET = "hunter2-the-secret"
KEYS = ["password", "Password2", "passwd", "client_secret", "token", "csrf-token", "authorization", "Proxy-Authorization",
        "api_key", "apiKey", "API-KEY", "X-Auth", "session", "sessionid", "cookie", "Set-Cookie", "credit_card", "db_pwd"]
HARMLESS = ["user", "author", "keyword", "keys", "page", "monkeys", "authentic", "task", "path"]


def hidden(text):
    return SECRET not in json.dumps(text)


@pytest.mark.acceptance("PM21")
@pytest.mark.parametrize("key", KEYS)
def test_values_of_secret_keys_are_masked_in_queries_fields_and_messages(profiles, key):
    def app(env, start_response):
        with profilomatic.action("inner", **{key: SECRET}) as inner:
            inner.message(**{key: SECRET}, fine=1)
        return listed(env, start_response)

    Server(wrap(app), environ(QUERY_STRING="a=1&%s=%s&b=2" % (key, SECRET))).run()
    with profilomatic.action("outer", **{key: SECRET}):
        pass
    request, code = profiles.flushed(2)
    assert hidden(request) and hidden(code)
    assert request["action"]["query_string"] == "a=1&%s=[scrubbed]&b=2" % key
    assert code["action"][key] == "[scrubbed]"
    start, message = messages(request)[:2]
    assert start[key] == "[scrubbed]" and message == {key: "[scrubbed]", "fine": 1}


@pytest.mark.parametrize("key", HARMLESS)
def test_values_of_other_keys_are_shown(profiles, key):
    Server(wrap(listed), environ(QUERY_STRING=key + "=shown")).run()
    with profilomatic.action("a", **{key: "shown"}):
        pass
    request, code = profiles.flushed(2)
    assert request["action"]["query_string"] == key + "=shown" and code["action"][key] == "shown"


def test_secrets_are_masked_however_deep_and_whatever_they_are(profiles):
    class Key(str):
        __slots__ = ()

        def __hash__(self):
            return 7

    class Unhashable(str):
        __hash__ = None

    class Named:
        def __str__(self):
            return Unhashable("auth_token")

    class Telling:
        def __str__(self):
            raise AssertionError("a secret value was looked at")

    with profilomatic.action("a") as a:
        a.message(
            nested={"list": [{"deep": {"token": SECRET}}], "n": 1},
            headers=[("Cookie", SECRET), ("Accept", "text/html"), (b"cookie", SECRET.encode())],
            environ={"HTTP_AUTHORIZATION": "Bearer " + SECRET, "HTTP_HOST": "shop"},
            mixed={Key("password"): SECRET, Named(): SECRET, 5: "five"},
            session={"whole": {"tree": SECRET}},
            secret=Telling(),
            pair=("token", SECRET), triple=("token", "is", "shown"),
            **{"x" * 130: SECRET, "café-token": SECRET, "\ud800token": SECRET})
    record = profiles.one()
    assert hidden(record)
    message, = messages(record)
    assert message["nested"] == {"list": [{"deep": {"token": "[scrubbed]"}}], "n": 1}
    assert message["headers"] == [["Cookie", "[scrubbed]"], ["Accept", "text/html"], ["cookie", "[scrubbed]"]]
    assert message["environ"] == {"HTTP_AUTHORIZATION": "[scrubbed]", "HTTP_HOST": "shop"}
    assert message["mixed"] == {"password": "[scrubbed]", "auth_token": "[scrubbed]", "5": "five"}
    assert message["session"] == message["secret"] == message["café-token"] == "[scrubbed]"
    assert message["triple"] == ["token", "is", "shown"]


def test_scrub_adds_words_and_switches_off(profiles):
    def recorded():
        with profilomatic.action("a", ssn="1", password="2", spinner="3", pin="4"):
            pass
        action = profiles.flushed()[-1]["action"]
        return [action[key] for key in ("ssn", "password", "spinner", "pin")]

    assert recorded() == ["1", "[scrubbed]", "3", "4"]
    profilomatic.configure(scrub=["SSN", " pin "])  # with blanks: a word of its own
    assert recorded() == ["[scrubbed]", "[scrubbed]", "3", "[scrubbed]"]
    profilomatic.configure(scrub=False)
    assert recorded() == ["1", "2", "3", "4"]
    profilomatic.configure(scrub=True)
    assert recorded() == ["1", "[scrubbed]", "3", "4"]


def test_many_keys_do_not_confuse_verdicts(profiles):
    """More distinct keys than are remembered, each asked twice."""
    for _ in range(2):
        for start in range(0, 3000, 500):
            fields = {("%s_%d" % ("token" if number % 3 else "page", number)): number for number in range(start, start + 500)}
            with profilomatic.action("a") as a:
                a.message(**fields)
    for record in profiles.flushed(12):
        message, = messages(record)
        assert message
        assert all(value == ("[scrubbed]" if key.startswith("token") else int(key[5:])) for key, value in message.items())


def test_headers_and_bodies_are_not_recorded(profiles):
    def app(env, start_response):
        env["wsgi.input"].read()
        write = ok(start_response, ("Set-Cookie", "sid=" + SECRET), ("X-Answer", SECRET))
        write(SECRET.encode())
        return [SECRET.encode()]

    body = ("name=ann&comment=" + SECRET).encode()
    env = environ("/order", REQUEST_METHOD="POST", CONTENT_LENGTH=str(len(body)), wsgi__input=io.BytesIO(body),
                  CONTENT_TYPE="application/x-www-form-urlencoded; boundary=" + SECRET, REMOTE_USER=SECRET, REMOTE_ADDR=SECRET,
                  HTTP_COOKIE="sid=" + SECRET, HTTP_AUTHORIZATION="Bearer " + SECRET, HTTP_REFERER="/?" + SECRET,
                  HTTP_USER_AGENT=SECRET, HTTP_X_FORWARDED_FOR=SECRET)
    server = Server(wrap(app), env).run()
    assert server.chunks == server.written == [SECRET.encode()]
    record = profiles.one()
    assert hidden(record)
    assert record["action"]["bytes"] == 2 * len(SECRET)


@pytest.mark.acceptance("PM20")
@pytest.mark.parametrize("given", [
    "", " ", "a b", "a\r\nSet-Cookie: x", "<script>", "a;b", "é", "a" * 65, "\0", "-", "{}", "a'b",
])
def test_an_id_from_outside_that_is_none_is_replaced(profiles, given):
    for headers in ({"HTTP_X_TASK_UUID": given}, {"HTTP_TRACEPARENT": given}, {"HTTP_X_TASK_UUID": given, "HTTP_TRACEPARENT": given}):
        env = environ(**headers)
        Server(wrap(listed), env).run()
        task = profiles.flushed()[-1]["task_uuid"]
        assert env["HTTP_X_TASK_UUID"] == task and task != given
        assert len(task) == 36 and task[14] == "4"
