"""How a run's failure is told: one line that names the cause, whatever raised on the way out."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from typing import Any

from sbmgraph.run import Run

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def naming_full_disk(run: Run) -> Iterator[None]:
    """Turns what a full disk raises inside the block, in any library or thread, into one error.

    Args:
        run: The run.

    Raises:
        ValueError: If the disk filled up.
    """
    hook = threading.excepthook

    def quiet(args: Any) -> None:
        # TensorBoard writes in a thread of its own, whose traceback would bury the message.
        if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in _FULL):
            hook(args)

    threading.excepthook = quiet
    try:
        yield
    except Exception as error:
        cause = _full_disk(error)
        if cause is None:
            raise
        raise ValueError(
            f"{run.path.resolve()}: expected a disk with room for the run, but it is full "
            f"({cause.strerror}). Free some space, then go on with '--ckpt_path last'"
        ) from error
    finally:
        threading.excepthook = hook


def _full_disk(error: BaseException | None) -> OSError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
