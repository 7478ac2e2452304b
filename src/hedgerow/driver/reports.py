"""The history of a run for other programs: CSV and TensorBoard.

Both are made from the whole history, so that a run that is taken up again, perhaps on another machine, leaves a whole report.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from hedgerow.driver.callbacks import Callback, RoundEnd
from hedgerow.driver.durable import hidden_name, rename, write_new
from hedgerow.driver.history import History
from hedgerow.errors import ConfigError


class CsvReport(Callback):
    """Keeps a CSV file: a row for each round that has values, a column for each series of the history.

    Args:
        path: The file. It is replaced, whole, after each round.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def on_round_end(self, end: RoundEnd) -> str | None:
        """Write the file anew."""
        series = {name: dict(values) for name, values in sorted(end.history.series().items())}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["round", *series])
        for server_round in sorted({number for values in series.values() for number in values}):
            writer.writerow([server_round, *(values.get(server_round, "") for values in series.values())])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        hidden = hidden_name(self._path)
        try:
            write_new(hidden, [text.getvalue().encode()])
            rename(hidden, self._path)
        finally:
            hidden.unlink(missing_ok=True)
        return None


class TensorBoardReport(Callback):
    """Writes the series of the history as TensorBoard's scalars, under their names, with the round as the step.

    Needs tensorboardX: ``pip install 'hedgerow[tensorboard]'``. Values that are no numbers are left out.

    Args:
        folder: For the event files. When a run is taken up again, what was written for it before is marked as superseded.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"TensorBoardReport needs tensorboardX ({error}). Install it: pip install 'hedgerow[tensorboard]'."
            ) from error
        self._make_writer = SummaryWriter
        self._folder = Path(folder)
        self._writer: Any = None
        self._written: set[tuple[str, int]] = set()

    def on_round_end(self, end: RoundEnd) -> str | None:
        """Write what is new."""
        if self._writer is None:
            again = self._folder.exists() and any(self._folder.iterdir())
            self._writer = self._make_writer(str(self._folder), purge_step=0 if again else None)
        for name, values in end.history.series().items():
            for server_round, value in values:
                if isinstance(value, int | float) and (name, server_round) not in self._written:
                    self._writer.add_scalar(name, float(value), server_round)
                    self._written.add((name, server_round))
        self._writer.flush()
        return None

    def on_run_end(self, history: History) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._written.clear()
