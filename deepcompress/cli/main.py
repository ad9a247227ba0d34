"""The command `deepcompress`: reads the arguments, hands them to one command, turns its end into an exit status."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

from deepcompress.cli import console
from deepcompress.version import __version__

# The module of a command has `add_arguments(parser)` and `run(options) -> Outcome`.
COMMANDS = {
    "demo": "train, prune, quantize, encode and reload a small network on scikit-learn's digits",
    "compress": "compress a checkpoint (.pt, .pth, .th, .safetensors) into one .dcz file",
    "expand": "write the tensors of a .dcz file as .safetensors or .pt",
    "inspect": "say what a .dcz file holds; decodes nothing",
    "verify": "check every byte of a .dcz file",
    "exercise": "check your own percentile, k-means, Huffman code and others against hidden cases",
}
_STATUSES = "exit status: 0 done, 1 bad file, 2 bad usage"


class _Parser(argparse.ArgumentParser):
    """Reports bad usage in one line."""

    def error(self, message: str) -> NoReturn:
        raise console.UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status: 0 done, 1 bad file, 2 bad usage, 130 interrupted."""
    return console.guarded(lambda: _run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> None:
    chosen = next((argument for argument in arguments if argument in COMMANDS), "")
    options = build_parser(chosen).parse_args(arguments)
    logging.getLogger("deepcompress").setLevel(logging.ERROR if options.quiet else logging.NOTSET)
    command = importlib.import_module(f"deepcompress.cli.{options.command}")
    outcome = command.run(options)
    console.tell(outcome, options)
    if outcome.status:
        sys.exit(outcome.status)


def build_parser(chosen: str) -> argparse.ArgumentParser:
    """The parser of all commands; only the chosen one's module is imported, and asked for its arguments."""
    parser = _Parser(
        prog="deepcompress",
        description="Prune, share weights, entropy-code: any PyTorch model as one small, safe file.",
        epilog=_STATUSES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deepcompress {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose, epilog=_STATUSES, allow_abbrev=False)
        if name == chosen:
            importlib.import_module(f"deepcompress.cli.{name}").add_arguments(command)
            _add_output_options(command)
    return parser


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors, and JSON where asked for")


if __name__ == "__main__":
    sys.exit(main())
