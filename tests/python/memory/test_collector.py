"""What the host has in its dicts may be gone after any call that can run its code. Freed memory is overwritten here."""

from memory_support import run

TASK = "0af76519-16cd-43dd-8448-eb211c80319c"


def collected(program):
    return run(program, file="collector_programs.py", malloc="debug")


def test_a_scope_with_what_cannot_be_read_is_read_all_the_same():
    result = collected("odd_scope")
    assert result["requests"] == [["/the/path", "a=1&b=2", host, "192.0.2.7"]
                                  for host in ("host.example", "host.example", "server.example")]
    assert result["tasks"] == [TASK, TASK]


def test_an_environ_with_what_cannot_be_read_is_read_all_the_same():
    assert collected("odd_environ") == {"requests": [["GET", "a=1", "localhost:80"]] * 2, "tasks": [TASK] * 2}
