"""Eliot as it was: what patch() must not break, and what happens without Eliot."""

import pytest


def test_messages_from_before_the_first_destination_reach_the_next_one(python):
    """Eliot keeps them for its first destination, which may now be ours."""
    out = python("""
        import eliot, profilomatic, profilomatic.eliot
        eliot.log_message("one")
        with eliot.start_action(action_type="before"):
            profilomatic.eliot.patch()
            eliot.log_message("two")
        seen = []
        profiles = []
        profilomatic.add_destination(profiles.append)
        eliot.add_destinations(seen.append)
        eliot.log_message("three")
        print([m.get("message_type", m.get("action_status")) for m in seen])
        assert profilomatic.stop(60) and profiles == []
    """.replace("\n        ", "\n"))
    assert out.split("\n")[0] == "['one', 'started', 'two', 'succeeded', 'three']"


def test_unpatching_gives_back_what_eliot_had_kept(python):
    out = python("""
        import eliot, profilomatic.eliot
        eliot.log_message("one")
        profilomatic.eliot.patch()
        eliot.log_message("two")
        profilomatic.eliot.unpatch()
        eliot.log_message("three")
        seen = []
        eliot.add_destinations(seen.append)
        print([m["message_type"] for m in seen])
    """.replace("\n        ", "\n"))
    assert out.split("\n")[0] == "['one', 'two', 'three']"


def test_what_is_kept_for_others_is_bounded(python):
    python("""
        import eliot, profilomatic.eliot
        profilomatic.eliot.patch()
        for number in range(5000):
            eliot.log_message("m", number=number)
        seen = []
        eliot.add_destinations(seen.append)
        eliot.log_message("last")
        assert len(seen) == 1001, len(seen)
        assert seen[0]["number"] == 4000
    """.replace("\n        ", "\n"))


def test_without_eliot_the_import_says_which_library_is_missing(python):
    python("""
        import sys
        sys.modules["eliot"] = None
        import profilomatic
        try:
            import profilomatic.eliot
        except ImportError as error:
            assert "pip install eliot" in str(error) and error.name == "eliot", error
        else:
            raise SystemExit("imported")
    """.replace("\n        ", "\n"))


@pytest.mark.acceptance("PM26")
def test_the_command_line_switch_patches(tmp_path):
    import os
    import subprocess
    import sys

    import profilomatic

    script = tmp_path / "program.py"
    script.write_text("import eliot\n"
                      "with eliot.start_action(action_type='app'):\n"
                      "    eliot.log_message('hello')\n")
    folder = os.path.dirname(os.path.dirname(profilomatic.__file__))
    environment = dict(os.environ, PYTHONPATH=folder)
    done = subprocess.run([sys.executable, "-m", "profilomatic.run_profiled", "-e", "-l", "-o", "out.jsonl", "program.py"],
                          cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.jsonl").read_text()
    assert '"kind":"eliot"' in text.replace(" ", "") and '"hello"' in text
