"""The list of rows that no test carries."""

import pytest

ROWS = "# Rows\n\n## PM: one\n\n| id | row |\n|---|---|\n| PM1 | first |\n| PM2 | second |\n\n## W: two\n\n| W1 | third |\n"


@pytest.fixture
def acceptance(load_tool, tree, capsys):
    tool = load_tool("acceptance")

    def run(files, *arguments):
        root = tree({"docs/acceptance.md": ROWS, **files})
        code = tool.main(["--root", str(root), *arguments])
        return code, capsys.readouterr().out

    return run


PYTHON = 'import pytest\n@pytest.mark.acceptance("PM1")\ndef test_x():\n    pass\n'


def test_rows_without_a_test_are_listed_by_section(acceptance):
    code, out = acceptance({"tests/python/test_x.py": PYTHON})
    assert code == 0
    assert out.splitlines() == [
        "PM: one: 1 of 2",
        "  -     PM2   second",
        "W: two: 0 of 1",
        "  -     W1    third",
        "acceptance: 1 of 3 rows carry a test",
    ]


def test_marks_in_c_comments_and_on_modules_and_parameters_count(acceptance):
    code, out = acceptance(
        {
            "tests/unit/base/test_x.c": "/* acceptance: PM1, PM2 */\nstatic void test_x(void **state) {}\n",
            "tests/python/test_y.py": 'import pytest\npytestmark = [pytest.mark.acceptance("W1")]\n',
        },
        "-q",
    )
    assert code == 0
    assert out.splitlines()[-1] == "acceptance: 3 of 3 rows carry a test"


def test_a_mark_in_a_python_comment_or_string_does_not_count(acceptance):
    source = '# pytest.mark.acceptance("PM1")\nTEXT = \'pytest.mark.acceptance("PM2")\'\n'
    assert "0 of 3 rows" in acceptance({"tests/python/test_x.py": source})[1]


def test_verbose_names_the_tests(acceptance):
    assert "tests/python/test_x.py:2" in acceptance({"tests/python/test_x.py": PYTHON}, "-v")[1]


def test_a_required_row_without_a_test_fails(acceptance):
    files = {"tests/python/test_x.py": PYTHON}
    assert acceptance(files, "--require", "PM1")[0] == 0
    code, out = acceptance(files, "--require", "PM1,W1")
    assert code == 1
    assert "required row W1 carries no test" in out


def test_required_rows_come_from_a_file_too(acceptance, tmp_path):
    wanted = tmp_path / "required.txt"
    wanted.write_text("# PM2 is a comment\nPM1\n")
    files = {"tests/python/test_x.py": PYTHON}
    assert acceptance(files, "--require-file", str(wanted))[0] == 0
    wanted.write_text("PM1 PM2\n")
    assert acceptance(files, "--require-file", str(wanted))[0] == 1


def test_an_unknown_row_is_a_fault(acceptance):
    source = PYTHON.replace("PM1", "PM77")
    code, out = acceptance({"tests/python/test_x.py": source}, "--require", "PM78")
    assert code == 1
    assert "there is no row PM77" in out
    assert "required row PM78 does not exist" in out


def test_the_document_has_every_row_once(load_tool):
    import pathlib

    tool = load_tool("acceptance")
    text = (pathlib.Path(tool.__file__).parents[1] / "docs" / "acceptance.md").read_text()
    rows = [row for _, rows in tool.read_rows(text) for row, _ in rows]
    sizes = {"PM": 30, "W": 26, "AN": 17, "OX": 15, "IN": 17, "LP": 22, "PP": 26}
    assert rows == [f"{prefix}{n}" for prefix, size in sizes.items() for n in range(1, size + 1)]
