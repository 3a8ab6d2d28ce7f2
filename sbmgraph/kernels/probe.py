"""Whether a device's compiled kernels work here: asked once for each operator and device type."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import torch

LIBRARIES = {"cpu": "Numba", "cuda": "Triton"}
"""What compiles the kernels of each device type that has some."""


class Probe:
    """Runs an operator's kernels on a tiny input, once for each device type, and remembers.

    It runs in a thread of its own, because the modes under which torch code may be called (fake
    tensors, function transforms, a default device, inference) belong to threads: none can spoil it.

    Args:
        what: Name of the operator.
        attempt: Runs the kernels on a device, and raises if they do not work.
    """

    def __init__(self, what: str, attempt: Callable[[torch.device], None]) -> None:
        self._what = what
        self._attempt = attempt
        self._failures: dict[str, Exception | None] = {}
        self._lock = threading.Lock()

    def works(self, device_type: str) -> bool:
        """Whether the kernels run on a device type; if they should and do not, warns once and says
        why."""
        if device_type not in LIBRARIES:
            return False
        with self._lock:
            if device_type not in self._failures:
                failure = self._failures[device_type] = self._failure(torch.device(device_type))
                if failure is not None:
                    warnings.warn(
                        f"{self._reason(device_type)}: slower PyTorch code runs instead",
                        RuntimeWarning,
                        stacklevel=3,
                    )
        return self._failures[device_type] is None

    def require(self, name: str, value: str, device_type: str) -> None:
        """The argument ``name`` asks by ``value`` for kernels that must work.

        Raises:
            ValueError: If they do not, with the cause.
        """
        if not self.works(device_type):
            reason = f"the device type {device_type!r} has none"
            if device_type in LIBRARIES:
                reason = self._reason(device_type)
            raise ValueError(
                f"'{name}' must be a backend that works on the inputs' device, got {value!r}: "
                f"{reason}"
            )

    def _reason(self, device_type: str) -> str:
        error = self._failures[device_type]
        lines = str(error).strip().splitlines()[:1]
        return (
            f"the compiled {self._what} kernels for {device_type} do not work "
            f"({type(error).__name__}: {' '.join(lines)}); is {LIBRARIES[device_type]} installed?"
        )

    def _failure(self, device: torch.device) -> Exception | None:
        failures: list[Exception] = []

        def run() -> None:
            try:
                self._attempt(device)
            except Exception as error:  # whatever the compiler or the driver raises
                failures.append(error)

        thread = threading.Thread(target=run, name="sbmgraph-probe")
        try:
            thread.start()
        except RuntimeError:  # the interpreter shuts down and starts no threads
            run()
        else:
            thread.join()
        return failures[0] if failures else None
