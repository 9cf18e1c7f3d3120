"""How a task travels in HTTP headers: X-Task-UUID, and W3C trace context's `traceparent`."""


def headers(backend):
    """The headers for the innermost action here, {} outside any."""
    task_uuid = backend.current_task_uuid()
    if task_uuid is None:
        return {}
    found = {"X-Task-UUID": task_uuid}
    trace = task_uuid.replace("-", "").lower()
    # All zeros mean "no trace" there.
    if len(trace) == 32 and trace.strip("0123456789abcdef") == "" and trace.strip("0"):
        span, flags = backend.trace_span()
        found["traceparent"] = "00-%s-%016x-%02x" % (trace, span, flags)
    return found
