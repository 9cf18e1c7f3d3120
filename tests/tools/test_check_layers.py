"""The layer check, fed with small trees that each break one rule."""

import pytest

FLOORS = {
    "base/CMakeLists.txt": "pom_library(base SOURCES alloc.c LIBS threads)",
    "base/alloc.c": "/* Memory. */\n#include <stdlib.h>\nvoid *pom_alloc(void) { return malloc(1); }\n",
    "base/alloc.h": "",
    "profiles/CMakeLists.txt": "pom_library(profiles SOURCES tree.c formats/msgpack.c USES base LIBS msgpack)",
    "profiles/tree.c": '/* A tree. */\n#include "profiles/tree.h"\n#include "base/alloc.h"\n',
    "profiles/tree.h": "",
    "profiles/formats/msgpack.c": "/* Packs. */\n#include <msgpack.h>\n",
    "sampler/CMakeLists.txt": "pom_library(sampler SOURCES USES base profiles)",
    "sampler/slot.h": '#include "profiles/tree.h"\n',
    "destinations/CMakeLists.txt": "pom_library(destinations SOURCES loop.c USES base profiles LIBS uv openssl)",
    "destinations/loop.c": "// The loop.\n#include <uv.h>\n#include <openssl/ssl.h>\n",
    "destinations/loop.h": "",
    "actions/CMakeLists.txt": "pom_library(actions SOURCES USES base profiles sampler)",
    "actions/action.h": "",
    "middleware/CMakeLists.txt": "pom_library(middleware SOURCES USES base actions)",
    "bindings/engine/CMakeLists.txt": "pom_library(engine SOURCES USES base destinations actions)",
    "bindings/engine/engine.h": '#include "destinations/loop.h"\n#include "actions/action.h"\n',
    "bindings/ext/CMakeLists.txt": "pom_python_module(SOURCES module.c USES base engine)",
    "bindings/ext/module.c": '/* _core. */\n#include <Python.h>\n#include "internal/pycore_frame.h"\n'
    '#include "bindings/engine/engine.h"\n#include "bindings/ext/module.h"\n',
    "bindings/ext/module.h": "",
}


@pytest.fixture
def check(load_tool, tree):
    checker = load_tool("check_layers").Checker

    def run(changes=None):
        return checker(str(tree({**FLOORS, **(changes or {})}))).run()

    return run


def test_a_tree_that_keeps_the_rules_has_no_faults(check):
    result = check()
    assert result.faults == []
    assert result.warnings == []
    assert result.files == 12


@pytest.mark.parametrize(
    "path, text, fault",
    [
        ("base/alloc.h", '#include "profiles/tree.h"\n', 'base/alloc.h:1: includes "profiles/tree.h": base may not use profiles'),
        ("sampler/slot.h", '#include "destinations/loop.h"\n', "sampler may not use destinations"),
        ("actions/action.h", '#include "destinations/loop.h"\n', "actions may not use destinations"),
        ("bindings/engine/engine.h", '#include "bindings/ext/module.h"\n', "engine may not use ext"),
        ("bindings/engine/engine.h", '#include "sampler/slot.h"\n', "CMakeLists.txt does not say USES sampler"),
        ("profiles/tree.h", '\n#include "tree.h"\n', "profiles/tree.h:2: includes \"tree.h\", which is not written from the root"),
        ("profiles/tree.h", "#include <base/alloc.h>\n", "ours are written in quotes"),
        ("profiles/tree.h", '#include "base/gone.h"\n', "which does not exist"),
        ("profiles/tree.h", '#include "profiles/gone.h"\n', "which does not exist"),
        ("bindings/engine/engine.h", "#include <Python.h>\n", "CPython's headers belongs in bindings/ext/"),
        ("sampler/slot.h", "#  include <internal/pycore_frame.h>\n", "CPython's headers"),
        ("sampler/slot.h", "#include <uv.h>\n", "libuv belongs in destinations/"),
        ("profiles/tree.h", "#include <openssl/evp.h>\n", "OpenSSL belongs in destinations/"),
        ("profiles/tree.h", "#include <msgpack.h>\n", "msgpack belongs in profiles/formats/msgpack.c"),
        ("sampler/slot.h", "#include <zlib.h>\n", "zlib belongs in destinations/ or profiles/"),
        ("profiles/tree.c", "/* T. */\nvoid f(void *p)\n{\n    free(p);\n}\n", "profiles/tree.c:4: calls free"),
        ("profiles/tree.c", "/* T. */\nchar *f(char *p) { return strdup (p); }\n", "calls strdup"),
        ("bindings/ext/module.c", "/* M. */\nvoid *p = calloc(1, 2);\n", "calls calloc"),
        ("profiles/tree.c", '#include "base/alloc.h"\n', "does not open with a comment"),
        ("profiles/CMakeLists.txt", "pom_library(profiles SOURCES formats/msgpack.c USES base)", "does not list profiles/tree.c"),
        ("base/CMakeLists.txt", "pom_library(base SOURCES alloc.c gone.c)", "lists base/gone.c, which does not exist"),
        ("base/CMakeLists.txt", "pom_library(base SOURCES alloc.c USES profiles)", "base may not use profiles"),
        ("sampler/CMakeLists.txt", "pom_library(sampler SOURCES USES base profiles LIBS uv)", "sampler may not link uv"),
        ("sampler/CMakeLists.txt", "add_library(sampler)", "has no pom_library"),
        ("sampler/CMakeLists.txt", "pom_library(actions SOURCES USES base profiles)", "defines actions, not sampler"),
    ],
)
def test_a_broken_rule_is_one_fault(check, path, text, fault):
    faults = check({path: text}).faults
    assert len(faults) == 1, faults
    assert fault in faults[0]


@pytest.mark.parametrize(
    "text",
    [
        '/* #include "destinations/loop.h" */\n',
        '// #include "destinations/loop.h"\n',
        '/* T. */ const char *s = "malloc(3)"; // free(p)\n',
        "/* T. */ void pom_tree_free(void *t);\nvoid f(struct v *v) { v->free(v); (*v).malloc(3); pom_free(v); }\n",
        "/* T. */ struct v { void (*free)(void *p); };\n",
    ],
)
def test_comments_strings_and_other_names_are_not_calls(check, text):
    assert check({"profiles/tree.c": "/* T. */\n" + text}).faults == []


def test_a_long_file_is_a_warning_unless_its_head_says_why(check):
    long = "int x;\n" * 400
    assert check({"profiles/tree.c": "/* A tree. */\n" + long}).warnings == [
        "profiles/tree.c: 401 lines, and its head does not say why"
    ]
    assert check({"profiles/tree.c": "/* A tree. Over 400 lines because the cases share a table. */\n" + long}).warnings == []


def test_a_comment_in_cmake_does_not_count_as_a_use(check):
    text = "pom_library(engine\n  SOURCES\n  USES base destinations # actions\n)"
    assert len(check({"bindings/engine/CMakeLists.txt": text}).faults) == 1


def test_the_command_fails_on_a_fault(load_tool, tree, capsys):
    tool = load_tool("check_layers")
    root = str(tree(FLOORS))
    assert tool.main(["check_layers.py", root]) == 0
    tree({"base/alloc.h": '#include "actions/action.h"\n'})
    assert tool.main(["check_layers.py", root]) == 1
    assert "base may not use actions" in capsys.readouterr().out


def test_the_cmake_tables_agree_with_this_check(load_tool):
    """PomTargets.cmake refuses at configure time what the check refuses here."""
    import pathlib
    import re

    tool = load_tool("check_layers")
    text = (pathlib.Path(tool.__file__).parents[1] / "cmake" / "PomTargets.cmake").read_text()
    for floor in tool.ABOVE:
        if floor == "ext":
            continue
        allowed = set(re.search(r"^set\(pom_may_link_%s ([^)]*)\)" % floor, text, re.MULTILINE).group(1).replace('"', "").split())
        assert allowed - {"threads"} == {lib for lib, floors in tool.THIRD_PARTY_LIBS.items() if floor in floors}
