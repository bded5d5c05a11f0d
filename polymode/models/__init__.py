"""The models: a folder a family, a file a paper.

The package is also the function `polymode.models(kind="image", likelihood="exact")`, which lists the catalogue: a
module may be given a class of its own (Python's data model, "Customizing module attribute access").
"""

import sys
from types import ModuleType
from typing import Any

from polymode import catalogue


class _Models(ModuleType):
    def __call__(self, **selection: Any) -> tuple[catalogue.Row, ...]:
        """Rows of the catalogue by kind ("image", "image/levels"), likelihood ("exact"), family or condition."""
        return catalogue.select(**selection)


sys.modules[__name__].__class__ = _Models
