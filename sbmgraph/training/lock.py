"""The former place of what :meth:`sbmgraph.run.Run.lock` does."""

from __future__ import annotations

from typing import Any

from sbmgraph.training._former import former


def __getattr__(name: str) -> Any:
    return former(__name__, name)
