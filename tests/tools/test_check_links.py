"""Links between the documents."""


def test_links_to_missing_files_and_headings_are_faults(load_tool, tree):
    root = tree(
        {
            "README.md": "# A b\n[x](docs/x.md) [y](docs/none.md) [z](docs/x.md#one-two) [w](docs/x.md#three)\n"
            "[web](https://example.org/a) [self](#a-b)\n```\n[code](nowhere.md)\n```\n",
            "docs/x.md": "## One `two`\n",
        }
    )
    faults, documents = load_tool("check_links").check(str(root))
    assert documents == 2
    assert faults == ["README.md: docs/none.md leads nowhere", "README.md: docs/x.md#three has no such heading"]
