"""A method that trains before it cuts: a gate on every structure, learned with the model's weights frozen.

`train` is a stage of its own. Killed at any time, it finds what it wrote into `request.directory` when it runs again.
"""

from reproducer.methods.registry import Decision, Request, register

FILE = "gates.safetensors"


@register("my-gates", label="Learned gates", source="an example", trains=True)
def my_gates(steps: int = 20, rate: float = 0.05, pull: float = 0.01) -> Decision:
    """Gates learned by the loss and a pull towards 0; the smallest go."""
    import torch
    from safetensors.torch import save_file

    def train(request: Request) -> None:
        gates, start = read(request.directory) if (request.directory / FILE).exists() else ({}, 0)
        for index, layer in enumerate(request.architecture.decoder_layers(request.model)):
            for kind, count in request.units(index).items() if index in request.layers else ():
                gate = gates.get(f"{index}.{kind}", torch.ones(count)).to(request.model.device).requires_grad_()
                gates[f"{index}.{kind}"] = gate
                path = request.architecture.output(kind)  # the projection that the units feed
                # Nothing has to take it off again: the model is put back as it was.
                layer.get_submodule(path).register_forward_pre_hook(gated(gate))
        for step in range(start, steps):
            sample = request.ids[step % len(request.ids)][None].to(request.model.device)
            loss = request.model(sample, labels=sample).loss
            slopes = torch.autograd.grad(loss + pull * sum(g.abs().sum() for g in gates.values()), gates.values())
            for gate, slope in zip(gates.values(), slopes, strict=True):
                gate.data -= rate * slope.sign()
            new = request.directory / f"{FILE}.new"
            save_file({"steps": torch.tensor(step + 1), **{k: g.detach().cpu() for k, g in gates.items()}}, new)
            new.replace(request.directory / FILE)  # whole or not at all
            request.progress(step + 1, steps, f"loss {loss.item():.3f}")

    def decide(request: Request):
        gates = read(request.directory)[0]
        return request.plan({i: {k: gates[f"{i}.{k}"].abs() for k in ("heads", "channels")} for i in request.layers})

    return Decision(decide, train=train)


def read(directory):
    """The gates as they were left, and the steps that they have taken."""
    from safetensors.torch import load_file

    gates = load_file(directory / FILE)
    return gates, int(gates.pop("steps"))


def gated(gate):
    """A hook that multiplies a projection's inputs by the gate of the unit that each belongs to."""

    def hook(module, arguments):
        wide = gate.repeat_interleave(arguments[0].shape[-1] // len(gate))
        return (arguments[0] * wide.to(arguments[0].dtype),)

    return hook
