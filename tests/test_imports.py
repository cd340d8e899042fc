"""The architecture, read from the source: imports point down, importing is light, modules are small
and silent."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

import skqlvm

ROOT = Path(skqlvm.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ENGINE = sorted(ROOT.glob("engine/**/*.py"))
SAMPLING = sorted(ROOT.glob("sampling/*.py"))
TORCH_FREE = [*SAMPLING, *(ROOT / f"_{name}.py" for name in ("checks", "columns", "transactions"))]


def name_of(path):
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Absolute names of all that a file imports, anywhere in it; of ``from a import b`` both a and
    a.b."""
    package = name_of(path) if path.stem == "__init__" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = (
                resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def modules_imported(path):
    """Names of the modules of the package that a file imports."""
    names = {name for name in imports(path) if name.split(".")[0] == "skqlvm"}
    return {name for name in names if name in {name_of(file) for file in FILES}} - {name_of(path)}


def identify(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", ENGINE, ids=identify)
def test_engine_imports_torch_and_the_standard_library_only(path):
    foreign = (
        {name.split(".")[0] for name in imports(path)}
        - set(sys.stdlib_module_names)
        - {"torch", "skqlvm"}
    )
    assert not foreign


def arrows_drawn():
    """The modules that each module imports, as doc/architecture.rst draws them."""
    page = (ROOT.parent / "doc" / "architecture.rst").read_text(encoding="utf-8")
    arrow = r"^    (\S+) +-> (.+(?:\n {20,}\S.*)*)"
    return {name: set(below.split()) for name, below in re.findall(arrow, page, re.M)}


def short(name):
    return name.removeprefix("skqlvm").removeprefix(".") or "__init__"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_modules_import_what_the_page_on_architecture_draws(path):
    rooms = {"skqlvm", "skqlvm.engine", "skqlvm.sampling", "skqlvm.torus", "skqlvm.display"}
    found = {short(name) for name in modules_imported(path) - rooms}
    assert found == arrows_drawn().get(short(name_of(path)), set())


def test_arrows_are_drawn_without_a_cycle_and_to_modules_that_exist():
    arrows = arrows_drawn()
    assert set(TopologicalSorter(arrows).static_order()) <= {short(name_of(path)) for path in FILES}
    assert set(arrows) <= {short(name_of(path)) for path in FILES}


def test_page_on_architecture_lists_every_module():
    page = (ROOT.parent / "doc" / "architecture.rst").read_text(encoding="utf-8")
    layout = page[page.index("\nLayout\n") : page.index("Arrows of import")]
    assert not [path.name for path in FILES if path.name not in layout]


def test_modules_of_the_walk_exist_and_are_in_reach_of_the_estimator():
    """The walk is through QLVMEmbedding, along the arrows."""
    page = (ROOT.parent / "doc" / "architecture.rst").read_text(encoding="utf-8")
    walk = page[page.index("\nA walk") : page.index("\nLayout\n")]
    named = set(re.findall(r"(?<![\w.])(?:_[a-z]\w*|engine\.\w+)", walk))
    arrows, reached, new = arrows_drawn(), set(), {"_qlvm"}
    while new:
        reached |= new
        new = set().union(*(arrows.get(name, set()) for name in new)) - reached
    assert {"_estimator", "_rows", "engine.likelihoods", "engine.atlas", "_readouts"} <= named
    assert named <= reached & {short(name_of(path)) for path in FILES}


@pytest.mark.parametrize("path", TORCH_FREE, ids=identify)
def test_samplers_of_codes_import_no_torch(path):
    """Neither themselves nor by what they import of the package."""
    assert not {name for name in imports(path) if name.split(".")[0] == "torch"}
    free = {"skqlvm", *(name_of(file) for file in TORCH_FREE)}
    assert modules_imported(path) <= free


@pytest.mark.parametrize("name", ["PMFSampler", "LatentSampler"])
def test_importing_a_sampler_loads_no_torch(name):
    code = f"import sys; from skqlvm import {name}; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_no_module_but_the_displays_and_the_command_line_imports_estimators(path):
    """Estimators are the private modules at the top; they share bases, and only what shows or runs
    them stands above."""
    estimators = {
        name_of(file)
        for file in ROOT.glob("_*.py")
        if re.search(r"^class (\w+Embedding|DVPVAE)\(", file.read_text(encoding="utf-8"), re.M)
    }
    assert estimators
    above = {"skqlvm", "skqlvm.__main__", "skqlvm.display"}
    assert name_of(path) in above or not modules_imported(path) & estimators


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_imports_within_the_package_are_relative_and_exist(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    absolute = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    ]
    absolute += [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    assert not [name for name in absolute if name.split(".")[0] == "skqlvm"]
    assert all(find_spec(name) for name in modules_imported(path))


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_extras_are_imported_where_they_are_used(path):
    """Never at the top of a module: they may be missing."""
    top = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"matplotlib", "tqdm", "pandas"}


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_only_public_scikit_learn_is_imported(path):
    parts = {
        part
        for name in imports(path)
        if name.split(".")[0] == "sklearn"
        for part in name.split(".")
    }
    assert not [part for part in parts if part.startswith("_")]


def test_importing_the_package_is_light_and_silent():
    """Without torch, scikit-learn or matplotlib."""
    code = (
        "import sys, skqlvm\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'QLVMEmbedding' in dir(skqlvm) and skqlvm.__version__"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names_resolve_and_others_do_not():
    assert all(getattr(skqlvm, name) is not None for name in skqlvm.__all__)
    assert set(skqlvm.__all__) <= set(dir(skqlvm))
    with pytest.raises(AttributeError, match="module 'skqlvm' has no attribute 'QLVM'"):
        _ = skqlvm.QLVM


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "__main__.py"], ids=identify
)
def test_nothing_prints(path):
    calls = [
        node.func
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert not [
        call.lineno
        for call in calls
        if isinstance(call, ast.Name) and call.id in ("print", "breakpoint")
    ]


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_modules_are_small_and_named_by_a_noun(path):
    assert path.stem.strip("_") not in {
        "utils",
        "util",
        "helpers",
        "helper",
        "common",
        "core",
        "misc",
    }
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_library_code_does_not_assert(path):
    """An assertion is no message to a user."""
    assert not [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
