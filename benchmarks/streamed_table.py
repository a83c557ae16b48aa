"""Training on Parquet folders of 1 and of 8 times as much memory as a run may take, one epoch each.

``python benchmarks/streamed_table.py`` prints the table and writes it to ``results/streamed_table.md`` beside this
file. Each row is a process of its own. Linux alone tells how much it took.
"""

import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from measuring import alone, options, publish, table, verdict
from memory import resident

from twolayer.data import StreamedTable
from twolayer.training import LitTwoLayer

LIMIT, TIMES = 512, (1, 8)
"""Megabytes, and how many times as many the folders hold."""
COLUMNS = 20
GROUP, FILE = 50_000, 500_000
BATCH = 4096


def write(folder: Path, rows: int, seed: int = 0) -> None:
    """Numbers, and a class that follows from them; the classes come one after the other, as sorted files have them."""
    import pyarrow
    from pyarrow import parquet

    draw = np.random.default_rng(seed)
    for first in range(0, rows, FILE):
        size = min(FILE, rows - first)
        X = draw.normal(size=(COLUMNS, size))
        columns: dict[str, Any] = {f"x{j}": V for j, V in enumerate(X)}
        X[0] += 2.0 * (first >= rows // 2)
        columns["label"] = np.where(X[0] + X[1] > 1, "yes", "no")
        parquet.write_table(pyarrow.table(columns), folder / f"{first:012}.parquet", row_group_size=GROUP)


def epoch(folder: str) -> tuple[float, float, int]:
    """Megabytes by which the process grew at its peak, seconds, rows of all parts."""
    warnings.simplefilter("ignore")
    for logger in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu", "num_sanity_val_steps": 0}

    before = resident("VmRSS")
    start = time.perf_counter()
    data = StreamedTable(folder, "label", batch_size=BATCH)
    net = LitTwoLayer(data.in_features, 64, data.out_features, task=data.task)
    L.Trainer(max_epochs=1, **quiet).fit(net, datamodule=data)
    return resident("VmHWM") - before, time.perf_counter() - start, sum(data.rows_in.values())


def main() -> None:
    chosen = options(__doc__, rounds=False).parse_args()
    rows, peaks = [], []
    for times in TIMES:
        with tempfile.TemporaryDirectory() as folder:
            m = times * LIMIT * 2**20 // (8 * COLUMNS)
            write(Path(folder), m)
            grown, seconds, read = alone(epoch, folder)
        assert read == m
        peaks.append(grown)
        size = 8 * COLUMNS * m / 2**20
        rows.append(
            [f"{times} ×", f"{size:.0f} MB", f"{m:,}", f"{grown:.0f} MB", f"{seconds:.0f}", f"{m / seconds:,.0f}"]
        )
    flat = f"no more than {LIMIT} MB, with {TIMES[-1]} times as much in the folder too"
    body = f"""\
One epoch of `LitTwoLayer` with 64 hidden units on `StreamedTable`, validation and reading of the columns included:
{COLUMNS} numeric columns and a class, files of {FILE:,} rows with row groups of {GROUP:,}, batches of {BATCH:,}.
What is to hold is that the process grows by no more than {LIMIT} MB from when its packages are imported to its peak.

{table(["of the limit", "numbers in the folder", "rows", "grown by, at the peak", "seconds", "rows a second"], rows)}

- {verdict(max(peaks) <= LIMIT, flat)}"""
    publish(__file__, "A table that does not fit in memory", body, dry_run=chosen.dry_run)


if __name__ == "__main__":
    main()
