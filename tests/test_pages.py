"""Every python block of every page runs as it is printed."""

import sys
import traceback
from pathlib import Path
from types import ModuleType

import pytest
from sybil import Sybil
from sybil.parsers.rest import PythonCodeBlockParser

ROOT = Path(__file__).parents[1]
SYBIL = Sybil([PythonCodeBlockParser()])
PAGES = [
    page
    for page in [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted(ROOT.glob("doc/*.rst"))]
    if any(SYBIL.parse(page).examples())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_as_printed(page, monkeypatch, tmp_path):
    """The blocks of a page share the namespace of a module, so that their classes can be
    pickled."""
    module = ModuleType(f"page_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    document = SYBIL.parse(page)
    document.namespace = vars(module)
    try:
        for block in document.examples():
            block.evaluate()
    except Exception:
        # pytest would show all of the page above the line that failed.
        pytest.fail(traceback.format_exc(), pytrace=False)
