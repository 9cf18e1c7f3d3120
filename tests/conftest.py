"""Shared by all Python tests: an acceptance mark must name rows that exist, and each interpreter meets each row."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def known_rows():
    text = (ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\|\s*([A-Z]+[0-9]+)\s*\|", text, re.MULTILINE))


@pytest.hookimpl(tryfirst=True)  # before -m leaves any out
def pytest_collection_modifyitems(config, items):
    rows = known_rows()
    for item in items:
        for mark in item.iter_markers("acceptance"):
            unknown = [row for row in mark.args if row not in rows]
            if unknown or not mark.args:
                raise pytest.UsageError(f"{item.nodeid}: acceptance mark names no row: {unknown or 'nothing'}")
    if config.option.markexpr == "not oldest_and_newest":
        left_out = carried(items) - carried(item for item in items if not item.get_closest_marker("oldest_and_newest"))
        if left_out:
            raise pytest.UsageError(f"without the tests marked oldest_and_newest no test carries {sorted(left_out)}")


def carried(items):
    return {row for item in items for mark in item.iter_markers("acceptance") for row in mark.args}
