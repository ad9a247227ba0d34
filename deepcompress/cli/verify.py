"""`deepcompress verify`: every checksum checked, every tensor decoded."""

from __future__ import annotations

import argparse

from deepcompress.cli.console import Outcome, add_max_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the .dcz file")
    add_max_bytes(parser)


def run(options: argparse.Namespace) -> Outcome:
    from deepcompress.tensors.model import open as open_model

    with open_model(options.file, framework="numpy", max_bytes=options.max_bytes) as model:
        model.verify()
        data = {"file": options.file, "ok": True, "tensors": len(model), "file_bytes": model.file_bytes}
    text = f"{options.file}: good, {len(model)} tensors decoded, {model.file_bytes:,} bytes checked"
    return Outcome(data, text)
