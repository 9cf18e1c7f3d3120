"""What a signal handler of the program's raises amid our part of a logging call is the program's."""

import gc

import eliot
import pytest
from interrupting import interrupted

import profilomatic
import profilomatic.eliot


def logs():
    with eliot.start_action(action_type="work", number=1):
        eliot.log_message(message_type="step")


@pytest.mark.acceptance("W21")
def test_what_a_signal_handler_raises_amid_a_message_reaches_the_program(patched, log):
    profilomatic.configure(store_all_logs=True)
    logs()
    # What comes at the very call of a destination is in no code of its own yet, and Eliot takes it for the destination's.
    outcomes = interrupted(logs, but=("__call__",))
    assert len(outcomes) > 20 and "lost" not in outcomes
    gc.collect()
    assert profilomatic.eliot.stats() == {"open": 0, "dropped": 0, "faults": 0}
    assert not [message for message in log if message.get("message_type") == "eliot:destination_failure"]
    patched.flushed()
    actions = profilomatic.stats()["actions"]
    assert actions["started"] == actions["finished"] + actions["lost"]
