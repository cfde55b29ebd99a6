"""Images: an archive, a folder per class and Parquet with encoded bytes, each from init to a prediction; what is unreadable or odd-sized is named."""

from __future__ import annotations

import copy
import functools
import io
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from PIL import Image

from pipelines import bundleform, pictures, store, train
from pipelines.bundle import Bundle
from pipelines.commands import init as starting
from pipelines.commands.check import check_params
from pipelines.commands.imageform import image_form
from pipelines.commands.predict import predict
from pipelines.commands.proposals import Wishes, propose_columns
from pipelines.core.rowhash import row_hashes
from pipelines.errors import ExpostError
from pipelines.network.augment import augmentation, augmented
from pipelines.network.data import Judging, plan_of, tensors
from pipelines.network.task import Task
from pipelines.params.train import Augment, Train
from pipelines.tables import arrays, read_table
from tests.stages.shipped import run_stages

RULE = {"size": [12, 12], "channels": 1, "resize": "refuse"}
SIZES = {"train": 240, "val": 60, "test": 80}
QUICK = {"network": {"kind": "residual", "channels": [4, 8], "dropout": 0.0}, "max_epochs": 4, "learning_rate": 0.02, "accelerator": "cpu"}


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise (n, 12, 12) with a bright bar across (class 0) or down (class 1)."""
    rng = np.random.default_rng(seed)
    labels, images = rng.integers(0, 2, rows), rng.integers(0, 120, (rows, 12, 12))
    for image, label, place in zip(images, labels, rng.integers(2, 10, rows), strict=True):
        image[(place, slice(None)) if label == 0 else (slice(None), place)] += 90
    return images.astype(np.uint8), labels.astype(np.uint8)


def archive(path: Path) -> Path:
    parts = {part: drawn(rows, seed) for seed, (part, rows) in enumerate(SIZES.items())}
    np.savez(
        path, **{f"{p}_images": images for p, (images, _) in parts.items()}, **{f"{p}_labels": x[:, None] for p, (_, x) in parts.items()}
    )
    return path


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def folder(path: Path) -> Path:
    """One folder per class."""
    images, labels = drawn(380, 7)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = path / ("across", "down")[label] / f"{number:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(image))
    return path


def parquet(path: Path) -> Path:
    """Records of bytes and a path, as Hugging Face writes them, and a column beside."""
    images, labels = drawn(380, 8)
    records = [{"bytes": encoded(image), "path": f"{number}.png"} for number, image in enumerate(images)]
    pl.DataFrame({"picture": records, "label": labels, "ward": ["a", "b"] * 190}).write_parquet(path)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(source: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """The parameters that init proposes, with a quick training, and the source in data/raw, without DVC."""
    monkeypatch.setattr("pipelines.commands.source._dvc_add", lambda: None)
    starting.init_workspace(
        str(source),
        "label",
        positive="1" if source.is_file() else "down",
        cost_fn=5,
        cost_fp=1,
        report=lambda _: None,
        force=True,
        **options,
    )
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["train"] |= copy.deepcopy(QUICK)
    values["calibrate"] = {"repeats": 1, "methods": ["identity", "temperature"]}
    values["decide"] = {"policies": ["analytic"]}
    Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    check_params()
    return dict(values)


def test_an_archive_goes_from_init_to_a_prediction_on_its_official_parts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = started(archive(place / "bars.npz"), monkeypatch)
    assert values["ingest"]["image"] == RULE
    assert values["ingest"]["columns"] == {"image": {"role": "feature", "kind": "image"}, "part": {"role": "part", "kind": "category"}}
    assert values["split"]["column"] == {"name": "part", "parts": {"test": "holdout", "train": "rest", "val": "rest"}}
    run_stages("ingest", "validate", "split", "train", "calibrate", "decide", "package", "champion", "evaluate", "gate", "report")
    table, parts = pl.read_parquet("data/ingest/table.parquet"), np.load("data/split/parts.npy")
    np.testing.assert_array_equal(parts == 3, (table["part"] == "test").to_numpy())
    evaluation = json.loads(Path("data/evaluate/evaluation.json").read_text())
    assert evaluation["challenger"]["auc"]["mean"] > 0.9
    bundle = Bundle.load("data/package/bundle")
    assert bundle.schema["image"] == RULE
    parts_of = {name: json.loads((Path("data/package/bundle") / name).read_text()) for name in bundleform.FORMS}
    assert bundleform.trouble(parts_of) is None
    for name, change in (
        ("schema.json", lambda part: part.pop("image")),
        ("schema.json", lambda part: part["image"].update(size=[12, 13])),
        ("schema.json", lambda part: part["image"].update(resize="crop")),
        ("preprocessing.json", lambda part: part.pop("images")),
        ("preprocessing.json", lambda part: part["images"][0].update(name="other")),
        ("preprocessing.json", lambda part: part["images"][0].update(shape=[1, 12, 1 << 20])),
    ):
        changed = copy.deepcopy(parts_of)
        change(changed[name])
        assert bundleform.trouble(changed) is not None, name
    result = predict(place / "bars.npz", "scored.csv", bundle, keep=["part", "label"])
    assert result.rows == sum(SIZES.values())
    scored = pl.read_csv("scored.csv").filter(pl.col("part") == "test")
    shown = pl.read_parquet("data/evaluate/rows.parquet")
    np.testing.assert_allclose(scored["probability_1"], shown["challenger_probability_1"], atol=1e-6)
    assert predict(place / "bars.npz", "all.parquet", bundle, keep="all").rows == result.rows
    assert pl.read_parquet("all.parquet").columns[:2] == ["label", "part"]


def test_a_folder_per_class_and_a_network_of_the_users(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(place / "bars")
    (place / "looks.py").write_text(
        """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, image_shape, classes):
        super().__init__()
        channels, height, width = image_shape
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(height * width, 8), nn.ReLU())
        self.output = nn.Linear(8, classes)

    def forward(self, inputs):
        embedding = self.body(inputs["image"])
        return self.output(embedding), embedding
"""
    )
    monkeypatch.syspath_prepend(str(place))
    values = started(source, monkeypatch)
    assert values["ingest"]["columns"] == {"image": {"role": "feature", "kind": "image"}, "file": {"role": "key", "kind": "category"}}
    values["train"]["network"] = "looks.Net"
    Path("params.yaml").write_text(yaml.safe_dump(values))
    run_stages("ingest", "split", "train", "calibrate", "decide", "package")
    (place / "looks.py").unlink()
    flat = place / "new"
    flat.mkdir()
    for name in sorted(path.name for path in (source / "down").iterdir())[:20]:
        shutil.copy(source / "down" / name, flat)
    result = predict(flat, "scored.csv", "data/package/bundle", keep=["file"])
    assert result.rows == 20
    assert pl.read_csv("scored.csv").columns == ["file", "probability_across", "probability_down", "action", "expected_utility"]
    together = predict(source, "all.csv", "data/package/bundle", keep=["file"])
    assert together.rows == 380
    joined = pl.read_csv("all.csv").with_columns(pl.col("file").str.split("/").list.last()).join(pl.read_csv("scored.csv"), on="file")
    np.testing.assert_allclose(joined["probability_down"], joined["probability_down_right"], atol=1e-6)


def test_parquet_with_encoded_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = started(parquet(place / "bars.parquet"), monkeypatch, ignore=["ward"])
    assert values["ingest"]["columns"]["picture"] == {"role": "feature", "kind": "image"}
    assert values["split"]["folds"] is None
    run_stages("ingest", "split", "train", "calibrate", "decide", "package")
    assert predict("bars.parquet", "scored.csv", "data/package/bundle", keep=["ward"]).rows == 380
    assert predict("bars.parquet", "all.csv", "data/package/bundle", keep="all").rows == 380


def test_equal_images_of_several_parts_stay_in_the_last_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = drawn(380, 3)
    images[300:340] = images[:40]  # the official test part holds copies of what trains
    cut = {"train": slice(0, 300), "test": slice(300, 380)}
    np.savez(place / "bars.npz", **{f"{p}_images": images[s] for p, s in cut.items()}, **{f"{p}_labels": labels[s] for p, s in cut.items()})
    started(place / "bars.npz", monkeypatch)
    run_stages("ingest", "split")
    parts, meta = np.load("data/split/parts.npy"), store.read_json(store.stage_path("split", "meta.json"))
    assert (parts[:40] == -1).all() and (parts[300:] == 3).all()
    assert meta["sizes"]["excluded"] == {"rows": 40, "groups": 0, "duplicates": 40}
    hashes = row_hashes(arrays(pl.read_parquet("data/ingest/table.parquet"), ["image"]))
    np.testing.assert_array_equal(hashes[300:340], hashes[:40])


def test_a_killed_training_on_images_goes_on_to_the_same_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.network import fit

    values = started(archive(place / "bars.npz"), monkeypatch)
    values["train"] |= {"augment": {"flip": True, "shift": 1}, "max_epochs": 3, "network": {**QUICK["network"], "dropout": 0.2}}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    run_stages("ingest", "split", "train")
    whole = store.sha256(Path("data/train/model.onnx"))
    keep = fit.Keeper.on_train_epoch_end

    def then_stop(self: fit.Keeper, trainer: Any, module: Any) -> None:
        keep(self, trainer, module)
        if module.current_epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit, "CHECKPOINT_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(fit.Keeper, "on_train_epoch_end", then_stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train.main()
    assert list(Path(".checkpoints").rglob("last.ckpt"))
    train.main()
    assert store.sha256(Path("data/train/model.onnx")) == whole


def test_augmentation_moves_and_mirrors_and_changes_nothing_else() -> None:
    images = torch.arange(2 * 3 * 1 * 6 * 6).remainder(256).to(torch.uint8).view(2, 3, 1, 6, 6)
    still = augmented(images, Augment(shift=0), torch.Generator().manual_seed(0))
    assert torch.equal(still, images)
    mirrored = augmented(images, Augment(shift=0, flip=True), torch.Generator().manual_seed(0)).flatten(0, 1)
    same = [torch.equal(new, old) for new, old in zip(mirrored, images.flatten(0, 1), strict=True)]
    other = [torch.equal(new, old.flip(-1)) for new, old in zip(mirrored, images.flatten(0, 1), strict=True)]
    assert all(a or b for a, b in zip(same, other, strict=True)) and any(same) and any(other)
    moved = augmented(images, Augment(shift=2), torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.dtype == torch.uint8 and not torch.equal(moved, images)


def test_only_images_are_augmented_and_only_where_asked() -> None:
    images = torch.arange(4 * 36).to(torch.uint8).view(1, 4, 1, 6, 6)
    batch = {"numbers": torch.ones(1, 4, 2), "image": images}
    assert augmentation(None, batch) is None
    assert augmentation(Augment(shift=2), {"numbers": batch["numbers"]}) is None
    change = augmentation(Augment(shift=2), batch)
    assert change is not None
    changed = change(batch, torch.Generator().manual_seed(0))
    assert changed["numbers"] is batch["numbers"] and not torch.equal(changed["image"], images)


def test_fewer_images_than_rows_of_a_table_are_judged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("pipelines.network.fit.fit", lambda *_, judged, **__: seen.append(judged))
    plan = plan_of([np.array([True])], [np.array([True])], repeats=0)
    for name, shape in (("numbers", (1, 3)), ("image", (1, 3, 28, 28)), ("image", (1, 1, 64, 64)), ("image", (1, 3, 2000, 2000))):
        rows = tensors({name: np.zeros(shape, np.uint8)}, np.zeros(1, np.int64), np.zeros(1, np.int64))
        Task(rows, plan, lambda _: lambda _: torch.nn.Identity(), [], [], [], 2).fit(Train(), Path("last.ckpt"))
    assert seen == [4096, 256, 64, 1]
    assert len(list(Judging(rows, plan, seen[-1]))) == 1, "an image that is large beyond any budget is judged alone"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"no image", r"read, however: row 7, f\.png: its 8 bytes are no image of a format that is read \(PNG, JPEG, BMP, WEBP\), or broken off\. Put"),
        (encoded(np.zeros((12, 12), np.uint8))[:-30], r"row 7, f\.png: (?!.* at 0x).*(truncated|broken|incomplete|unrecognized)"),
        (None, r"row 7, f\.png: it is missing"),
        (encoded(np.zeros((12, 12), np.uint16)), r"row 7, f\.png: its values have more than 8 bits"),
        (encoded(np.zeros((10, 12), np.uint8)), r"^row 7, f\.png: images must have 12 x 12 pixels .*however: it has 10 x 12 pixels\. Set ingest\.image\.resize"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_used_is_named(value: bytes | None, said: str) -> None:
    series = pl.Series("image", [encoded(np.zeros((12, 12), np.uint8)), value], dtype=pl.Binary)
    with pytest.raises(ExpostError, match=said):
        pictures.pixels(series, RULE, pl.Series([3, 7]), pl.Series(["e.png", "f.png"]))


def test_arrays_of_another_size_are_brought_to_size_and_gaps_in_them_named() -> None:
    rule = {**RULE, "resize": "area"}
    whole = pl.Series("image", np.full((2, 24, 24, 1), 7, np.uint8))
    np.testing.assert_array_equal(pictures.pixels(whole, rule), np.full((2, 1, 12, 12), 7))
    torn = pl.Series("image", [[[[1], [None]]] * 2], dtype=pl.Array(pl.UInt8, (2, 2, 1)))
    with pytest.raises(ExpostError, match="row 1: some of its pixels are missing"):
        pictures.pixels(torn, rule)


def test_an_image_that_says_it_is_huge_is_not_decoded() -> None:
    content = bytearray(encoded(np.zeros((12, 12), np.uint8)))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    with pytest.raises(ExpostError, match=r"row 1: .*60000 x 60000|row 1: .*exceeds limit"):
        pictures.pixels(pl.Series("image", [bytes(content)]), RULE)


@pytest.mark.parametrize("resize", ["area", "bilinear"])
def test_other_sizes_and_colours_are_brought_to_the_declared_form(resize: str) -> None:
    rule = {**RULE, "resize": resize}
    large = np.repeat(np.repeat(np.arange(144, dtype=np.uint8).reshape(12, 12), 2, axis=0), 2, axis=1)
    coloured = np.stack([np.full((12, 12), 90, np.uint8)] * 3, axis=2)
    found = pictures.pixels(pl.Series("image", [encoded(large), encoded(coloured), encoded(coloured, "JPEG")], dtype=pl.Binary), rule)
    assert found.shape == (3, 1, 12, 12)
    np.testing.assert_allclose(found[0, 0].astype(int), np.arange(144).reshape(12, 12), atol=0 if resize == "area" else 16)
    np.testing.assert_allclose(found[1:].astype(int), 90, atol=1)


def test_ingest_names_the_file_of_an_odd_image_and_a_rule_brings_it_to_size(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(place / "bars")
    values = started(source, monkeypatch)
    odd = Path("data/raw/table/down") / sorted(path.name for path in (source / "down").iterdir())[3]
    odd.write_bytes(encoded(np.zeros((20, 30), np.uint8)))
    with pytest.raises(ExpostError, match=rf"^row \d+, down/{odd.name}: images must have 12 x 12 pixels"):
        run_stages("ingest")
    assert not Path("data/ingest").exists()
    values["ingest"]["image"]["resize"] = "area"
    Path("params.yaml").write_text(yaml.safe_dump(values))
    run_stages("ingest")
    assert np.load("data/ingest/images.npy").shape == (380, 1, 12, 12)


def test_init_says_what_becomes_of_images_of_other_sizes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(place / "bars")
    monkeypatch.setattr("pipelines.commands.source._dvc_add", lambda: None)
    said: list[str] = []
    begin = functools.partial(starting.init_workspace, str(source), "label", positive="down", cost_fn=5, cost_fp=1, force=True)
    begin(report=said.append)
    assert "image is a feature of kind image: 380 grey images of 12 x 12 pixels." in said
    next((source / "down").iterdir()).write_bytes(encoded(np.zeros((20, 30), np.uint8)))
    begin(report=said.append)
    form = (
        "380 grey images, most of 12 x 12 pixels; the others will be resized to that, or set ingest.image.resize to refuse in params.yaml"
    )
    assert f"image is a feature of kind image: {form}." in said
    assert yaml.safe_load(Path("params.yaml").read_text())["ingest"]["image"] == {**RULE, "resize": "area"}


def begun(classes: dict[str, list[bytes]], place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, Any]]:
    """What init says of a folder with these JPEGs per class, and the form that it proposes."""
    for name, images in classes.items():
        (place / "photos" / name).mkdir(parents=True)
        for number, content in enumerate(images):
            (place / "photos" / name / f"{number:04}.jpg").write_bytes(content)
    monkeypatch.setattr("pipelines.commands.source._dvc_add", lambda: None)
    said: list[str] = []
    starting.init_workspace(str(place / "photos"), "label", positive="b", cost_fn=5, cost_fp=1, report=said.append)
    return said, yaml.safe_load(Path("params.yaml").read_text())["ingest"]["image"]


def photo(height: int, width: int, *, colour: bool = True, orientation: int = 1) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB" if colour else "L", (width, height), (90, 60, 30) if colour else 90).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_init_brings_large_photos_down_and_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = [photo(1600, 1200)] * 100
    said, form = begun({"a": large, "b": large}, place, monkeypatch)
    assert form == {"size": [128, 96], "channels": 3, "resize": "area"}
    told = "200 coloured images of 1600 x 1200 pixels; they will be resized to 128 x 96, since training on larger ones takes long"
    assert f"image is a feature of kind image: {told}, or set ingest.image.size in params.yaml." in said


@pytest.mark.parametrize(
    ("size", "proposed", "resize"),
    [
        ((128, 128), [128, 128], "refuse"),
        ((96, 130), [95, 128], "area"),
        ((2000, 20), [128, 8], "area"),
        ((8, 8), [8, 8], "refuse"),
    ],
)
def test_what_is_proposed_keeps_the_ratio_within_the_limits(size: tuple[int, int], proposed: list[int], resize: str) -> None:
    form, _, _ = image_form(pl.Series("image", [photo(*size)] * 2))
    assert form == {"size": proposed, "channels": 3, "resize": resize}
    form, _, _ = image_form(pl.Series("image", np.zeros((2, *size, 1), np.uint8)))
    assert form == {"size": proposed, "channels": 1, "resize": resize}


def test_init_refuses_images_that_are_too_small_to_be_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"at least 8 pixels, however: those of column 'image' have 5 x 40\. Enlarge them, or leave the column out with --ignore image"
    with pytest.raises(ExpostError, match=said):
        begun({"a": [photo(5, 40)] * 100, "b": [photo(5, 40)] * 100}, place, monkeypatch)
    assert not Path("params.yaml").exists()


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_the_size_proposed_is_that_of_the_upright_image(orientation: int) -> None:
    series = pl.Series("image", [photo(30, 40, orientation=orientation)] * 3)
    size = (30, 40) if orientation < 5 else (40, 30)
    assert (found := pictures.looks_of(series)).size == size
    form, _, _ = image_form(series)
    assert form["resize"] == "refuse"
    assert pictures.pixels(series, form).shape == (3, 3, *found.size)


def test_the_form_follows_the_images_of_every_class(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, form = begun({"a": [photo(20, 30, colour=False)] * 1010, "b": [photo(30, 20)] * 100}, place, monkeypatch)
    assert form == {"size": [20, 30], "channels": 3, "resize": "area"}
    assert any("1110 grey and coloured images, most of 20 x 30 pixels; the others will be resized" in sentence for sentence in said)


def test_ingest_counts_the_images_whose_colours_are_lost(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(place / "bars")
    started(source, monkeypatch)
    for name in sorted(path.name for path in (source / "down").iterdir())[:3]:
        (Path("data/raw/table/down") / name).write_bytes(photo(12, 12))
    run_stages("ingest")
    notes = json.loads(Path("data/ingest/schema.json").read_text())["notes"]
    assert notes == ["3 of 380 images are stored in colours and read as grey: ingest.image.channels is 1"]


def test_of_several_columns_of_images_the_one_asked_for_is_read() -> None:
    frame = pl.DataFrame({name: [photo(12, 12)] * 40 for name in ("photo", "mask", "depth")} | {"label": ["a", "b"] * 20})
    labels = np.arange(40) % 2

    def roles(**wished: str) -> dict[str, tuple[str, str]]:
        return {p.name: (p.role, p.kind) for p in propose_columns(frame, "label", labels, ["a", "b"], Wishes(wished))}

    read, left = ("feature", "image"), ("ignored", "category")
    assert roles() == {"photo": read, "mask": left, "depth": left}
    assert roles(photo="ignored") == {"photo": left, "mask": read, "depth": left}
    assert roles(depth="feature") == {"photo": left, "mask": left, "depth": read}
    assert roles(photo="ignored", mask="ignored", depth="ignored") == {"photo": left, "mask": left, "depth": left}
    with pytest.raises(ExpostError, match=r"a column of images must be a feature or ignored, however: key is asked for 'mask'"):
        roles(mask="key")


def test_archives_and_folders_of_another_form_are_refused(place: Path) -> None:
    images, labels = drawn(20, 0)
    for name, content, said in (
        ("none", {"x": images}, r"none\.npz must hold arrays .* however: there is none of them"),
        ("float", {"train_images": images / 255, "train_labels": labels}, r"train has images \(20, 12, 12\) float64"),
        ("short", {"train_images": images, "train_labels": labels[:-1]}, r"labels \(19,\) uint8"),
        ("several", {"train_images": images, "train_labels": np.stack([labels, labels], 1)}, r"labels \(20, 2\) uint8"),
        (
            "sizes",
            {"train_images": images, "train_labels": labels, "test_images": images[:, :8], "test_labels": labels},
            r"the parts' images differ in size",
        ),
        ("objects", {"train_images": np.array([{}], dtype=object), "train_labels": labels}, r"Object arrays cannot be loaded"),
    ):
        np.savez(place / f"{name}.npz", **content)
        with pytest.raises(ExpostError, match=said):
            read_table(place / f"{name}.npz")
    (place / "torn.npz").write_bytes((place / "short.npz").read_bytes()[:-40])
    with pytest.raises(ExpostError, match=r"torn\.npz must hold arrays"):
        read_table(place / "torn.npz")
    mixed = folder(place / "mixed")
    shutil.copy(next((mixed / "down").iterdir()), mixed / "stray.png")
    with pytest.raises(ExpostError, match=r"one folder per class.*stray\.png and .* lie at different depths"):
        read_table(mixed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p["train"].update(network={"k": 2}), r"train\.network must read images, however: .*TabM reads tables\. Write network"),
        (lambda p: p["ingest"].update(image=None), r"images must have a declared form, however: ingest\.image is missing"),
        (lambda p: p["ingest"]["image"].update(size=[12]), r"ingest\.image\.size"),
        (lambda p: p["ingest"]["image"].update(size=[12, 4096]), r"sides of an image must be 8 to 1024"),
        (lambda p: p["ingest"]["image"].update(resize="crop"), r"ingest\.image\.resize"),
        (lambda p: p["ingest"]["columns"].update({"image": {"role": "key", "kind": "image"}}), r"must name at least one feature"),
        (lambda p: p["ingest"]["columns"].update({"other": {"role": "feature", "kind": "image"}}), r"at most one column may be of kind image"),
        (lambda p: p["ingest"]["columns"].update({"other": {"role": "feature", "kind": "number"}}), r"see one image and nothing else.*other are features"),
        (lambda p: p["train"]["network"].update(channels=[]), r"train\.network\.channels"),
        (lambda p: p["train"]["network"].update(widths=[4]), r"train\.network\.widths must be a known key.*Known keys: kind, channels"),
    ],
)  # fmt: skip
def test_what_does_not_fit_images_is_said_before_anything_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, change: Any, said: str
) -> None:
    values = started(archive(place / "bars.npz"), monkeypatch)
    change(values)
    with pytest.raises(ExpostError, match=said):
        check_params(values)
