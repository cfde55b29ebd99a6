"""Section `calibrate`: the calibrators that compete and the folds that judge them."""

from typing import Literal

from pydantic import Field

from pipelines.params import Section

Method = Literal["identity", "temperature", "affine", "vector", "beta", "isotonic"]


class Calibrate(Section):
    """Candidates in order of simplicity (those for another number of classes are left out), cross-fitted on repeated stratified grouped folds of calib."""

    methods: tuple[Method, ...] = Field(default=("identity", "temperature", "affine", "vector", "beta", "isotonic"), min_length=1)
    folds: int = Field(default=5, ge=2, le=20)
    repeats: int = Field(default=2, ge=1, le=20)
    seed: int = Field(default=0, ge=0)
