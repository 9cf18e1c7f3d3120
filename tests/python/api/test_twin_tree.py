"""The call tree of the engine in pure Python, where the moments of what it is told do not rise. That of the extension has
tests/unit/profiles/test_call_tree.c."""

from profilomatic._pure_tree import Tree

CODE = (lambda: None).__code__


def test_a_message_that_comes_after_a_later_sample_widens_the_time_of_its_callers():
    """Its thread was switched out between the moment and the handing over, and was sampled there."""
    tree = Tree(2, 100)
    tree.add([(CODE, 1), (CODE, 2)], 10, 10, 300)
    tree.add_message([(CODE, 1), (CODE, 3)], {"step": 1}, 200)
    node, = tree.root.children()
    assert (node.first_ns, node.last_ns) == (200, 300)
    assert [(child.first_ns, child.last_ns) for child in node.children()] == [(300, 300), (200, 200)]
    tree.add([(CODE, 1)], 10, 10, 400)
    assert (node.first_ns, node.last_ns) == (200, 400)
