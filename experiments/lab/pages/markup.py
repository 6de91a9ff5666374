"""Pages: one self-contained HTML file each, in which nothing that comes from data can act.

The templates hold all HTML. Every value is escaped; the browser runs the page's own script and style alone, which the
content policy names by their hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.files import REPOSITORY, atomic_write, sha256_of

PAGES = REPOSITORY / "output" / "pages"
STAGE_NAMES = {"pretrain": "pre-training", "finetune": "finetuning"}
BENCHMARK_NAMES = {"textvqa": "TextVQA", "mmbench": "MMBench"}
TEMPLATES = Path(__file__).parent / "templates"
MARK = re.compile(r'<meta name="inputs" content="([0-9a-f]{64})">')
HEAD = 4096  # bytes of a page that hold its mark
# Characters that move a cursor, colour a terminal or turn the reading direction, and halves of characters.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """Cells of a table; `texts` are the columns that are aligned to the left."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = (0,)


def duration(seconds: float, longest: float | None = None) -> str:
    """Seconds as a person says them; in the unit of the ``longest`` where they stand among others."""
    longest = seconds if longest is None else longest
    if longest < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if longest < 7200 else f"{seconds / 3600:.{1 if seconds >= 3600 else 2}f} h"


def visible(text: str) -> str:
    """The text with control and direction characters written out, as `\\x1b`; tabs and line ends stay."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def render(template: str, inputs: str, **values: Any) -> str:
    """The HTML of a page.

    Args:
        template: its name in `templates/`.
        inputs: hash of everything the page shows, see `hash_of`.
        values: what the template names.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    templates.filters["base64"] = lambda content: base64.b64encode(content).decode()
    own = {
        "style": "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "lab.css")),
        "script": (TEMPLATES / "page.js").read_text(encoding="utf-8"),
    }
    return templates.get_template(template).render(
        # Files of the kit, not data: an escaped style or script would be none.
        **{name: Markup(text) for name, text in own.items()},
        **{f"{name}_hash": _policy_hash(text) for name, text in own.items()},
        inputs=inputs,
        **values,
    )


def _policy_hash(text: str) -> str:
    """As a content policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def hash_of(files: Iterable[Path], *texts: str) -> str:
    """Hash of what a page shows: the content of files, those that are missing too, some texts, and the code that reads
    answers and makes pages."""
    digest = hashlib.sha256()
    code = [path for path in Path(__file__).parent.rglob("*.*") if path.suffix in (".py", ".j2", ".css", ".js")]
    code += (REPOSITORY / "toolkit" / "eval").glob("*.py")
    for file in [*sorted(code), *files]:
        digest.update(f"{file.name} {sha256_of(file) if file.is_file() else 'missing'}\n".encode())
    digest.update("\0".join(texts).encode(errors="backslashreplace"))
    return digest.hexdigest()


def is_current(page: Path, inputs: str) -> bool:
    """Whether a page is there and was made from these inputs."""
    if not page.is_file():
        return False
    with page.open("rb") as file:
        mark = MARK.search(file.read(HEAD).decode(errors="replace"))
    return bool(mark) and mark[1] == inputs


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    with atomic_write(path) as file:
        file.write(text)
