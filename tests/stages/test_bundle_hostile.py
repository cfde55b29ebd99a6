"""Bundles made to harm: each is refused before any part of it is used, with one message, in bounded time and memory, and nothing in it runs."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import json
import os
import pickle
import shutil
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipelines import bundleform, champion, networkfile, scoring, store
from pipelines.bundle import FILES, MANIFEST, Bundle, describe, write_manifest
from pipelines.core import labelshift
from pipelines.errors import ExpostError
from tests.stages.judging import crown, edit
from tests.stages.shipped import mixed_table

JSONS = ("preprocessing.json", "calibrator.json", "policy.json", "schema.json")


class Payload:
    """Unpickling it makes the folder of which the test asserts that it is not there."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.makedirs, (self.marker,)


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "data/package/bundle", tmp_path / "bundle"))


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "the payload ran"
    pickle.loads(pickle.dumps(Payload(place)))
    assert place.exists(), "a payload that does nothing proves nothing"
    place.rmdir()
    yield place
    assert not place.exists()


def use(folder: Path) -> None:
    """All that the commands do with a bundle."""
    bundle = Bundle.load(folder)
    frame = mixed_table(20)
    encoded = bundle.encode(frame)
    bundle.decide(bundle.probabilities(bundle.score(encoded.inputs).logits), frame)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_in_the_place_of_a_file_is_refused_though_its_digests_match(folder: Path, marker: Path, name: str, protocol: int) -> None:
    (folder / name).write_bytes(pickle.dumps(Payload(marker), protocol))
    write_manifest(folder)
    with pytest.raises(ExpostError, match=r"must be JSON" if name in JSONS else r"no ONNX file"):
        use(folder)


def _zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("file", content)
    return packed.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, _zipped])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_compressed_file_is_refused_and_never_unpacked(folder: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack((folder / name).read_bytes() + b" " * (1 << 25))
    assert len(bomb) < 1 << 17
    (folder / name).write_bytes(bomb)
    if name != MANIFEST:
        write_manifest(folder)
    tracemalloc.start()
    try:
        with pytest.raises(ExpostError, match=r"must be JSON|no ONNX file|at most"):
            use(folder)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["python_model.pkl", "data.pickle", "__init__.py", "model.pt", "code/loader.py", "model.onnx.data", ".hidden"]
)
def test_anything_beside_the_files_is_refused_before_one_of_them_is_read(folder: Path, marker: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    (folder / MANIFEST).write_text("not even JSON")
    with pytest.raises(ExpostError, match="is extra"):
        use(folder)


@pytest.mark.parametrize("listed", ["../../etc/passwd", "/etc/passwd", "policy.json/../policy.json", MANIFEST, "", "model.onnx\x00"])
def test_a_manifest_that_names_another_file_is_refused_and_that_file_is_not_read(folder: Path, listed: str) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    extra = {**manifest["files"], listed: store.sha256(Path("/etc/passwd"))}
    swapped = {listed if name == "policy.json" else name: digest for name, digest in manifest["files"].items()}
    for files in (extra, swapped):
        (folder / MANIFEST).write_text(json.dumps({**describe(extra), "files": files}))
        with pytest.raises(ExpostError, match=r"manifest"):
            use(folder)


@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "/proc/self/environ", "nowhere", "."])
@pytest.mark.parametrize("name", ["model.onnx", "policy.json", MANIFEST])
def test_a_link_is_refused_wherever_it_points(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(target)
    with pytest.raises(ExpostError, match="plain file"):
        use(folder)


@pytest.mark.parametrize("name", ["model.onnx", "policy.json", MANIFEST])
def test_a_pipe_is_refused_without_waiting_for_a_writer(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    ended: list[BaseException] = []

    def attempt() -> None:
        with pytest.raises(ExpostError, match="plain file") as caught:
            use(folder)
        ended.append(caught.value)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(60)
    assert ended, "it waits for the pipe"


def test_a_device_or_a_folder_is_refused(folder: Path) -> None:
    (folder / "policy.json").unlink()
    (folder / "policy.json").mkdir()
    with pytest.raises(ExpostError, match="plain file"):
        use(folder)
    (folder / "policy.json").rmdir()
    try:
        os.mknod(folder / "policy.json", 0o20666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(ExpostError, match="plain file"):
        use(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_huge_file_is_refused_and_not_read(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / name).open("r+b") as stream:
        stream.truncate(1 << 31)  # sparse: no room on the disk
    monkeypatch.setattr(store, "os", _Reading(forbidden=name))
    with pytest.raises(ExpostError, match=f"{name} must hold at most"):
        use(folder)


class _Reading:
    """The module `os`, except that the file named is not to be read."""

    def __init__(self, forbidden: str) -> None:
        self._forbidden, self._paths = forbidden, dict[int, str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, *options: Any) -> int:
        opened = os.open(path, *options)
        self._paths[opened] = Path(path).name
        return opened

    def fdopen(self, opened: int, *options: Any) -> Any:
        stream = os.fdopen(opened, *options)
        if self._paths[opened] != self._forbidden:
            return stream

        class Closed:
            def __enter__(self) -> Closed:
                return self

            def __exit__(self, *_: object) -> None:
                stream.close()

            def read(self, _: int) -> bytes:
                raise AssertionError("it was read")

        return Closed()


def test_a_file_that_grows_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = os.fstat

    def before_it_grew(opened: int) -> Any:
        found = list(honest(opened))
        found[6] = min(found[6], 10)
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", before_it_grew)
    with pytest.raises(ExpostError, match="it changed while it was read"):
        use(folder)


@pytest.mark.parametrize("swap", ["link", "pipe"])
def test_a_file_swapped_after_it_was_looked_at_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: str) -> None:
    honest, aim = Path.lstat, folder / "policy.json"
    shutil.copy(aim, tmp_path / "same content")

    def then_swapped(path: Path) -> Any:
        found = honest(path)
        if path == aim:
            aim.unlink()
            aim.symlink_to(tmp_path / "same content") if swap == "link" else os.mkfifo(aim)
        return found

    monkeypatch.setattr(Path, "lstat", then_swapped)
    with pytest.raises(ExpostError, match="plain file"):
        use(folder)


def test_what_was_verified_is_what_is_used(folder: Path, world: Path) -> None:
    bundle, honest = Bundle.load(folder), Bundle.load(world / "data/package/bundle")
    for name in (*FILES, MANIFEST):
        (folder / name).write_bytes(b"changed after it was verified")
    frame = mixed_table(50)
    encoded = bundle.encode(frame)
    scores = bundle.score(encoded.inputs)  # the network is loaded here, not before
    np.testing.assert_array_equal(scores.logits, honest.score(encoded.inputs).logits)
    assert bundle.decide(bundle.probabilities(scores.logits)).actions.tolist()


def test_the_champion_that_is_copied_is_the_one_that_was_checked(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror changes while the stage copies it: what arrives is checked, not what stood there."""
    monkeypatch.chdir(shutil.copytree(world, tmp_path / "copy"))
    crown(Path(), Path("data/package/bundle"))
    honest = store.copy_folder

    def then_changed(source: Path, target: Path, remedy: str) -> None:
        edit(Path("mlflow/champion/bundle/policy.json"), lambda policy: policy.update(offsets=[9.0, 0.0]))
        honest(source, target, remedy)

    monkeypatch.setattr(store, "copy_folder", then_changed)
    with pytest.raises(ExpostError, match="digest"):
        champion.main()
    assert not Path("data/champion/bundle").exists()


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 31)


@pytest.mark.parametrize("name", ["status.json", "bundle/model.onnx", "bundle/extra", "lessons.json", "profile.json"])
@pytest.mark.parametrize(
    "spoil", [os.mkfifo, os.mkdir, sparse, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("/etc/passwd")]
)
def test_a_hostile_mirror_is_refused_without_waiting_and_without_a_copy(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    crown(Path(), world / "data/package/bundle")
    Path("mlflow/champion", name).unlink(missing_ok=True)
    spoil(Path("mlflow/champion", name))
    with pytest.raises(ExpostError, match=r"must be a plain file|must hold at most"):
        champion.main()
    assert not Path("data/champion").exists()


def test_a_mirror_of_very_many_files_is_not_copied(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    crown(Path(), world / "data/package/bundle")
    for number in range(100):
        Path(f"mlflow/champion/bundle/{number}").touch()
    with pytest.raises(ExpostError, match="at most 16 files"):
        champion.main()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_no_change_of_a_byte_anywhere_goes_unnoticed(world: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*FILES, MANIFEST]))
    origin = world / "data/package/bundle"
    content = bytearray((origin / name).read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.sampled_from(["other", "more", "less"]))
    if change == "other":
        content[at] ^= data.draw(st.integers(1, 255))
    elif change == "more":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        del content[at : at + data.draw(st.integers(1, 99))]
    folder = Path(shutil.copytree(origin, tmp_path_factory.mktemp("changed") / "bundle"))
    (folder / name).write_bytes(content)
    if name == MANIFEST and _same_manifest(content, origin):
        return  # white space between its values
    with pytest.raises(ExpostError):
        Bundle.load(folder)


def _same_manifest(content: bytes, origin: Path) -> bool:
    try:
        return bool(json.loads(content) == json.loads((origin / MANIFEST).read_text()))
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deep"),
        ('{"unit": NaN}', "NaN is not a finite number"),
        ('{"unit": [-Infinity]}', "-Infinity is not a finite number"),
        ('{"unit": 1e999}', "1e999 is not a finite number"),
        ('{"unit": ' + "9" * 400 + "}", "is not a finite number"),
        ('{"unit": ' + "9" * 100_000 + "}", "is not a finite number"),
        ('{"unit": "a", "kind": 1, "unit": "b"}', "the key 'unit' occurs twice"),
        ('{"prior": {"data": 1, "data": 1}}', "the key 'data' occurs twice"),
        ('{"unit": "\\ud800"}', "must be JSON"),
        ('{"unit": "\xe9"}', "must be JSON"),
        ('{"unit": 1} {}', "must be JSON"),
        ("[1]", "must hold a JSON object"),
        ("", "must be JSON"),
    ],
    ids=range(14),
)
@pytest.mark.parametrize("name", [*JSONS, MANIFEST])
def test_json_that_one_reader_takes_otherwise_than_another_is_refused(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    if name != MANIFEST:
        write_manifest(folder)
    with pytest.raises(ExpostError, match=f"{name} must.*{message}|{message}|manifest.json must hold at most"):
        Bundle.load(folder)


def network(**changes: Any) -> onnx.ModelProto:
    """A network of two numbers and no weights that the check takes, with changed fields."""
    number, batch = TensorProto.FLOAT, "batch"
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "weights")
    nodes = [helper.make_node("MatMul", ["numbers", "weights"], ["logits"]), helper.make_node("Relu", ["logits"], ["embedding"])]
    fields: dict[str, Any] = {
        "nodes": nodes,
        "inputs": [helper.make_tensor_value_info("numbers", number, [batch, 2])],
        "outputs": [helper.make_tensor_value_info(name, number, [batch, 2]) for name in ("logits", "embedding")],
        "initializer": [weights],
        "opsets": [helper.make_opsetid("", 20)],
    }
    fields |= changes
    graph = helper.make_graph(fields["nodes"], "network", fields["inputs"], fields["outputs"], fields["initializer"])
    return helper.make_model(graph, opset_imports=fields["opsets"], ir_version=10)


def elsewhere(location: str) -> TensorProto:
    """Weights that stand in another file."""
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def before_logits(*nodes: onnx.NodeProto, **changes: Any) -> onnx.ModelProto:
    """The network with more operators before its own, which read "numbers" and "weights"."""
    return network(nodes=[*nodes, *network().graph.node], **changes)


def constant(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


W = constant("weights", np.ones((2, 2), np.float32))
THEN = helper.make_graph(
    [helper.make_node("Relu", ["numbers"], ["y"])], "then", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
)
LONG = constant("long", np.ones((1 << 17, 1), np.float32))
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "weights elsewhere": (lambda: network(initializer=[elsewhere("../../../../etc/passwd")]), "stand in another file"),
    "weights at an absolute path": (lambda: network(initializer=[elsewhere("/etc/passwd")]), "stand in another file"),
    "weights in a neighbour": (lambda: network(initializer=[elsewhere("policy.json")]), "stand in another file"),
    "a library's operator": (
        lambda: before_logits(
            helper.make_node("Run", ["numbers"], ["x"], domain="evil.so"),
            opsets=[helper.make_opsetid("", 20), helper.make_opsetid("evil.so", 1)],
        ),
        "beyond the standard ones",
    ),
    "a compiled context": (
        lambda: before_logits(helper.make_node("EPContext", ["numbers"], ["x"], domain="com.microsoft", ep_cache_context="../evil.bin")),
        "beyond those exported",
    ),
    "a branch": (
        lambda: before_logits(helper.make_node("If", ["numbers"], ["x"], then_branch=THEN, else_branch=THEN)),
        "beyond those exported",
    ),
    "a hidden graph": (lambda: before_logits(helper.make_node("Relu", ["numbers"], ["x"], hidden=THEN)), "no number"),
    "a weight in an attribute": (
        lambda: before_logits(helper.make_node("Relu", ["numbers"], ["x"], value=elsewhere("/etc/passwd"))),
        "no number",
    ),
    "a filled tensor": (lambda: before_logits(helper.make_node("ConstantOfShape", ["weights"], ["x"])), "beyond those exported"),
    "a tensor expanded to 10^12": (
        lambda: before_logits(
            helper.make_node("Expand", ["long", "shape"], ["x"]), initializer=[W, LONG, constant("shape", [1_000_000, 1, 1_000_000])]
        ),
        "sizes do not fit|would hold",
    ),
    "an outer product of 10^10": (
        lambda: before_logits(
            helper.make_node("Transpose", ["long"], ["wide"]), helper.make_node("Mul", ["long", "wide"], ["x"]), initializer=[W, LONG]
        ),
        "would hold",
    ),
    "many values of one size": (
        lambda: before_logits(
            helper.make_node("Expand", ["long", "shape"], ["x0"]),
            *(helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(40)),
            initializer=[W, LONG, constant("shape", [1 << 17, 1 << 8])],
        ),
        "would hold",
    ),
    "a size from the rows": (
        lambda: before_logits(
            helper.make_node("Gather", ["numbers", "index"], ["picked"]),
            helper.make_node("Reshape", ["weights", "picked"], ["x"]),
            initializer=[W, constant("index", 0)],
        ),
        "sizes do not fit|how large",
    ),
    "weights larger than they are": (
        lambda: network(initializer=[TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[1 << 40, 1 << 20], raw_data=b"0000")]),
        "not the size",
    ),
    "negative dimensions": (
        lambda: network(initializer=[TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[-1, -1], raw_data=b"0000")]),
        "not the size",
    ),
    "text as weights": (lambda: network(initializer=[helper.make_tensor("weights", TensorProto.STRING, [1], [b"text"])]), "not the size"),
    "many operators": (
        lambda: before_logits(*(helper.make_node("Relu", ["numbers"], [f"x{i}"]) for i in range(10_001))),
        "more than 10000",
    ),
    "another input": (
        lambda: network(inputs=[*network().graph.input, helper.make_tensor_value_info("path", TensorProto.STRING, [1])]),
        "inputs and outputs",
    ),
    "no embedding": (lambda: network(outputs=network().graph.output[:1]), "inputs and outputs"),
    "an input of any size": (lambda: network(inputs=[helper.make_tensor_value_info("numbers", TensorProto.FLOAT, None)]), "no table"),
    "rows that lie": (
        lambda: network(outputs=[helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 2]) for name in ("logits", "embedding")]),
        "sizes do not fit",
    ),
}


def test_the_network_that_the_hostile_ones_are_made_from_is_taken() -> None:
    networkfile.check(network().SerializeToString(), scoring.BATCH)
    scores = scoring.Network(network().SerializeToString())({"numbers": np.ones((3, 2), np.float32)})
    assert scores.logits.tolist() == [[2, 2]] * 3


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_network_never_reaches_onnx_runtime(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("ONNX Runtime was asked to load it")

    make, message = HOSTILE[kind]
    (folder / "model.onnx").write_bytes(make().SerializeToString())
    write_manifest(folder)
    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)
    with pytest.raises(ExpostError, match=message):
        use(folder)


@pytest.mark.parametrize("extra", ["functions", "training_info"])
def test_a_network_with_functions_or_training_is_refused(folder: Path, extra: str) -> None:
    model = network()
    if extra == "functions":
        model.functions.append(
            helper.make_function("", "Relu", ["x"], ["y"], [helper.make_node("Sin", ["x"], ["y"])], [helper.make_opsetid("", 20)])
        )
    else:
        model.training_info.add()
    with pytest.raises(ExpostError, match="functions, training"):
        networkfile.check(model.SerializeToString(), scoring.BATCH)


def test_onnx_runtimes_own_format_is_refused(folder: Path) -> None:
    with pytest.raises(ExpostError, match="no ONNX file"):
        scoring.Network(b"\x18\x00\x00\x00ORTM" + bytes(1000))


leaves = st.sampled_from(
    [None, True, -1, 0, 1.5, 1e300, "", "x", "-0.75 * number", [], {}, [1.0], ["a", "a"], [[1, 2]], {"a": 1}, "\x1b[2J", "(SELECT 1)"]
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else list(range(min(len(value), 3))) if isinstance(value, list) else []
    return [path, *(found for key in keys for found in _places(value[key], (*path, key)))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(data=st.data())
def test_odd_content_under_a_right_manifest_is_refused_or_works_and_never_crashes(world: Path, data: st.DataObject) -> None:
    """Whoever writes the manifest too may write anything: it must still end in a message, not in a fault of ours."""
    origin = world / "data/package/bundle"
    contents = {name: (origin / name).read_bytes() for name in FILES}
    name = data.draw(st.sampled_from(JSONS))
    value = json.loads(contents[name])
    path = data.draw(st.sampled_from(_places(value)[1:]))
    holder = copy.deepcopy(value)
    inner = holder
    for key in path[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        del inner[path[-1]]
    else:
        inner[path[-1]] = data.draw(leaves)
    contents[name] = json.dumps(holder).encode()
    frame = mixed_table(5)
    try:
        bundle = Bundle({}, contents, origin)
        encoded = bundle.encode(frame)
        probability = bundle.probabilities(bundle.score(encoded.inputs).logits)
        decided = bundle.decide(probability, frame)
    except ExpostError:
        return
    assert probability.shape == (5, 2)
    assert set(decided.actions.tolist()) <= set(range(len(bundle.actions_named)))


def test_every_bundle_that_the_pipeline_makes_has_the_form(world: Path) -> None:
    folder = world / "data/package/bundle"
    parts = {name: json.loads((folder / name).read_text()) for name in bundleform.FORMS}
    assert bundleform.trouble(parts) is None
    edited = {**parts, "policy.json": {**parts["policy.json"], "a later field": [1]}}
    assert bundleform.trouble(edited) is None
    assert pl.DataFrame(parts["schema.json"]["columns"])["name"].to_list()


def test_a_class_that_is_hardly_ever_predicted_has_no_bins_and_ships_all_the_same() -> None:
    probability = np.tile([0.6, 0.3, 0.1], (60, 1))
    made = labelshift.reference(probability, np.arange(60) % 3)
    assert made["edges"] == [[], None, None]
    bundleform.FORMS["calibrator.json"].model_validate_json(json.dumps({"method": "identity", "reference": made}))
