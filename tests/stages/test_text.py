"""Free text from `init` to `predict`, alone in a table and beside other columns; categories that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

from pipelines import ingest
from pipelines.bundle import Bundle
from pipelines.commands import source as source_command
from pipelines.commands.init import init_workspace
from pipelines.commands.predict import predict
from pipelines.errors import ExpostError
from pipelines.network.export import export
from pipelines.network.stack import Stack
from pipelines.network.tabm import TabularNetwork, _bag
from pipelines.params.train import Network as NetworkParams
from pipelines.scoring import Network
from tests.conftest import ROOT, real_table
from tests.stages.judging import params
from tests.stages.shipped import mixed_table, run_stages

ODD = ['He said: "FREE, now!"\nCall 0800 123', "  ", "", "雪" * 5000, "ok"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source_command, "_dvc_add", lambda: None)
    return tmp_path


def tiny(values: dict[str, Any]) -> None:
    """A network that learns little in few seconds."""
    values["train"] |= {"network": {"k": 2, "width": 16, "text_embedding": 8}, "max_epochs": 5, "learning_rate": 0.01, "accelerator": "cpu"}
    values["split"]["folds"] = None
    values["calibrate"]["repeats"], values["decide"]["policies"], values["evaluate"]["resamples"] = 1, ["analytic"], 100


def test_text_alone_goes_from_init_to_predict(empty: Path) -> None:
    table, said = pl.read_parquet(real_table("sms_spam"))[:2500], list[str]()
    table.write_csv("sms.csv")
    summary = init_workspace("sms.csv", "label", positive="spam", cost_fn=1, cost_fp=10, report=said.append)
    assert [(column.name, column.role, column.kind) for column in summary.columns] == [("text", "feature", "text")]
    assert "text is a feature of kind text: free text, read by its words, pairs and pieces of words." in said
    assert yaml.safe_load(Path("params.yaml").read_text())["train"]["learning_rate"] == 0.0007, (
        "words are learnt by heart with larger steps"
    )
    assert "1 columns are features: 1 of kind text." in said
    found = yaml.safe_load((empty / "params.yaml").read_text())["train"]
    assert found["trees"] is None, "trees read no text"
    assert found["logistic"]["strengths"][0] == 0.01, "words weighted by their rarity are learnt from few rows"
    params(empty, tiny)
    run_stages("ingest", "validate", "split", "train", "calibrate", "decide", "package", "champion", "evaluate")
    bundle = Bundle.load("data/package/bundle")
    held = np.load("data/split/parts.npy") == 3
    rows = table.filter(pl.Series(held)).select("text")
    rows.write_csv("rows.csv")
    assert predict("rows.csv", "scored.csv", bundle).rows == held.sum()
    spam = pl.read_csv("scored.csv")["probability_spam"].to_numpy()
    labels = (table["label"] == "spam").to_numpy()[held]
    assert roc_auc_score(labels, spam) > 0.95
    np.testing.assert_allclose(bundle.calibrated(rows)[0][:, 1], spam, atol=1e-6)
    pl.DataFrame({"text": ODD}).write_parquet("odd.parquet")
    lines: list[str] = []
    assert predict("odd.parquet", "odd.csv", bundle, report=lines.append).unseen == {"text": 1}
    assert lines[-1].startswith("1 of 5 rows hold a text in text of which training knew no word")
    odd = pl.read_csv("odd.csv")["probability_spam"].to_list()
    assert odd[0] > max(odd[1:]) and odd[1] == odd[2]
    with pytest.raises(ExpostError, match=r"every feature column of the model, however: text is missing \(nearest: texts\)"):
        bundle.encode(rows.rename({"text": "texts"}))


def test_text_beside_numbers_and_categories_is_read_as_in_training(world: Path, tmp_path: Path) -> None:
    bundle, table = Bundle.load(world / "data/package/bundle"), mixed_table()
    assert [item["name"] for item in bundle.preprocessing["texts"]] == ["note"]
    rows = np.load(world / "data/train/rows.npy")
    table[rows].write_csv(tmp_path / "rows.csv")
    predict(tmp_path / "rows.csv", tmp_path / "scored.csv", bundle)
    scored = pl.read_csv(tmp_path / "scored.csv")["probability_bad"].to_numpy()
    expected = bundle.probabilities(np.load(world / "data/train/shipped.npy"))[:, 1]
    np.testing.assert_allclose(scored, expected, atol=1e-6)
    turned = table[rows].with_columns(note=pl.lit("  PAID   in TIME, Case 8!"))
    plain = table[rows].with_columns(note=pl.lit("paid in time, case 3!"))
    np.testing.assert_array_equal(bundle.calibrated(turned)[0], bundle.calibrated(plain)[0])
    assert (bundle.calibrated(plain)[0][:, 1] != scored).any(), "the network reads it"


TEXTS = [(9, 5), (6, 3)]  # codes and length of two columns
SMALL = NetworkParams(k=3, width=8, number_embedding=4, text_embedding=4, bins=4)


def coded(rows: int = 40) -> dict[str, torch.Tensor]:
    """Inputs with a category and two texts, shorter ones filled up, one of them empty."""
    rng = np.random.default_rng(0)
    texts = [
        rng.integers(1, codes, (rows, length)) * (np.arange(length) < rng.integers(0, length + 1, (rows, 1))) for codes, length in TEXTS
    ]
    texts[0][0] = 0
    categories = rng.integers(0, 4, (rows, 1))
    return {name: torch.from_numpy(array) for name, array in (("categories", categories), ("text", np.concatenate(texts, axis=1)))}


def test_networks_with_text_run_side_by_side_and_in_the_file_that_ships() -> None:
    inputs = coded()
    networks = [TabularNetwork([], [4], 2, SMALL, TEXTS).eval() for _ in range(3)]
    stack = Stack(networks, inputs).eval()
    assert stack.vectorised
    with torch.inference_mode():
        together, _ = stack({name: value.expand(3, *value.shape) for name, value in inputs.items()})
        apart = torch.stack([network(inputs)[0] for network in networks])
    torch.testing.assert_close(together, apart)
    network = Network(export(networks, inputs))
    assert network.widths["text"] == 8
    logits = network({name: value.numpy() for name, value in inputs.items()}, batch=7).logits
    np.testing.assert_allclose(np.exp(logits), apart.softmax(-1).mean(dim=(0, 2)).numpy(), atol=1e-5)


def test_a_text_is_what_an_embedding_bag_makes_of_its_words_in_any_order() -> None:
    inputs = coded()
    network = TabularNetwork([], [4], 2, SMALL, TEXTS).eval()
    first = inputs["text"][:, :5]
    bag = torch.nn.EmbeddingBag.from_pretrained(network.texts[0].weight.detach(), mode="sum", padding_idx=0)
    found = _bag(network.texts[0], first)
    torch.testing.assert_close(found, bag(first) / (first != 0).sum(dim=1, keepdim=True).clamp(min=1).sqrt())
    assert not found[0].any(), "a text without known words is neutral"
    turned = {**inputs, "text": torch.cat([first.flip(1), inputs["text"][:, 5:]], dim=1)}
    torch.testing.assert_close(network(turned)[0], network(inputs)[0])


def test_what_fills_up_a_row_learns_nothing_where_networks_run_side_by_side() -> None:
    inputs = coded()
    stack = Stack([TabularNetwork([], [4], 2, SMALL, TEXTS) for _ in range(3)], inputs)
    assert stack.vectorised
    logits, _ = stack({name: value.expand(3, *value.shape) for name, value in inputs.items()})
    logits.square().sum().backward()
    for name, weight in stack.weights.items():
        if name.startswith("texts"):
            assert weight.grad is not None
            assert weight.grad.any()
            assert not weight.grad[:, 0].any()


def test_a_network_forgets_the_words_of_rows_that_it_never_learns_from() -> None:
    inputs = coded()
    inputs["text"][inputs["text"] == 3] = 2
    network = TabularNetwork([], [4], 2, SMALL, TEXTS)
    network.forget(inputs)
    assert [not table.weight[3].any() and bool(table.weight[2].any()) for table in network.texts] == [True, True]


def many(distinct: int, rows: int) -> pl.DataFrame:
    """A table with a category of so many distinct values."""
    number = np.arange(rows)
    return pl.DataFrame(
        {"remark": [f"remark {row % distinct}" for row in range(rows)], "x": number % 7.0, "y": np.where(number % 3, "no", "yes")}
    )


@pytest.mark.parametrize(
    ("distinct", "rows", "refused"), [(12_000, 20_000, True), (12_000, 30_000, False), (9_000, 9_000, False), (200_001, 500_000, True)]
)
def test_a_category_with_about_as_many_values_as_rows_is_refused_with_advice(
    distinct: int, rows: int, refused: bool, ingested: Callable[[pl.DataFrame], None]
) -> None:
    table = many(distinct, rows)
    if not refused:
        ingested(table)
        return
    advice = rf"it has {distinct} in {rows} rows, such as 'remark 0'\. Set ingest\.columns\.remark\.kind to text .*or ingest\.columns\.remark\.role to key"
    with pytest.raises(ExpostError, match=rf"feature 'remark' is declared as a category, whose values must repeat, however: {advice}"):
        ingested(table)
    assert not Path("data/ingest").exists()


@pytest.fixture
def ingested(empty: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[pl.DataFrame], None]:
    """Run ingest on a table whose columns remark and x are features."""
    monkeypatch.setenv("EXPOST_PARAMS_CHECKED", "1")

    def run(table: pl.DataFrame) -> None:
        Path("data/raw/table").mkdir(parents=True)
        table.write_parquet("data/raw/table/t.parquet")
        columns = {"remark": {"role": "feature", "kind": "category"}, "x": {"role": "feature", "kind": "number"}}
        section = {"source": "t.parquet", "target": "y", "classes": ["no", "yes"], "columns": columns}
        Path("params.yaml").write_text(json.dumps({"ingest": section}))
        run_stages("ingest")

    return run


def test_the_readme_says_from_how_many_values_a_category_is_refused() -> None:
    said = f"more than {ingest.SUSPICIOUS:,} values is refused, with advice, where they are over half as many as its rows, or more than {ingest.MOST_VALUES:,}."
    assert said in " ".join((ROOT / "README.md").read_text().split())
