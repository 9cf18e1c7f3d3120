"""What a type checker sees: the stubs say what the modules have, and a program that uses the API passes `mypy --strict`."""

import ast
import importlib
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import profilomatic

PACKAGE = pathlib.Path(profilomatic.__file__).parent
STUBS = sorted(path.stem for path in PACKAGE.glob("*.pyi"))

PROGRAM = """
import ssl
from collections.abc import Callable, Iterable
from typing import Any, assert_type

import profilomatic
import profilomatic.eliot
import profilomatic.wsgi

profilomatic.configure(max_overhead="2%", time_granularity="auto", scrub=["pin"])
profilomatic.add_destination(profilomatic.file_destination("x.jsonl", append=True))
profilomatic.add_destination(profilomatic.RestDestination("h.example", token="t", ssl_context=ssl.create_default_context()))
profilomatic.add_destination(profilomatic.directory_destination("slow", format="pprof"))

def sink(profile: dict[str, Any]) -> None: ...

profilomatic.add_destination(sink)
profilomatic.remove_destination(sink)

with profilomatic.action("rebuild", shard=3) as a:
    a.message(step=1)
    with profilomatic.action("child", parent=a):
        assert_type(a.task_uuid, str | None)

@profilomatic.action("double")
def double(n: int) -> int:
    return 2 * n

@profilomatic.action("wait")
async def wait() -> str:
    return "done"

assert_type(double(2), int)

def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return []

app = profilomatic.wsgi.wrap(app)

async def asgi(scope: Any, receive: Any, send: Any) -> None: ...

served = profilomatic.asgi.wrap(asgi)
profilomatic.eliot.patch()
profilomatic.flask.init_app(object())
assert_type(profilomatic.flush(1), bool)
assert_type(profilomatic.propagation_headers(), dict[str, str])
assert_type(profilomatic.check.explain(), list[str])
print(profilomatic.__version__, profilomatic.stats()["overhead"], profilomatic.current_task_uuid())
"""
WRONG = """
import profilomatic
profilomatic.configure(max_overhed=0.01)
profilomatic.configure(code_granularity="word")
profilomatic.add_destination("profiles.jsonl")
profilomatic.file_destination("x", apend=True)
profilomatic.flush("2")
"""


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """What `mypy --strict` says of both programs, in one run: file and line of each error, and all of its words."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install -r requirements/test.txt")
    folder = tmp_path_factory.mktemp("typed")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "wrong.py").write_text(WRONG)
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "program.py", "wrong.py"],
                          cwd=folder, env={**os.environ, "MYPYPATH": str(PACKAGE.parent)}, capture_output=True, text=True,
                          timeout=300)
    said = done.stdout + done.stderr
    return [line.partition(": error:")[0] for line in said.splitlines() if ": error:" in line], said


@pytest.mark.oldest_and_newest
def test_a_program_that_uses_the_api_is_strictly_typed_and_wrong_uses_are_found(errors):
    found, said = errors
    assert found == ["wrong.py:%d" % number for number in range(3, 8)], said


@pytest.mark.parametrize("name", STUBS)
def test_the_stub_says_what_the_module_has(name):
    module = profilomatic
    if name != "__init__":
        try:
            module = importlib.import_module("profilomatic." + name)
        except ImportError as error:
            pytest.skip(str(error))
    tree = ast.parse((PACKAGE / (name + ".pyi")).read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in functions.values():
        own, written = inspect.signature(getattr(module, node.name)).parameters.values(), parameters(node.args)
        assert [(each.name, each.kind, each.default) for each in own] == written, node.name
    stated = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
              and node.targets[0].id == "__all__"]
    assert stated == ([list(module.__all__)] if hasattr(module, "__all__") else [])
    assert name != "__init__" or set(functions) | {"asgi", "wsgi"} == set(module.__all__)


def parameters(args):
    """(name, kind, default) of each, as inspect has them."""
    kinds, empty = inspect.Parameter, inspect.Parameter.empty
    plain = [(each, kinds.POSITIONAL_ONLY) for each in args.posonlyargs] + [(each, kinds.POSITIONAL_OR_KEYWORD) for each in args.args]
    defaults = [empty] * (len(plain) - len(args.defaults)) + [ast.literal_eval(each) for each in args.defaults]
    found = [(each.arg, kind, default) for (each, kind), default in zip(plain, defaults)]
    found += [(each.arg, kinds.KEYWORD_ONLY, empty if default is None else ast.literal_eval(default))
              for each, default in zip(args.kwonlyargs, args.kw_defaults)]
    return found + ([(args.kwarg.arg, kinds.VAR_KEYWORD, empty)] if args.kwarg else [])
