"""Notebooks as pages: their text, their code, and the outputs that are stored with it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> None:
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        cells = json.loads(Path(file.abs_src_path or "").read_text(encoding="utf-8"))["cells"]
        content = "\n\n".join(part for cell in cells for part in _markdown(cell))
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=content))


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(".ipynb)", ".md)")  # a link to a notebook, to its page


def _markdown(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            picture = "".join(data["image/png"]).replace("\n", "")
            yield f"![{cell['metadata']['alt']}](data:image/png;base64,{picture})"
        else:
            text = "".join(output.get("text", data.get("text/plain", "")))
            yield f"```text\n{text.rstrip()}\n```"
