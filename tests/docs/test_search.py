"""The search box of the built pages finds what people type.

Sphinx' own search code ranks, in Node.js, the index that the build wrote.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

# The page that comes first for each word; words of the landing page's audience first.
FIRST = {
    "pandas": "guides/dataframes",
    "polars": "guides/dataframes",
    "dataframe": "guides/dataframes",
    "django": "web",
    "Flask": "web",
    "fastapi": "web",
    "s3": "guides/stores",
    "postgres": "guides/stores",
    "PostgreSQL": "guides/stores",
    "delta lake": "guides/stores",
    "proxy": "guides/proxy",
    "HTTPS_PROXY": "guides/proxy",
    "airflow": "guides/schedulers",
    "cron": "guides/schedulers",
    "docker": "guides/containers",
    "kubernetes": "guides/containers",
    "lambda": "guides/processes",
    "celery": "guides/processes",
    "spark": "spark",
    "databricks": "spark",
    "prebid": "guides/publishers",
    "openrtb": "guides/bidders",
    "sharing": "guides/sharers",
    "csv": "guides/advertisers",
    "parquet": "files",
    "gdpr": "guides/forget",
    "uid2_client": "guides/from-official-sdk",
    "prometheus": "observability",
    "pytest": "testing",
    "java": "sandbox",
    "timeout": "reliability",
    "exit code": "cli",
    "snowflake": "when-to-use",
    "install": "start",
    # While a word is typed.
    "panda": "guides/dataframes",
    "postgre": "guides/stores",
    "kubern": "guides/containers",
}
# The part of a browser that the search code touches.
BROWSER = """
const fs = require("fs"), vm = require("vm");
const [site, words] = [process.argv[1], JSON.parse(process.argv[2])];
const context = vm.createContext({
  document: { getElementById: () => null },
  _ready: () => {},
  _: (text) => text,
  SPHINX_HIGHLIGHT_ENABLED: false,
});
context.window = context;
const files = ["_static/language_data.js", "_static/searchtools.js", "searchindex.js"];
for (const file of files)
  vm.runInContext(fs.readFileSync(`${site}/${file}`, "utf-8"), context);
context.words = words;
const search = `words.map((word) => {
  const found = Search._performSearch(...Search._parseQuery(word));
  return found.reverse().map((result) => result[0]);
})`;
console.log(JSON.stringify(vm.runInContext(search, context)));
"""


@pytest.fixture(scope="module")
def ranks(site: Path) -> dict[str, list[str]]:
    """Search for every word at once: the pages found for each, best first."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    command = [node, "-e", BROWSER, str(site), json.dumps(list(FIRST))]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)  # noqa: S603 - the code above
    return dict(zip(FIRST, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("word", "page"), FIRST.items(), ids=FIRST)
def test_the_best_page_comes_first(
    ranks: dict[str, list[str]], word: str, page: str
) -> None:
    """Whatever the API's names and the texts of other pages contain."""
    assert ranks[word][:1] == [page]
