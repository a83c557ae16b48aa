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
        return LATEX.convert_with_local_state(html.unescape(formula[3]).strip(), displaystyle=formula[2] == "[")

    return FORMULA.sub(mathml, content)
