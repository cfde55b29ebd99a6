"""Nothing is unpickled, evaluated or imported from data: held by the source, by the settings, and by an audit of what runs."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.workspace import check_workspace
from pipelines.commands.source import keep_cache_private
from pipelines.errors import ExpostError
from tests.test_architecture import ROOT, SOURCES

#: Functions that run code from what they read: Python's own, and others by the last part of their name, whatever they belong to.
BUILT_IN = {"eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "os.system", "os.popen", "tempfile.mktemp"}
NEVER = {
    *("read_pickle", "to_pickle", "unpack_archive", "extractall", "run_path", "run_module", "exec_module"),
    *("load_state_dict_from_url", "load_checkpoint", "unsafe_load", "full_load", "full_load_all", "unsafe_load_all"),
}
#: The same, of these modules only.
NEVER_OF = {
    "mlflow": {"load_model", "get_raw_model", "unwrap_python_model"},
    "torch": {"hub", "jit", "package", "export.load"},
    "importlib": {"import_module"},
}
#: Calls that are safe with this argument only.
ONLY_WITH = {"numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True), "load_from_checkpoint": ("weights_only", True)}
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "joblib",
    "cloudpickle",
    "dill",
    "shelve",
    "marshal",
    "imp",
    "runpy",
    "code",
    "codeop",
    "jsonpickle",
}
#: Names that stand in our own code; in own.py the class that the user's params.yaml names, which `train` alone imports, never from an artifact.
IMPORTS_BY_NAME = {"flows/cli/__init__.py", "flows/guard.py", "pipelines/network/own.py"}


def names(tree: ast.AST) -> dict[str, str]:
    """What each name in a file stands for, as a dotted path."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0] for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """The dotted path of a name, with its import resolved; "?" for what is no name."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, known)
        return f"{before}.{node.attr}"
    return "?"


def unsafe(source: str, path: str = "") -> list[str]:
    """What of a file's source could run code from data, as `line: what`."""
    tree = ast.parse(source)
    return [f"{line}: {what}" for line, what in sorted(_unsafe(tree, names(tree), path))]


def _unsafe(tree: ast.AST, known: dict[str, str], path: str) -> Iterator[tuple[int, str]]:
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            tops = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else {str(node.module).split(".")[0]}
            yield from ((node.lineno, f"imports {top}") for top in tops & MODULES)
        if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue
        name, call = dotted(node, known), called.get(id(node))
        top, last = name.split(".")[0], name.split(".")[-1]
        if last in NEVER or name in BUILT_IN:
            yield node.lineno, name
        if any(name == f"{top}.{rest}" or f".{rest}" in name for rest in NEVER_OF.get(top, ())) and path not in IMPORTS_BY_NAME:
            yield node.lineno, name
        for safe, (argument, value) in ONLY_WITH.items():
            if (name == safe or ("." not in safe and last == safe)) and not _given(call, argument, value):
                yield node.lineno, f"{name} without {argument}={value}"
        if name == "yaml.load" and (call is None or not _safe_loader(call)):
            yield node.lineno, "yaml.load without a safe loader"
        if call is not None and any(word.arg == "shell" and not _is(word.value, False) for word in call.keywords):
            yield node.lineno, f"{name} with a shell"
        if (
            name == "getattr"
            and call is not None
            and any(isinstance(given, ast.Constant) and given.value in {*NEVER, *BUILT_IN, "load"} for given in call.args)
        ):
            yield node.lineno, "getattr of a function that is not allowed by name"


def _is(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _given(call: ast.Call | None, argument: str, value: object) -> bool:
    return call is not None and any(word.arg == argument and _is(word.value, value) for word in call.keywords)


def _safe_loader(call: ast.Call) -> bool:
    loaders = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "Loader")]
    return len(loaders) == 1 and all(
        isinstance(node, ast.Name) and node.id in SAFE_LOADERS for found in loaders for node in _choices(found)
    )


def _choices(node: ast.AST) -> list[ast.AST]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


#: Subclasses of yaml.SafeLoader in pipelines/params, which a test below holds to that.
SAFE_LOADERS = {"_Loader", "_TreeLoader"}


@pytest.mark.parametrize("path", SOURCES)
def test_no_source_can_run_code_from_data(path: str) -> None:
    assert not unsafe((ROOT / path).read_text(), path)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "from numpy import load as read\nread(path)",
        "import numpy\nread = numpy.load",
        "import numpy as np\ngetattr(np, 'load')(path)",
        "import torch\ntorch.load(path)",
        "from torch import load\nload(path, weights_only=False)",
        "import torch\ntorch.jit.load(path)",
        "import torch\ntorch.export.load(path)",
        "Learner.load_from_checkpoint(path)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.load(text)",
        "from yaml import load\nload(text, Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "import mlflow.pyfunc\nmlflow.pyfunc.load_model(uri)",
        "from mlflow.pyfunc import load_model\nload_model(uri)",
        "from mlflow import sklearn\nsklearn.load_model(uri)",
        "import pandas as pd\npd.read_pickle(path)",
        "eval(text)",
        "run = exec\nrun(text)",
        "from importlib import import_module\nimport_module(name)",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import os\nos.system(command)",
        "import tarfile\ntarfile.open(path).extractall()",
    ],
)
def test_the_search_finds_it_under_any_name(source: str) -> None:
    assert unsafe(source)


def test_the_search_lets_safe_calls_pass() -> None:
    assert not unsafe("import re, numpy as np\nre.compile('x')\nnp.load(path, allow_pickle=False)\njson.load(stream)\nBundle.load(folder)")


def test_the_loaders_of_yaml_build_plain_values_only() -> None:
    import yaml

    from pipelines import params

    for name in SAFE_LOADERS:
        loader = getattr(params, name)
        assert issubclass(loader, yaml.SafeLoader)
        for text in ("!!python/object/apply:os.getcwd []", "!!python/name:os.system ''", "!!python/module:os ''"):
            with pytest.raises(yaml.YAMLError):
                yaml.load(text, loader)


@pytest.mark.parametrize("module", ["pipelines", "flows"])
def test_no_setting_of_the_machine_allows_pickles(module: str) -> None:
    settings = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true", "PREFECT_RESULTS_DEFAULT_SERIALIZER": "pickle"}
    code = f"import {module}, os; print(*(os.environ[name] for name in {list(settings)}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **settings})
    assert done.stdout.split() == ["false", "json"]


AUDITED = """
import sys
def watch(event, arguments):
    if event == "pickle.find_class" and not seen.__contains__(arguments):
        seen.append(arguments)
seen = []
sys.addaudithook(watch)
from tests.stages.shipped import run_stages
run_stages("champion", "evaluate", "gate")
from pipelines.bundle import Bundle
import polars as pl
Bundle.load("data/champion/bundle").calibrated(pl.read_parquet("data/ingest/table.parquet"))
print(seen)
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict()))
print(seen)
"""


def test_nothing_is_unpickled_where_bundles_are_judged_and_scored(world: Path, tmp_path: Path) -> None:
    from tests.stages.judging import crown, quick

    folder = Path(shutil.copytree(world, tmp_path / "copy"))
    quick(folder)
    crown(folder, folder / "data/package/bundle")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", AUDITED], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "[('collections', 'OrderedDict')]"]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace as git makes it, readable for everybody."""
    folder = tmp_path / "bare"
    for name in ("mlflow", ".dvc"):
        (folder / name).mkdir(parents=True, mode=0o755)
    (folder / "mlflow/README.md").touch()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_in_a_workspace_is_for_its_owner_alone(bare: Path, tmp_path: Path) -> None:
    check_workspace()
    for name in ("mlflow", ".dvc/cache", ".dvc/tmp"):
        assert mode(bare / name) == 0o700, name
    cache = tmp_path / "cache/expost/dvc"
    assert mode(cache) == 0o700
    keep_cache_private()
    environment = {name: value for name, value in os.environ.items() if name != "DVC_SITE_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-m", "dvc", "doctor"], env=environment, capture_output=True, text=True, check=True)
    (place,) = [line.split(": ")[1] for line in done.stdout.splitlines() if line.startswith("Repo.site_cache_dir")]
    assert Path(place).is_relative_to(cache)


def test_a_shared_workspace_stays_shared(bare: Path) -> None:
    (bare / "mlflow/mlflow.db").touch()
    (bare / ".dvc/cache").mkdir(mode=0o755)
    check_workspace()
    assert (mode(bare / "mlflow"), mode(bare / ".dvc/cache")) == (0o755, 0o755)


def test_a_cache_that_others_may_write_to_is_refused(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(open_to_all))
    with pytest.raises(ExpostError, match=r"others must not write there.*DVC_SITE_CACHE_DIR"):
        check_workspace()
