"""What the host has in its dicts may be gone after any call that can run its code. Freed memory is overwritten here."""

from memory_support import run

TASK = "0af76519-16cd-43dd-8448-eb211c80319c"


def collected(program):
    return run(program, file="collector_programs.py", malloc="debug")


def test_the_messages_of_a_nested_request_are_of_the_scope_that_it_began_with():
    start, end = collected("nested_scope")["messages"]
    assert (start["action_type"], end["action_type"]) == ("/the/path", "/the/path")
    assert {key: start[key] for key in ("method", "host", "script_name", "path_info", "query_string")} == {
        "method": "GET", "host": "host.example", "script_name": "/root", "path_info": "/the/path", "query_string": "a=1&b=2"}


def test_a_scope_with_what_cannot_be_read_is_read_all_the_same():
    result = collected("odd_scope")
    assert result["requests"] == [["/the/path", "a=1&b=2", host, "192.0.2.7"]
                                  for host in ("host.example", "host.example", "server.example")]
    assert result["tasks"] == [TASK, TASK]


def test_an_environ_with_what_cannot_be_read_is_read_all_the_same():
    assert collected("odd_environ") == {"requests": [["GET", "a=1", "localhost:80"]] * 2, "tasks": [TASK] * 2}


def test_a_file_wrapper_that_is_replaced_while_ours_is_made():
    assert collected("file_wrapper") == {"body": "file"}


def test_a_request_that_is_ended_by_who_is_asked_for_its_route():
    assert collected("route_ends_the_request") == {"outcomes": 1}


def test_an_engine_that_is_stopped_while_the_task_is_written():
    assert collected("stopped_by_a_key") == {"answers": True}
