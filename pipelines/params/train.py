"""Section `train`: network, loss and optimiser. There is no place for costs here, by design."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from pipelines.params import Section


class Network(Section):
    """TabM: `k` members that share a backbone of `blocks` layers of `width` units."""

    k: int = Field(default=16, ge=1, le=256)
    blocks: int = Field(default=2, ge=1, le=16)
    width: int = Field(default=64, ge=4, le=4096)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    number_embedding: int = Field(default=8, ge=2, le=256)
    text_embedding: int = Field(default=16, ge=2, le=256)
    bins: int = Field(default=128, ge=1, le=1024)


class Residual(Section):
    """A residual network for images: one stage of `blocks` blocks for each number of `channels`, each after the first at half the size."""

    kind: Literal["residual"] = "residual"
    channels: tuple[Annotated[int, Field(ge=1, le=2048)], ...] = Field(default=(32, 64, 128), min_length=1, max_length=6)
    blocks: int = Field(default=1, ge=1, le=8)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Boosting(Section):
    """Boosted trees on numbers and categories, whose probabilities are pooled with the network's."""

    rounds: int = Field(default=1000, ge=1, le=10_000)
    patience: int = Field(default=50, ge=1)
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    leaves: int = Field(default=15, ge=2, le=256)
    depth: int = Field(default=6, ge=1, le=8)
    rows_per_leaf: int = Field(default=5, ge=1)
    feature_share: float = Field(default=0.7, gt=0, le=1)
    leaf_penalty: float = Field(default=1.0, ge=0)


class Logistic(Section):
    """Logistic regression on words weighted by TF-IDF, numbers and categories, whose probabilities are pooled with the network's.

    `strengths` are inverse penalties, ascending, tried in their order until three in a row bring no lower held-out log loss.
    """

    strengths: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        default=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000), min_length=1
    )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.strengths) != sorted(set(self.strengths)):
            raise ValueError(f"strengths must ascend, however: got {list(self.strengths)}. Sort them, each once.")
        return self


class Augment(Section):
    """How images of a training batch are changed: moved by up to `shift` pixels, and mirrored half of the time where `flip`."""

    flip: bool = False
    shift: int = Field(default=2, ge=0, le=64)


class Own(Section):
    """A network of the user's: the dotted path of its class, and arguments of its constructor; the path alone may stand for the section."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, serialize_by_alias=True)

    path: str = Field(alias="class")
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"class": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", self.path):
            raise ValueError(
                f"a network's class must be a module and a class with dots between, however: got {self.path[:80]!r}. Write it like "
                "my_package.MyNet, or leave train.network out for TabM."
            )
        return self


def _form(value: Any) -> str:
    """Name of the class that reads `value`: errors name the keys of that one only."""
    given = set(value) if isinstance(value, dict) else set()
    if isinstance(value, str | Own) or given & {"class", "arguments"}:
        return "Own"
    return "Residual" if isinstance(value, Residual) or given & {"kind", "channels"} else "Network"


Networks = Annotated[
    Annotated[Network, Tag("Network")] | Annotated[Residual, Tag("Residual")] | Annotated[Own, Tag("Own")], Discriminator(_form)
]


class Train(Section):
    """A symmetric proper loss, early stopping on valid log loss, the best checkpoint."""

    seed: int = Field(default=0, ge=0)
    loss: Literal["cross_entropy", "brier", "cross_entropy+brier"] = "cross_entropy"
    brier_weight: float = Field(default=1.0, gt=0)
    network: Networks = Network()
    trees: Boosting | None = None
    logistic: Logistic | None = None
    augment: Augment | None = None
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    weight_decay: float = Field(default=3e-3, ge=0)
    batch_size: int = Field(default=256, ge=1)
    max_epochs: int = Field(default=100, ge=1)
    patience: int = Field(default=6, ge=1)
    max_minutes: float | None = Field(default=None, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
