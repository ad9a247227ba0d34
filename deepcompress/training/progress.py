"""A progress bar with loss and accuracy; silent where nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, float, float | None], None]


@contextmanager
def progress_bar(title: str, steps: int, *, quiet: bool) -> Iterator[Report]:
    """Give `report(done, loss, accuracy)`, to be called after each step; a bar appears on a terminal unless `quiet`."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, loss, accuracy: None
        return
    loss_and_accuracy = TextColumn("{task.fields[now]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), loss_and_accuracy)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=steps, now="")

        def report(done: int, loss: float, accuracy: float | None) -> None:
            measured = "" if accuracy is None else f", accuracy {accuracy:.1%}"
            progress.update(task, completed=done, now=f"loss {loss:.4f}{measured}")

        yield report
