"""Scripts that once showed a difference, each with what it was; every run of the fuzz test begins with them."""

from fuzz_script import START, App, Request, Script, Server


def one(app, **server):
    return Script((Request(app, Server(**server)),))


def steps(*names):
    return tuple((name, "here") for name in names)


FAILS = ("fail", "stop value")
CASES = [
    ("__iter__ was called at the first next(): its StopIteration ended the body instead of failing it",
     one(App(body="iterable", begin=(FAILS,)))),
    ("a server that iterates a container twice got nothing the second time",
     one(App(body="sized"), steps=steps("call", "all", "all", "close"))),
    ("iter() of a body's iterator began anew",
     one(App(body="iterable", chunks=(("one", ()), ("two", ()), ("one", ()))), steps=steps("call", "next", "rest", "close"))),
    ("iter() of an iterator whose __iter__ is code did not run that",
     one(App(body="iterable", holds=False, begin=(("look", None),)), steps=steps("call", "next", "rest", "close"))),
    ("start_response could not be called after an exception out of the body",
     one(App(body="iterator", call=(), chunks=(("one", (("fail", "value"),)), ("two", (START,)))),
         steps=steps("call", "next", "next", "next", "close"))),
    ("start_response could not be called by a file that the server reads after the call",
     one(App(body="file", call=(), chunks=(("one", (START,)),)), environ="file class")),
    ("start_response could not be called after close()",
     one(App(body="iterator", call=(), close=(), chunks=(("one", (START,)),)), steps=steps("call", "iter", "close", "next"))),
    ("next() without iter() worked where it does not bare",
     one(App(body="iterable"), steps=steps("call", "bare next", "close"))),
    ("a body did not have the attributes of the framework's response",
     one(App(body="iterable"), steps=steps("call", "attribute", "close"))),
    ("what close() returned was lost",
     one(App(body="iterator", close=()))),
    ("code of an environ that is a subclass of dict ran, and its second close() was swallowed",
     one(App(body="sized", close=()), environ="subclass", steps=steps("call", "close", "close"))),
    ("a Content-Length that is none, a chunk that is no bytes and a request whose url_rule raises were faults of ours",
     one(App(call=(("start", ("two", "200 OK", "odd pairs", False)), ("write", "none")),
             chunks=(("none", ()), ("number", ()))), environ="werkzeug")),
]
