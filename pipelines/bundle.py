"""The bundle that ships: verified before anything in it is used, then encode, score, calibrate, decide. No torch, no pickle."""

from __future__ import annotations

import copy
import difflib
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines import bundleform, pictures, store, tables, utilities
from pipelines.core import calibration, encode, policy, words
from pipelines.core.utility import expected_utility
from pipelines.errors import ExpostError, must
from pipelines.networkfile import EACH, IMAGE
from pipelines.params import short
from pipelines.scoring import Inputs, Network, Scores

if TYPE_CHECKING:
    import polars as pl

    from pipelines.params.utility import Utility

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = ("model.onnx", "preprocessing.json")
POLICY = ("calibrator.json", "policy.json")
FILES = (*WEIGHTS, *POLICY, "schema.json")
#: Largest size in bytes of each file: what is larger is not read. Python's form of JSON may take twenty times as much.
LARGEST = {
    "model.onnx": 1 << 28,
    "preprocessing.json": 1 << 26,
    "manifest.json": 1 << 16,
    **dict.fromkeys((*POLICY, "schema.json"), 1 << 24),
}
VALUES = "Mend the values, or leave them empty: the model reads the column as it was declared when it was trained."
REMEDY = "Do not use this bundle; package it again with `dvc repro package`, or fetch it again."


@dataclass(frozen=True)
class Encoded:
    """The network's inputs by name, of n rows each, and per column the number of rows with a value unseen in train."""

    inputs: Inputs
    unseen: dict[str, int]


@dataclass(frozen=True)
class Decided:
    """Probabilities (n, K) under the policy's class prior, action numbers (n,), and the expected utility (n,) of the actions taken."""

    probability: NDArray[np.float64]
    actions: NDArray[np.int64]
    expected: NDArray[np.float64]


def _joined(digests: Mapping[str, str], names: tuple[str, ...]) -> str:
    return hashlib.sha256("".join(digests[name] for name in names).encode()).hexdigest()


def describe(digests: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of files with these SHA-256 digests."""
    lines = "\n".join(f"{name}:{digests[name]}" for name in sorted(digests))
    return {
        "format": FORMAT,
        "files": dict(sorted(digests.items())),
        "weights_sha256": _joined(digests, WEIGHTS),
        "policy_sha256": _joined(digests, POLICY),
        "bundle_sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def write_manifest(folder: Path) -> dict[str, Any]:
    """Write `manifest.json` over the bundle's files in `folder` and return it; raises ExpostError where one is missing."""
    manifest = describe({name: store.sha256(store.need(folder / name)) for name in FILES})
    store.write_json(folder / MANIFEST, manifest)
    return manifest


def _verified(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and contents of exactly the listed files; what is checked here is what is used, nothing is read twice."""
    if not folder.is_dir():
        raise must(
            f"{folder} must be a bundle's folder",
            "there is none",
            "Train and promote a model with `expost retrain`, or name another version.",
        )
    expected = {*FILES, MANIFEST}
    present = {path.name for path in islice(folder.iterdir(), 2 * len(expected))}
    if present != expected:
        extra = [name if name.isprintable() else ascii(name) for name in sorted(present - expected)]
        wrong = ", ".join([*(f"{name} is missing" for name in sorted(expected - present)), *(f"{name[:60]} is extra" for name in extra)])
        raise must(f"{folder} must hold exactly the files of a bundle", wrong, REMEDY)
    manifest = _json(store.plain_bytes(folder / MANIFEST, LARGEST[MANIFEST], REMEDY), folder / MANIFEST)
    contents = {name: store.plain_bytes(folder / name, LARGEST[name], REMEDY) for name in FILES}
    for name, content in contents.items():
        listed = manifest.get("files", {}).get(name) if isinstance(manifest.get("files"), dict) else None
        if listed != hashlib.sha256(content).hexdigest():
            raise must(f"{folder / name} must have the SHA-256 that {MANIFEST} lists", f"they differ ({str(listed)[:12]}...)", REMEDY)
    if set(manifest["files"]) != set(FILES) or manifest != describe(manifest["files"]):
        raise must(f"{folder / MANIFEST} must be the manifest of these files", "its format, file list or joint digests differ", REMEDY)
    return manifest, contents


def _json(content: bytes, path: Path) -> dict[str, Any]:
    value = store.parse_json(content, path, REMEDY)
    if not isinstance(value, dict):
        raise must(f"{path} must hold a JSON object", f"it holds a {type(value).__name__}", REMEDY)
    return value


class Bundle:
    """A verified bundle: `encode` a table, `score` it, `probabilities` from logits, `actions` from probabilities."""

    def __init__(self, manifest: dict[str, Any], contents: dict[str, bytes], folder: Path) -> None:
        parts = {name: _json(contents[name], folder / name) for name in bundleform.FORMS}
        if (found := bundleform.trouble(parts)) is not None:
            raise must(f"{folder / found[0]} must have the form that expost writes", found[1], REMEDY)
        self.manifest = manifest
        self.preprocessing, self.calibrator, self.policy, self.schema = (
            parts[name] for name in ("preprocessing.json", "calibrator.json", "policy.json", "schema.json")
        )
        self._model = contents["model.onnx"]

    @classmethod
    def load(cls, folder: Path | str, bundle_sha256: str | None = None) -> Bundle:
        """Read a folder; raises ExpostError where a file is missing, extra, too large, a link, or not what its manifest lists.

        `bundle_sha256` is the joint digest that it must have, where that is known from elsewhere.
        """
        folder = Path(folder)
        manifest, contents = _verified(folder)
        if bundle_sha256 is not None and manifest["bundle_sha256"] != bundle_sha256:
            raise must(f"{folder} must have the digest {bundle_sha256[:12]}", f"it is {manifest['bundle_sha256'][:12]}", REMEDY)
        return cls(manifest, contents, folder)

    @property
    def classes(self) -> list[str]:
        """The K class names, in the order of the probabilities' columns."""
        return list(self.schema["classes"])

    @property
    def actions_named(self) -> list[str]:
        """The A action names, in the order of the policy's action numbers."""
        return list(self.policy["actions"])

    @property
    def cost_columns(self) -> list[str]:
        """The columns that the policy's utility reads from a row: none where its cells are numbers."""
        return utilities.columns(self.policy["matrix"])

    def utility(self, frame: pl.DataFrame | None, rows: pl.Series | None = None) -> NDArray[np.float64]:
        """The utility that the policy was made for: (K, A), or (n, K, A) for the rows of `frame` where cells are expressions.

        Raises ExpostError where a column of an expression is missing from `frame`, or a value of it is missing or not finite.
        """
        names = self.cost_columns
        if not names:
            return utilities.values(self.policy["matrix"])
        assert frame is not None, "utilities that differ by row need the rows"
        kinds = {column["name"]: column["kind"] for column in (*self.schema["columns"], *self.schema["others"])}
        present = {name: kinds[name] for name in names if name in frame.columns and name in kinds}
        read_as = {name: "number" if kind == "date" and frame.schema[name].is_float() else kind for name, kind in present.items()}
        return utilities.values(self.policy["matrix"], tables.typed(frame, read_as, rows, VALUES), rows, scoring=True)

    def with_utility(self, utility: Utility) -> Bundle:
        """The same model deciding with another utility: analytic, since offsets and prices were fitted for the bundle's own.

        The policy's class prior is kept unless `utility` declares one. Raises ExpostError where its rows are not the model's classes, where an
        expression reads a column without a cost role, and where it has limits or requirements, which are fitted on calib.
        """
        if sorted(utility.matrix) != sorted(self.classes):
            remedy = "Write one row per class of the model under matrix, named as the model names them."
            raise must(
                f"a utility must have one row per class of the model, {self.classes}", f"its rows are {short([*utility.matrix])}", remedy
            )
        if utility.limits or utility.require.recall:
            got = "it has limits" if utility.limits else "it has requirements"
            remedy = (
                "Leave them out, or fit them with `expost retune --utility FILE`; a hard count is `expost predict --at-most ACTION=ROWS`."
            )
            raise must(
                "a utility given at call time must be unit, matrix and prior, since what bounds a policy is fitted on calib", got, remedy
            )
        cells = utility.cells(tuple(self.classes))
        utilities.check_columns(cells, self._roles)
        made = policy.make(
            "analytic", classes=self.classes, actions=utility.actions, cells=cells, unit=utility.unit, prior=self.policy.get("prior")
        )
        changed = self._deciding(made)
        deployment = utility.class_prior(tuple(self.classes), self.data_prior) if utility.prior else None
        return changed if deployment is None else changed.with_prior(deployment)

    def with_prior(self, deployment: Sequence[float], data: Sequence[float] | None = None) -> Bundle:
        """The same model deciding under the class shares `deployment` (K,) instead of `data` (K,), those of calib by default."""
        prior = {"data": list(data or self.data_prior), "deployment": [float(share) for share in deployment]}
        return self._deciding({**self.policy, "prior": prior})

    def _deciding(self, made: dict[str, Any]) -> Bundle:
        other = copy.copy(self)
        other.policy = made
        return other

    @property
    def data_prior(self) -> list[float]:
        """The class shares (K,) of calib that the probabilities belong to; raises ExpostError where the bundle does not hold them."""
        return list(self.reference["prior"])

    @property
    def reference(self) -> dict[str, Any]:
        """Class shares and histograms of scores on calib, as `core/labelshift.py` makes them; raises ExpostError where there are none."""
        found = self.calibrator.get("reference")
        if not isinstance(found, dict):
            got = "it holds none: an earlier version of expost made it"
            raise must(
                "the bundle must hold the class shares of calib for another class prior", got, "Run `expost retrain` and use its model."
            )
        return found

    @property
    def _roles(self) -> dict[str, str]:
        """Role of each column; a feature whose role the bundle does not say may be a cost where its own policy reads it so."""
        columns = (*self.schema["columns"], *self.schema["others"])
        return {column["name"]: column.get("role", "feature") for column in columns} | dict.fromkeys(self.cost_columns, "feature+cost")

    @cached_property
    def network(self) -> Network:
        """The network, loaded at first use; raises ExpostError where its columns are not those of the other files."""
        network = Network(self._model)
        image = encode.image_shape(self.preprocessing)
        inputs = {
            "numbers": encode.number_count(self.preprocessing),
            "categories": len(self.preprocessing["categories"]),
            "text": sum(length for _, length in encode.text_sizes(self.preprocessing)),
            IMAGE: 0 if image is None else math.prod(image),
        }
        wanted = {name: width for name, width in {**inputs, "logits": len(self.classes)}.items() if width}
        found = {name: width for name, width in network.widths.items() if name not in ("embedding", EACH)}
        if found != wanted:
            raise must("model.onnx must have the columns that the bundle's other files say", f"{found} instead of {wanted}", REMEDY)
        return network

    def encode(self, frame: pl.DataFrame, rows: pl.Series | None = None) -> Encoded:
        """Raw columns of `frame` to the network's inputs; other columns, the target among them, are not looked at.

        Raises ExpostError where a feature column is missing or a value cannot be read as the column's kind; `rows` are the row
        numbers that its message names, 1.. by default.
        """
        numbers: dict[str, NDArray[np.float64]] = {}
        codes: dict[str, NDArray[np.integer[Any]]] = {}
        vocabularies: dict[str, list[str]] = {}
        texts: dict[str, NDArray[np.integer[Any]]] = {}
        kinds = self.features_in(frame.columns)
        # Dates that come as floats are days already: so the table that ingest wrote can be scored too.
        read_as = {name: "number" if kind == "date" and frame.schema[name].is_float() else kind for name, kind in kinds.items()}
        picture = next((name for name, kind in kinds.items() if kind == "image"), None)
        plain = {name: kind for name, kind in read_as.items() if name != picture}
        typed = tables.typed(self._like_train(frame, kinds), plain, rows, VALUES)
        for name, kind in kinds.items():
            if name == picture:
                continue
            series = typed[name]
            if kind in ("number", "date"):
                _refuse_infinite(series, rows)
                numbers[name] = series.cast(float).fill_null(float("nan")).to_numpy()
            else:
                vocabularies[name] = series.drop_nulls().unique().sort().to_list()
                codes[name] = _codes(series, vocabularies[name])
            if kind == "text":
                texts[name] = words.ids(vocabularies[name])[codes[name]]
        columns, indices = encode.transform(self.preprocessing, numbers, codes, vocabularies)
        inputs: Inputs = {"numbers": columns, "categories": indices, "text": encode.transform_texts(self.preprocessing, texts)}
        if picture is not None:
            inputs = {**inputs, IMAGE: pictures.pixels(frame[picture], self.schema["image"], rows)}
        return Encoded(inputs, encode.unseen_counts(self.preprocessing, codes, vocabularies, texts))

    def _like_train(self, frame: pl.DataFrame, kinds: Mapping[str, str]) -> pl.DataFrame:
        """Write category columns that come as floats as train had them ("1" or "1.0"), whatever else the batch holds."""
        import polars as pl

        values = {fitted["name"]: fitted["values"] for fitted in self.preprocessing["categories"]}
        changed = []
        for name, kind in kinds.items():
            if kind == "category" and frame.schema[name].is_float():
                column = frame[name].fill_nan(None)
                if not any("." in value for value in values.get(name, ())):
                    whole = column == column.round(0)
                    text = pl.select(
                        pl.when(whole).then(column.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(column.cast(pl.String))
                    )
                    column = text.to_series()
                changed.append(column.cast(pl.String).alias(name))
        return frame.with_columns(changed) if changed else frame

    def features_in(self, names: list[str]) -> dict[str, str]:
        """Kind of each feature column by name; raises ExpostError naming those that are not in `names` and the names nearest to them."""
        kinds = {column["name"]: column["kind"] for column in self.schema["columns"]}
        absent = [name for name in kinds if name not in names]
        if absent:
            hints = [_nearest(name, names) for name in absent]
            raise must(
                "the input must have every feature column of the model",
                "; ".join(f"{name} is missing{hint}" for name, hint in zip(absent, hints, strict=True)),
                "Add the columns or mend their names; empty values are allowed.",
            )
        return kinds

    def score(self, inputs: Inputs, *, finite: bool = True, unseen: NDArray[np.bool_] | None = None) -> Scores:
        """Logits and embedding of encoded rows, in batches; raises ExpostError where one is not finite, unless `finite` is off.

        With `unseen` (n, M), which network never saw which row, the logits are those of the networks that never did.
        """
        scores = self.network(inputs, finite=finite)
        if unseen is None or unseen.shape[1] == self.network.widths.get(EACH, 1) == 1:  # one network: its logits are these
            return scores
        return Scores(self.network.unseen_logits(inputs, unseen), scores.embedding)

    def probabilities(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """Calibrated probabilities (n, K) of logits (n, K)."""
        return calibration.apply(self.calibrator, logits)

    def calibrated(
        self, frame: pl.DataFrame, rows: pl.Series | None = None, *, threads: int | None = None
    ) -> tuple[NDArray[np.float64], dict[str, int]]:
        """Calibrated probabilities (n, K) of raw rows, and per column the number of rows with a value unseen in train; errors as `encode`.

        The network runs on `threads`, all cores by default.
        """
        encoded = self.encode(frame, rows)
        return self.probabilities(self.network.logits(encoded.inputs, threads=threads)), encoded.unseen

    def decide(
        self,
        calibrated: NDArray[np.float64],
        frame: pl.DataFrame | None = None,
        rows: pl.Series | None = None,
        *,
        actions: NDArray[np.int64] | None = None,
    ) -> Decided:
        """What the policy does with calibrated probabilities (n, K); `frame` has the rows' cost columns where the utility reads them.

        With `actions` (n,) those are taken instead, and only their expected utility is computed.
        """
        U = self.utility(frame, rows)
        probability = policy.corrected(self.policy, calibrated)
        taken = policy.apply(self.policy, calibrated, U) if actions is None else actions
        return Decided(probability, taken, expected_utility(probability, U)[np.arange(len(taken)), taken])

    def worth(
        self, calibrated: NDArray[np.float64], frame: pl.DataFrame | None = None, rows: pl.Series | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What each action is worth to the policy (n, A), in the utility's unit, and the actions (n,) that it takes.

        That is the expected utility under the probabilities as the policy shifts them, less its prices.
        """
        U = self.utility(frame, rows)
        offsets = np.asarray(self.policy.get("offsets") or [0.0] * len(self.classes))
        weight = np.exp(offsets - offsets.max())
        shifted = policy.corrected(self.policy, calibrated) * weight
        value = expected_utility(shifted / shifted.sum(axis=1, keepdims=True), U) - np.asarray(self.policy.get("prices") or 0.0)
        return value, policy.apply(self.policy, calibrated, U)


def _refuse_infinite(series: pl.Series, rows: pl.Series | None) -> None:
    wrong = series.is_infinite().fill_null(False)
    if wrong.any():
        first = wrong.arg_true()[0]
        row = first + 1 if rows is None else rows[first]
        raise must(
            f"column {series.name!r} must hold finite numbers", f"row {row} holds {series[first]}", "Mend the value, or leave it empty."
        )


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=2)
    return f" (nearest: {', '.join(close)})" if close else ""


def _codes(series: pl.Series, vocabulary: list[str]) -> NDArray[np.integer[Any]]:
    """Codes (n,) of strings into a vocabulary that holds all of them, -1 for null."""
    import polars as pl

    if not vocabulary:
        return np.full(len(series), -1, dtype=np.int64)
    codes = series.replace_strict(vocabulary, list(range(len(vocabulary))), default=-1, return_dtype=pl.Int64)
    return codes.fill_null(-1).to_numpy()


def main(arguments: list[str]) -> None:
    """`python -m pipelines.bundle BUNDLE TABLE ROWS OUT`: score rows of a Parquet table into OUT/{logits,probabilities,actions}.npy.

    A fresh process of this is the proof that a bundle scores as the pipeline did.
    """
    import polars as pl

    if len(arguments) != 4:
        raise ExpostError("usage: python -m pipelines.bundle BUNDLE TABLE ROWS OUT")
    folder, table, rows, out = map(Path, arguments)
    bundle = Bundle.load(folder)
    chosen = np.load(rows, allow_pickle=False)
    frame = pictures.attached(pl.read_parquet(table), chosen, bundle.schema, table.with_name("images.npy"))
    encoded = bundle.encode(frame)
    logits = bundle.score(encoded.inputs).logits
    probability = bundle.probabilities(logits)
    heavy = sorted({"torch", "lightning", "prefect", "mlflow", "sklearn"} & set(sys.modules))
    if {"torch", "prefect", "mlflow"} & set(heavy):
        raise must("scoring must not import torch, prefect or mlflow", ", ".join(heavy), "Keep these imports out of bundle.py and core.")
    for name, values in (("logits", logits), ("probabilities", probability), ("actions", bundle.decide(probability, frame).actions)):
        np.save(out / f"{name}.npy", values)


if __name__ == "__main__":
    store.run_stage(lambda: main(sys.argv[1:]), checks=False)
