"""What the command line asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The options of all commands; `cli.py` says what each means, and which command has which.

    Attributes:
        arguments: the command line itself.
        jobs: stages that run at once; 0: as many as there is room for; None: one a device.
        on: devices to plan for, a number and a name.
    """

    command: str = "run"
    arguments: tuple[str, ...] = ()
    spec: Path = Path()
    profile: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    store: Path = Path("store")
    remote: str | None = None
    out: Path = Path("out")
    known: Path | None = None
    # where stages run
    devices: tuple[str, ...] = ("auto",)
    jobs: int | None = None
    engine: str = "local"
    dry_run: bool = False
    on: tuple[int, str] | None = None
    # status, logs, check
    watch: bool = False
    stage: str = ""
    against: Path = Path()
    tolerance: float = 0.01
    # what is written, and which row of a spec
    directory: Path = Path()
    format: str = "hf"
    quantize: str | None = None
    push: str | None = None
    row: str = ""
    model: str | None = None
    ratio: float | None = None
    recovery: str | None = None
    seed: int | None = None
    # prune; None: the recipe's own
    method: str | None = None
    uniform: bool = False
    calibration: tuple[str, ...] | None = None
    samples: int | None = None
    recover: tuple[str, ...] | None = None
    recover_steps: int | None = None
    recover_data: str | None = None
    evaluate: tuple[str, ...] | None = None
    # evaluate
    models: tuple[str, ...] = ()
    perplexity: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    # clean, specs
    specs: tuple[Path, ...] = ()
    folder: Path = Path("specs")
    estimate: bool = False
