"""A run's folder, and the only place that knows which files it holds.

::

    config.yaml          the resolved configuration, with the data folder's absolute path
    metrics.csv          one row a logged step, a column a metric
    tensorboard/         the same for TensorBoard
    checkpoints/         best.ckpt (highest validation accuracy) and last.ckpt (the last round)
    tokenizer.json       the tokenizer, of runs on text
    summary.json         the results; a run without them is not finished
    density.png          every head's density over training
    graph.png            one head's sampled graph on one test input, by blocks
    report.html          the page of the run, once it was asked for
    .lock, .lock.json    who writes to the folder

Every file is written beside its place and then moved there, so none is ever torn, and one process
at a time writes to a folder.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbmgraph.files import read_json, reading, write_atomically, write_json
from sbmgraph.run.archive import find_damage
from sbmgraph.run.lock import locked

if TYPE_CHECKING:
    import pandas as pd

BEST, LAST = "best.ckpt", "last.ckpt"
_SUMMARY = "summary.json"


class Run(os.PathLike[str]):
    """The folder of one run: where its files are, and what they hold.

    Usage::

        run = Run("runs/listops_quick/sbm/seed1")
        run.summary()["accuracy"], run.metrics()["train/loss"]

    It is a path to whatever takes one, and prints as one. Nothing is made or read before a method
    needs it.

    Args:
        path: The folder, which need not be there yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def at(cls, place: str | os.PathLike[str], model: str, seed: int) -> Run:
        """The run of a model with a seed, in a folder of runs that differ in these alone."""
        return cls(Path(place) / model / f"seed{seed}")

    @classmethod
    def all_at(cls, place: str | os.PathLike[str]) -> list[Run]:
        """The finished runs of :meth:`at` a place, in the order of their paths."""
        found = [cls(path) for path in sorted(Path(place).glob("*/seed*"))]
        return [run for run in found if run.is_finished]

    @classmethod
    def below(cls, folder: str | os.PathLike[str]) -> list[Run]:
        """The finished runs in a folder at any depth, itself included, in the order of their
        paths."""
        return [cls(path.parent) for path in sorted(Path(folder).rglob(_SUMMARY))]

    @classmethod
    def of_checkpoint(cls, path: str | os.PathLike[str]) -> Run:
        """The run whose checkpoint a file is."""
        return cls(Path(path).resolve().parents[1])

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    # Files ########################################################################################

    @property
    def config_file(self) -> Path:
        """Its configuration, as YAML."""
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """Its logged metrics, as CSV."""
        return self.path / "metrics.csv"

    @property
    def summary_file(self) -> Path:
        """Its results, as JSON."""
        return self.path / _SUMMARY

    @property
    def tokenizer_file(self) -> Path:
        """Its tokenizer."""
        return self.path / "tokenizer.json"

    @property
    def density_picture(self) -> Path:
        """The picture of its densities over training."""
        return self.path / "density.png"

    @property
    def graph_picture(self) -> Path:
        """The picture of a sampled graph."""
        return self.path / "graph.png"

    @property
    def report_file(self) -> Path:
        """Its page."""
        return self.path / "report.html"

    @property
    def tensorboard_folder(self) -> Path:
        """What TensorBoard shows."""
        return self.path / "tensorboard"

    @property
    def checkpoint_folder(self) -> Path:
        """Where its checkpoints are."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation accuracy."""
        return self.checkpoint_folder / BEST

    @property
    def last(self) -> Path:
        """The checkpoint of the last round."""
        return self.checkpoint_folder / LAST

    # Content ######################################################################################

    @property
    def is_finished(self) -> bool:
        """Whether it has results."""
        return self.summary_file.is_file()

    def config(self) -> dict[str, Any]:
        """The configuration.

        Raises:
            ValueError: If there is none, or it is none of a run.
        """
        import yaml

        path = self.config_file
        if not path.is_file():
            raise ValueError(f"{self}: expected a run folder with a {path.name}, found none")
        try:
            config = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected YAML, got {error}") from None
        if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
            raise ValueError(f"{path}: expected the configuration of a run, got none of its data")
        return config

    def write_config(self, text: str) -> None:
        """Writes the configuration, given as YAML."""
        write_atomically(self.config_file, text)

    def summary(self) -> Any:
        """The results.

        Returns:
            A run's is a mapping; a folder of runs may have a list of theirs under the same name.

        Raises:
            ValueError: If there are none, or they cannot be read.
        """
        return read_json(self.summary_file, "the JSON of a finished run")

    def write_summary(self, summary: Any) -> None:
        """Writes the results, which make the run a finished one."""
        write_json(self.summary_file, summary)

    def metrics(self) -> pd.DataFrame:
        """The logged metrics: a row a step that was logged, a column a metric.

        Raises:
            ValueError: If there are none, or they cannot be read.
        """
        import pandas as pd

        with reading(self.metrics_file, "the metrics of a run"):
            return pd.read_csv(self.metrics_file)

    # Checkpoints ##################################################################################

    def checkpoints(self) -> list[Path]:
        """All checkpoints, whole or not, the newest first."""
        found = self.checkpoint_folder.glob("[!.]*.ckpt")
        by_time = sorted(found, key=os.path.getmtime, reverse=True)
        # `last` is made after `best` in a round; where both are of the same moment it is the one.
        return sorted(by_time, key=lambda path: path.name != LAST)

    def newest_checkpoint(self) -> Path:
        """The newest whole checkpoint; a damaged one is named in a warning.

        Raises:
            ValueError: If there is none.
        """
        for path in self.checkpoints():
            fault = find_damage(path)
            if fault is None:
                return path
            warnings.warn(
                f"{path} is not a whole checkpoint and is left out: {fault}", stacklevel=2
            )
        raise ValueError(
            f"{self}: expected a run folder with a checkpoint, but found no whole one in "
            f"{self.checkpoint_folder}; train with 'sbmgraph lra fit --config ...' first"
        )

    def best_checkpoint(self) -> Path:
        """The checkpoint with the best validation accuracy; the newest whole one where there is
        none.

        Raises:
            ValueError: If there is no whole checkpoint.
        """
        if self.best.is_file() and find_damage(self.best) is None:
            return self.best
        return self.newest_checkpoint()

    def remove_checkpoints(self) -> None:
        """Removes all checkpoints, for a run that begins anew."""
        for path in self.checkpoint_folder.glob("*.ckpt"):
            path.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for the length of the block.

        The system ties the lock to the process, so that of a process that died is free at once.

        Raises:
            ValueError: If another process holds it, or the folder cannot be written.
        """
        with locked(self.path):
            yield
