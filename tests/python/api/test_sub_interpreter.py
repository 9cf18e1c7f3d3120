"""In a sub-interpreter, where a server such as mod_wsgi may put an application, everything runs bare and says so once."""

import pytest

# As servers make them: interpreters that share the GIL. Two, since each says it for itself.
RUN = """
try:
    import _interpreters as interpreters
    new = lambda: interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    new = lambda: interpreters.create(isolated=False)
"""
USE = '''
code = """if True:
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="LOG %(name)s %(levelname)s %(message)s")
    import profilomatic, profilomatic.wsgi
    records = []
    profilomatic.add_destination(records.append)
    body = [b"body"]
    @profilomatic.wsgi.wrap
    def app(environ, start_response):
        start_response("200 OK", [])
        return body
    for _ in range(3):
        assert app({"PATH_INFO": "/"}, lambda *args: None) is body
    with profilomatic.action("unseen") as action:
        action.message(step=1)
    profilomatic.start()
    stats = profilomatic.stats()
    assert (stats["running"], stats["actions"]["started"]) == (False, 0), stats
    from profilomatic import check
    assert check.examine()["status"] == "broken"
    (said,) = check.explain()  # and nothing of starting what cannot be started
    assert said.startswith("This is a sub-interpreter")
    assert profilomatic.flush(60) and profilomatic.stop(60) and records == []
    print("bare", flush=True)
"""
for _ in range(2):
    made = new()
    failed = interpreters.run_string(made, code)
    assert not failed, failed
    interpreters.destroy(made)
'''
MAIN = """
import profilomatic
before = []
profilomatic.add_destination(before.append)
with profilomatic.action("in main"):
    pass
assert profilomatic.flush(60) and len(before) == 1
"""


@pytest.mark.acceptance("W25")
@pytest.mark.parametrize("main", ["", MAIN], ids=["main unused", "main profiles"])
def test_a_sub_interpreter_runs_bare_and_says_so_once(python, main):
    lines = python(RUN + main + USE + main).splitlines()
    told = [line for line in lines if line.startswith("LOG ")]
    assert [line for line in lines if line not in told] == ["bare"] * 2
    assert len(told) == 2
    for line in told:
        assert line.startswith("LOG profilomatic WARNING this is a sub-interpreter")
