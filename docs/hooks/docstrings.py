"""Docstrings, whose markup is Sphinx's, as the Markdown that mkdocstrings expects."""

import re
from typing import Any

from griffe import Extension, NameResolutionError, Object

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
TERM = re.compile(r"^(``.*``)\n    (?=\S)", re.MULTILINE)
SESSION = re.compile(r"^( *)>>> .*\n(?:\1\S.*\n?)*", re.MULTILINE)


class SphinxMarkup(Extension):
    """References become links, where the site has what they refer to; doctests and terms with definitions, blocks."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is None:
            return

        def link(role: re.Match[str]) -> str:
            short, name = role.groups()
            try:
                path = obj.resolve(name)
            except NameResolutionError:
                path = name
            shown = name.rsplit(".", 1)[-1] if short else name
            return f'<autoref optional identifier="{path}">`{shown}`</autoref>'

        text = TERM.sub(r"\n\1\n:   ", ROLE.sub(link, obj.docstring.value))
        obj.docstring.value = SESSION.sub(r"```pycon\n\g<0>\n```\n", text + "\n").rstrip()
