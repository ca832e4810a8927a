"""The `reproduce` command: arguments and exit codes, nothing else.

Exit codes: 0 done; 1 a stage failed (the rest still ran) or a check found a difference; 2 the spec or the command line
is wrong; 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from reproducer.errors import UserError, nearest
from reproducer.exporting import recipe
from reproducer.models.export.formats import FORMATS
from reproducer.options import Options
from reproducer.queue.signals import exit_code, interruptible

SUBCOMMANDS = (
    *(
        "report",
        "status",
        "logs",
        "check",
        "export",
        "prune",
        "evaluate",
        "clean",
        "methods",
        "models",
        "specs",
        "audit",
    ),
)
DONE, FAILED, WRONG = 0, 1, 2
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,4})?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with interruptible():
            return _dispatch(arguments)
    except UserError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt as end:
        code = exit_code(end)
        why = "interrupted" if code == 130 else f"ended by {end}"
        print(f"reproduce: {why}; what was finished is kept, run again to go on", file=sys.stderr)
        return code
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    if arguments and arguments[0] not in (*SUBCOMMANDS, "run") and not arguments[0].startswith("-"):
        if not Path(arguments[0]).suffix and not _exists(arguments[0]):
            hint = nearest(arguments[0], SUBCOMMANDS)
            raise UserError(f"'{arguments[0]}' is neither a subcommand nor a spec file", hint)
        arguments = ["run", *arguments]
    try:
        options = parse(arguments or ["--help"])
    except SystemExit:  # the help was asked for
        return DONE
    from reproducer import commands

    return getattr(commands, options.command)(options)


def parse(arguments: Sequence[str]) -> Options:
    """UserError for what cannot be read; SystemExit after a help text."""
    parsed: dict[str, Any] = vars(_parser().parse_args(arguments))
    lists = {name: tuple(value) for name, value in parsed.items() if isinstance(value, list)}
    return Options(**{**parsed, **lists}, arguments=tuple(arguments))


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a null in it
        return False


def _jobs(text: str) -> int:
    """A number of stages at once; 0 for as many as there is room for."""
    if text == "auto":
        return 0
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of stages: a whole number from 1 on, or auto")
    return int(text)


def _devices(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if not DEVICE.fullmatch(name):
            raise argparse.ArgumentTypeError(f"'{name}' is no device to run on: auto, cpu, cuda or cuda:NUMBER")
    return names


def _on(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"([1-9][0-9]{0,3})x(.+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' names no devices: a number, x and a name, such as 8xa100-80gb")
    return int(found[1]), found[2]


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no tolerance: a number from 0 on, such as 0.01")
    return value


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no share of the parameters: a number such as 0.2")
    return value


def _share(text: str) -> float:
    if (value := _ratio(text)) == 0:
        raise argparse.ArgumentTypeError("0 removes nothing: a number such as 0.2")
    return value


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of passages: a whole number from 1 on")
    return int(text)


def _seed(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no seed: a whole number from 0 on")
    return int(text)


class _Parser(argparse.ArgumentParser):
    """Leaves out what is not written, so that the defaults stand in `Options` alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(argument_default=argparse.SUPPRESS, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(message, f"`{self.prog} --help` lists what there is")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="reproduce",
        description="Run a spec: prune, measure, and render the table beside the paper's numbers.",
        epilog="`reproduce SPEC` is short for `reproduce run SPEC`. Exit codes: 0 done, 1 a stage failed, "
        "2 the spec or the command line is wrong, 130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP.",
    )
    parser.add_argument("--version", action="version", version=f"reproducer {importlib.metadata.version('reproducer')}")
    commands = parser.add_subparsers(dest="command", metavar="SPEC | COMMAND", required=True)

    overlays = _Parser(add_help=False)
    overlays.add_argument("--profile", action="append", metavar="NAME", help="overlay; may be repeated")
    overlays.add_argument("--set", action="append", metavar="KEY=VALUE", dest="overrides", help="a dotted key")
    spec = _Parser(add_help=False, parents=[overlays])
    spec.add_argument("spec", type=Path, metavar="SPEC", help="a YAML spec, for example specs/quickstart.yaml")
    store = _Parser(add_help=False)
    store.add_argument("--store", type=Path, metavar="DIR", help="kept work (default: store)")
    remote = _Parser(add_help=False)
    remote.add_argument(
        "--remote",
        metavar="URL",
        help="a cache of finished stages, such as s3://bucket/prefix or a folder",
    )
    out = _Parser(add_help=False)
    out.add_argument("--out", type=Path, metavar="DIR", help="reports (default: out)")
    known = _Parser(add_help=False)
    known.add_argument(
        "--known",
        type=Path,
        metavar="FILE",
        help="the results.json of an earlier run: finished stages of the same recipe are taken from it, and not run",
    )
    machine = _Parser(add_help=False)
    machine.add_argument(
        "--device",
        type=_devices,
        dest="devices",
        metavar="NAME",
        help="auto, cpu, cuda, or a list that jobs share, such as cuda:0,cuda:1 (default: auto, which is every GPU of "
        "the machine with a stage each, or the processor)",
    )
    machine.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="stages that run at once, or auto to fill the machine (default: 1 a device; auto on a cluster)",
    )
    machine.add_argument(
        "--engine",
        metavar="NAME",
        help="where stages run: local, ray (on this machine), ray:ADDRESS or ray:auto (a cluster that runs), or "
        "module:attribute of your own",
    )

    run = commands.add_parser(
        "run", parents=[spec, known, store, remote, out, machine], help="run a spec and render its report"
    )
    run.add_argument("--dry-run", action="store_true", help="print the queue and stop")
    run.add_argument(
        "--on",
        type=_on,
        metavar="COUNTxDEVICE",
        help="with --dry-run: on such devices, for example 8xa100-80gb, or 2xhere for two jobs on this machine",
    )
    commands.add_parser("report", parents=[spec, known, store, remote, out], help="render from the store, run nothing")
    status = commands.add_parser(
        "status", parents=[spec, store, remote], help="what of a spec is done, and what runs where"
    )
    status.add_argument(
        "--watch", action="store_true", help="what runs, what failed and the time left, until all is done"
    )
    logs = commands.add_parser("logs", parents=[spec, store], help="all that a stage has said and printed")
    logs.add_argument("stage", metavar="STAGE", help="the beginning of its key, or words of its kind and label")
    check = commands.add_parser(
        "check", parents=[spec, store, remote, out, machine], help="run a spec, compare with a baseline"
    )
    check.add_argument("--against", type=Path, required=True, metavar="FILE", help="a results.json to compare with")
    check.add_argument("--tolerance", type=_tolerance, metavar="X", help="relative difference allowed (default: 0.01)")
    written = _Parser(add_help=False)
    written.add_argument("directory", type=Path, metavar="DIR", help="a new folder for the model")
    written.add_argument(
        "--format", choices=sorted(FORMATS), help="hf for transformers, gguf for llama.cpp (default: hf)"
    )
    written.add_argument("--quantize", metavar="TYPE", help="of gguf: f16 (default), f32, bf16, q8_0, q6_k, q4_k_m, …")
    written.add_argument("--push", metavar="REPO", help="upload the folder to this repository of the hub")
    export = commands.add_parser(
        "export",
        parents=[spec, written, store, remote],
        help="write a row's pruned model, or that of a folder, to a folder that other programs load",
        description="Write the pruned model of a row that a run has left in the store, its tuning merged, to a folder. "
        "In place of SPEC a model folder will do: one that was written here, trained since, or dense.",
    )
    export.add_argument("--row", metavar="LABEL", help="the row's label in the table, or its method")
    export.add_argument("--model", metavar="NAME", help="of several models, the row's")
    export.add_argument("--ratio", type=_ratio, metavar="R", help="of several ratios, the row's")
    export.add_argument("--recovery", metavar="NAME", help="of several recoveries, the row's; none for no recovery")
    export.add_argument("--seed", type=_seed, metavar="N", help="of several seeds, the row's")
    model = _Parser(add_help=False)
    model.add_argument("model", metavar="MODEL", help="a name of the catalogue, a hub id, or a local folder")
    prune = commands.add_parser(
        "prune",
        parents=[model, written, store, remote, machine],
        help="prune a model and write the smaller one to a folder",
        description="Prune a model with the best recipe known here, measure it before and after on texts that it was "
        "not calibrated on, and write the smaller model to a folder. The spec of it, prune.yaml, is written "
        "beside the weights: `reproduce DIR/prune.yaml` runs it again.",
    )
    prune.add_argument(
        "--ratio", type=_share, metavar="R", help=f"share of all parameters to remove (default: {recipe.RATIO})"
    )
    prune.add_argument(
        "--uniform",
        action="store_true",
        help=f"every layer the same, in multiples of {recipe.BLOCK} channels, so that the family's own class, vLLM and "
        "llama.cpp load it without further code",
    )
    prune.add_argument("--method", metavar="NAME", help=f"default: {recipe.METHOD}, in steps")
    prune.add_argument(
        "--calibration",
        nargs="+",
        metavar="TEXT",
        help=f"texts to calibrate on, in a mix (default: {' '.join(recipe.TEXTS)})",
    )
    prune.add_argument("--samples", type=_count, metavar="N", help=f"passages (default: {recipe.SAMPLES})")
    prune.add_argument(
        "--recover",
        nargs="*",
        metavar="KIND",
        help="mend the cut model so, in this order; lora where none is named. `reproduce methods` lists the kinds "
        f"(default: {' '.join(recipe.RECOVERY) or 'none'})",
    )
    prune.add_argument("--recover-steps", type=_count, metavar="N", help="steps of training")
    prune.add_argument("--recover-data", metavar="DATA", help="instructions to train on (default: Alpaca)")
    prune.add_argument(
        "--evaluate",
        nargs="+",
        metavar="TEXT|TASK",
        help="what to measure before and after (default: a part of the calibration's text that is kept for this, and a "
        "text that nothing is calibrated on)",
    )
    prune.set_defaults(spec=Path(recipe.FILE))
    prune.add_argument("--seed", type=_seed, metavar="N", help="of the calibration samples (default: 0)")
    evaluate = commands.add_parser(
        "evaluate",
        parents=[store, remote, machine],
        help="measure models as they are",
        description="Measure models of the catalogue, of the hub, or in local folders, and print a table.",
    )
    evaluate.add_argument("models", nargs="+", metavar="MODEL", help="a name of the catalogue, a hub id, or a folder")
    evaluate.add_argument(
        "--perplexity", nargs="+", metavar="TEXT", help=f"texts (default, without tasks: {' '.join(recipe.MEASURED)})"
    )
    evaluate.add_argument("--tasks", nargs="+", metavar="TASK", help="any that lm-eval knows, or quiz")
    evaluate.add_argument("--limit", type=_count, metavar="N", help="the first so many items of each task")
    clean = commands.add_parser(
        "clean", parents=[store, overlays], help="remove stages of the store that no spec needs"
    )
    clean.add_argument(
        "specs",
        nargs="+",
        type=Path,
        metavar="SPEC",
        help="specs whose stages stay: as they are, under each --profile, and with --set",
    )
    commands.add_parser("methods", help="list the pruning methods")
    commands.add_parser("models", help="list the model catalogue")
    specs = commands.add_parser("specs", parents=[overlays, store], help="list the specs of a folder")
    specs.add_argument("--estimate", action="store_true", help="how long the rest of each would take on this machine")
    specs.add_argument("folder", nargs="?", type=Path, metavar="DIR")
    commands.add_parser("audit", help="recompute what the paper derives from its own tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
