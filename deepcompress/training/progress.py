"""A progress bar with loss and accuracy; silent where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deepcompress.training.history import Tally

Report = Callable[[int, Tally], None]


@contextmanager
def progress_bar(title: str, epochs: int, steps: int | None, *, quiet: bool) -> Iterator[Report]:
    """Give `report(epoch, tally)`, to be called after each step.

    Args:
        title: what runs.
        epochs, steps: how many epochs, and batches in each where that is known.
        quiet: no bar; there is none either where standard error is no terminal.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda epoch, tally: None
        return
    now = TextColumn("{task.fields[now]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), now)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None if steps is None else steps * epochs, now="")

        def report(epoch: int, tally: Tally) -> None:
            accuracy = "" if tally.accuracy is None else f", accuracy {tally.accuracy:.1%}"
            text = f"epoch {epoch}/{epochs}, loss {tally.loss:.4f}{accuracy}"
            progress.update(task, advance=1, now=text)

        yield report
