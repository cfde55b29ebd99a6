"""Several networks of one architecture trained side by side: one vectorised pass where the network allows it, one after the other where not."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

Inputs = Mapping[str, Tensor]


class Stack(nn.Module):
    """M networks of one architecture, each with its own weights; each sees its own rows, and no gradient crosses from one to another.

    Takes inputs that start with (M, B), gives logits (M, B, k, K) and embedding (M, B, k, D). With `vectorised` the weights of all are one tensor
    per name, (M, ...), and one pass of `torch.func.vmap` serves all of them; what vmap cannot do, batch normalisation among it, runs in turn.
    """

    def __init__(self, networks: Sequence[nn.Module], sample: Inputs) -> None:
        super().__init__()
        self.count = len(networks)
        self.vectorised = self.count > 1 and _plain(networks) and _maps(networks, sample)
        if self.vectorised:
            stacked, _ = stack_module_state(list(networks))
            self.constants = list(dict(networks[0].named_buffers()))
            for name, value in networks[0].named_buffers():
                self.register_buffer(_constant(name), value.detach().clone())
            self.names = list(stacked)
            # a name with a dot is no name of a parameter
            self.weights = nn.ParameterDict(
                {name.replace(".", "/"): nn.Parameter(weight.detach().clone()) for name, weight in stacked.items()}
            )
            self._templates = [copy.deepcopy(networks[0]).to("meta")]  # in a list: no part of this module
        else:
            self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return (logits, embedding)."""
        if self.vectorised:
            template = self._templates[0]
            if template.training != self.training:  # Lightning sets the flag of each part itself, and the template is none
                template.train(self.training)
            weights = {name: self.weights[name.replace(".", "/")] for name in self.names}
            outputs: tuple[Tensor, Tensor] = vmap(self._one, randomness="different")(weights, inputs)
            return outputs
        found = [network({name: value[m] for name, value in inputs.items()}) for m, network in enumerate(self.networks)]
        return torch.stack([logits for logits, _ in found]), torch.stack([embedding for _, embedding in found])

    def _one(self, weights: dict[str, Tensor], inputs: Inputs) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = functional_call(self._templates[0], {**weights, **self._shared()}, (inputs,))
        return outputs

    def _shared(self) -> dict[str, Tensor]:
        """What no training changes and all networks have alike."""
        return {name: self.get_buffer(_constant(name)) for name in self.constants}

    def state(self, network: int) -> dict[str, Tensor]:
        """A copy of one network's weights and buffers on the CPU, by their names in that network."""
        if self.vectorised:
            found = {name: self.weights[name.replace(".", "/")][network] for name in self.names} | self._shared()
        else:
            found = self.networks[network].state_dict()
        return {name: value.detach().to("cpu", copy=True) for name, value in found.items()}

    def clip(self, largest: float) -> None:
        """Scale each network's gradient down to the norm `largest`, by its own norm: one that explodes must not still the others."""
        if not self.vectorised:
            for network in self.networks:
                nn.utils.clip_grad_norm_(network.parameters(), largest)
            return
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factor = (largest / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))

    def broken(self) -> str | None:
        """Name of a weight that is not finite, None where all are."""
        return next((name.replace("/", ".") for name, weight in self.named_parameters() if not torch.isfinite(weight).all()), None)


def _constant(name: str) -> str:
    """Under which the stack holds a buffer: no attribute of its own has such a name."""
    return f"constant/{name.replace('.', '/')}"


def _plain(networks: Sequence[nn.Module]) -> bool:
    """Whether all that the networks hold are weights of their own to be trained: none frozen, none under two names, and no buffers.

    A network whose buffers no training changes says so by an attribute `constant_buffers`; they must be the same in all.
    """
    first, weights = networks[0], list(networks[0].parameters())
    buffers = [dict(network.named_buffers()) for network in networks]
    if buffers[0] and not getattr(first, "constant_buffers", False):
        return False
    alike = all(torch.equal(value, other[name]) for other in buffers[1:] for name, value in buffers[0].items())
    return alike and all(weight.requires_grad for weight in weights) and len(weights) + len(buffers[0]) == len(first.state_dict())


def _maps(networks: Sequence[nn.Module], sample: Inputs) -> bool:
    """Whether vmap runs this architecture, and each network then gives what it gives alone: tried on a few rows.

    It does not where a network holds tensors that are no buffers and differ from one to the next: one template serves all of them.
    """
    template = copy.deepcopy(networks[0]).to("meta")
    stacked, _ = stack_module_state(list(networks))
    constants = dict(networks[0].named_buffers())
    some = {name: value[:2] for name, value in sample.items()}

    def one(weights: dict[str, Tensor], inputs: Inputs) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = functional_call(template, {**weights, **constants}, (inputs,))
        return outputs

    rows = {name: value.expand(len(networks), *value.shape) for name, value in some.items()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            vmap(one, randomness="different")(stacked, rows)
            template.eval()
            together = vmap(one)(stacked, rows)
            alone = [copy.deepcopy(network).eval()(some) for network in networks]
            pairs = [(together[part][m], outputs[part]) for m, outputs in enumerate(alone) for part in (0, 1)]
            return all(torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4) for ours, theirs in pairs)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False


def log_mean_probability(logits: Tensor, dim: int = 1) -> Tensor:
    """Log of the mean probability over the members, which stand in `dim`: (B, k, K) to (B, K)."""
    return torch.logsumexp(torch.log_softmax(logits, dim=-1), dim=dim) - math.log(logits.shape[dim])


class Exported(nn.Module):
    """What `model.onnx` computes of its inputs: `logits` (B, K), log of the mean probability of all networks and members, and `embedding` (B, D).

    With several networks `each` (B, M, K) too: the same of every network alone, so that a row is scored by those that never saw it. The
    embedding is the mean over networks and members. Each network's probability is pooled with those of its own `partners`, which give logits
    (B, M, K) and have a share each; the rest is the network's. See `pipelines.core.pool`.
    """

    def __init__(self, networks: Sequence[nn.Module], names: Sequence[str], partners: Sequence[tuple[nn.Module, float]] = ()) -> None:
        super().__init__()
        self.networks, self.names = nn.ModuleList(networks), list(names)
        self.partners, self.shares = nn.ModuleList(partner for partner, _ in partners), [share for _, share in partners]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return (logits, embedding) or (logits, embedding, each)."""
        named = dict(zip(self.names, inputs, strict=True))
        found = [network(named) for network in self.networks]
        each = [log_mean_probability(logits) for logits, _ in found]
        embedding = torch.stack([embedding.mean(dim=1) for _, embedding in found]).mean(dim=0)
        stacked = torch.stack(each, dim=1)
        if self.shares:
            stacked = (1 - sum(self.shares)) * stacked
            for partner, share in zip(self.partners, self.shares, strict=True):
                stacked = stacked + share * torch.log_softmax(partner(named), dim=-1)
            stacked = torch.log_softmax(stacked, dim=-1)
        if len(each) == 1:
            return stacked[:, 0], embedding
        return log_mean_probability(stacked), embedding, stacked
