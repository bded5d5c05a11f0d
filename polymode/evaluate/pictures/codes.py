"""Pictures of codes: reconstructions, lines between data, traversals of the most active dimensions, codes in a plane.

Of any model that has codes; the first three where one can see a decoded datum (images, texts), the plane for all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from polymode.core.capabilities import HasLatents, HasPosterior
from polymode.core.condition import Condition
from polymode.core.model import GenerativeModel
from polymode.core.spec import Spec
from polymode.evaluate.comparison import Comparison
from polymode.evaluate.pictures.base import INK, MODEL, Panel, Picture, figure, png
from polymode.evaluate.pictures.images import image_panel
from polymode.evaluate.pictures.text import spell
from polymode.parts.codes import ACTIVE, activity, line, most_active, principal, traversal

#: test rows that are encoded for the plane and for means and deviations, and rows at a time
ENCODED, BATCH = 1000, 256
#: columns of a sheet, lines between two data, dimensions that are moved, and how far, in deviations
ACROSS, LINES, DIMENSIONS, SPAN = 8, 6, 6, 2.5
#: texts that are shown
TEXTS = 4
#: classes that are told apart by colour
COLOURS = 10


def codes(c: Comparison) -> Picture | None:
    """What a model's codes hold, None where none of it can be shown."""
    model, spec, real = c.model, c.data.spec, c.reference.real
    assert isinstance(model, GenerativeModel)
    assert isinstance(model, HasLatents)
    condition = None if model.condition_spec is None else c.reference.condition
    z = torch.cat(
        [
            model.encode(real[rows], None if condition is None else condition[rows]).cpu()
            for rows in torch.arange(min(ENCODED, len(real))).split(BATCH)
        ]
    )
    view = _View(model, spec, real, condition, z)
    panels: list[Panel] = []
    if spec.kind == "image":
        across = min(ACROSS, len(z))
        panels = [image_panel("each above its reconstruction", view.reconstructions(across), spec, across)]
        if z.is_floating_point() and len(z) > 1:
            panels.append(image_panel("between two images", view.lines(), spec, ACROSS))
            panels.append(image_panel(view.traversed(), view.traversals(), spec, ACROSS))
    elif spec.kind == "tokens":
        panels = [Panel("each above its reconstruction", text=view.texts())]
    if z.is_floating_point() and len(z) > 1:
        panels.append(_plane(z.flatten(1), c.reference.condition, c))
    if not panels:
        return None
    size = z[0].numel()
    words = [f"Test rows as codes of {size:,} dimension" + "s" * (size != 1)]
    if len(panels) > 2:
        words.append("straight lines between the codes of two, decoded")
        words.append(
            f"one dimension of a code moved over {SPAN:g} deviations to either side, a row each, the most active first"
        )
    if isinstance(model, HasPosterior):
        active = int((activity(z.flatten(1)) > ACTIVE).sum())
        words.append(f"{active} of {size:,} dimensions are active (their variance is above {ACTIVE:g})")
    if condition is not None:
        words.append("all under the condition of the (left) datum")
    return Picture("Codes", "; ".join(words) + ".", tuple(panels))


class _View:
    """What is decoded of the first test rows.

    Args:
        z: codes of test rows, the first of which are shown.
    """

    def __init__(
        self, model: GenerativeModel, spec: Spec, real: Tensor, condition: Condition | None, z: Tensor
    ) -> None:
        self.model, self.spec, self.real, self.condition = model, spec, real, condition
        self.z, self.flat = z, z.flatten(1)

    def decode(self, flat: Tensor, rows: Tensor) -> Tensor:
        """The data of flat codes (N, Z), each under the condition of a row (N,)."""
        assert isinstance(self.model, HasLatents)
        z = flat.view(-1, *self.z.shape[1:])
        condition = None if self.condition is None else self.condition[rows]
        return self.model.decode(z, condition).cpu()

    def reconstructions(self, across: int) -> Tensor:
        """Whole rows of originals, each followed by the row of their reconstructions."""
        rows = torch.arange(min(LINES // 2, len(self.z) // across) * across)
        made = self.decode(self.flat[rows], rows)
        pairs = zip(self.real[rows].split(across), made.split(across), strict=True)
        return torch.cat([part for pair in pairs for part in pair])

    def lines(self) -> Tensor:
        """Straight lines between the codes of two rows, a row each."""
        pairs = min(LINES, len(self.z) // 2)
        between = line(self.flat[:pairs], self.flat[pairs : 2 * pairs], ACROSS)
        return self.decode(between.flatten(0, 1), torch.arange(pairs).repeat_interleave(ACROSS))

    def traversals(self) -> Tensor:
        """The first row with its most active dimensions moved, a row each."""
        dims = most_active(self.flat, DIMENSIONS)
        t = torch.linspace(-SPAN, SPAN, ACROSS, dtype=torch.float64)
        values = self.flat.double().mean(0)[dims, None] + activity(self.flat).sqrt()[dims, None] * t
        moved = traversal(self.flat[:1], dims, values).flatten(0, 2)
        return self.decode(moved, torch.zeros(len(moved), dtype=torch.long))

    def traversed(self) -> str:
        """The label of the traversals."""
        dims = most_active(self.flat, DIMENSIONS)
        listed = ", ".join(map(str, dims))
        return f"one image, dimension {listed} moved" if len(dims) == 1 else f"one image, dimensions {listed} moved"

    def texts(self) -> str:
        """The first rows, each above its reconstruction."""
        rows = torch.arange(min(TEXTS, len(self.z)))
        made = spell(self.decode(self.flat[rows], rows), self.spec)
        pairs = zip(spell(self.real[rows], self.spec), made, strict=True)
        return "\n\n".join(f"data  {a}\ncode  {b}" for a, b in pairs)


def _plane(z: Tensor, condition: Condition | None, c: Comparison) -> Panel:
    """Codes along the two directions in which they vary most, coloured by label where there is one."""
    vectors, deviations = principal(z)
    shares = (deviations.square() / deviations.square().sum().clamp(min=1e-300))[:2].tolist()  # codes that are all one
    at = (z.double() - z.double().mean(0)) @ vectors[:2].T
    at = at if at.shape[1] == 2 else torch.cat([at, torch.zeros_like(at)], 1)
    label = None if condition is None else condition.label
    wanted = c.data.condition_spec
    classes = 0 if label is None or wanted is None or wanted.label is None else wanted.label
    names = [] if wanted is None else [*wanted.label_names]

    def draw() -> bytes:
        drawn, axes = figure(4.2, 3.6)
        if label is None or not 2 <= classes <= COLOURS:
            axes.scatter(at[:, 0], at[:, 1], s=7, color=MODEL, alpha=0.5, linewidths=0)
        else:
            import matplotlib

            colours = matplotlib.colormaps["tab10"]
            for k in range(classes):
                mine = at[label[: len(at)] == k]
                name = (names[k] if names else str(k))[:14]
                axes.scatter(mine[:, 0], mine[:, 1], s=7, color=colours(k), alpha=0.7, linewidths=0, label=name)
            beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "fontsize": 7, "frameon": False}
            axes.legend(**beside, labelcolor=INK, markerscale=2, handletextpad=0.2)
        for set_name, which, share in zip((axes.set_xlabel, axes.set_ylabel), ("first", "second"), shares):
            set_name(f"{which} principal direction, {share:.0%} of the variance", fontsize=7, color=INK)
        return png(drawn)

    coloured = label is not None and 2 <= classes <= COLOURS
    return Panel("codes of test rows" + (", coloured by label" if coloured else ""), draw)
