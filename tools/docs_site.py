"""Hooks of mkdocs.yml: files of the root become pages, links lead to them, and formulas become MathML.

So every text exists once and reads well in the repository and on the site, and no script draws formulas.
"""

import re
from html import unescape
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSES.md": "licences.md",
}
"""Files of the root that are pages, by their names on the site."""
COPIES = ("LICENSE", "CITATION.cff", "benchmarks/results/*.csv", "benchmarks/results/*.json")
"""Files outside docs/ that pages link to, and that are served as they are."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages and files that lie outside docs/."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for pattern in COPIES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Leads links of the repository to where the site has their targets."""
    sources = {name: source for source, name in PAGES.items()}
    here = page.file.src_uri
    source = PurePosixPath(sources.get(here) or f"docs/{here}")

    def lead(match: re.Match[str]) -> str:
        target = normpath(source.parent / match[1])
        target = PAGES.get(target) or target.removeprefix("docs/")
        return relpath(target, PurePosixPath(here).parent)

    return LINK.sub(lead, markdown).replace("<details>", "<details markdown>")


def on_page_content(html: str, **_: Any) -> str:
    """Converts formulas to MathML, which browsers draw by themselves."""

    def draw(match: re.Match[str]) -> str:
        formula = re.sub(r"\\tag\{(\d+)\}", r"\\qquad (\1)", unescape(match[3]))
        return convert(formula, display="block" if match[2] == "[" else "inline")

    return FORMULA.sub(draw, html)
