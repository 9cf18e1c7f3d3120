"""A RestDestination that is registered, and the proof that none of its call graphs went unseen."""

import pytest
from pom_support import PATIENCE, kept_port, threads_of_ours, wait_until
from rest_server import Certificates, fates

import profilomatic


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def port():
    """See kept_port()."""
    with kept_port() as number:
        yield number


@pytest.fixture
def only_c(backend):
    """The twin's destination makes one attempt and raises: what is about trying again is the extension's."""
    if backend != "c":
        pytest.skip("the extension's behaviour")


class Sender:
    """A RestDestination that is registered, and how much was given to it."""

    def __init__(self, *arguments, **options):
        profilomatic.configure(max_actions_per_run=0)
        self.destination = profilomatic.RestDestination(*arguments, **options)
        self.produced = 0
        self._left = False
        profilomatic.add_destination(self.destination)

    def act(self, count=1, **fields):
        for number in range(count):
            with profilomatic.action("work", number=number, **fields):
                pass
        self.produced += count

    def flushed(self, count=1):
        self.act(count)
        assert profilomatic.flush(PATIENCE) is True, profilomatic.stats()["destinations"]
        return self.counters()

    def counters(self):
        counters = next(entry for entry in profilomatic.stats()["destinations"] if entry["name"] == self.destination.name)
        # The twin counts a failure before it says that the delivery is over.
        assert fates(counters) + counters["queued"] <= self.produced + (profilomatic._backend.load().NAME != "c")
        return counters

    def settled(self):
        """All that was produced has arrived in the counters."""
        def arrived():
            counters = self.counters()
            return fates(counters) + counters["queued"] == self.produced

        wait_until(arrived, "every call graph to be counted")
        return self.counters()

    def queued_behind(self, gate, count, **fields):
        """Sends one, whose answer the gate holds back, and queues `count` more, which are one batch when it opens."""
        self.act()
        profilomatic.flush(0)
        assert gate.reached.wait(PATIENCE)
        self.act(count, **fields)
        self.settled()
        gate.open()

    def failed(self):
        """Acts once; the counters when the first failure shows."""
        self.act()
        profilomatic.flush(0)
        wait_until(lambda: self.counters()["last_error"] is not None, "an error")
        return self.settled()

    def stopped(self, timeout=0.2):
        """The counters after a stop, at which nothing waits any more: sent + spooled + dropped = produced."""
        profilomatic.stop(timeout)
        wait_until(lambda: self.counters()["queued"] == 0, "the queue to be counted as lost")
        counters = self.counters()
        assert fates(counters) == self.produced, counters
        return counters

    def leave(self):
        if not self._left:
            self._left = True
            self.stopped()
            profilomatic.remove_destination(self.destination)
            profilomatic.start()


@pytest.fixture
def sender():
    """Makes Senders; each is stopped, its sum checked, and unregistered."""
    made = []

    def make(*arguments, **options):
        made.append(Sender(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.leave()
    wait_until(lambda: "pom-resolve" not in threads_of_ours(), "the resolver")
