"""How a fit ended, and which checkpoint was its best."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.utilities import rank_zero_info

from twolayer.sealing import read_checkpoint


def why_it_ended(trainer: L.Trainer) -> str:
    """The reason in one line.

    >>> why_it_ended(L.Trainer(max_epochs=0, accelerator="cpu", logger=False))
    'Ended after epoch 0, step 0: max_epochs is 0'
    """
    return f"Ended after epoch {trainer.current_epoch}, step {trainer.global_step}: {_reason(trainer)}"


def _reason(trainer: L.Trainer) -> str:
    if trainer.received_sigterm:
        return "a signal, SIGTERM"
    for callback in trainer.early_stopping_callbacks if trainer.should_stop else ():
        if callback.wait_count >= callback.patience:
            ago = f"{callback.wait_count} check{'s' if callback.wait_count > 1 else ''} ago"
            return f"early stopping, {callback.monitor} was best, {float(callback.best_score):.4g}, {ago}"
        if message := getattr(callback, "stopping_reason_message", None):
            return f"early stopping, {message.removesuffix(' Signaling Trainer to stop.')}"
    for callback in trainer.callbacks if trainer.should_stop else ():  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return f"the time was up, after {callback.time_elapsed():.1f} s"
    if -1 != trainer.max_steps <= trainer.global_step:
        return f"max_steps is {trainer.max_steps}"
    if trainer.max_epochs is not None and -1 != trainer.max_epochs <= trainer.current_epoch:
        return f"max_epochs is {trainer.max_epochs}"
    return "something asked the Trainer to stop" if trainer.should_stop else "there was nothing to train on"


def restore_best(callback: ModelCheckpoint, state: dict[str, Any], resumed_from: Path) -> None:
    """Gives a callback the best checkpoint of the part of a run before it was resumed, wherever that lies by now.

    Lightning does so only if the folder is called the same, and takes its word for what lies there.

    Args:
        callback: with a ``monitor``.
        state: its own, in the checkpoint.
        resumed_from: that checkpoint, beside which the best one is looked for as well.
    """
    score: Any = state.get("best_model_score")
    saved = Path(state.get("best_model_path") or "")
    candidates = [saved, resumed_from.parent / saved.name]
    found = next((str(path) for path in candidates if _has_score(path, callback.state_key, score)), "")
    if found in callback.best_k_models:
        return
    callback.best_model_path = callback.kth_best_model_path = found
    callback.best_k_models = {found: score} if found else {}
    callback.best_model_score = score if found else None
    callback.kth_value = score if found else torch.tensor(math.inf if callback.mode == "min" else -math.inf)
    if not found and score is not None:
        rank_zero_info(
            f"The best checkpoint so far, {callback.monitor} {float(score):.4g}, is no more at {saved}: "
            "best will be that of the steps from here on"
        )


def _has_score(path: Path, state_key: str, score: torch.Tensor | None) -> bool:
    """Whether a checkpoint of that callback is there, which was the best with that score."""
    if score is None or not path.is_file():
        return False
    try:
        state = read_checkpoint(path, "cpu").get("callbacks", {}).get(state_key, {})
    except (ValueError, OSError):  # damaged, or none
        return False
    found = state.get("best_model_score")
    return found is not None and bool(found == score.cpu())
