"""How lab A is told."""

from __future__ import annotations

from collections.abc import Iterator

from _lab import Lab


def story(lab: Lab) -> Iterator[str]:
    yield ""
