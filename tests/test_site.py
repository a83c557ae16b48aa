"""The site: built without a network, complete, and the same pages as in the repository."""

import ast
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import twolayer
from twolayer import functional

math_core = pytest.importorskip("math_core")
for needed in ("material", "mkdocstrings", "mkdocstrings_handlers.python"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = Path(twolayer.__file__).parent
PAGES = [path.relative_to(DOCS).with_suffix(".html") for kind in ("md", "ipynb") for path in DOCS.rglob(f"*.{kind}")]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]


def build(root, site):
    """``mkdocs build --strict`` where every way to a network leads nowhere."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Elements(HTMLParser):
    """The elements of a page, each as ``(tag, attributes)``."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]

    def ids(self):
        return {attributes["id"] for _, attributes in self.found if "id" in attributes}


def test_every_page_is_in_the_navigation(site):
    links = [a for a in Elements(site / "index.html").of("a") if "md-nav__link" in a.get("class", "").split()]
    there = {(site / urlsplit(a["href"]).path).resolve().relative_to(site).as_posix() for a in links if "href" in a}
    assert len(PAGES) > 10
    assert {page.as_posix() for page in PAGES} - there == {"index.html"} - there
    assert all((site / page).is_file() for page in PAGES)


def public_names():
    """What the package says is public: in ``__all__`` wherever there is one, and the functions of the network."""
    for path in PACKAGE.rglob("__init__.py"):
        module = ".".join(("twolayer", *path.parent.relative_to(PACKAGE).parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == ["__all__"]:
                yield from (f"{module}.{name}" for name in ast.literal_eval(node.value))
    for name, thing in vars(functional).items():
        if getattr(thing, "__module__", "") == "twolayer.functional" and not name.startswith("_"):
            yield f"twolayer.functional.{name}"


def test_the_reference_has_every_public_name(site):
    there = {name for page in (site / "reference").glob("*.html") for name in Elements(page).ids()}
    expected = set(public_names())
    assert {f"twolayer.{name}" for name in twolayer.__all__} | {"twolayer.data.Flower"} <= expected
    assert expected - there == set()


def test_docstrings_leave_no_markup_of_sphinx(site):
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    assert re.findall(r":(?:class|func|meth|mod|attr|data):.{20}", text) == []
    assert "<autoref" not in text
    assert not re.search(r"<p>(?:&gt;){3}|<blockquote>", text)  # a doctest that is no block of code


def test_nothing_comes_from_elsewhere(site):
    pages = [*site.rglob("*.html")]
    for page in pages:
        for attributes in Elements(page).of("script", "link", "img", "iframe", "source", "object", "video"):
            for name in ("src", "href", "data", "srcset"):
                place = attributes.get(name) or ""
                assert not place.startswith(("http:", "https:", "//")), f"{page.name}: {place}"
    for style in [*site.rglob("*.css"), *pages]:
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"']?(?:https?:)?//", text), style.name


def test_formulas_are_mathml(site):
    """As many as the page in the repository has; what LaTeX they were stands nowhere."""
    source = (DOCS / "derivation.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```python$.*?^```$", "", source, flags=re.DOTALL | re.MULTILINE)
    displayed = re.findall("^```math$", prose, re.MULTILINE)
    inline = re.findall(r"\$[^$\n]+\$", prose)
    formulas = Elements(site / "derivation.html").of("math")
    assert len(inline) > 100
    assert [formula.get("display") for formula in formulas].count("block") == len(displayed) > 5
    assert len(formulas) == len(displayed) + len(inline)
    for page in site.rglob("*.html"):
        assert not re.search(r"arithmatex|\\frac|\\top|\\\(", page.read_text(encoding="utf-8")), page.name


def test_links_lead_somewhere(site):
    """To a place in the site, or to a file in the repository."""
    pages = {page: Elements(page) for page in site.rglob("*.html") if page.name != "404.html"}  # it stands anywhere
    to_repository = 0
    for page, elements in pages.items():
        for link in [a["href"] for a in elements.of("a") if "href" in a]:
            if link.startswith(f"{REPOSITORY}/"):
                kind, _, path = link.removeprefix(f"{REPOSITORY}/").partition("/main/")
                target = ROOT / urlsplit(path).path
                assert target.is_dir() if kind == "tree" else target.is_file(), f"{page.name}: {link}"
                to_repository += 1
            elif not (parts := urlsplit(link)).scheme:
                target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
                assert target.is_file(), f"{page.name}: {link}"
                if parts.fragment and target in pages:
                    assert unquote(parts.fragment) in pages[target].ids(), f"{page.name}: {link}"
    assert to_repository > 100  # the contract's alone


def test_measurements_are_pages(site):
    links = [a.get("href", "") for a in Elements(site / "streaming.html").of("a")]
    assert "benchmarks/results/memory.html" in links
    assert all(
        (site / path.relative_to(ROOT).with_suffix(".html")).is_file() for path in ROOT.glob("benchmarks/*/*.md")
    )


def test_every_picture_has_a_text(site):
    pictures = [picture for page in site.rglob("*.html") for picture in Elements(page).of("img")]
    assert len(pictures) >= 3  # the notebook's
    assert all(len(picture.get("alt", "")) > 20 for picture in pictures)


def test_the_first_page_starts_with_a_picture(site):
    page = Elements(site / "index.html")
    (picture,) = page.of("img")
    order = [tag for tag, _ in page.found]
    assert order.index("h1") < order.index("img") < order.index("pre")
    assert (site / picture["src"]).read_text(encoding="utf-8").startswith("<?xml")


def test_the_repository_is_where_pyproject_says(site):
    assert REPOSITORY in [a.get("href") for a in Elements(site / "index.html").of("a")]


def test_what_is_wrong_stops_the_build(tmp_path):
    for name in ("docs", "mkdocs.yml", "src", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "docs" / "forgotten.md").write_text("# Forgotten\n\n[There](nowhere.md), [here](design.md#no-such)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    for complaint in ('not included in the "nav"', "'nowhere.md'", "'design.md#no-such'"):
        assert complaint in done.stderr


def test_a_formula_that_cannot_be_read_stops_the_build():
    spec = importlib.util.spec_from_file_location("formulas", DOCS / "hooks" / "formulas.py")
    formulas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formulas)
    assert formulas.on_page_content(r'a <span class="arithmatex">\(x &lt; y\)</span>').startswith("a <math><mi>x</mi>")
    with pytest.raises(math_core.LatexError, match="nosuch"):
        formulas.on_page_content(r'<span class="arithmatex">\(\nosuch{x}\)</span>')


CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: Debian's chromium")
@pytest.mark.parametrize("page", ["index.html", "derivation.html", "first_network.html", "reference/network.html"])
def test_a_browser_has_no_complaint(address, tmp_path, page):
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000"
    away = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"  # whatever is asked for elsewhere is an error
    done = subprocess.run(
        [CHROMIUM, *flags.split(), away, f"--user-data-dir={tmp_path}", "--dump-dom", f"{address}/{page}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert re.search(r'<html[^>]* class="[^"]*\bjs\b', done.stdout)  # the theme's script ran
