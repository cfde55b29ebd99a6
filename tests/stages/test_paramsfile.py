"""The text of params.yaml: a comment is said once, on the line that heads its entries."""

from __future__ import annotations

import yaml

from pipelines.commands.paramsfile import render_section
from pipelines.params.utility import Utility


def test_limits_requirements_and_prior_do_not_repeat_their_heads_comment() -> None:
    recall = [{"class": name, "at_least": 0.9, "confidence": 0.9} for name in ("no", "yes")]
    utility = Utility.model_validate(
        {
            "unit": "euro",
            "matrix": {"no": {"wait": 0, "stop": -1}, "yes": {"wait": -5, "stop": 0}},
            "limits": {"stop": {"at_most": 0.2}, "wait": {"at_most": 0.95}},
            "require": {"recall": recall},
            "prior": {"no": 0.4, "yes": 0.6},
        }
    )
    text = render_section("utility", utility, {"utility.matrix.no": "a healthy one", "utility.matrix.yes": "an ill one"})
    lines = text.splitlines()
    assert all("  # " in line for line in lines)
    heads = [line for line in lines if len(line.split("  # ")[1]) > 30]
    assert len({line.split("  # ")[1] for line in heads}) == len(heads)
    assert '    "stop": {at_most: 0.2}  # of all rows' in lines
    assert Utility.model_validate(yaml.safe_load(text)["utility"]) == utility
