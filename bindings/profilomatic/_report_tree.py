"""Trees to look at: the call graph of one action from the top, and lines with their callers from the bottom.

Both become `View` nodes, which a renderer draws; `fold` replaces what nobody reads (chains of library calls, levels
of a recursion, crumbs) by one node that says how much it stands for. Nothing recurses: a record may be deeper than
the interpreter's stack.
"""

from ._report_costs import children_of, integer, is_message, number
from ._report_model import moment

_MAX_NODES = 200_000
_QUIET = 0.005  # of the whole: a node whose own time is less may be folded


class View:
    """A node as shown. One of `place`, `message` (a dict) and `note` (text) says what it is."""

    __slots__ = (
        "place",
        "message",
        "note",
        "time",
        "self_time",
        "cpu",
        "self_cpu",
        "hits",
        "start",
        "end",
        "children",
    )

    def __init__(self, place=None, message=None, note=None):
        self.place = place
        self.message = message
        self.note = note
        self.time = self.self_time = self.cpu = self.self_cpu = 0.0
        self.hits = 0
        self.start = self.end = None
        self.children = []


def top_down(record, places):
    """The tree of a record, in the record's order."""
    root = _view(record, places)
    root.place = None
    root.message = None
    todo = [(record, root)]
    while todo:
        node, view = todo.pop()
        for child in children_of(node):
            if type(child) is dict:
                below = _view(child, places)
                view.children.append(below)
                todo.append((child, below))
    return root


def _view(node, places):
    view = View(places.of(node))
    if is_message(node):
        message = node["message"]
        view.message = message if isinstance(message, dict) else {"message": message}
    view.time, view.self_time = number(node.get("time")), number(node.get("self_time"))
    view.cpu, view.self_cpu = number(node.get("cpu_time")), number(node.get("self_cpu_time"))
    view.hits = integer(node.get("hits"))
    view.start, view.end = node.get("start_time"), node.get("end_time")
    return view


class BottomUp:
    """Self time by line with the callers nested below it, merged over records and over message barriers."""

    def __init__(self):
        self.root = View()
        self._children = {}  # id(view) -> {place: view}
        self._count = 0
        self.cut = 0

    def add(self, self_costs):
        for chain, wall, cpu, hits, node in self_costs:
            if chain is None:
                continue
            view = self.root
            self._take(view, wall, cpu, hits, node)
            while chain:
                place, chain = chain
                below = self._children.setdefault(id(view), {})
                found = below.get(place)
                if found is None:
                    if self._count >= _MAX_NODES:
                        self.cut += 1
                        break
                    self._count += 1
                    found = below[place] = View(place)
                    view.children.append(found)
                view = found
                self._take(view, wall, cpu, hits, node)

    @staticmethod
    def _take(view, wall, cpu, hits, node):
        view.time += wall
        view.cpu += cpu
        view.hits += hits
        start, end = node.get("start_time"), node.get("end_time")
        # Moments of one form compare as text, and a file has one form.
        if isinstance(start, str) and (view.start is None or start < view.start):
            view.start = start
        if isinstance(end, str) and (view.end is None or end > view.end):
            view.end = end

    def sorted_root(self, key="time"):
        todo = [self.root]
        while todo:
            view = todo.pop()
            view.children.sort(key=(lambda v: -v.cpu) if key == "cpu" else (lambda v: -v.time))
            todo.extend(view.children)
        return self.root


def fold(root, name_of_library_file, in_order=True):
    """Folds the tree in place. From the top (`in_order`) crumbs stay where they happened.

    From the bottom they come last, and the hot lines themselves are never folded.
    """
    quiet = _QUIET * (root.time or 1e-9)
    todo = [root]
    while todo:
        view = todo.pop()
        view.children = _fold_crumbs(view.children, quiet, in_order)
        if in_order or view is not root:
            view.children = [
                _fold_chain(child, view, quiet, name_of_library_file, ends=not in_order) for child in view.children
            ]
        todo.extend(view.children)
    return root


def _fold_crumbs(children, quiet, in_order):
    """Neighbours that took next to nothing and hold no message become one node."""
    if len(children) < 2:
        return children
    kept, crumbs, last = [], [], []
    for child in children:
        if (
            child.place is not None
            and child.message is None
            and child.time < quiet
            and not _holds_message(child)
        ):
            crumbs.append(child)
            continue
        if crumbs and in_order:
            kept.append(_crumb(crumbs))
            crumbs = []
        kept.append(child)
    if crumbs:
        last.append(_crumb(crumbs))
    return kept + last


def _crumb(crumbs):
    if len(crumbs) == 1:
        return crumbs[0]
    view = View(note=f"{len(crumbs)} more places")
    view.time = sum(c.time for c in crumbs)
    view.cpu = sum(c.cpu for c in crumbs)
    view.hits = sum(c.hits for c in crumbs)
    return view


def _holds_message(view):
    todo = list(view.children)
    while todo:
        node = todo.pop()
        if node.message is not None:
            return True
        todo.extend(node.children)
    return False


def _fold_chain(view, parent, quiet, name_of_library_file, ends):
    """A run of single-child nodes without a time of their own becomes one node, when it is library code or recursion.

    With `ends` the run may reach the end of the branch: from the bottom, that is where the server's frames are.
    """
    run = []
    above = parent.place
    node = view
    while (
        node is not None
        and node.place is not None
        and node.message is None
        and node.self_time <= quiet
        and (
            len(node.children) == 1
            and node.children[0].message is None
            and node.children[0].note is None
            or ends
            and not node.children
        )
        and (node.place.in_library or (above is not None and _same_function(above, node.place)))
    ):
        run.append(node)
        above = node.place
        node = node.children[0] if node.children else None
    if len(run) < 2:
        return view
    names = []
    for folded in run:
        name = name_of_library_file(folded.place.file)
        if name not in names:
            names.append(name)
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    folded = View(note=f"{len(run)} calls in {shown}")
    folded.time, folded.cpu, folded.hits = view.time, view.cpu, view.hits
    folded.start, folded.end = view.start, view.end
    folded.children = [node] if node is not None else []
    return folded


def _same_function(a, b):
    return a.file == b.file and a.function == b.function and a.function != ""


def offset(view, start):
    """Seconds from the moment `start` to the node's own; None when unknown."""
    at, begin = moment(view.start), moment(start)
    return at - begin if at is not None and begin is not None else None
