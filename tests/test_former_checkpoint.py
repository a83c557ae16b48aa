"""A checkpoint that version 0.1.0 wrote: two epochs of configs/breast_cancer.yaml, ``data/breast_cancer.ckpt``."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("jsonargparse")
pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from twolayer import cli
from twolayer.data import BreastCancer
from twolayer.training import LitTwoLayer

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "tests/data/breast_cancer.ckpt"
FORMER = json.loads((ROOT / "tests/data/breast_cancer.json").read_text())


def run(command, *arguments):
    config = str(ROOT / "configs/breast_cancer.yaml")
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    return cli.main([command, "--config", config, *quiet, "--ckpt_path", str(CHECKPOINT), *arguments])


def test_it_loads_and_predicts_what_it_did():
    model = LitTwoLayer.load_from_checkpoint(CHECKPOINT, weights_only=True).eval()
    with torch.no_grad():
        found = model(BreastCancer().tensors[0][: FORMER["rows"]]).squeeze(-1)
    assert_close(found, torch.tensor(FORMER["probabilities"]))


def test_a_fit_goes_on_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = run("fit", "--trainer.max_epochs=3")
    assert command.trainer.global_step == 3 * 7
    state = command.trainer.optimizers[0].state_dict()["state"]
    assert {one["step"].item() for one in state.values()} == {21}


def test_the_other_commands_read_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("test").trainer.callback_metrics["test_accuracy"] > 0.8
    run("predict")
    assert list(tmp_path.rglob("predictions.csv"))
