"""The `reproduce` command: arguments and exit codes, nothing else.

Exit codes: 0 done; 1 a stage failed (the rest still ran) or a check found a difference; 2 the spec or the command line
is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from reproducer.errors import UserError, nearest

SUBCOMMANDS = ("report", "status", "check", "clean", "methods", "models", "specs")
DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("reproduce: interrupted; what was finished is kept, run again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _dispatch(arguments: list[str]) -> int:
    parser = _parser()
    if arguments and arguments[0] not in (*SUBCOMMANDS, "run") and not arguments[0].startswith("-"):
        if not Path(arguments[0]).suffix and not Path(arguments[0]).exists():
            hint = nearest(arguments[0], SUBCOMMANDS)
            raise UserError(f"'{arguments[0]}' is neither a subcommand nor a spec file", hint)
        arguments = ["run", *arguments]
    given = parser.parse_args(arguments or ["--help"])
    from reproducer import commands

    return getattr(commands, given.command)(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reproduce",
        description="Run a spec: prune, measure, and render the table beside the paper's numbers.",
        epilog="`reproduce SPEC` is short for `reproduce run SPEC`. Exit codes: 0 done, 1 a stage failed, "
        "2 the spec or the command line is wrong, 130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", metavar="SPEC | COMMAND", required=True)

    spec = argparse.ArgumentParser(add_help=False)
    spec.add_argument("spec", type=Path, metavar="SPEC", help="a YAML spec, for example specs/quickstart.yaml")
    spec.add_argument("--profile", action="append", default=[], metavar="NAME", help="overlay; may be repeated")
    spec.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="a dotted key")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", type=Path, default=Path("store"), metavar="DIR", help="kept work (default: store)")
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="reports (default: out)")
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: cuda if there is one)")
    device.add_argument("--jobs", type=int, default=1, metavar="N", help="stages that run at once (default: 1)")

    run = commands.add_parser("run", parents=[spec, store, out, device], help="run a spec and render its report")
    run.add_argument("--dry-run", action="store_true", help="print the queue and stop")
    commands.add_parser("report", parents=[spec, store, out], help="render from the store, run nothing")
    commands.add_parser("status", parents=[spec, store], help="what of a spec is done")
    check = commands.add_parser("check", parents=[spec, store, out, device], help="run a spec, compare with a baseline")
    check.add_argument("--against", type=Path, required=True, metavar="FILE", help="a results.json to compare with")
    check.add_argument("--tolerance", type=float, default=0.01, help="relative difference allowed (default: 0.01)")
    clean = commands.add_parser("clean", parents=[store], help="remove stages of the store that no spec needs")
    clean.add_argument("specs", nargs="+", type=Path, metavar="SPEC", help="specs whose stages stay")
    clean.add_argument(
        "--profile", action="append", default=[], metavar="NAME", help="stages under this profile stay too"
    )
    commands.add_parser("methods", help="list the pruning methods")
    commands.add_parser("models", help="list the model catalogue")
    specs = commands.add_parser("specs", help="list the specs of a folder")
    specs.add_argument("folder", nargs="?", type=Path, default=Path("specs"), metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
