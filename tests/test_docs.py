"""What the documents say is so."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_is_left_half_merged(page):
    assert not re.search(r"^(<{7}|={7}$|>{7})", page.read_text(), flags=re.MULTILINE)


def test_the_page_of_fields_is_the_one_that_the_classes_give():
    written = runpy.run_path(str(ROOT / "docs" / "make_configuration.py"))
    assert (ROOT / "docs" / "configuration.md").read_text() == written["page"]()


def test_the_table_of_kernels_is_the_one_that_the_catalogue_gives():
    written = runpy.run_path(str(ROOT / "docs" / "make_kernels.py"))
    assert (ROOT / "docs" / "kernels.md").read_text() == written["page"]()


def test_the_tables_of_scaling_are_those_that_a_plan_gives():
    written = runpy.run_path(str(ROOT / "docs" / "make_scaling.py"))
    assert (ROOT / "docs" / "scaling.md").read_text() == written["page"]()


def test_the_tables_of_advlatgan_are_those_of_the_results():
    written = runpy.run_path(str(ROOT / "docs" / "make_advlatgan.py"))
    assert (ROOT / "docs" / "advlatgan.md").read_text() == written["page"]()


@pytest.mark.parametrize("name", ["gaia", "icr", "inversion", "optimisation"])
def test_the_tables_of_experiments_are_those_of_the_results(name):
    written = runpy.run_path(str(ROOT / "docs" / f"make_{name}.py"))
    assert (ROOT / "docs" / f"{name}.md").read_text() == written["page"]()


def test_the_page_of_objectives_is_the_one_that_their_classes_and_results_give():
    written = runpy.run_path(str(ROOT / "docs" / "make_objectives.py"))
    assert (ROOT / "docs" / "objectives.md").read_text() == written["page"]()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_files_named_in_the_documents_are_there(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    files = re.findall(r"`((?:fastgan|kernels|tests|docs|bench|launch)/[\w/.]+)[`:]", text)
    for name in (*(page.parent / link for link in links), *(ROOT / file for file in files)):
        assert Path(name).exists(), f"{page.name} names {name}"
