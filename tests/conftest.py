"""Shared by all Python tests: an acceptance mark must name rows that exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def known_rows():
    text = (ROOT / "docs" / "acceptance.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\|\s*([A-Z]+[0-9]+)\s*\|", text, re.MULTILINE))


def pytest_collection_modifyitems(items):
    rows = known_rows()
    for item in items:
        for mark in item.iter_markers("acceptance"):
            unknown = [row for row in mark.args if row not in rows]
            if unknown or not mark.args:
                raise pytest.UsageError(f"{item.nodeid}: acceptance mark names no row: {unknown or 'nothing'}")
