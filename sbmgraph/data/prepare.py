"""One entry to every task's data: ``prepare(task, root, **options)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from sbmgraph.checks import check_choice, check_positive_int
from sbmgraph.data.duplicates import prepare_duplicates
from sbmgraph.data.glue import prepare_glue
from sbmgraph.data.image import prepare_image
from sbmgraph.data.listops import prepare_listops
from sbmgraph.data.masked_text import prepare_masked_text
from sbmgraph.data.pathfinder import prepare_pathfinder32
from sbmgraph.data.retrieval import prepare_retrieval
from sbmgraph.data.text import prepare_text

#: Task name to the function that prepares it; their keyword arguments are the tasks' options.
TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "listops": prepare_listops,
    "text": prepare_text,
    "retrieval": prepare_retrieval,
    "image": prepare_image,
    "pathfinder32": prepare_pathfinder32,
    "duplicates": prepare_duplicates,
    "masked_text": prepare_masked_text,
    "glue": prepare_glue,
}


def prepare(
    task: str,
    root: str | Path,
    cache_root: str | Path | None = None,
    verify: bool = False,
    **options: Any,
) -> dict[str, Dataset]:
    """Reads, downloads or generates the data of a task, once, and opens them.

    Args:
        task: ``"listops"``, ``"text"``, ``"retrieval"``, ``"image"``, ``"pathfinder32"``,
            ``"duplicates"``, ``"masked_text"`` or ``"glue"``.
        root: Data folder, holding the official releases where a task needs one.
        cache_root: Folder of prepared data (default: ``prepared`` inside ``root``).
        verify: Whether to compare data that were prepared before with their checksums, where the
            task keeps any; sizes, offsets and labels are always checked.
        **options: Of the task's function in :data:`TASKS`.

    Returns:
        Data sets ``train``, ``val`` and ``test``.

    Raises:
        ValueError: If the task or an option is unknown, or the data are bad.
        FileNotFoundError: If the data are not there; the message says how to come by them.
    """
    check_choice("task", task, TASKS)
    function = TASKS[task]
    known = options_of(task)
    if "verify" in known:
        options["verify"] = verify
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"'options' must be among {', '.join(known)} for {task}, got {unknown}")
    for name, value in options.items():
        if name.startswith("limit_") and value is not None:
            check_positive_int(name, value)
        if name == "seed":
            check_positive_int(name, value, 0)
    root = Path(root)
    return function(root, Path(cache_root) if cache_root else root / "prepared", **options)


def options_of(task: str) -> dict[str, Any]:
    """The options of a task and their defaults."""
    parameters = inspect.signature(TASKS[task]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
