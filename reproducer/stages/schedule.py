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
from reproducer.queue import Stage, critical_path, duration, makespan, simulate
from reproducer.stages.cost import Rates
from reproducer.stages.estimates import Device, Estimate, Estimates

TABLE = Path(__file__).with_name("devices.yaml")
HERE = "here"
ARITHMETIC, BANDWIDTH = 0.8, 0.75  # shares of a data sheet's figures that large products and copies reach
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
        return Rates(ARITHMETIC * tflops * 1e12, BANDWIDTH * self.bandwidth * 1e9)

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
        host = Device.named("cpu")
        rates = {dtype: host.rates(dtype) for dtype in ("float32", "bfloat16")}
    finally:
        torch.set_num_threads(threads)
    memory = psutil.virtual_memory().total // count
    return Device(host.label, memory, host.measure, measured=rates)


def schedule_text(todo: Sequence[Stage], device: Device, count: int, estimated: Estimates) -> str:
    """How the stages of `todo` would go on `count` such devices, and on other numbers of them.

    Args:
        estimated: the estimates of all stages on the device; a stage without one takes no time here.
    """
    of = {stage.key: estimated.stages[stage.key] for stage in todo}
    seconds = {key: found.seconds if isinstance(found, Estimate) else 0.0 for key, found in of.items()}
    chain, least = critical_path(todo, seconds)
    numbers = [*(2**power for power in range(count.bit_length()) if 2**power < count), count]
    spans = {number: makespan(simulate(todo, seconds, number)) for number in numbers}
    while spans[numbers[-1]] > ENOUGH * least and numbers[-1] < MOST:
        numbers.append(2 * numbers[-1])
        spans[numbers[-1]] = makespan(simulate(todo, seconds, numbers[-1]))
    lines = [
        (number, duration(span), f"{span * number / 3600:.1f}", f"{sum(seconds.values()) / (span * number or 1):.0%}")
        for number, span in spans.items()
    ]
    unknown = sum(not isinstance(found, Estimate) for found in of.values())
    bound = f"at least ({unknown} stages have no estimate)" if unknown else "about"
    longest = sorted(chain, key=lambda stage: seconds[stage.key], reverse=True)[:6]
    return "\n".join(
        [
            f"On {count} × {device.label}: {bound} {duration(spans[count])}, "
            f"{spans[count] * count / 3600:.1f} device hours",
            f"The critical path takes {duration(least)}, of {len(chain)} stages; no number of devices is quicker:",
            *(f"  {duration(seconds[stage.key])}  {stage.label}" for stage in chain if stage in longest),
            "",
            tabulate(lines, headers=["devices", "makespan", "device hours", "busy"], tablefmt="simple"),
        ]
    )
