"""docs/deletions.md lists every place of the program that removes or overwrites something.

They are read off the syntax trees.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [p for f in ("data", "transforms", "networks", "pipeline") for p in sorted((ROOT / f).rglob("*.py"))]
SOURCES.append(ROOT / "run_pipeline.py")

ANYWHERE = {"rmtree", "unlink", "rmdir", "removedirs", "rename", "renames", "move", "truncate", "ftruncate", "chmod",
            "fchmod", "lchmod", "chown", "copyfile", "copy2", "copytree", "write_text", "write_bytes", "touch",
            "symlink_to", "hardlink_to", "TemporaryDirectory", "mkdtemp", "NamedTemporaryFile", "SummaryWriter",
            "to_csv", "savefig", "save", "savez", "savez_compressed", "save_file", "tofile", "connect", "extract",
            "extractall", "atomic_write", "write_bytes_atomically", "write_text_atomically", "write_label_map",
            "write_probability", "write_image", "remove_own_folder", "remove_temporary_files",
            "remove_stale_files"}  # fmt: skip
"""Of whatever object, or called by the name alone."""
OF_MODULES = {"os.remove", "os.replace", "os.link", "os.symlink", "shutil.copy"}
WRITING = re.compile(r"[wax+]")


def _writes(call: ast.Call) -> bool:
    """Whether a call may remove or overwrite; an ``open`` counts unless its mode is written out and reads."""
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name in OF_MODULES or (last in ANYWHERE and not (last == "save" and name == "save")):
        return True
    if name == "os.open":
        return "O_CREAT" in ast.unparse(call) or "O_WRONLY" in ast.unparse(call) or "O_RDWR" in ast.unparse(call)
    if last == "replace":  # a path's has one argument, a text's two
        return len(call.args) == 1 and not call.keywords
    if last in ("open", "fdopen"):
        modes = [a.value for a in (*call.args, *(k.value for k in call.keywords if k.arg == "mode"))
                 if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
        return any(WRITING.search(mode) for mode in modes if len(mode) < 4)
    if last == "execute":
        return re.search(r"DELETE|DROP|UPDATE|INSERT|VACUUM", ast.unparse(call)) is not None
    return False


def _functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.Call]]:
    for node in ast.iter_child_nodes(tree):
        name = within
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{within}.{node.name}".lstrip(".")
        if isinstance(node, ast.Call):
            yield within, node
            for argument in node.args:  # a function that is handed on, as to a thread, is called there
                if isinstance(argument, ast.Attribute | ast.Name):
                    yield within, ast.Call(argument, node.args[1:], [])
        yield from _functions(node, name)


def removing_functions(source: str) -> set[str]:
    """Names of the functions, with those that they stand in, that may remove or overwrite something."""
    return {function for function, call in _functions(ast.parse(source)) if _writes(call)}


def test_every_place_that_removes_or_overwrites_is_listed_with_its_rule_and_no_other():
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {function}"
        for path in SOURCES
        for function in removing_functions(path.read_text(encoding="utf-8"))
    }
    rows = [line for line in (ROOT / "docs" / "deletions.md").read_text().splitlines() if line.startswith("| `")]
    listed = [place for row in rows for place in re.findall(r"`([\w/]+\.py: [^`]+)`", row.split(" | ")[0])]
    assert found - set(listed) == set(), "add it to docs/deletions.md, with the rule that guards it"
    assert set(listed) - found == set(), "take it out of docs/deletions.md"
    assert len(listed) == len(set(listed))
    assert all(len([cell for cell in row.strip("|").split(" | ") if cell.strip()]) == 3 for row in rows)


@pytest.mark.parametrize(
    "body",
    ["shutil.rmtree(a)", "rmtree(a)", "a.unlink()", "os.remove(a)", "os.replace(a, b)", "a.replace(b)", "a.rename(b)",
     "open(a, 'w')", "a.open('xb')", "open(a, mode='a')", "os.open(a, os.O_RDWR)", "a.write_text('x')", "a.chmod(0)",
     "c.execute('DELETE FROM cases')", "to_thread(shutil.rmtree, a)", "to_thread(a.unlink)", "atomic_write(a)"],
)  # fmt: skip
def test_a_call_that_removes_or_overwrites_is_seen_however_it_is_written(body):
    assert removing_functions(f"class C:\n    def f(self):\n        {body}\n") == {"C.f"}


@pytest.mark.parametrize("body", ["open(a)", "a.open('rb')", "'a'.replace('b', 'c')", "os.open(a, os.O_RDONLY)",
                                  "c.execute('SELECT 1')", "a.read_text()", "known.remove(a)"])  # fmt: skip
def test_what_only_reads_is_not_listed(body):
    assert removing_functions(f"def f():\n    {body}\n") == set()
