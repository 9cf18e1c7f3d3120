"""gunicorn's settings for the tests. With SERVERS_MASTER the master tells in that file how it stands at its end."""

import json
import os

control_socket_disable = True
keepalive = 5
graceful_timeout = timeout = 60  # to give up; a worker on a busy machine needs seconds to deliver and go


def on_exit(server):
    """Runs in the master, after its workers are gone."""
    path = os.environ.get("SERVERS_MASTER")
    if path is None:
        return
    import profilomatic

    before = profilomatic.stats()["actions"]
    with profilomatic.action("at-exit"):
        pass
    flushed = profilomatic.flush(60)
    with open(path, "w") as file:
        json.dump({"pid": os.getpid(), "before": before, "after": profilomatic.stats()["actions"], "flushed": flushed}, file)
