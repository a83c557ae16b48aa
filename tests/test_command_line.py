"""Bad input on the command line: each kind is answered by one line that names the key, and by an exit status."""

import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

pytest.importorskip("jsonargparse")
pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from twolayer import cli

ROOT = Path(__file__).parents[1]

FILES = {
    "moons.yaml": """
data: {class_path: twolayer.data.Moons, init_args: {n_samples: 60}}
model: {hidden_features: 3}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, logger: false}
""",
    "digits.yaml": """
data: {class_path: twolayer.data.Digits}
model: {hidden_features: 3}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, logger: false}
""",
    "duplicate.yaml": "model:\n  hidden_features: 3\n  hidden_features: 4\n",
    "duplicate_section.yaml": "trainer:\n  max_epochs: 3\nmodel:\n  hidden_features: 3\ntrainer:\n  max_steps: 3\n",
    "broken.yaml": "model:\n  hidden_features: [3\ntrainer: 4\n",
    "tabs.yaml": "model:\n\thidden_features: 3\n",
    "latin1.yaml": "# na\xefve\nmodel:\n  hidden_features: 3 # \xe9\n".encode("latin-1"),
    "binary.yaml": bytes(range(256)) * 4,
    "empty.yaml": "",
    "comment.yaml": "# nothing yet\n",
    "list.yaml": "- 1\n- 2\n",
    "text.yaml": "just words\n",
    "two_documents.yaml": "model: {hidden_features: 3}\n---\nmodel: {hidden_features: 4}\n",
    "unknown.yaml": "model:\n  hidden_featurs: 3\n",
    "unknown_section.yaml": "modle:\n  hidden_features: 3\n",
    "unknown_data.yaml": "data:\n  class_path: Moons\n  init_args:\n    n_sample: 3\n",
    "unknown_optimizer.yaml": "model:\n  optimizer:\n    class_path: Adam\n    init_args:\n      learning_rate: 3\n",
    "unknown_class.yaml": "data:\n  class_path: twolayer.data.Moon\n",
    "misplaced.yaml": "model:\n  hidden_features: 3\n  max_epochs: 3\n",
    "wrong_type.yaml": "model:\n  hidden_features: three\n",
    "section_is_a_value.yaml": "trainer: 3\n",
    "section_is_a_list.yaml": "model:\n- hidden_features\n",
    "python_tag.yaml": "model:\n  hidden_features: !!python/object/apply:os.getpid []\n",
    "anchor.yaml": "model:\n  hidden_features: *nowhere\n",
    "mine.py": """
import numpy as np
import lightning as L
from lightning.pytorch.callbacks import Callback
from twolayer.data import TabularDataModule

class Mine(TabularDataModule):
    task = "binary"
    rows = 30
    def load(self):
        return np.arange(2.0 * self.rows).reshape(self.rows, 2), np.arange(self.rows) % 2

class Bug(Mine):
    def load(self):
        return None.shape

class NotFinite(Mine):
    def load(self):
        X, Y = super().load()
        X[4, 1] = np.nan
        return X, Y

class LabelsFromOne(Mine):
    task = "multiclass"
    def load(self):
        X, Y = super().load()
        return X, Y + 1

class FewerRowsThanClasses(Mine):
    task = "multiclass"
    def load(self):
        return np.eye(6), np.arange(6)

class OneOfAClass(Mine):
    def load(self):
        X, Y = super().load()
        return X, (np.arange(30) == 7).astype(int)

class NoRows(Mine):
    rows = 0

class OneRow(Mine):
    rows = 1

class Words(Mine):
    def load(self):
        X, Y = super().load()
        return X, np.array(["yes", "no"])[Y]

class NoTask(TabularDataModule):
    def load(self):
        return np.eye(6), np.arange(6) % 2

class WrongTask(Mine):
    task = "classification"

class NoLoad(TabularDataModule):
    task = "binary"

class NoFeatures(L.LightningDataModule):
    pass

class FileMissing(Mine):
    def load(self):
        return np.load("rows.npy"), None

class Exploding(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        {}["epoch"]

class BadInit(Callback):
    def __init__(self):
        raise RuntimeError("first line\\nsecond line")

class Strange(Exception):
    pass

class StrangeAtTheEnd(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        raise Strange
""",
    "syntax_error.py": "class Mine(:\n",
    "self.yaml": "config: self.yaml\nmodel: {hidden_features: 3}\n",
    "model.yaml": "hidden_featurs: 3\n",
    "model_dup.yaml": "hidden_features: 3\nhidden_features: 4\n",
    "model_latin.yaml": b"# \xe9\nhidden_features: 3\n",
    "model_broken.yaml": "hidden_features: [3\n",
    "null_section.yaml": "model:\ntrainer: {max_epochs: 1}\n",
    "data_null.yaml": "data: null\n",
    "data_list.yaml": "data: [Moons]\n",
    "data_int.yaml": "data: 3\n",
    "ints.yaml": "1: 2\n",
    "nul.yaml": b"model:\n  hidden_features: 3\n\x00\n",
    "utf16.yaml": "model:\n  hidden_features: 3\n".encode("utf-16"),
    "bom.yaml": b"\xef\xbb\xbfmodel:\n  hidden_featurs: 3\n",
    "dup_deep.yaml": "model:\n  optimizer:\n    class_path: Adam\n    init_args:\n      lr: 1\n      lr: 2\n",
    "class_no_init.yaml": "model:\n  optimizer:\n    init_args: {foo: 1}\n",
    "cb.yaml": "trainer:\n  callbacks:\n  - class_path: EarlyStoping\n",
    "cb2.yaml": "trainer:\n  callbacks:\n  - class_path: EarlyStopping\n    init_args: {monitr: a}\n",
    "cb3.yaml": "trainer:\n  callbacks: 3\n",
    "cb4.yaml": "trainer:\n  callbacks:\n  - class_path: EarlyStopping\n",
    "log.yaml": "trainer:\n  logger:\n    class_path: CSVLogger\n",
    "sub.yaml": "fit:\n  model: {hidden_features: 3}\n",
    "alias.yaml": "model: &m\n  hidden_features: 3\n  loop: *m\n",
    "r.json": '{"model": {"hidden_features": 3, "hidden_features": 4}}',
    "many_values.yaml": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{after}: &{after} [{','.join([f'*{one}'] * 9)}]\n" for one, after in pairwise("abcdefghi")),
    "deep.yaml": "[" * 3000 + "]" * 3000 + "\n",
    "empty_key.yaml": "model: {'': 3}\n",
    "class_null.yaml": "model: {optimizer: {class_path: null}}\n",
    "class_list.yaml": "data: {class_path: [Moons]}\n",
    "args_value.yaml": "data: {class_path: Moons, init_args: 3}\n",
    "beside_class.yaml": "data: {class_path: Moons, n_samples: 3}\n",
    "linked.yaml": "model: {in_features: 7}\n",
    "str_lr.yaml": "model: {optimizer: {class_path: Adam, init_args: {lr: 1e}}}\n",
    "mine2.py": """
import warnings
import numpy as np
from twolayer.data import TabularDataModule
from mine import Mine
import torch
class Ragged(Mine):
    def load(self): return np.zeros((5,2)), np.zeros(4)
class OneDim(Mine):
    def load(self): return np.zeros(5), np.zeros(5)
class Lists(Mine):
    def load(self): return [[1.0],[2.0]], [0,1]
class NoneAtAll(Mine):
    def load(self): pass
class Exits(Mine):
    def load(self): raise SystemExit("I stop")
class Memory(Mine):
    def load(self): raise MemoryError
class Deep(Mine):
    def load(self): return self.load()
class Asserts(Mine):
    def load(self): assert 1 == 2, "must hold"
class Nested(Mine):
    def load(self):
        try: 1/0
        except ZeroDivisionError as e: raise RuntimeError("outer\\nmore") from e
class InitBug(Mine):
    def __init__(self, alpha: int = 1, **kw): super().__init__(**kw); self.x = undefined
class InitRefuses(Mine):
    def __init__(self, alpha: int = 1, **kw):
        super().__init__(**kw)
        if alpha < 3: raise ValueError(f"alpha must be at least 3, got {alpha}")
class Warns(Mine):
    def load(self):
        warnings.warn("old way", DeprecationWarning)
        warnings.warn("strange rows")
        raise KeyError("col")
class Prints(Mine):
    def load(self): raise UnicodeDecodeError("utf-8", bytes([233]), 0, 1, "bad")
class LateOne(Mine):
    def val_dataloader(self): raise OSError(28, "No space left on device", "x.tmp")
class Reg(Mine):
    task="regression"
    def load(self): return np.ones((9,2)), np.full(9, np.inf)
class AbstractOne(Mine):
    def __new__(cls, *a, **k): raise NotImplementedError
from lightning.pytorch.callbacks import Callback
class NeedsArg(Callback):
    def __init__(self, a: int): pass
class Setup(Callback):
    def setup(self, *a, **k): raise IndexError("list index out of range")
def function(x): return x
number = 3
""",
    "import_error.py": "import nothing_like_this\nclass Mine: pass\n",
    "raises.py": "raise RuntimeError('at import')\n",
}

ROWS = [
    # Subcommands
    ("no subcommand", "", 2, "fit, validate, test, predict"),
    ("unknown subcommand", "fti", 2, "fti fit"),
    ("subcommand after the options", "--config moons.yaml fit", 2, "command data.init_args.n_samples"),
    ("a word too many", "fit extra -c moons.yaml", 2, "extra"),
    # Keys
    ("unknown option", "fit -c moons.yaml --trainer.max_epohcs 3", 2, "--trainer.max_epohcs --trainer.max_epochs"),
    ("unknown option with =", "fit -c moons.yaml --model.activatoin=tanh", 2, "--model.activatoin --model.activation"),
    ("without its section", "fit -c moons.yaml --max_epochs 3", 2, "--max_epochs --trainer.max_epochs"),
    ("with hyphens", "fit -c moons.yaml --trainer.max-epochs 3", 2, "--trainer.max-epochs --trainer.max_epochs"),
    ("prefix", "fit -c moons.yaml --trainer.max_epoch 3", 2, "--trainer.max_epoch --trainer.max_epochs"),
    ("prefix ckpt", "fit -c moons.yaml --ckpt last.ckpt", 2, "--ckpt --ckpt_path"),
    ("prefix config", "fit --conf moons.yaml", 2, "--conf --config"),
    ("prefix before the subcommand", "--conf moons.yaml fit", 2, "--conf --config"),
    ("prefix of data", "fit -c moons.yaml --data.n_sample 50", 2, "--data.n_sample --data.n_samples"),
    ("prefix of optimizer", "fit -c moons.yaml --model.optimizer=Adam --model.optimizer.l=1", 2, "--model.optimizer.l"),
    ("unknown of data", "fit -c moons.yaml --data.nois 0.1", 2, "--data.nois --data.noise"),
    ("unknown of logger", "fit -c moons.yaml --trainer.logger CSVLogger --trainer.logger.nme a", 2, "nme name"),
    ("linked", "fit -c moons.yaml --model.in_features 3", 2, "--model.in_features data"),
    ("nothing after it", "fit -c moons.yaml --trainer.max_epochs", 2, "--trainer.max_epochs"),
    ("nothing after one of data", "fit --data.path", 2, "--data.path"),
    ("nothing after one of data, but another", "fit --data.path --data.target y", 2, "--data.path"),
    ("predict: no checkpoint", "predict --data.path t.csv", 2, "--ckpt_path"),
    ("export: no checkpoint", "export", 2, "--ckpt_path"),
    ("export: unknown", "export --ckpt last.ckpt", 2, "--ckpt"),
    ("export: no such file", "export --ckpt_path nowhere.ckpt", 2, "--ckpt_path nowhere.ckpt"),
    ("plot: no such file", "plot --ckpt_path nowhere.ckpt", 2, "--ckpt_path nowhere.ckpt"),
    ("plot: nothing after it", "plot --ckpt_path", 2, "--ckpt_path"),
    ("members", "fit --data.path t.csv --data.target y --members 0", 2, "--members 0"),
    ("nested key of a value", "fit -c moons.yaml --model.hidden_features.x 3", 2, "--model.hidden_features.x"),
    ("required left out", "fit --data Moons", 2, "model.hidden_features"),
    ("data left out", "fit --model.hidden_features 3", 2, "data"),
    # Configuration files
    ("no such file", "fit -c nowhere.yaml", 2, "--config nowhere.yaml"),
    ("a folder", "fit -c .", 2, "--config not a file"),
    ("empty file", "fit -c empty.yaml", 2, "empty.yaml"),
    ("a list", "fit -c list.yaml", 2, "list.yaml list"),
    ("two documents", "fit -c two_documents.yaml", 2, "two_documents.yaml line"),
    ("duplicate key", "fit -c moons.yaml -c duplicate.yaml", 2, "duplicate.yaml hidden_features line 3"),
    ("duplicate section", "fit -c duplicate_section.yaml", 2, "duplicate_section.yaml trainer line 5"),
    ("not YAML", "fit -c broken.yaml", 2, "broken.yaml line 3"),
    ("not UTF-8", "fit -c latin1.yaml", 2, "latin1.yaml line 1 UTF-8"),
    ("binary", "fit -c binary.yaml", 2, "binary.yaml"),
    ("unknown in file", "fit -c moons.yaml -c unknown.yaml", 2, "model.hidden_featurs model.hidden_features"),
    ("unknown section", "fit -c moons.yaml -c unknown_section.yaml", 2, "modle model"),
    ("unknown of data in file", "fit -c moons.yaml -c unknown_data.yaml", 2, "data n_sample n_samples"),
    ("unknown of optimizer in file", "fit -c moons.yaml -c unknown_optimizer.yaml", 2, "optimizer learning_rate"),
    ("unknown class in file", "fit -c moons.yaml -c unknown_class.yaml", 2, "data twolayer.data.Moon"),
    ("misplaced in file", "fit -c moons.yaml -c misplaced.yaml", 2, "model.max_epochs trainer.max_epochs"),
    ("wrong type in file", "fit -c moons.yaml -c wrong_type.yaml", 2, "model.hidden_features int three"),
    ("section is a value", "fit -c moons.yaml -c section_is_a_value.yaml", 2, "trainer 3"),
    ("section is a list", "fit -c moons.yaml -c section_is_a_list.yaml", 2, "model hidden_features"),
    ("python tag", "fit -c moons.yaml -c python_tag.yaml", 2, "python_tag.yaml line 2"),
    ("a file for the model that is not there", "fit -c moons.yaml --model nowhere.yaml", 2, "--model nowhere.yaml"),
    ("a file for data that is not there", "fit -c moons.yaml --data nowhere.yaml", 2, "--data nowhere.yaml"),
    # Classes
    ("no such data", "fit --data Foo --model.hidden_features 3", 2, "--data Foo"),
    ("no such module", "fit --data nowhere.Mine --model.hidden_features 3", 2, "--data nowhere.Mine"),
    ("data is another class", "fit --data torch.nn.Linear --model.hidden_features 3", 2, "--data torch.nn.Linear"),
    ("module does not parse", "fit --data syntax_error.Mine --model.hidden_features 3", 2, "--data syntax_error"),
    ("no such optimizer", "fit -c moons.yaml --model.optimizer Foo", 2, "--model.optimizer Foo"),
    ("optimizer nearly", "fit -c moons.yaml --model.optimizer Adma", 2, "--model.optimizer Adma Adam"),
    ("no section optimizer", "fit -c moons.yaml --optimizer Foo", 2, "--optimizer --model.optimizer"),
    ("no such logger", "fit -c moons.yaml --trainer.logger Foo", 2, "--trainer.logger Foo"),
    ("no such callback", "fit -c moons.yaml --trainer.callbacks+=Foo", 2, "--trainer.callbacks Foo"),
    ("scheduler lacks an option", "fit -c moons.yaml --model.lr_scheduler StepLR", 2, "--model.lr_scheduler step_size"),
    ("abstract data", "fit --data TabularDataModule --model.hidden_features 3", 1, "TabularDataModule load()"),
    # Values of the wrong type
    ("int", "fit -c moons.yaml --model.hidden_features three", 2, "--model.hidden_features int three"),
    ("int of data", "fit -c moons.yaml --data.batch_size abc", 2, "--data.batch_size int abc"),
    ("float of data", "fit -c moons.yaml --data.val_fraction abc", 2, "--data.val_fraction float abc"),
    ("int of trainer", "fit -c moons.yaml --trainer.max_epochs abc", 2, "--trainer.max_epochs int abc"),
    ("float of optimizer", "fit -c moons.yaml --model.optimizer.lr abc", 2, "--model.optimizer.lr float abc"),
    ("list", "fit -c moons.yaml --model.class_weight 3", 2, "--model.class_weight 3"),
    ("precision", "fit -c moons.yaml --trainer.precision 7", 2, "--trainer.precision 7"),
    ("seed", "fit -c moons.yaml --seed_everything abc", 2, "--seed_everything abc"),
    ("max_time", "fit -c moons.yaml --trainer.max_time abc", 2, "max_time abc"),
    # Values out of range: the network's and the training's
    ("hidden_features", "fit -c moons.yaml --model.hidden_features 0", 2, "--model.hidden_features at least 1 got 0"),
    ("activation", "fit -c moons.yaml --model.activation gelu", 2, "--model.activation relu got 'gelu'"),
    ("init", "fit -c moons.yaml --model.init hee", 2, "--model.init 'he' got 'hee'"),
    ("backward", "fit -c moons.yaml --model.backward auto", 2, "--model.backward 'manual' got 'auto'"),
    ("class_weight", "fit -c moons.yaml --model.class_weight [1,2,3]", 2, "--model.class_weight 2 3"),
    ("class_weight", "fit -c moons.yaml --model.class_weight [1,-2]", 2, "--model.class_weight -2"),
    ("label_smoothing", "fit -c moons.yaml --model.label_smoothing 1.5", 2, "--model.label_smoothing [0, 1) 1.5"),
    ("steps_per_call", "fit -c moons.yaml --model.steps_per_call 0", 2, "--model.steps_per_call at least 1 got 0"),
    ("interval", "fit -c moons.yaml --model.scheduler_interval day", 2, "--model.scheduler_interval 'epoch' 'day'"),
    ("lr nan", "fit -c moons.yaml --model.optimizer.lr .nan", 2, "--model.optimizer.lr finite nan"),
    ("lr inf", "fit -c moons.yaml --model.optimizer.lr .inf", 2, "--model.optimizer.lr finite inf"),
    ("lr negative", "fit -c moons.yaml --model.optimizer.lr -1", 2, "--model.optimizer lr -1"),
    ("weight_decay nan", "fit -c moons.yaml --model.optimizer.weight_decay .nan", 2, "--model.optimizer.weight_decay"),
    ("betas", "fit -c moons.yaml --model.optimizer.betas [0.9,1.5]", 2, "--model.optimizer beta 1.5"),
    (
        "gamma nan",
        "fit -c moons.yaml --model.lr_scheduler ExponentialLR --model.lr_scheduler.gamma .nan",
        2,
        "gamma nan",
    ),
    ("step_size", "fit -c moons.yaml --model.lr_scheduler StepLR --model.lr_scheduler.step_size 0", 2, "step_size 0"),
    # Of the data
    ("batch_size", "fit -c moons.yaml --data.batch_size 0", 2, "--data.batch_size at least 1 got 0"),
    ("val_fraction", "fit -c moons.yaml --data.val_fraction 1", 2, "--data.val_fraction [0, 1) got 1"),
    ("val_fraction", "fit -c moons.yaml --data.val_fraction .nan", 2, "--data.val_fraction [0, 1) got nan"),
    ("test_fraction", "fit -c moons.yaml --data.test_fraction -0.1", 2, "--data.test_fraction [0, 1) got -0.1"),
    (
        "fractions",
        "fit -c moons.yaml --data.val_fraction 0.5 --data.test_fraction 0.5",
        2,
        "val_fraction test_fraction",
    ),
    ("seed of data", "fit -c moons.yaml --data.seed -1", 2, "--data.seed got -1"),
    ("n_samples", "fit -c moons.yaml --data.n_samples 0", 2, "--data.n_samples got 0"),
    ("n_samples", "fit -c moons.yaml --data.n_samples -5", 2, "--data.n_samples got -5"),
    ("noise", "fit -c moons.yaml --data.noise -1", 2, "--data.noise got -1"),
    ("noise", "fit -c moons.yaml --data.noise .nan", 2, "--data.noise got nan"),
    ("factor", "fit -c moons.yaml --data Circles --data.factor 1.5", 2, "--data.factor got 1.5"),
    ("centers", "fit -c moons.yaml --data Blobs --data.centers 0", 2, "--data.centers got 0"),
    ("centers", "fit -c moons.yaml --data Blobs --data.centers 1", 2, "--data.centers got 1"),
    ("cluster_std", "fit -c moons.yaml --data Blobs --data.cluster_std -1", 2, "--data.cluster_std got -1"),
    ("n_classes", "fit -c moons.yaml --data GaussianQuantiles --data.n_classes 0", 2, "--data.n_classes got 0"),
    # Of Lightning
    ("max_epochs 0", "fit -c moons.yaml --trainer.max_epochs 0", 2, "--trainer.max_epochs at least 1 got 0"),
    ("max_epochs -2", "fit -c moons.yaml --trainer.max_epochs -2", 2, "--trainer.max_epochs -2"),
    ("max_steps 0", "fit -c moons.yaml --trainer.max_steps 0", 2, "--trainer.max_steps got 0"),
    ("max_steps -5", "fit -c moons.yaml --trainer.max_steps -5", 2, "--trainer.max_steps got -5"),
    ("min_epochs", "fit -c moons.yaml --trainer.min_epochs -1", 2, "--trainer.min_epochs got -1"),
    ("min_epochs beyond", "fit -c moons.yaml --trainer.min_epochs 5", 2, "--trainer.min_epochs 5"),
    ("patience -1", "fit -c moons.yaml --early_stopping.patience -1", 2, "--early_stopping.patience got -1"),
    ("min_delta nan", "fit -c moons.yaml --early_stopping.min_delta .nan", 2, "--early_stopping.min_delta got nan"),
    ("mode", "fit -c moons.yaml --early_stopping.mode least", 2, "--early_stopping mode least"),
    ("checkpoint mode", "fit -c moons.yaml --checkpoint.mode least", 2, "--checkpoint mode least"),
    ("save_top_k", "fit -c moons.yaml --checkpoint.save_top_k -5", 2, "--checkpoint save_top_k -5"),
    ("every_n_epochs", "fit -c moons.yaml --checkpoint.every_n_epochs -1", 2, "--checkpoint every_n_epochs -1"),
    ("devices 0", "fit -c moons.yaml --trainer.devices 0", 2, "devices 0"),
    ("devices -1", "fit -c moons.yaml --trainer.devices -1", 2, "devices -1"),
    ("accelerator", "fit -c moons.yaml --trainer.accelerator foo", 2, "accelerator foo"),
    ("no GPU", "fit -c moons.yaml --trainer.accelerator cuda", 2, "accelerator cuda"),
    ("strategy", "fit -c moons.yaml --trainer.strategy foo", 2, "strategy foo"),
    ("clip", "fit -c moons.yaml --trainer.gradient_clip_val -1", 2, "--trainer.gradient_clip_val -1"),
    ("clip nan", "fit -c moons.yaml --trainer.gradient_clip_val .nan", 2, "--trainer.gradient_clip_val nan"),
    ("accumulate", "fit -c moons.yaml --trainer.accumulate_grad_batches 0", 2, "--trainer.accumulate_grad_batches 0"),
    ("limit", "fit -c moons.yaml --trainer.limit_train_batches -1", 2, "limit_train_batches -1"),
    ("limit 0", "fit -c moons.yaml --trainer.limit_train_batches 0", 2, "limit_train_batches 0"),
    ("interval", "fit -c moons.yaml --trainer.val_check_interval 0", 2, "--trainer.val_check_interval 0"),
    ("seed", "fit -c moons.yaml --seed_everything -1", 2, "--seed_everything -1"),
    # Checkpoints
    ("none for test", "test -c moons.yaml", 2, "test --ckpt_path"),
    ("not there", "fit -c moons.yaml --ckpt_path nowhere.ckpt", 2, "--ckpt_path nowhere.ckpt"),
    ("a folder", "fit -c moons.yaml --ckpt_path .", 2, "--ckpt_path folder"),
    ("last where there is none", "fit -c moons.yaml --ckpt_path last", 2, "--ckpt_path last"),
    ("best where there is none", "test -c moons.yaml --ckpt_path best", 2, "--ckpt_path best"),
    ("hpc where there is none", "fit -c moons.yaml --ckpt_path hpc", 1, "ckpt_path hpc"),
    ("registry", "fit -c moons.yaml --ckpt_path registry", 2, "--ckpt_path registry"),
    # Data
    ("bug", "fit --data mine.Bug --model.hidden_features 3", 1, "AttributeError shape --traceback"),
    ("not finite", "fit --data mine.NotFinite --model.hidden_features 3", 1, "X finite row 4, column 1"),
    ("few rows", "fit -c moons.yaml --data mine.FewerRowsThanClasses", 1, "rows class"),
    ("one of a class", "fit -c moons.yaml --data mine.OneOfAClass", 1, "class 1"),
    ("no task", "fit -c moons.yaml --data mine.NoTask", 1, "NoTask task"),
    ("no load", "fit -c moons.yaml --data mine.NoLoad", 1, "NoLoad load()"),
    ("no features", "fit -c moons.yaml --data mine.NoFeatures", 1, "NoFeatures in_features"),
    ("file missing", "fit -c moons.yaml --data mine.FileMissing", 1, "rows.npy"),
    # Callbacks
    ("bad init", "fit -c moons.yaml --trainer.callbacks+=mine.BadInit", 1, "first line second line"),
    (
        "quantiles",
        "fit -c moons.yaml --trainer.callbacks+=twolayer.callbacks.GradNormQuantiles --trainer.callbacks.quantiles=[2]",
        2,
        "quantiles [0, 1]",
    ),
    # Found by hunting
    ("self include", "fit -c self.yaml", 2, "self.yaml"),
    ("nested section file unknown key", "fit -c moons.yaml --model model.yaml", 2, "hidden_featurs hidden_features"),
    ("section file dup", "fit -c moons.yaml --model model_dup.yaml", 2, "model_dup.yaml hidden_features"),
    ("section file latin1", "fit -c moons.yaml --model model_latin.yaml", 2, "model_latin.yaml"),
    ("section file broken", "fit -c moons.yaml --model model_broken.yaml", 2, "model_broken.yaml"),
    ("null section", "fit -c moons.yaml -c null_section.yaml", 2, "null_section.yaml model"),
    ("data null", "fit -c moons.yaml -c data_null.yaml", 2, "data"),
    ("int keys", "fit -c moons.yaml -c ints.yaml", 2, "1"),
    ("NUL byte", "fit -c moons.yaml -c nul.yaml", 2, "nul.yaml"),
    ("utf16", "fit -c moons.yaml -c utf16.yaml", 2, "utf16.yaml UTF-8"),
    ("dup deep", "fit -c moons.yaml -c dup_deep.yaml", 2, "dup_deep.yaml lr line 6"),
    ("callback typo", "fit -c moons.yaml -c cb.yaml", 2, "trainer.callbacks EarlyStoping EarlyStopping"),
    ("callback key typo", "fit -c moons.yaml -c cb2.yaml", 2, "monitr monitor"),
    ("callbacks 3", "fit -c moons.yaml -c cb3.yaml", 2, "trainer.callbacks 3"),
    ("logger lacks save_dir", "fit -c moons.yaml -c log.yaml", 2, "logger save_dir"),
    ("file for command level", "fit -c moons.yaml -c sub.yaml", 2, "fit"),
    ("recursive alias", "fit -c moons.yaml -c alias.yaml", 2, "alias.yaml"),
    ("dup json", "fit -c moons.yaml -c r.json", 2, "r.json hidden_features"),
    ("config address", "fit -c http://127.0.0.1:9/x.yaml", 2, "http://127.0.0.1:9/x.yaml"),
    ("config inline", "fit -c '{model: {hidden_featurs: 3}}'", 2, "hidden_featurs"),
    ("config inline bad", "fit -c '{model: ['", 2, "config"),
    ("config missing value", "fit -c", 2, "-c"),
    (
        "ckpt address",
        "fit -c moons.yaml --ckpt_path http://127.0.0.1:9/a.ckpt",
        2,
        "--ckpt_path http://127.0.0.1:9/a.ckpt",
    ),
    ("ckpt /dev/null", "fit -c moons.yaml --ckpt_path /dev/null", 2, "--ckpt_path /dev/null"),
    ("test last where none", "test -c moons.yaml --ckpt_path last", 2, "--ckpt_path last"),
    ("ragged", "fit -c moons.yaml --data mine2.Ragged", 1, "Y 5 rows"),
    ("none", "fit -c moons.yaml --data mine2.NoneAtAll", 1, "NoneAtAll"),
    ("assert", "fit -c moons.yaml --data mine2.Asserts", 1, "AssertionError must hold"),
    ("nested error", "fit -c moons.yaml --data mine2.Nested", 1, "RuntimeError outer more"),
    ("init bug", "fit -c moons.yaml --data mine2.InitBug", 1, "InitBug NameError undefined"),
    ("init refuses", "fit -c moons.yaml --data mine2.InitRefuses", 2, "--data.alpha at least 3"),
    ("warns then fails", "fit -c moons.yaml --data mine2.Warns", 1, "KeyError col"),
    ("unicode in data", "fit -c moons.yaml --data mine2.Prints", 1, "UnicodeDecodeError"),
    ("late OSError", "fit -c moons.yaml --data mine2.LateOne", 1, "No space left"),
    ("regression inf", "fit -c moons.yaml --data mine2.Reg", 1, "Y finite"),
    ("callback lacks arg", "fit -c moons.yaml --trainer.callbacks+=mine2.NeedsArg", 2, "callbacks a"),
    ("callback setup bug", "fit -c moons.yaml --trainer.callbacks+=mine2.Setup", 1, "IndexError list index"),
    ("data a function", "fit -c moons.yaml --data mine2.function", 2, "data mine2.function"),
    ("data module import error", "fit -c moons.yaml --data import_error.Mine", 2, "data nothing_like_this"),
    ("data module raises", "fit -c moons.yaml --data raises.Mine", 2, "data import"),
    ("data a module", "fit -c moons.yaml --data twolayer.data", 2, "data twolayer.data"),
    ("data dotted short", "fit -c moons.yaml --data .Moons", 2, "data .Moons"),
    ("optimizer a module", "fit -c moons.yaml --model.optimizer torch.nn.Linear", 2, "model.optimizer torch.nn.Linear"),
    ("optimizer null", "fit -c moons.yaml --model.optimizer null", 2, "model.optimizer"),
    (
        "scheduler neg",
        "fit -c moons.yaml --model.lr_scheduler CosineAnnealingLR --model.lr_scheduler.T_max -1",
        2,
        "T_max -1",
    ),
    (
        "plateau factor",
        "fit -c moons.yaml --model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.factor 2",
        2,
        "lr_scheduler Factor",
    ),
    (
        "onecycle max_lr",
        "fit -c moons.yaml --model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr -1",
        2,
        "max_lr",
    ),
    (
        "label smoothing regression",
        "fit -c moons.yaml --data Diabetes --model.label_smoothing 0.1",
        2,
        "label_smoothing",
    ),
    ("noise huge", "fit -c moons.yaml --data.noise 1e300", 1, "X finite"),
    ("two samples", "fit -c moons.yaml --data.n_samples 2 --data.val_fraction 0.4", 1, "class"),
    (
        "save_dir a file",
        "fit -c moons.yaml --trainer.logger CSVLogger --trainer.logger.save_dir moons.yaml",
        1,
        "moons.yaml",
    ),
    ("max_time", "fit -c moons.yaml --trainer.max_time 1:2", 2, "max_time"),
    ("val_check time", "fit -c moons.yaml --trainer.val_check_interval 00:00:xx:00", 2, "val_check_interval"),
    (
        "barebones with logger",
        "fit -c moons.yaml --trainer.barebones true --trainer.enable_progress_bar true",
        2,
        "barebones",
    ),
    (
        "save_top_k and monitor null",
        "fit -c moons.yaml --checkpoint.monitor null --checkpoint.save_top_k 3",
        2,
        "save_top_k",
    ),
    (
        "two intervals",
        "fit -c moons.yaml --checkpoint.every_n_epochs 1 --checkpoint.every_n_train_steps 1",
        2,
        "every_n_train_steps",
    ),
    ("same filename", "fit -c moons.yaml --checkpoint.filename last", 2, "filename last"),
    ("sync batchnorm", "fit -c moons.yaml --trainer.strategy deepspeed", 2, "trainer DeepSpeed"),
    ("unknown flag short", "fit -c moons.yaml -x 3", 2, "-x"),
    ("equals only", "fit -c moons.yaml =3", 2, "=3"),
    (
        "append unknown",
        "fit -c moons.yaml --trainer.callback+=EarlyStopping",
        2,
        "--trainer.callback --trainer.callbacks",
    ),
    ("plus on scalar", "fit -c moons.yaml --model.hidden_features+=3", 2, "hidden_features"),
    ("spaces", "fit -c moons.yaml '--trainer.max_epochs 3'", 2, "--trainer.max_epochs"),
    ("print_config flag", "fit -c moons.yaml --print_config=foo", 2, "print_config foo"),
    ("print config of bad value", "fit -c moons.yaml --model.hidden_features a --print_config", 2, "hidden_features"),
    ("uppercase command", "FIT -c moons.yaml", 2, "FIT fit"),
    ("option as command", "--fit", 2, "--fit"),
    # Found by hunting once more
    ("many values", "fit -c moons.yaml -c many_values.yaml", 2, "many_values.yaml 100000 values"),
    ("deep", "fit -c moons.yaml -c deep.yaml", 2, "deep.yaml deeply"),
    ("empty key", "fit -c moons.yaml -c empty_key.yaml", 2, "empty_key.yaml line 1 empty"),
    ("class_path null", "fit -c moons.yaml -c class_null.yaml", 2, "class_null.yaml class_path name"),
    ("class_path a list", "fit -c moons.yaml -c class_list.yaml", 2, "class_list.yaml class_path name"),
    ("init_args a value", "fit -c moons.yaml -c args_value.yaml", 2, "args_value.yaml init_args options"),
    ("beside class_path", "fit -c moons.yaml -c beside_class.yaml", 2, "beside_class.yaml n_samples init_args"),
    ("linked in a file", "fit -c moons.yaml -c linked.yaml", 2, "--model.in_features data"),
    ("linked, a name", "fit -c moons.yaml --model.task binary", 2, "--model.task data"),
    ("after --", "fit -c moons.yaml -- --trainer.max_epochs 3", 2, "-- no option nothing after"),
    ("before the command", "--trainer.max_epochs 3 fit -c moons.yaml", 2, "--trainer.max_epochs before command"),
    ("section a value", "fit -c moons.yaml --trainer 3", 2, "--trainer options file '3'"),
    (
        "hidden_features huge",
        "fit -c moons.yaml --model.hidden_features 99999999999999999999",
        2,
        "hidden_features less",
    ),
    ("looks of the monitor", "fit -c moons.yaml --unit_monitor.every_n_steps 0", 2, "--unit_monitor.every_n_steps 0"),
    ("rows of the monitor", "fit -c moons.yaml --unit_monitor.rows -1", 2, "--unit_monitor.rows -1"),
    (
        "patience of a plateau",
        "fit -c moons.yaml --model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.patience -1",
        2,
        "--model.lr_scheduler.patience -1",
    ),
    (
        "flush",
        "fit -c moons.yaml --trainer.logger CSVLogger --trainer.logger.save_dir a "
        "--trainer.logger.flush_logs_every_n_steps 0",
        2,
        "flush_logs_every_n_steps 0",
    ),
    ("root an address", "fit -c moons.yaml --trainer.default_root_dir memory://a/b", 2, "default_root_dir memory:"),
    ("dirpath an address", "fit -c moons.yaml --checkpoint.dirpath s3://a/b", 2, "--checkpoint.dirpath s3://a/b"),
    ("ddp_fork", "fit -c moons.yaml --trainer.strategy ddp_fork", 2, "--trainer.strategy ddp_fork"),
    ("weight of a class", "fit -c moons.yaml --model.class_weight '{0: -1}'", 2, "--model.class_weight positive -1"),
    ("wrong task", "fit -c moons.yaml --data mine.WrongTask", 1, "WrongTask task 'classification'"),
]

IN_THE_RUN = [
    ("monitor", "fit -c moons.yaml --early_stopping.monitor nothing", 1, "nothing"),
    ("monitor of the checkpoint", "fit -c moons.yaml --checkpoint.monitor nothing", 1, "nothing"),
    ("exploding", "fit -c moons.yaml --trainer.callbacks+=mine.Exploding", 1, "KeyError epoch --traceback"),
    ("strange", "fit -c moons.yaml --trainer.callbacks+=mine.StrangeAtTheEnd", 1, "Strange --traceback"),
    (
        "monitor for plateau",
        "fit -c moons.yaml --model.lr_scheduler ReduceLROnPlateau --model.scheduler_monitor foo",
        1,
        "foo",
    ),
    ("dirpath a file", "fit -c moons.yaml --checkpoint.dirpath moons.yaml", 1, "moons.yaml"),
    ("val_check too big", "fit -c moons.yaml --trainer.val_check_interval 1000", 1, "val_check_interval"),
    ("filename key", "fit -c moons.yaml --checkpoint.filename '{foo'", 1, "ValueError"),
]

OF_THE_ENVIRONMENT = [
    (
        "env world",
        "fit -c moons.yaml --trainer.strategy ddp",
        1,
        "WORLD_SIZE",
        {
            "WORLD_SIZE": "abc",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "TORCHELASTIC_RUN_ID": "1",
            "GROUP_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
        },
    ),
    (
        "env slurm",
        "fit -c moons.yaml ",
        1,
        "ntasks",
        {
            "SLURM_NTASKS": "4",
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NAME": "x",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "0",
        },
    ),
    ("env seed", "fit -c moons.yaml --seed_everything true", 1, "PL_GLOBAL_SEED", {"PL_GLOBAL_SEED": "abc"}),
]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def trained(folder):
    """That folder, and in it a checkpoint and its configuration."""
    cli.main(["fit", "-c", "moons.yaml"])
    shutil.move(folder / "checkpoints/best.ckpt", folder / "good.ckpt")
    shutil.rmtree(folder / "checkpoints")
    return folder


def answer(arguments, monkeypatch, capsys):
    """What a process would end with: its status, and the lines on stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["twolayer", *shlex.split(arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return end.value.code, out.splitlines(), err.splitlines()


@pytest.mark.parametrize(("kind", "arguments", "status", "words"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS])
def test_one_line(kind, arguments, status, words, folder, monkeypatch, capsys):
    found, out, err = answer(arguments, monkeypatch, capsys)
    assert (found, out, len(err)) == (status, [], 1), err
    assert err[0].startswith("twolayer: error: ")
    assert len(err[0]) < 450
    assert [word for word in words.split() if word not in err[0]] == []
    assert not list(folder.rglob("*.ckpt"))[1:]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("fit -c moons.yaml --model.lr_scheduler Adam", "Adam"),
        ("fit -c moons.yaml --model.lr_schedule StepLR", "--model.lr_scheduler.help"),
        ("fit -c moons.yaml -c printed.yaml", "--print_config"),
    ],
)
def test_what_was_given_is_not_what_was_meant(line, name, folder, monkeypatch, capsys):
    (folder / "printed.yaml").write_text("print_config: true\n")
    found, _, err = answer(line, monkeypatch, capsys)
    assert (found, len(err)) == (2, 1)
    assert f"did you mean {name}?" not in err[0]


def changed(checkpoint, part, value):
    *path, last = part.split("/")
    for name in path:
        checkpoint = checkpoint[int(name) if isinstance(checkpoint, list) else name]
    if value is None:
        del checkpoint[last]
    else:
        checkpoint[last] = value


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize(
    "case",
    [
        ("pytorch-lightning_version", None, "pytorch-lightning_version"),
        ("pytorch-lightning_version", "abc", "pytorch-lightning_version 'abc'"),
        ("pytorch-lightning_version", 3, "pytorch-lightning_version 3"),
        ("global_step", "x", "global_step int 'x'"),
        ("global_step", -5, "global_step -5"),
        ("epoch", float("nan"), "epoch nan"),
        ("callbacks", 3, "callbacks dict 3"),
        ("loops", "x", "loops dict 'x'"),
        ("optimizer_states", "x", "optimizer_states list 'x'"),
        ("state_dict/net.W1", "x", "W1 tensor str"),
        ("state_dict/net.b2", torch.ones(1, dtype=torch.complex64), "b2 floats"),
        ("state_dict/net.b2", torch.full((1,), torch.nan), "b2 finite"),
        ("state_dict/net.b2", None, "net.b2"),
        ("state_dict/net.W3", torch.ones(2), "net.W3"),
        ("hyper_parameters/class_weight", "balance", "class_weight 'balanced' 'balance'"),
        ("callbacks/UnitMonitor", 3, "TypeError"),
    ],
)
def test_a_checkpoint_of_another_kind_is_named(command, case, trained, monkeypatch, capsys):
    part, value, words = case
    checkpoint = torch.load(trained / "good.ckpt", weights_only=True)
    changed(checkpoint, part, value)
    torch.save(checkpoint, trained / "other.ckpt")
    before = sorted(trained.rglob("*"))
    found, out, err = answer(f"{command} -c moons.yaml --ckpt_path other.ckpt", monkeypatch, capsys)
    assert (found, out, len(err)) == (1, [], 1), err
    assert [word for word in ["other.ckpt", *words.split()] if word not in err[0]] == []
    assert sorted(trained.rglob("*")) == before


def test_a_checkpoint_of_other_data_is_named(trained, monkeypatch, capsys):
    for command in ("fit", "test", "predict"):
        found, out, err = answer(f"{command} -c digits.yaml --ckpt_path good.ckpt", monkeypatch, capsys)
        assert (found, out) == (1, [])
        assert err == ["twolayer: error: Digits: in_features must be 2, as for the network in good.ckpt, got 64"]


def test_a_run_that_is_not_gone_on_with_keeps_its_configuration(trained, monkeypatch, capsys):
    before = (trained / "config.yaml").read_text()
    line = "fit -c moons.yaml --ckpt_path good.ckpt --model.optimizer SGD --trainer.max_epochs 7"
    found, _, err = answer(line, monkeypatch, capsys)
    assert (found, len(err)) == (1, 1)
    assert "optimizer and lr_scheduler must be ['Adam', 'NoneType']" in err[0]
    assert (trained / "config.yaml").read_text() == before
    cli.main(["fit", "-c", "config.yaml", "--ckpt_path", "good.ckpt", "--trainer.max_epochs", "2"])
    assert (trained / "config.yaml").read_text() != before


@pytest.mark.parametrize(("kind", "arguments", "status", "words"), IN_THE_RUN, ids=[row[0] for row in IN_THE_RUN])
def test_one_line_after_what_a_run_says(kind, arguments, status, words, folder, monkeypatch, capsys):
    found, out, err = answer(arguments, monkeypatch, capsys)
    assert (found, out) == (status, [])
    assert err[-1].startswith("twolayer: error: ")
    assert [word for word in words.split() if word not in err[-1]] == []
    assert not any("Traceback" in line for line in err)


@pytest.mark.parametrize(
    ("kind", "arguments", "status", "words", "variables"),
    OF_THE_ENVIRONMENT,
    ids=[row[0] for row in OF_THE_ENVIRONMENT],
)
def test_one_line_for_the_environment(kind, arguments, status, words, variables, folder, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    test_one_line(kind, arguments, status, words, folder, monkeypatch, capsys)


def test_traceback_shows_where(folder, monkeypatch, capsys):
    found, out, err = answer("fit -c moons.yaml --data mine.Bug --traceback", monkeypatch, capsys)
    assert (found, out) == (1, [])
    assert "return None.shape" in "".join(err)
    assert err[-1].startswith("twolayer: error: Bug: AttributeError")
    found, out, err = answer("--traceback fit -c moons.yaml --data syntax_error.Mine", monkeypatch, capsys)
    assert found == 2
    assert "class Mine(:" in "".join(err)


def test_from_python_errors_are_raised(folder, capsys):
    with pytest.raises(ValueError, match=r"--model\.hidden_features must be at least 1, got 0"):
        cli.main(["fit", "-c", "moons.yaml", "--model.hidden_features", "0"])
    with pytest.raises(KeyError, match="epoch"):
        cli.main(["fit", "-c", "moons.yaml", "--trainer.callbacks+=mine.Exploding"])
    with pytest.raises(SystemExit):
        cli.main(["fit", "-c", "moons.yaml", "--model.hidden", "0"])
    assert "did you mean --model.hidden_features?" in capsys.readouterr().err


def test_what_is_kept_back_comes_out_when_the_run_begins(folder):
    ran = subprocess.run(
        [sys.executable, "-m", "twolayer.cli", "fit", "-c", "moons.yaml"],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = ran.stderr.splitlines()
    assert lines.index("Seed set to 0") < next(i for i, line in enumerate(lines) if line.startswith("Ended after"))


@pytest.mark.parametrize(
    ("script", "arguments", "status"),
    [
        (["-m", "twolayer.cli"], "fit -c moons.yaml --model.hidden 3", 2),
        ([str(ROOT / "train.py")], "fit -c moons.yaml --data mine.Bug", 1),
    ],
    ids=["module", "train.py"],
)
def test_a_process(script, arguments, status, folder):
    ran = subprocess.run(
        [sys.executable, *script, *arguments.split()],
        env={"PYTHONPATH": f"{ROOT / 'src'}:{folder}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (status, "", 1), ran.stderr
