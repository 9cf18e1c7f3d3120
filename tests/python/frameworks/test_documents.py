"""docs/frameworks.md: every snippet that is marked runs, and serves /item/7 under a route name."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest
from asking import ask

import profilomatic

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "frameworks.md"
SNIPPETS = dict(re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
ROUTES = {"flask": "/item/<int:number>", "bottle": "/item/<number:int>", "pyramid": "/item/{number}",
          "falcon": "/item/{number:int}", "other": "/item/{number}"}


def test_every_snippet_is_run():
    assert set(SNIPPETS) == {*ROUTES, "django"}


@pytest.mark.acceptance("W19")
@pytest.mark.parametrize("name", list(ROUTES))
def test_the_snippet_is_a_profiled_application(profiles, name):
    if name != "other":
        pytest.importorskip(name)
    module = {"__name__": __name__}
    exec(compile(SNIPPETS[name], str(PAGE), "exec"), module)
    status, _, chunks = ask(module["app"], "/item/7")
    assert status == "200 OK" and b"".join(chunks) == b"item 7"
    action = profiles.one()["action"]
    assert (action["route"], action["outcome"]) == (ROUTES[name], "succeeded")


@pytest.mark.acceptance("W19")
@pytest.mark.parametrize("entry", ["settings.WSGI_APPLICATION", "a wsgi.py of its own"])
def test_the_settings_of_django_profile(tmp_path, entry):
    """In a process of its own: settings are the process's."""
    pytest.importorskip("django")
    (tmp_path / "shop_settings.py").write_text(SNIPPETS["django"] + textwrap.dedent("""
        SECRET_KEY = "x"
        ALLOWED_HOSTS = ["*"]
        ROOT_URLCONF = "shop_urls"
        """))
    (tmp_path / "shop_urls.py").write_text(textwrap.dedent("""
        from django.http import HttpResponse
        from django.urls import path
        urlpatterns = [path("item/<int:number>", lambda request, number: HttpResponse("item %d" % number))]
        """))
    (tmp_path / "run.py").write_text(textwrap.dedent("""
        import os, sys
        os.environ["DJANGO_SETTINGS_MODULE"] = "shop_settings"
        sys.path.insert(0, %r)
        import profilomatic
        from asking import ask
        if %r == "settings.WSGI_APPLICATION":
            from django.core.servers.basehttp import get_internal_wsgi_application
            application = get_internal_wsgi_application()
        else:
            exec(%r)
        profilomatic.add_destination(lambda record: print(record["action"]["route"]))
        assert ask(application, "/item/7")[2] == [b"item 7"]
        assert profilomatic.flush(60) and profilomatic.stop(60)
        """) % (str(pathlib.Path(__file__).parent), entry,
                "\n".join(re.findall(r"from profilomatic.django.*\n\napplication = .*", PAGE.read_text()))))
    package = str(pathlib.Path(profilomatic.__file__).parent.parent)
    done = subprocess.run([sys.executable, "run.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": package}, timeout=300,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "/item/<int:number>"), done.stderr


def test_the_list_of_secret_words_is_the_real_one():
    from profilomatic import _options

    line = PAGE.read_text().partition("secret is what contains one of\n\n")[2].partition("\n\n")[0]
    assert re.findall("`([^`]+)`", line) == list(_options.SCRUB_DEFAULT)
