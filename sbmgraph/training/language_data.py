"""The data of pre-training and of GLUE as Lightning takes them."""

from __future__ import annotations

from typing import Any

from sbmgraph.checks import check_choice
from sbmgraph.data.masked_text import find_files, masked_text_tokenizer
from sbmgraph.data.prepare import options_of
from sbmgraph.data.tokenizer import TextTokenizer, find_tokenizer, load_tokenizer
from sbmgraph.run import Run
from sbmgraph.training.data import Rounds, SequenceDataModule


class LanguageDataModule(SequenceDataModule):
    """Packed text (``masked_text``) or a task of GLUE (``glue``).

    Args:
        task: ``"masked_text"`` or ``"glue"``.
        round_steps: Optimizer steps between two validations and checkpoints. (default: one pass
            over the training data)
        **kwargs: Of :class:`SequenceDataModule`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, task: str = "masked_text", round_steps: int | None = None, **kwargs: Any
    ) -> None:
        check_choice("task", task, ("masked_text", "glue"))
        super().__init__(task, round_steps=round_steps or 1, **kwargs)
        self.whole_rounds = round_steps is None
        self._tokenizer: TextTokenizer | None = None

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer: that of the options, or the one trained on the text."""
        if self._tokenizer is None:
            options = {**options_of(self.task), **self.options}
            if self.task == "glue":
                self._tokenizer = load_tokenizer(find_tokenizer(self.root, options["tokenizer"]))
            else:
                self._tokenizer, _ = masked_text_tokenizer(
                    self.root,
                    self.root / "prepared",
                    find_files(self.root, options["files"]),
                    options["tokenizer"],
                    options["vocab_size"],
                )
        return self._tokenizer

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What the data determine of the module that is trained."""
        arguments = super().model_arguments
        if self.task == "glue":
            return arguments | {"glue_task": self.options.get("name", options_of("glue")["name"])}
        tokenizer = self.tokenizer
        return arguments | {"mask": tokenizer.mask, "special": list(tokenizer.special)}

    def train_dataloader(self) -> Rounds:
        """The endless stream of training batches, a round an epoch."""
        rounds = super().train_dataloader()
        if self.whole_rounds:
            accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
            self.round_steps = max(len(rounds.loader.batch_sampler) // accumulated, 1)
            rounds.batches = self.round_steps * accumulated
        return rounds

    def keep_tokenizer(self, run: Run) -> None:
        """Writes the tokenizer into a run's folder."""
        self.tokenizer.save(run.tokenizer_file)
