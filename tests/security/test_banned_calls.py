"""Calls that run what a file or a tenant says: none is in the code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "jinja2", "mako"}
"""Loading their data runs code, or text of tenants could become a template."""
NAMES = {"eval", "exec", "__import__"}
METHODS = {("torch", "load"), ("os", "system"), ("os", "popen"), ("numpy", "load"), ("np", "load")}
ALLOWING = {"shell", "allow_pickle", "trust_remote_code", "custom_pipeline"}
"""Arguments that must be false, or not given."""


def banned(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names if each.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield module
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)) if (
                module,
                name,
            ) in METHODS:
                yield f"{module}.{name}"
        if isinstance(node, ast.Call):
            for given in node.keywords:
                is_false = isinstance(given.value, ast.Constant) and given.value.value is False
                if given.arg in ALLOWING and not is_false:
                    yield str(given.arg)


@pytest.mark.parametrize("room", ["services", "trainer_core"])
def test_no_file_and_no_text_is_run(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert len(files) > 50
    found = {
        str(path.relative_to(ROOT)): names
        for path in files
        if (names := list(banned(path.read_text())))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "subprocess.run(line, shell=True)",
        "Model.from_pretrained(name, trust_remote_code=is_trusted)",
        "eval(text)",
    ],
)
def test_what_is_banned_is_found(source: str) -> None:
    assert len(list(banned(source))) == 1
