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


@pytest.mark.parametrize("make", ["socket.create_server(('127.0.0.1', 0))", "select.epoll()", "os.eventfd(0, os.EFD_NONBLOCK)"])
def test_workers_of_a_daemon_that_closes_all_descriptors_keep_its_own(python, tmp_path, port, make):
    """Loop, file and spool are at work when it closes them; each number is of a file of its own afterwards."""
    printed = python(f"""if True:
        import os, select, socket, profilomatic
        profilomatic.add_destination(profilomatic.file_destination({str(tmp_path / "profiles")!r}))
        profilomatic.add_destination(profilomatic.RestDestination("127.0.0.1", {port}, send_every=0, report_every=None,
                                                                  spool_dir={str(tmp_path)!r}))
        with profilomatic.action("a"):
            pass
        profilomatic.flush(60)
        assert profilomatic.stats()["destinations"][1]["spooled"] == 1
        ours = [int(number) for number in os.listdir("/proc/self/fd") if int(number) < 250]
        os.closerange(3, 256)
        made = [{make} for number in range(max(ours))]
        numbers = [each if isinstance(each, int) else each.fileno() for each in made]
        assert set(ours) - {{0, 1, 2}} <= set(numbers)

        def names():
            return {{number: os.path.lexists(f"/proc/self/fd/{{number}}") and os.readlink(f"/proc/self/fd/{{number}}")
                    for number in numbers}}

        before = names()

        def lost():
            return [number for number, name in names().items() if name != before[number]]

        worker = os.fork()
        if worker == 0:
            print("worker", lost(), flush=True)
            if os.fork() == 0:
                print("worker's", lost(), flush=True)
                os._exit(0)
            os.wait()
            os._exit(0)
        os.waitpid(worker, 0)
        print("daemon", lost(), flush=True)
        os._exit(0)
        """)
    assert printed == "worker []\nworker's []\ndaemon []\n"


def test_a_destination_added_again_after_a_fork_spools_apart_from_its_parent(python, tmp_path, port):
    """It was removed before, so it is no destination of the process at the fork. Nobody answers at the port."""
    program = f"""if True:
        import os, signal, profilomatic
        away = profilomatic.RestDestination("127.0.0.1", {port}, send_every=0, report_every=None, spool_dir={str(tmp_path)!r})

        def act(name):
            with profilomatic.action(name):
                pass
            assert profilomatic.flush(60)

        def tell(name):
            counters = profilomatic.stats()["destinations"][-1]
            os.write(1, f"{{name}} {{counters['spooled']}}\\n".encode())

        profilomatic.add_destination([].append)
        profilomatic.add_destination(away)
        """
    printed = python(program + """
        act("before")
        profilomatic.remove_destination(away)
        act("closes it")
        act("closed")
        go, gone = os.pipe()
        child = os.fork()
        profilomatic.add_destination(away)
        if child == 0:
            act("child")
            act("child")
            tell("child")
            os.write(gone, b"x")
            signal.pause()  # is killed
        os.read(go, 1)
        act("parent")
        tell("parent")
        os.kill(child, 9)
        os.wait()
        """)
    assert printed == "child 2\nparent 2\n"
    # 2 of the child's and 2 of the parent's are on the disk, whole.
    assert python(program + "act('after'); tell('later')") == "later 5\n"
