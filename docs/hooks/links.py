"""Links that lead out of docs/, as they must for whoever reads the pages in the repository.

In the site they lead to a page where it has one, as it has of the measurements, or else to the file in the repository.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> None:
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    repository = config.extra["social"][0]["link"]
    source = page.file.src_uri
    folder = posixpath.dirname(source if source.startswith("benchmarks/") else f"docs/{source}")  # in the repository

    def in_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        if files.get_file_from_path(target.removeprefix("docs/")):
            return "](" + posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(source) or ".")
        if not (ROOT / target).exists():
            return link[0]  # for mkdocs to complain
        return f"]({repository}/{'tree' if (ROOT / target).is_dir() else 'blob'}/main/{target}"

    return LINK.sub(in_the_site, markdown)
