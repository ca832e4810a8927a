"""A plan past this machine: a queue on devices that are known by their data sheets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tabulate import tabulate

from reproducer.errors import UserError, nearest
from reproducer.queue import Stage, critical_path, duration, makespan, simulate
from reproducer.stages.cost import Rates
from reproducer.stages.estimates import Device, Estimate, Estimates

TABLE = Path(__file__).with_name("devices.yaml")
ARITHMETIC, BANDWIDTH = 0.8, 0.75  # shares of a data sheet's figures that large products and copies reach
ENOUGH = 1.02  # times the critical path: more devices buy nothing worth having
MOST = 64  # devices that are tried


@cache
def data_sheets() -> dict[str, Any]:
    """The entries of the table of devices, by name."""
    return YAML(typ="safe", pure=True).load(TABLE.read_text(encoding="utf-8"))


def device_named(name: str) -> Device:
    """A device of the table, for estimates. UserError: there is none of this name."""
    if name not in data_sheets():
        raise UserError(f"unknown device '{name}'", nearest(name, data_sheets()))
    sheet = data_sheets()[name]
    slowest = min(sheet["tflops"].values())  # what a dtype without a figure of its own reaches

    def rates(dtype: str) -> Rates:
        flops = ARITHMETIC * sheet["tflops"].get(dtype, slowest) * 1e12
        return Rates(flops, BANDWIDTH * sheet["bandwidth"] * 1e9)

    source = f"that are {ARITHMETIC:.0%} of the arithmetic and {BANDWIDTH:.0%} of the bandwidth of its data sheet"
    return Device(sheet["label"], int(sheet["memory"] * 2**30), rates, here=False, source=source)


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
