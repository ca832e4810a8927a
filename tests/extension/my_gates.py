"""A method that trains before it cuts: a gate on every structure, learned with the model's weights frozen.

`train` runs first, in a spec's run as a stage of its own. It may be killed at any time; what it wrote into
`job.directory` is there when it runs again, so it goes on behind its last step. `decide` reads what it left.
"""

from reproducer.methods.registry import Decision, Request, TrainingJob, register


@register("my-gates", label="Learned gates", source="an example", trains=True)
def my_gates(steps: int = 20, rate: float = 0.05, pull: float = 0.01) -> Decision:
    """Gates learned by the loss and a pull towards 0; the smallest go."""
    import torch

    def train(job: TrainingJob) -> None:
        layers, checkpoint = job.architecture.decoder_layers(job.model), job.directory / "gates.pt"
        gates = {}
        for index in job.layers:
            for kind, count in job.units(index).items():
                path = job.architecture.members(kind)[-1].module  # the projection that the units feed
                gates[index, kind] = torch.ones(count, device=job.model.device, requires_grad=True)
                # Nothing has to take it off again: after training the model is put back as it was.
                layers[index].get_submodule(path).register_forward_pre_hook(gated(gates[index, kind]))
        optimizer, start = torch.optim.Adam(gates.values(), lr=rate), 0
        if checkpoint.exists():
            saved = torch.load(checkpoint)
            start = saved["step"]
            optimizer.load_state_dict(saved["optimizer"])
            with torch.no_grad():
                for key, gate in gates.items():
                    gate.copy_(saved["gates"][key])
        for step in range(start, steps):
            sample = job.ids[step % len(job.ids)][None].to(job.model.device)
            loss = job.model(sample, labels=sample).loss
            (loss + pull * sum(gate.abs().sum() for gate in gates.values())).backward()
            optimizer.step()
            optimizer.zero_grad()
            state = {"step": step + 1, "gates": gates, "optimizer": optimizer.state_dict()}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)  # whole or not at all
            job.progress(step + 1, steps, f"loss {loss.item():.3f}")

    def decide(request: Request):
        gates = torch.load(request.trained / "gates.pt", map_location="cpu")["gates"]
        kinds = ("heads", "channels")
        return request.plan({i: {kind: gates[i, kind].detach().abs() for kind in kinds} for i in request.layers})

    return Decision(decide, train=train)


def gated(gate):
    """A hook that multiplies a projection's inputs by the gate of the unit that each belongs to."""

    def hook(module, arguments):
        (inputs,) = arguments
        return (inputs * gate.repeat_interleave(inputs.shape[-1] // len(gate)).to(inputs.dtype),)

    return hook
