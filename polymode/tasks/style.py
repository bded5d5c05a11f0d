"""The content of one picture in the style of another: by descent on its pixels, or by a decoder that learned to.

Gatys, Ecker and Bethge 2015, A neural algorithm of artistic style (arXiv:1508.06576); CVPR 2016.

    E_l = 1 / (4 N_l^2 M_l^2) sum_ij (G^l_ij - A^l_ij)^2,  G^l_ij = sum_k F^l_ik F^l_jk        (eq. 3 and 4)
    L = alpha 1/2 sum (F^l - P^l)^2 + beta sum_l w_l E_l                                       (eq. 1 and 7)

Huang and Belongie 2017, Arbitrary style transfer in real-time with adaptive instance normalization (arXiv:1703.06868).

    AdaIN(x, y) = sigma(y) (x - mu(x)) / sigma(x) + mu(y),  channel by channel                 (eq. 8)
    g learns  |f(g(t)) - t|^2 + lambda sum_l |mu(f_l(g(t))) - mu(f_l(s))|^2 + |sigma ... |^2   (eq. 12 and 13)

`style_distance` is the sum of E_l with equal w_l, `paint` the first paper, `adain` eq. 8, `learn_style` and
`StyleTransfer` the second. f is the net of fixed random weights of `evaluate.features.nets`: three levels of N_l = 16,
32 and 64 channels, whose statistics tell styles, too (He, Wang and Hopcroft 2016, arXiv:1606.04801), and which needs
neither a download nor labels.
It is a task and not a model of the catalogue: a painting is the minimum of an energy, not a draw.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from polymode.core import rng
from polymode.core.errors import DataError, PolymodeError
from polymode.core.spec import Spec
from polymode.evaluate.features.nets import RandomNet

#: the level whose activations are the content, and which AdaIN moves: at the coarsest a decoder no longer knows what
#: the content was (tests/learning/test_style.py)
CONTENT = 1
#: weight of pixels that leave their range
BEYOND = 100.0
#: a channel that varies by less has no style of its own to be taken away
EVEN = 1e-6


def gram(features: Float[Tensor, "B N H W"]) -> Float[Tensor, "B N N"]:
    """sum_k F_ik F_jk over places k (Gatys et al., eq. 3)."""
    rows = features.flatten(2)  # (B, N, M)
    return rows @ rows.transpose(1, 2)


def style_distance(net: RandomNet, y: Tensor, style: Tensor) -> Float[Tensor, " B"]:
    """The mean over levels of E_l of planes (B, C, H, W) against those of a style (B or 1, C, H, W)."""
    return _style_error(net.layers(y), [(gram(h), h[0, 0].numel()) for h in net.layers(style)])


def _style_error(levels: list[Tensor], wanted: list[tuple[Tensor, int]]) -> Tensor:
    total = torch.zeros(len(levels[0]), dtype=levels[0].dtype, device=levels[0].device)
    for h, (goal, places) in zip(levels, wanted, strict=True):
        n = h.shape[1]
        # each side by its own number of places: a style may be of another size
        error = gram(h) / h[0, 0].numel() - goal / places
        total = total + error.square().sum((1, 2)) / (4 * n * n)
    return total / len(levels)


def paint(
    content: Tensor, style: Tensor, spec: Spec, *, steps: int = 100, content_weight: float = 1e-2
) -> tuple[Tensor, Float[Tensor, "B 2"]]:
    """Each content in its style, by descent on the pixels that begins at the content.

    Args:
        content: (B, C, H, W) data of the spec.
        style: as many pictures, or one for all.
        steps: iterations of L-BFGS for each picture.
        content_weight: alpha / beta, of content as a mean over activations.

    Returns:
        Pictures (B, C, H, W), and their style's distance before and after.

    Raises:
        DataError: no pictures of levels.
        PolymodeError: numbers out of range, or as many styles as fit nothing.
    """
    net = _net(spec, content, style)
    if steps < 1 or content_weight < 0:
        raise PolymodeError(f"steps={steps}, content_weight={content_weight}: expected at least 1 and at least 0")
    painted, told = [], []
    for i in range(len(content)):  # one by one, so that no picture depends on the others
        begun, goal = (net.features(x).view(x.shape) for x in (content[i : i + 1], style[i % len(style)][None]))
        kept = net.layers(begun)[CONTENT].detach()
        wanted = [(gram(h), h[0, 0].numel()) for h in net.layers(goal)]
        before = _style_error(net.layers(begun), wanted)
        y = begun.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([y], max_iter=steps, history_size=20, line_search_fn="strong_wolfe")

        def closure(y=y, wanted=wanted, kept=kept, scale=float(before), optimiser=optimiser) -> Tensor:
            optimiser.zero_grad()
            levels = net.layers(y)
            # in units of the first distance, so that one weight suits every style
            loss = _style_error(levels, wanted).sum() / (scale or 1.0)
            loss = loss + content_weight * 0.5 * (levels[CONTENT] - kept).square().mean()
            # pixels beyond their range would be cut off, and what they were for with them
            loss = loss + BEYOND * (y.abs() - 1).clamp(min=0).square().mean()
            loss.backward()
            return loss

        optimiser.step(closure)
        done = net.features.decode(y.detach().flatten(1))
        after = style_distance(net, net.features(done).view(y.shape), goal)
        painted.append(done)
        told.append(torch.stack([before, after], 1))
    return torch.cat(painted), torch.cat(told)


def moments(features: Float[Tensor, "B N H W"]) -> tuple[Tensor, Tensor]:
    """(mu, sigma) of each channel, (B, N, 1, 1)."""
    return features.mean((2, 3), keepdim=True), features.std((2, 3), keepdim=True, correction=0)


def adain(content: Float[Tensor, "B N H W"], style: Float[Tensor, "S N h w"]) -> Float[Tensor, "B N H W"]:
    """Eq. 8; an even channel of the content, which has nothing to stretch, becomes the style's mean."""
    (mx, sx), (my, sy) = moments(content), moments(style)
    stretch = torch.where(sx > EVEN, sy / sx.clamp(min=EVEN), torch.zeros_like(sx))
    return stretch * (content - mx) + my


class _Decoder(nn.Module):
    """Activations of the last of some levels to planes, up by as much as the levels went down."""

    def __init__(self, channels: int, sizes: list[tuple[int, int]], width: int) -> None:
        super().__init__()
        self.sizes = sizes[::-1][1:]
        # zeros about a picture would be an edge of the content; the paper mirrors, too
        conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode="reflect")
        self.first = conv(width, width)
        self.steps = nn.ModuleList(conv(width // 2**i, width // 2 ** (i + 1)) for i in range(len(self.sizes)))
        self.last = conv(width // 2 ** len(self.sizes), channels)

    def forward(self, h: Tensor) -> Tensor:
        h = F.relu(self.first(h))
        for step, size in zip(self.steps, self.sizes, strict=True):
            h = F.relu(step(F.interpolate(h, size=size, mode="nearest")))
        return self.last(h)


@dataclass(frozen=True)
class StyleTransfer:
    """What `learn_style` learned.

    Args:
        spec: of the pictures.
        net: f.
        decoder: g, in evaluation mode.
        level: of f, whose activations are moved.
        history: content and style loss while learning, every 50 steps.
    """

    spec: Spec
    net: RandomNet
    decoder: _Decoder
    level: int
    history: list[dict[str, float]] = field(default_factory=list, repr=False)

    def transfer(self, content: Tensor, style: Tensor, *, share: float = 1.0) -> Tensor:
        """Pictures (B, C, H, W) in the style of as many others, or of one; a share below 1 keeps some of their own.

        Raises:
            DataError: pictures that are not of the spec.
            PolymodeError: a share outside [0, 1].
        """
        for x in (content, style):
            self.spec.check(x)
        if not 0 <= share <= 1:
            raise PolymodeError(f"share={share}, expected a number from 0 (its own style) to 1 (the other's)")
        with torch.no_grad():
            a, s = (self.net.layers(self.net.features(x).view(x.shape))[self.level] for x in (content, style))
            y = self.decoder(torch.lerp(a, adain(a, s), share))
            return self.net.features.decode(y.flatten(1))


def learn_style(
    content: Tensor,
    style: Tensor,
    spec: Spec,
    *,
    steps: int = 600,
    batch_size: int = 8,
    style_weight: float = 10.0,
    level: int = CONTENT,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> StyleTransfer:
    """A decoder of what AdaIN makes of the activations of contents (N, C, H, W) and styles (M, C, H, W).

    Args:
        style_weight: lambda.
        level: whose activations are moved, 0 for the finest; a finer one keeps more of the content.
        steps, batch_size, learning_rate: of Adam.
        seed: of initial weights and batches.

    Raises:
        DataError: no pictures of levels.
        PolymodeError: numbers out of range.
    """
    net = _net(spec, content, style)
    if min(steps, batch_size) < 1 or style_weight < 0 or learning_rate <= 0:
        raise PolymodeError(
            f"steps={steps}, batch_size={batch_size}, style_weight={style_weight}, learning_rate={learning_rate}: "
            "expected counts of at least 1, a weight of at least 0 and a rate above 0"
        )
    levels = net.layers(torch.zeros(1, *spec.shape))
    if not 0 <= level < len(levels):
        raise PolymodeError(f"level={level}, expected one of 0 to {len(levels) - 1}")
    levels = levels[: level + 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = _Decoder(spec.shape[0], [(h.shape[2], h.shape[3]) for h in levels], levels[-1].shape[1])
    g, history = rng.generator(seed), []
    optimiser = torch.optim.Adam(decoder.parameters(), lr=learning_rate)
    for step in range(steps):
        rows = [x[torch.randint(len(x), (batch_size,), generator=g)] for x in (content, style)]
        of_content, of_style = (net.layers(net.features(x).view(x.shape))[: level + 1] for x in rows)
        goal = adain(of_content[-1], of_style[-1])
        made = net.layers(decoder(goal))[: level + 1]
        kept = (made[-1] - goal).square().mean()
        styled = torch.stack(
            [
                (mine - theirs).square().mean()
                for h, s in zip(made, of_style, strict=True)
                for mine, theirs in zip(moments(h), moments(s), strict=True)
            ]
        ).sum()
        optimiser.zero_grad(set_to_none=True)
        (kept + style_weight * styled).backward()
        optimiser.step()
        if step % 50 == 0:
            history.append({"step": step, "content": kept.item(), "style": styled.item()})
    return StyleTransfer(spec, net, decoder.eval().requires_grad_(False), level, history)


def _net(spec: Spec, content: Tensor, style: Tensor) -> RandomNet:
    if spec.kind != "image" or spec.levels is None:
        raise DataError(f"the data are {spec}; content and style are told apart in pictures of levels")
    for name, x in (("content", content), ("style", style)):
        spec.check(x, name=name)
    return RandomNet(spec)
