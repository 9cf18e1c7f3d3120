"""Programs that close descriptors, the first three or all that they do not know, around the loop's life and forks."""

import pytest

pytestmark = pytest.mark.usefixtures("only_c")


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1, 2"])
def test_a_daemon_without_standard_streams_delivers_forks_and_stops(python, tmp_path, closed):
    out = tmp_path / "out"
    python(f"""if True:
        import os, profilomatic
        os.dup2(os.open({str(out)!r}, os.O_WRONLY | os.O_CREAT), 50)
        for number in {closed},:
            os.close(number)
        sent = []
        profilomatic.add_destination(sent.append)
        with profilomatic.action("a"):
            pass
        profilomatic.flush(60)
        child = os.fork()
        if child == 0:
            os._exit(os.fork() and os.wait()[1])
        os.write(50, repr([os.waitpid(child, 0)[1], len(sent)]).encode())
        profilomatic.stop(60)
        os.write(50, b" stopped")
        os._exit(0)  # the interpreter ends with status 120 when it cannot flush stdout
        """)
    assert out.read_text() == "[0, 1] stopped"
