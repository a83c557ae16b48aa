"""Kills processes that write, and says as JSON what is left: ``kill_writers.py checkpoint|predictions TRIALS``."""

import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from twolayer.files import remove_unfinished
from twolayer.sealing import read_checkpoint
from twolayer.training.checkpoints import LocalCheckpointIO

SIZE = 200_000


def write_checkpoint(path, step):
    state = {"state_dict": {"W": torch.full((SIZE,), float(step))}, "global_step": step}
    LocalCheckpointIO().save_checkpoint(state, path)


def checkpoint_is_whole(path):
    found = read_checkpoint(path)
    return bool((found["state_dict"]["W"] == found["global_step"]).all())


def write_predictions(path, step):
    from twolayer.cli import write_predictions

    write_predictions(path, torch.full((2_000, 3), float(step)), "regression")


def predictions_are_whole(path):
    with path.open() as file:
        _, *rows = csv.reader(file)
    return len(rows) == 2_000 and all(row == rows[0] for row in rows)


def main(what, trials):
    torch.set_num_threads(1)
    name, write, is_whole = {
        "checkpoint": ("last.ckpt", write_checkpoint, checkpoint_is_whole),
        "predictions": ("predictions.csv", write_predictions, predictions_are_whole),
    }[what]
    write(Path(tempfile.mkdtemp(dir=".")) / name, 0)  # what is imported late
    elsewhere = set(os.listdir(tempfile.gettempdir()))
    whole, folders, rng = 0, [], random.Random(0)
    for _ in range(trials):
        folder = Path(tempfile.mkdtemp(dir="."))
        folders.append(folder)
        child = os.fork()
        if child == 0:
            step = 0
            while True:
                step += 1
                write(folder / name, step)
        while not (folder / name).exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole += is_whole(folder / name)
    orphans = sum(len(list(folder.iterdir())) - 1 for folder in folders)
    time.sleep(1)  # no start is quicker
    remove_unfinished(folders)
    clean = sum(os.listdir(folder) == [name] for folder in folders)
    elsewhere = sorted(set(os.listdir(tempfile.gettempdir())) - elsewhere)
    print(json.dumps({"whole": whole, "trials": trials, "orphans": orphans, "clean": clean, "elsewhere": elsewhere}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
