"""``metrics.csv``: every logged step as a row, which a resumed run neither loses nor repeats."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from sbmgraph.files import reading, write_atomically
from sbmgraph.run import Run


class MetricsFile(Logger):
    """Writes every logged step as a row of ``metrics.csv`` at once.

    Unlike Lightning's own logger it can go back to the row where a checkpoint was made, so that a
    resumed run neither loses nor repeats any.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Run(folder).metrics_file
        self._rows: list[dict[str, Any]] = []
        self._columns = ["step"]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Nothing: a run folder has one version."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @property
    def num_rows(self) -> int:
        """Rows so far."""
        return len(self._rows)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: ``config.yaml`` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends a row."""
        row = {key: value for key, value in metrics.items() if key != "epoch"}
        row["step"] = 0 if step is None else step
        self._rows.append(row)
        new = sorted(set(row) - set(self._columns))
        if new or len(self._rows) == 1:
            self._columns += new
            write_atomically(self.path, self._text(self._rows, header=True))
            return
        with open(self.path, "a") as file:
            file.write(self._text([row]))

    @rank_zero_only
    def truncate(self, rows: int) -> None:
        """Goes back to the file's first ``rows`` rows.

        Raises:
            ValueError: If the file has fewer.
        """
        found: list[dict[str, Any]] = []
        if self.path.exists():
            what = "the metrics of a run"
            with reading(self.path, what), open(self.path, newline="") as file:
                reader = csv.DictReader(file)
                found = list(reader)
                columns = list(reader.fieldnames or [])
        if len(found) < rows:
            raise ValueError(
                f"{self.path}: expected the {rows} rows that were there at the checkpoint, "
                f"got {len(found)}"
            )
        self._rows = [{k: v for k, v in row.items() if v} for row in found[:rows]]
        if not rows:
            return
        used = {key for row in self._rows for key in row} | {"step"}
        self._columns = [column for column in columns if column in used]
        write_atomically(self.path, self._text(self._rows, header=True))

    def _text(self, rows: list[dict[str, Any]], header: bool = False) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()


class KeepMetrics(Callback):
    """Keeps :class:`MetricsFile`'s place in checkpoints."""

    def __init__(self, metrics: MetricsFile) -> None:
        self.metrics = metrics
        self._fitting = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Notes whether the run trains; evaluating a checkpoint leaves the file alone."""
        self._fitting = stage == "fit"

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Sets right the step that metrics are logged with: Lightning counts one too many when a
        run goes on from the end of an epoch."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """The number of rows."""
        return {"rows": self.metrics.num_rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes back to that number."""
        if self._fitting:
            self.metrics.truncate(state_dict["rows"])
