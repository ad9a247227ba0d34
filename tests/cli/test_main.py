"""Arguments, exit statuses and the one line of an error, whatever the command."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepcompress.cli import console, main
from deepcompress.errors import FormatError, ParameterError, PipelineError, StorageError
from deepcompress.version import __version__

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("torch", "numpy", "numba", "scipy", "sklearn", "rich", "yaml", "safetensors", "matplotlib", "asyncio")


def run_python(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120, **options)


def run_into(output: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with its standard output, buffered as usual, going to a file descriptor."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "deepcompress", *arguments]
    return subprocess.run(
        command, stdout=output, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, env=environment, timeout=120
    )


def test_help_names_every_command_and_the_exit_statuses(cli) -> None:
    ended = cli("--help")
    assert ended.status == 0
    assert all(f"\n    {name} " in ended.out for name in main.COMMANDS)
    assert "exit status: 0 done, 1 bad file, 2 bad usage" in ended.out


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_explains_itself(cli, command: str) -> None:
    ended = cli(command, "--help")
    assert ended.status == 0
    assert f"usage: deepcompress {command}" in ended.out
    assert "--json" in ended.out
    assert "--quiet" in ended.out


def test_version(cli) -> None:
    assert cli("--version").out == f"deepcompress {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND (see deepcompress --help)"),
        (["magic"], "invalid choice: 'magic'"),
        (["compress"], "the following arguments are required: SOURCE, -o/--output (see deepcompress compress --help)"),
        (["inspect", "a.dcz", "--josn"], "unrecognized arguments: --josn"),
        (["--json", "inspect", "a.dcz"], "unrecognized arguments: --json"),
        (["expand", "a.dcz", "--out", "b.pt"], "the following arguments are required: -o/--output"),
    ],
)
def test_bad_usage_is_one_line_and_status_two(cli, arguments: list[str], message: str) -> None:
    ended = cli(*arguments)
    assert ended.status == 2
    assert message in ended.err


@pytest.mark.parametrize("arguments", ["--help", "--version", "compress --help", "magic", "demo --help", "exercise --help"])
def test_help_loads_nothing_heavy(arguments: str) -> None:
    code = (
        "import json, os, sys\nsys.stdout = open(os.devnull, 'w')\nfrom deepcompress.cli.main import main\n"
        f"main({arguments.split()!r})\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.__stdout__)"
    )
    done = run_python("-c", code)
    assert json.loads(done.stdout) == [], done.stderr


def test_python_dash_m_and_an_exit_status_the_shell_sees(tmp_path: Path) -> None:
    done = run_python("-m", "deepcompress", "inspect", str(tmp_path / "none.dcz"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"deepcompress: error: cannot read {tmp_path}/none.dcz: No such file or directory\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (FormatError("x.dcz:\n  truncated"), 1, "deepcompress: error: x.dcz: truncated\n"),
        (StorageError("cannot read x"), 1, "deepcompress: error: cannot read x\n"),
        (OSError(28, "No space left on device"), 1, "deepcompress: error: [Errno 28] No space left on device\n"),
        (MemoryError(), 1, "deepcompress: error: out of memory\n"),
        (ParameterError("q is 2"), 2, "deepcompress: error: q is 2\n"),
        (PipelineError("no"), 2, "deepcompress: error: no\n"),
        (console.UsageError("what?"), 2, "deepcompress: error: what?\n"),
        (KeyboardInterrupt(), 130, "deepcompress: interrupted\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_every_end_has_its_status_and_at_most_one_line(
    error: BaseException, status: int, line: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_let_go_of_output", lambda status: status)

    def fail() -> None:
        raise error

    assert console.guarded(fail) == status
    assert capfd.readouterr() == ("", line)


def test_a_bug_keeps_its_traceback() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        console.guarded(fail)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX pipes")
@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "{file}"], ["inspect", "{file}", "--json"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str], compressed: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run_into(writer, *(word.format(file=compressed) for word in arguments))
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = run_into(full.fileno(), "--help")
    assert (done.returncode, done.stderr) == (1, "deepcompress: error: [Errno 28] No space left on device\n")


def test_any_name_prints_on_a_poor_terminal(tmp_path: Path) -> None:
    import torch

    torch.save({"größe.weight": torch.ones(4, 4)}, tmp_path / "m.pt")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    path = str(tmp_path / "m.dcz")
    made = run_python("-m", "deepcompress", "compress", str(tmp_path / "m.pt"), "-o", path, env=environment)
    assert (made.returncode, made.stderr) == (0, "")
    seen = run_python("-m", "deepcompress", "inspect", path, env=environment)
    assert (seen.returncode, seen.stderr) == (0, "")
    assert r"gr\xf6\xdfe.weight" in seen.stdout


def test_quiet_silences_what_the_package_tells_of_itself(cli, compressed: Path) -> None:
    logger = logging.getLogger("deepcompress")
    for options, shown in (((), True), (("--quiet",), False), (("--json",), True)):
        cli("inspect", compressed, *options)
        assert logger.isEnabledFor(logging.WARNING) == shown
