"""Running `profilomatic convert` in this process."""

import io

import pytest

from profilomatic import convert


@pytest.fixture
def converted(tmp_path):
    """Bytes of the records in a format."""
    from random_records import write

    def run(made, form, *options):
        path = made if hasattr(made, "read_bytes") else write(tmp_path / "in.jsonl", made)
        out = io.BytesIO()
        assert convert.main([str(path), "--to", form, *options], out) == 0
        return out.getvalue()

    return run
