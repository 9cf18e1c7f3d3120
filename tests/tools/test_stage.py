"""Staging the package as links."""

import os


def test_stage_mirrors_and_follows_the_source(load_tool, tree):
    tool = load_tool("stage")
    root = tree({"pkg/__init__.py": "", "pkg/sub/a.py": "1", "pkg/__pycache__/x.pyc": "", "pkg/py.typed": ""})
    source, target = str(root / "pkg"), root / "stage" / "pkg"
    assert tool.main(["stage.py", source, str(target)]) == 0
    assert (target / "sub" / "a.py").read_text() == "1"
    assert (target / "sub" / "a.py").is_symlink() and not (target / "sub").is_symlink()
    assert not (target / "__pycache__").exists()
    (target / "_core.so").write_text("built")
    (root / "pkg" / "sub" / "a.py").write_text("2")
    assert (target / "sub" / "a.py").read_text() == "2"
    assert tool.stage(source, str(target)) == 0

    os.unlink(root / "pkg" / "py.typed")
    os.rename(root / "pkg" / "sub", root / "pkg" / "other")
    assert tool.main(["stage.py", source, str(target)]) == 0
    assert sorted(p.name for p in target.iterdir()) == ["__init__.py", "_core.so", "other"]


def test_stage_wants_a_folder(load_tool, tmp_path, capsys):
    assert load_tool("stage").main(["stage.py", str(tmp_path / "none"), str(tmp_path / "x")]) == 2
    assert "usage" in capsys.readouterr().err
