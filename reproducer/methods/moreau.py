"""MoreauPruner (Wang et al. 2024): E1 by the gradient of a smoothed loss, which perturbed weights hardly change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reproducer.errors import UserError
from reproducer.methods.parameters import Count, NotNegative, Positive
from reproducer.methods.registry import Decision, Request, register
from reproducer.models.architecture import linear_at
from reproducer.pruning.statistics import Element, Statistic, Statistics

if TYPE_CHECKING:
    from torch import Tensor

    from reproducer.pruning.plan import Plan


@register("moreau", label="MoreauPruner", source="https://arxiv.org/abs/2406.07017", random=True)
def moreau(
    steps: Count = 10,
    noise: NotNegative = 0.05,
    smoothing: Positive = 0.2,
    step_size: Positive = 2e-4,
    threshold: NotNegative = 5e-6,
    averaged: Count = 5,
) -> Decision:
    """`Σ |w·ḡ|` as E1, with ḡ the gradient of the loss's Moreau envelope under noise on the weights.

    From δ = 0, each step takes the gradient g of the mean loss over the samples at `w + δ + noise·|w|·z`, z standard
    normal and drawn anew, and moves δ to `δ − step_size·(g + δ/smoothing)`. Each row of δ is then shrunk towards 0: by
    the factor `1 − step_size·threshold/rms`, rms the row's root mean square, or to 0 where that is negative. The mean
    of δ behind the last `averaged` steps, over −step_size, takes the place of ḡ: without noise and threshold, one step
    gives ḡ itself.

    Defaults are those of the authors' run. In two places this follows the method where their code does otherwise: the
    term δ/smoothing is in the gradient (their loss has ‖δ‖²/(2·smoothing), but not as a function of what is
    differentiated); and a row's threshold is step_size·threshold, the proximal step's (theirs decides by that whether
    a row stays, and then shrinks it by `threshold` alone, 5,000 times as much, which turns the sign of most rows).
    Noise and displacement are those of the weights of the layers to prune; the authors' are of all parameters.

    Two tensors as large as these weights, in float32, are held on the model's device.

    Args:
        steps: of the descent.
        noise: standard deviation of the noise, as a share of each weight's size.
        smoothing: λ of the envelope.
        step_size: of the descent.
        threshold: of the rows' root mean square, at a step size of 1; 0: rows are not shrunk.
        averaged: how many steps' displacements are averaged; all of them where there are fewer.
    """

    def decide(request: Request) -> Plan:
        import torch

        with torch.inference_mode(False), torch.enable_grad():
            descent = _Descent(request, noise, smoothing, step_size, threshold)
            statistics = descent.run(steps, min(averaged, steps), Element(0))
        scored = replace(request, statistics=statistics)
        return scored.plan(scored.scores(lambda vectors, _: vectors[Element(0)]))

    return Decision(decide, passes=((Element(0),),) * steps)


class _Descent:
    """Finds the displacement of the weights of the layers to prune, a layer at a time; the model keeps its own."""

    def __init__(self, request: Request, noise: float, smoothing: float, step_size: float, threshold: float) -> None:
        from reproducer.models.walk import LayerWalk

        assert request.ids is not None
        self.noise, self.smoothing, self.step_size, self.threshold = noise, smoothing, step_size, threshold
        self.ids, self.walk = request.ids, LayerWalk(request.model, request.ids.shape[1])
        self.generator, self.axes = request.generator(), request.architecture.modules()
        self.weights = {
            index: {path: linear_at(self.walk.layers[index], path).weight.detach() for path in self.axes}
            for index in request.layers
        }
        self.delta = {
            index: {path: _zeros(weight) for path, weight in of.items()} for index, of in self.weights.items()
        }
        self.seeds: dict[int, int] = {}  # of each layer's noise in this step

    def run(self, steps: int, averaged: int, statistic: Statistic) -> Statistics:
        """`Σ |w·δ|/step_size` of every vector, with the mean δ of the last steps, as `statistic`.

        Raises:
            UserError: a loss or a gradient is not finite, or no displacement is left.
        """
        total = {index: {path: _zeros(weight) for path, weight in of.items()} for index, of in self.weights.items()}
        for step in range(steps):
            self._step(step)
            if step >= steps - averaged:
                for index, of_layer in self.delta.items():
                    for path, delta in of_layer.items():
                        total[index][path] += delta
        statistics: Statistics = {index: {path: {} for path in self.axes} for index in self.weights}
        moved = False
        for index, of_layer in self.weights.items():
            for path, weight in of_layer.items():
                terms = (total[index][path] * weight).abs_()
                values = (terms.sum(1 - self.axes[path]) / (averaged * self.step_size)).cpu()
                statistics[index][path][statistic] = values
                moved = moved or bool(values.any())
        if self.threshold and not moved:
            raise UserError(
                f"moreau's threshold of {self.threshold} leaves no displacement in any row",
                "choose a smaller one; 0 shrinks nothing",
            )
        return statistics

    def _step(self, step: int) -> None:
        import torch

        self.seeds = {index: int(torch.randint(2**62, (), generator=self.generator)) for index in self.weights}
        first, boundary = min(self.weights), {}
        with torch.no_grad():
            hidden = self.walk.embed(self.ids)
            for index in range(len(self.walk.layers)):
                if index >= first:
                    boundary[index] = hidden
                hidden = self.walk.run(index, hidden, self._perturbed(index)[0])
        leaf = hidden.detach().requires_grad_()
        loss = self.walk.losses(leaf, self.ids).mean()
        _check_finite(loss, f"the loss of moreau's step {step + 1} is {loss.item()}")
        (gradient,) = torch.autograd.grad(loss, leaf)
        for index in range(len(self.walk.layers) - 1, first - 1, -1):
            layer, perturbed = self._perturbed(index)
            inputs = boundary.pop(index).detach().requires_grad_()
            outputs = self.walk.run(index, inputs, layer)
            gradient, *of_weights = torch.autograd.grad(outputs, [inputs, *perturbed.values()], gradient)
            for path, slope in zip(perturbed, of_weights, strict=True):
                _check_finite(slope, f"moreau's step {step + 1} has a gradient of layer {index}'s {path} not finite")
                self._move(self.delta[index][path], slope)

    def _perturbed(self, index: int) -> tuple[Callable[..., Any], dict[str, Tensor]]:
        """A layer with displaced and noisy weights in place of its own, and these; the same twice in a step."""
        import torch
        from torch.func import functional_call

        layer = self.walk.layers[index]
        perturbed: dict[str, Tensor] = {}
        if index not in self.weights:
            return layer, perturbed
        generator = torch.Generator(self.walk.device).manual_seed(self.seeds[index])
        for path, weight in self.weights[index].items():
            moved = weight + self.delta[index][path]  # in the wider dtype of the two
            if self.noise:
                drawn = torch.randn(weight.shape, generator=generator, dtype=moved.dtype, device=weight.device)
                moved.addcmul_(drawn, weight.abs().to(moved.dtype), value=self.noise)
            perturbed[path] = moved.to(weight.dtype).requires_grad_()
        named = {f"{path}.weight": moved for path, moved in perturbed.items()}
        return lambda hidden, **arguments: functional_call(layer, named, (hidden,), arguments), perturbed

    def _move(self, delta: Tensor, slope: Tensor) -> None:
        """A step of proximal gradient descent, in place."""
        delta.mul_(1 - self.step_size / self.smoothing).sub_(slope.to(delta.dtype), alpha=self.step_size)
        if self.threshold:
            size = delta.square().mean(1, keepdim=True).sqrt_()
            delta.mul_((1 - self.step_size * self.threshold / size).clamp_(min=0))


def _zeros(weight: Tensor) -> Tensor:
    import torch

    return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))


def _check_finite(values: Tensor, message: str) -> None:
    import torch

    if not torch.isfinite(values).all():
        from reproducer.pruning.collect import REPAIR

        raise UserError(message, REPAIR)
