"""Mutants that libFuzzer chooses by the lines of the package that they reach, if atheris is installed.

    python -m tests.attacks.coverage_guided --seconds 60

Each gets its checksums repaired and must be an error of ours or a well-formed model; the reference decoder must say the same. It
begins with the corpus and the small files; a mutant that fails is added to the corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import pickle
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
# Their loops are compiled from bytecode, which must stay as it is.
COMPILED = ("coding.context_kernels", "coding.cutting", "coding.jit", "coding.kernels", "coding.memory", "coding.merge")
COMPILED += ("coding.planes", "coding.walks", "tensors.affine", "tensors.codebook", "tensors.maps")
LARGEST = 6_000
SECONDS, MEBIBYTES = 10, 2_048  # of one mutant


def fuzz(seconds: int, seed: int) -> None:
    """Does not come back: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["deepcompress"], exclude=[f"deepcompress.{name}" for name in COMPILED]):
        import deepcompress.tensors.model  # noqa: F401

    from deepcompress.errors import FormatError
    from tests.attacks.agreement import agree
    from tests.attacks.mutants import PARSED, repaired, survives
    from tests.attacks.parsed import parse
    from tests.attacks.seeds import SEEDS
    from tests.attacks.structure import restructure

    def check(data: bytes) -> None:
        survives(data)
        assert agree(data), "the reference decoder says otherwise"

    def mutant(data: bytes, largest: int, number: int) -> bytes:
        """By libFuzzer's own mutations, or, of a file that can be parsed, of its structure."""
        chance = random.Random(number)
        if chance.random() < 0.5:
            try:
                return restructure(pickle.dumps(parse(data)), chance, PARSED).pack()[:largest]
            except FormatError:
                pass
        return repaired(bytearray(atheris.Mutate(data, largest)))[:largest]

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate([*SEEDS, *(path.read_bytes() for path in sorted(CORPUS.iterdir()))]):
            (Path(folder) / str(number)).write_bytes(data)
        options = [f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LARGEST}", f"-timeout={SECONDS}"]
        options += [f"-rss_limit_mb={MEBIBYTES}", "-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={CORPUS}/"]
        atheris.Setup([sys.argv[0], *options, folder], check, custom_mutator=mutant)
        atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("coverage-guided fuzzing is left out: atheris is not installed (its wheels: Linux, x86-64, Python 3.11 to 3.13)")
        return 0
    fuzz(options.seconds, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
