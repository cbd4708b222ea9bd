"""TensorBoard curves of a run: ``tensorboard --logdir RUN/tensorboard``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import writing


class Curves:
    """Writes scalars for TensorBoard; a context manager that flushes on exit.

    The event file is created lazily with `purge_step`, which drops points logged after the resumed step (see
    `after`).

    Args:
        folder: of the event files; created with the first point.
        settings: of the run, as YAML; shown with the curves.
        writes: whether this process writes; in the others this does nothing.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        DiskError: a point cannot be written.

    Example::

        with Curves(Path("runs/reviews/tensorboard"), settings="seed: 0").after(20) as curves:
            curves.add(30, {"train/loss": 1.05})
    """

    def __init__(self, folder: Path, *, settings: str, writes: bool = True) -> None:
        self._new_writer = need("torch.utils.tensorboard", extra="tensorboard").SummaryWriter
        self._folder, self._settings, self._writes = folder, settings, writes
        self._writer: Any = None
        self._after = 0

    def after(self, step: int) -> Curves:
        """Resume after this step; call it before the first point."""
        self._after = step
        return self

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to curves, by name.

        Args:
            step: optimizer steps done, not decreasing.
            values: curve -> value; a prefix before a slash groups curves.
        """
        if not self._writes:
            return
        if self._writer is None:
            is_new = not self._folder.exists()
            # SummaryWriter's file names are predictable, and it follows links (see `files.unfinished`).
            suffix = f".{secrets.token_hex(8)}"
            with writing(self._folder):
                self._writer = self._new_writer(
                    str(self._folder), purge_step=self._after + 1, filename_suffix=suffix
                )
                if is_new:
                    self._writer.add_text("settings", f"```yaml\n{self._settings}```", 0)
                    self._writer.flush()
        with writing(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Flush all points, so that none is lost if the process is killed."""
        if self._writer is not None:
            with writing(self._folder):
                self._writer.flush()

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with writing(self._folder):
                writer.close()
