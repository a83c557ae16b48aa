"""The packages that come with an extra, and one line for whoever is without."""

EXTRAS = {
    **dict.fromkeys(("lightning", "torchmetrics", "jsonargparse", "yaml", "rich", "sklearn", "numpy"), "train"),
    "matplotlib": "plots",
    **dict.fromkeys(("polars", "pyarrow"), "table"),
}
"""By the name of what is imported."""


def missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The same error, with the line that installs what is missing, if an extra brings it.

    >>> missing(ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch"))
    ModuleNotFoundError("this needs lightning: pip install 'twolayer[train]'")
    """
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return error
    return ModuleNotFoundError(f"this needs {package}: pip install 'twolayer[{EXTRAS[package]}]'", name=error.name)
