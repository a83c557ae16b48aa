"""The page of the contract shows the tests that there are: no more cells, no fewer, each with a link that is right."""

import subprocess
import sys

import pytest

from .page import EXPECTED, FAILS, PAGE, PASSES, ROOT, SKIPPED, Cell, Outcome, links_on, together

HOW = "write it anew: pytest tests/contract --contract-page docs/contract.md"


@pytest.fixture
def page(request: pytest.FixtureRequest) -> str:
    if request.config.getoption("contract_page", None):
        pytest.skip("the page is being written")
    return PAGE.read_text(encoding="utf-8")


def test_page_is_that_of_the_tests(page):
    collect = [sys.executable, "-m", "pytest", "tests/contract", "--collect-only", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run([*collect, "--contract-cells"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = [line.split("\t") for line in ran.stdout.splitlines() if line.count("\t") == 3]
    there = {Cell(*row[:3]): row[3] for row in rows}
    assert len(there) > 100
    assert links_on(page) == there, HOW


def test_page_has_no_failure(page):
    assert FAILS not in page, HOW


def test_a_cell_passes_only_if_all_of_its_tests_do():
    passes, skipped, expected, fails = (Outcome(verdict) for verdict in (PASSES, SKIPPED, EXPECTED, FAILS))
    assert together([passes, passes]) == passes
    assert together([passes, skipped]) == skipped
    assert together([expected, passes, skipped]) == expected
    assert together([passes, fails, expected]) == fails
