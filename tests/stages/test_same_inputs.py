"""The network sees in scoring what it saw in training, value by value, whatever rows come together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import train
from pipelines.bundle import Bundle
from pipelines.network.task import Inputs
from tests.stages.shipped import mixed_table


@pytest.fixture(scope="module")
def trained(world: Path) -> tuple[Inputs, Bundle]:
    """What training read, and the bundle that it led to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        return train.read_inputs()[0], Bundle.load(Path("data/package/bundle"))


@given(chosen=st.lists(st.integers(0, 10**6), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_in_any_order_are_encoded_in_scoring_as_in_training(trained: tuple[Inputs, Bundle], chosen: list[int]) -> None:
    """Numbers, dates, booleans, categories and text, with missing and rare values: of a table as it came, not as ingest typed it."""
    inputs, bundle = trained
    places = np.array(chosen) % len(inputs.rows)
    found = bundle.encode(mixed_table()[inputs.rows[places].tolist()]).inputs
    assert set(found) >= set(inputs.arrays)
    for name, array in inputs.arrays.items():
        np.testing.assert_array_equal(found[name], array[places])
