"""Emoji of one vendor in the style of another's, seen neither of them before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import polymode as pm
from polymode.data.index import BY_NAME
from polymode.data.store import status
from polymode.evaluate.features.nets import RandomNet
from polymode.tasks.style import learn_style, paint, style_distance

EMOJI = status(BY_NAME["emoji"]).startswith("found")


def outlines(x: Tensor) -> Tensor:
    """Grey levels (N, H W) of mean 0 and length 1, which colours and contrast do not change much."""
    grey = x.float().mean(1).flatten(1)
    grey = grey - grey.mean(1, keepdim=True)
    return grey / grey.norm(dim=1, keepdim=True)


@pytest.mark.slow
@pytest.mark.skipif(not EMOJI, reason="the emoji set is not here")
def test_a_vendors_style_is_carried_over_and_the_content_stays():
    """The Gram distance to the style falls by half and more; four in five pictures are nearest to their own content."""
    data = pm.data.load("emoji_vendors")
    content, styles = data.test.condition.image, data.test.x
    styles = styles[torch.randperm(len(styles), generator=torch.Generator().manual_seed(0))]
    learned = learn_style(data.train.condition.image, data.train.x, data.spec, steps=600)
    made = learned.transfer(content, styles)
    net = RandomNet(data.spec)
    a, s, y = (net.features(x).view(x.shape) for x in (content, styles, made))
    left = style_distance(net, y, s).mean() / style_distance(net, a, s).mean()
    own = (outlines(made) @ outlines(content).T).argmax(1) == torch.arange(len(content))
    print(
        f"Gram distance {float(left):.3f} of what it was, {100 * float(own.float().mean()):.1f} % nearest to their own"
    )
    assert left < 0.5, left
    assert own.float().mean() >= 0.8
    painted, told = paint(content[:8], styles[:8], data.spec, steps=60)
    assert told[:, 1].sum() < 0.5 * told[:, 0].sum()
    assert ((outlines(painted) @ outlines(content).T).argmax(1) == torch.arange(8)).sum() >= 6
