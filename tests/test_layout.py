"""What imports what: downwards only, and nothing but torch until more is asked for."""

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import twolayer

ROOT = Path(twolayer.__file__).parent
MODULES = {
    ".".join(("twolayer", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports(module, everywhere=True):
    """The modules that one imports; not ``everywhere``: at its top level alone, without what functions import."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


def own(module):
    return {name for name in imports(module) if name in MODULES}


def core():
    """What ``import twolayer`` loads of the package itself."""
    found, waiting = set(), ["twolayer"]
    while waiting:
        module = waiting.pop()
        found.add(module)
        waiting += own(module) - found
    return found


def test_imports_form_no_cycle():
    order = list(TopologicalSorter({module: own(module) for module in MODULES}).static_order())
    assert order


LAYERS = [
    ["activations", "context", "extras", "files", "initialization", "names", "sealing"],
    ["equations", "sequential"],
    ["tasks"],
    ["kernels"],
    ["arguments", "backward"],
    ["shortcut"],
    ["functional", "units"],
    ["network"],
    ["descent", "loading"],
    ["tables"],
    ["training"],
    ["answers", "callbacks", "data", "plots"],
    ["limits", "parsing", "resuming", "table_commands"],
    ["report"],
    ["cli"],
    ["__main__"],
]


def test_imports_point_downwards():
    """A room imports from the layers below it, and from itself; ``kernels`` never from ``backward``."""
    height = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
    for module in MODULES:
        room = [*module.split("."), None][1]
        for imported in own(module) if room else []:
            below = [*imported.split("."), None][1]
            if below not in (None, room):
                assert height[below] < height[room], f"{module} imports {imported}"


def test_no_chain_of_imports_is_long():
    """From a module to what it needs, and so on: whoever follows a call goes through no more files than that."""
    length = {}
    for module in TopologicalSorter({module: own(module) for module in MODULES}).static_order():
        needed = MODULES.keys() & set(imports(module, everywhere=False))
        length[module] = 1 + max((length[name] for name in needed - {module}), default=0)
    assert max(length.values()) <= 11


def test_private_names_of_pytorch_stand_in_one_file():
    private = re.compile(r"torch\._\w+|(?:forward_ad|_functorch|autograd)\._\w+")
    found = {module for module, path in MODULES.items() if private.search(path.read_text(encoding="utf-8"))}
    assert found == {"twolayer.context"}


def test_the_core_needs_torch_alone():
    others = {
        name.split(".")[0] for module in core() for name in imports(module, everywhere=False)
    } - sys.stdlib_module_names
    assert others == {"torch", "twolayer"}


def test_the_core_is_no_more_than_the_core():
    assert not {name for name in core() if name.split(".")[-1] in ("training", "cli", "data", "plots", "callbacks")}


def test_importing_it_loads_torch_alone():
    script = """
import json, sys, torch
before = set(sys.modules)
import twolayer
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT.parent)!r})\n{script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in json.loads(result.stdout)}
    assert loaded - sys.stdlib_module_names <= {"torch", "twolayer"}
