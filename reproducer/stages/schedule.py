"""A plan past this machine: a queue on devices that are known by their data sheets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tabulate import tabulate

from reproducer.errors import UserError, nearest
from reproducer.queue import Outcome, Stage, critical_path, duration, simulate
from reproducer.stages.estimates import HEAP, Device, Estimate, Estimates, Rates, estimate

TABLE = Path(__file__).with_name("devices.yaml")
HERE = "here"
ARITHMETIC, BANDWIDTH, CALLS = 0.5, 0.75, 2.5e5  # shares of a data sheet's figures; small operations a second
ENOUGH = 1.02  # times the critical path: more devices buy nothing worth having
MOST = 64  # devices that are tried


class Card(BaseModel):
    """An entry of the table of devices: memory in GiB, bandwidth in GB/s, and TFLOP/s by dtype."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    label: str
    memory: float = Field(gt=0)
    bandwidth: float = Field(gt=0)
    tflops: dict[str, float] = Field(min_length=1)

    def rates(self, dtype: str) -> Rates:
        """What is reached of it; a dtype without an entry is computed as slowly as the slowest that has one."""
        tflops = self.tflops.get(dtype, min(self.tflops.values()))
        return Rates(ARITHMETIC * tflops * 1e12, BANDWIDTH * self.bandwidth * 1e9, CALLS)

    def device(self) -> Device:
        """For estimates."""
        source = f"that are {ARITHMETIC:.0%} of the arithmetic and {BANDWIDTH:.0%} of the bandwidth of its data sheet"
        return Device(self.label, int(self.memory * 2**30), self.rates, here=False, source=source)


@cache
def cards() -> dict[str, Card]:
    """The package's table, by name."""
    return {name: Card(**entry) for name, entry in _read(TABLE).items()}


def _read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def device_named(name: str, count: int) -> Device:
    """A device of the table; of a YAML file that holds an entry; or `here`: a `count`-th of this machine's processors.

    Raises:
        UserError: there is none, or the file holds no entry.
    """
    if name == HERE:
        return _here(count)
    if name.endswith((".yaml", ".yml")):
        try:
            return Card(**_read(Path(name))).device()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UserError(f"the device {name}: {where}: {first['msg']}", f"write it as {TABLE.name} does") from None
        except (OSError, ValueError, TypeError, YAMLError) as error:
            raise UserError(f"the device {name} cannot be read: {error}", f"write it as {TABLE.name} does") from None
    if name not in cards():
        hint = nearest(name, [*cards(), HERE])
        raise UserError(f"unknown device '{name}'", f"{hint}; or a YAML file with label, memory, bandwidth and tflops")
    return cards()[name].device()


def _here(count: int) -> Device:
    """What one of `count` local workers has."""
    import psutil
    import torch

    threads = torch.get_num_threads()
    share = max(1, threads // count)
    torch.set_num_threads(share)
    try:
        whole = Device.named("cpu")
        rates = {dtype: whole.rates(dtype) for dtype in ("float32", "bfloat16")}
    finally:
        torch.set_num_threads(threads)
    memory = psutil.virtual_memory().total // count
    return Device(whole.label, memory, whole.measure, HEAP, measured=rates)


def schedule_text(stages: Sequence[Stage], outcome: Outcome, device: Device, count: int, found: Estimates) -> str:
    """How the stages that have no artifact would go on `count` such devices, and on others than so many.

    Args:
        found: the estimates of all stages on the device.
    """
    todo = [stage for stage in stages if outcome[stage].artifact is None]
    known: dict[tuple[str, Any], tuple[float, Any]] = {}

    def takes(stage: Stage, loaded: tuple[str, ...] | None) -> tuple[float, tuple[str, ...]]:
        """With the model in memory that the stage before on that worker has left there, as `estimates` has it."""
        if (stage.key, loaded) not in known:
            seconds, behind = 0.0, loaded or ()
            if isinstance(found.stages[stage.key], Estimate):
                one, behind = estimate(stage, outcome, device, behind)
                assert isinstance(one, Estimate)
                seconds = one.seconds * found.corrections.get(stage.kind, 1.0)
            known[stage.key, loaded] = seconds, behind
        return known[stage.key, loaded]

    chain, least = critical_path(todo, takes)
    plans = {number: simulate(todo, takes, number) for number in (*_powers_below(count), count)}
    more = count
    while plans[more].makespan > ENOUGH * least and more < MOST:
        more *= 2
        plans[more] = simulate(todo, takes, more)
    lines = [
        (number, duration(plan.makespan), f"{plan.makespan * number / 3600:.1f}", f"{plan.busy_share:.0%}")
        for number, plan in plans.items()
    ]
    unknown = sum(not isinstance(found.stages[stage.key], Estimate) for stage in todo)
    bound = f"at least ({unknown} stages have no estimate)" if unknown else "about"
    own = plans[count]
    longest = sorted(chain, key=lambda stage: takes(stage, None)[0], reverse=True)[:6]
    steps = [f"  {duration(takes(stage, None)[0])}  {stage.label}" for stage in chain if stage in longest]
    return "\n".join(
        [
            f"On {count} × {device.label}: {bound} {duration(own.makespan)}, "
            f"{own.makespan * count / 3600:.1f} device hours",
            f"The critical path takes {duration(least)}, of {len(chain)} stages; no number of devices is quicker:",
            *steps,
            "",
            tabulate(lines, headers=["devices", "makespan", "device hours", "busy"], tablefmt="simple"),
        ]
    )


def _powers_below(count: int) -> list[int]:
    return [2**power for power in range(count.bit_length()) if 2**power < count]
