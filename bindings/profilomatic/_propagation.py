"""How a task travels in HTTP headers: X-Task-UUID, and W3C trace context's `traceparent`."""

import os


def headers(task_uuid):
    """The headers for a task id, {} for None."""
    if task_uuid is None:
        return {}
    found = {"X-Task-UUID": task_uuid}
    trace = task_uuid.replace("-", "").lower()
    # All zeros mean "no trace" there.
    if len(trace) == 32 and trace.strip("0123456789abcdef") == "" and trace.strip("0"):
        found["traceparent"] = "00-%s-%s-01" % (trace, _span_id())
    return found


def _span_id():
    while True:
        span = os.urandom(8).hex()
        if span.strip("0"):
            return span
