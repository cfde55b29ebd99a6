"""The invariant and the import rules of the project: nothing upstream of decide can see the utility."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DVC["stages"]
ONLY_IMPORTER = {
    "great_expectations": {"pipelines/validate.py"},
    "optuna": {"pipelines/search.py", "pipelines/network/tune.py"},
    "dvc": {"flows/graph.py"},
    "mlflow": {"pipelines/registry.py", "pipelines/tracking.py", "pipelines/shipping.py", "pipelines/serving.py"},
}
SOURCES = sorted(path.relative_to(ROOT).as_posix() for folder in ("pipelines", "flows") for path in (ROOT / folder).rglob("*.py"))


@cache
def imports(path: str) -> frozenset[str]:
    """Dotted names that a file imports, at the top or within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def module_file(name: str) -> str | None:
    for candidate in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
        if (ROOT / candidate).exists() and name.split(".", maxsplit=1)[0] in ("pipelines", "flows"):
            return candidate
    return None


@cache
def first_party(path: str) -> frozenset[str]:
    """First-party files that `path` imports, transitively, itself and the packages' __init__ included."""
    seen, todo = set(), [path]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        todo += [found for name in imports(current) if (found := module_file(name))]
        todo += [
            str(parent / "__init__.py") for parent in Path(current).parents if (ROOT / parent / "__init__.py").exists() and parent != Path()
        ]
    return frozenset(seen)


def upstream(stage: str) -> set[str]:
    folders = {f"data/{name}": name for name in STAGES}
    direct = {folders["/".join(dep.split("/")[:2])] for dep in STAGES[stage].get("deps", []) if "/".join(dep.split("/")[:2]) in folders}
    return direct.union(*(upstream(name) for name in direct))


def sees_utility(path: str) -> set[str]:
    return {
        found
        for found in first_party(path)
        if found.endswith(("params/utility.py", "core/utility.py", "core/policy.py", "commands/check.py"))
    }


@pytest.mark.parametrize("stage", sorted(upstream("decide")))
def test_nothing_upstream_of_decide_can_see_the_utility(stage: str) -> None:
    assert not any("utility" in str(param) for param in STAGES[stage].get("params", []))
    assert not sees_utility(f"pipelines/{stage}.py")


def test_the_invariants_check_would_notice() -> None:
    assert upstream("decide") >= {"ingest", "validate", "split", "train", "calibrate"}
    assert sees_utility("pipelines/decide.py")


@pytest.mark.parametrize("stage", sorted(upstream("decide")))
def test_nothing_upstream_of_decide_reads_params_but_by_its_own_section(stage: str) -> None:
    whole = {f"pipelines.params.{name}" for name in ("read_params", "read_yaml", "PARAMS")} | {"yaml"}
    for path in first_party(f"pipelines/{stage}.py") - {"pipelines/params/__init__.py"}:
        assert not imports(path) & whole, f"{path} could read the utility"
        assert "params.yaml" not in literals(path), f"{path} could read the utility"
        assert not arguments(path) & {"U", "utility", "cost", "costs", "class_weight", "sample_weight"}, f"{path} takes a utility"


@cache
def arguments(path: str) -> frozenset[str]:
    """Names of the arguments of a file's functions."""
    return frozenset(node.arg for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.arg))


@cache
def literals(path: str) -> frozenset[str]:
    """Strings that stand in a file as such."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_every_stage_whose_folder_is_read(stage: str) -> None:
    calls = [node for node in ast.walk(ast.parse((ROOT / f"pipelines/{stage}.py").read_text())) if isinstance(node, ast.Call)]
    named = {call.args[0].value for call in calls if call.args and isinstance(call.args[0], ast.Constant)} & {*STAGES}
    read = {f"data/{name}" for name in named if name != stage}
    listed = {"/".join(dep.split("/")[:2]) for dep in STAGES[stage]["deps"] if dep.startswith("data/")}
    assert read <= listed, f"add {sorted(read - listed)}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_one_command_one_folder_one_module(stage: str) -> None:
    definition = STAGES[stage]
    assert definition["cmd"] == f"python -m pipelines.{stage}"
    assert definition["outs"] == [f"data/{stage}"]
    assert definition["desc"]
    assert set(definition.get("params", [])) <= {stage, *(["utility"] if stage in ("decide", "evaluate", "gate") else [])}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_every_first_party_module_that_the_stage_imports(stage: str) -> None:
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith("pipelines/") and dep.endswith(".py")}  # others are a network of yours
    needed = {path for path in first_party(f"pipelines/{stage}.py") if (ROOT / path).read_text().strip()}
    assert listed == needed, f"add {sorted(needed - listed)}, remove {sorted(listed - needed)}"


@pytest.mark.parametrize("path", SOURCES)
def test_imports_run_one_way(path: str) -> None:
    names = imports(path)
    tops = {name.split(".")[0] for name in names}
    if path.startswith("pipelines/"):
        assert not tops & {"flows", "prefect", "dvc"}
    if path.startswith("pipelines/core/"):
        outside = {name for name in names if name.startswith("pipelines.") and not name.startswith(("pipelines.core", "pipelines.errors"))}
        assert not outside, f"core imports {outside}"
        assert not tops & {"torch", "polars", "pandas", "onnxruntime", "matplotlib"}
    if path.startswith("flows/"):
        assert not tops & {"numpy", "pandas", "torch", "polars"}
    assert not tops & {"pickle", "joblib", "cloudpickle", "dill", "shelve", "marshal"}, "nothing is pickled"
    stage = path.removeprefix("pipelines/").removesuffix(".py")
    if stage in STAGES or path.startswith("pipelines/network/"):
        assert not {name for name in names if name.removeprefix("pipelines.") in STAGES and name.startswith("pipelines.")}
    for package, allowed in ONLY_IMPORTER.items():
        assert package not in tops or path in allowed, f"{path} imports {package}"
    if "torch" in tops or "lightning" in tops:
        assert path.startswith("pipelines/network/")


def test_the_data_path_knows_no_kind_of_column() -> None:
    path = "pipelines/network/data.py"
    assert not {found for found in first_party(path) - {path} if (ROOT / found).read_text().strip()} - {"pipelines/__init__.py"}
    assert not literals(path) & {"image", "numbers", "categories", "text"}


def test_torch_is_imported_only_once_a_task_is_set() -> None:
    """How idle threads wait is said before, and cannot be said afterwards."""
    code = "import sys, pipelines.train, pipelines.commands.tune; sys.exit(bool({'torch', 'lightning', 'optuna'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def distribution(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement.strip())[0].lower().replace("_", "-")


def test_libraries_are_imported_declared_and_locked_or_none_of_it() -> None:
    declared = {distribution(line) for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]}
    tops = {name.split(".")[0] for path in SOURCES for name in imports(path)} - {*sys.stdlib_module_names, "pipelines", "flows", ""}
    homes = packages_distributions()
    used = {top: {distribution(home) for home in homes[top]} for top in tops}
    assert not {top: names for top, names in used.items() if not names & declared}, "declare them in pyproject.toml"
    for_others = {"fastapi", "onnxscript"}  # a pin for prefect, and torch.onnx's own
    assert declared - for_others <= set().union(*used.values()), "nothing imports them"
    locked = {distribution(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert declared <= locked


def test_no_stage_is_outside_the_design() -> None:
    assert list(STAGES) == [
        "ingest",
        "validate",
        "split",
        "train",
        "calibrate",
        "decide",
        "package",
        "champion",
        "evaluate",
        "gate",
        "report",
    ]
    assert not (ROOT / "dvc.lock").exists() or "dvc.lock" not in _tracked()


def _tracked() -> set[str]:
    return set(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
