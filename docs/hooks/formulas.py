"""Formulas as MathML, written when the site is built: browsers draw it themselves, and screen readers read it aloud."""

import html
import re
from typing import Any

from math_core import LatexToMathML

# What the Markdown extension arithmatex makes of $…$ and of a fence ```math.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
LATEX = LatexToMathML(fancy_error=False)


def on_page_content(content: str, **_: Any) -> str:
    def mathml(formula: re.Match[str]) -> str:
        displayed = formula[2] == "["
        written = LATEX.convert_with_local_state(html.unescape(formula[3]).strip(), displaystyle=displayed)
        return f'<div class="formula">{written}</div>' if displayed else written

    return FORMULA.sub(mathml, content)
