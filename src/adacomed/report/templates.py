"""How every HTML page of this package is made: text is escaped, a misspelt name is an error."""

from __future__ import annotations

import jinja2

PACKAGE = "adacomed.report"


def environment(*first: jinja2.BaseLoader) -> jinja2.Environment:
    """Templates of this folder, after those of `first`."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([*first, jinja2.PackageLoader(PACKAGE, "")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
