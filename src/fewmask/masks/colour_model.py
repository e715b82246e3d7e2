"""The colour-model cut: GrabCut's idea with the evidence map as its prior.

What a map marks is first described by its colours (clusters of each image's own pixels), then
the outline is drawn where evidence, colour and image edges agree best. The energy of a mask x is

    E(x) = Σ_p −x_p (λ · (s_p − cut) + log P(colour_p | fg) / P(colour_p | bg))
           + γ Σ_(p,q) exp(−β |I_p − I_q|²) |x_p − x_q|

over 4-neighbours (p, q), β = 1 / (2 · mean |I_p − I_q|²). Colours and mask are re-estimated in
turn. The cut relaxes x to [0, 1], which loses nothing: half of the relaxed optimum is a minimal
cut, so no max-flow library is needed.

Source: Rother, Kolmogorov and Blake 2004, "GrabCut", section 3; Chan, Esedoglu and Nikolova 2006,
"Algorithms for finding global minimizers of image segmentation and denoising models", theorem 2;
Chambolle and Pock 2011, "A first-order primal-dual algorithm for convex problems", algorithm 1.
Differs: colour clusters instead of two Gaussian mixtures; the evidence stays in the energy as a
soft prior instead of a box that is only used at the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating]

_TAU = 0.1  # primal step; the dual one is 1 / (8 tau), as 8 bounds the squared gradient operator


@dataclass(frozen=True)
class ColourModel:
    """Settings of the cut; the defaults were set on masks of Bijie training tiles."""

    work_px: int = 112
    """Longer side at which the cut is computed; the mask is scaled back bilinearly."""
    clusters: int = 20
    """Colour clusters per image (k-means in CIELAB, lightness weighted by a half)."""
    prior_slope: float = 8.0
    """λ: log-odds per unit of score; larger trusts the evidence more against the colours."""
    smoothness: float = 5.0
    """γ: cost of a unit of outline where the image is flat."""
    smoothing_px: float = 1.0
    """Gaussian blur of the image before its colours are compared; 0 for none."""
    rounds: int = 3
    """How often colours and mask are re-estimated; at least 1."""
    steps: int = 50
    """Primal-dual steps per round."""
    most_log_odds: float = 4.0
    """The evidence's log-odds are clipped to ±this, so that no pixel is beyond doubt."""


def colour_cut(
    rgb: Map, score: Map, cut: float = 0.5, settings: ColourModel | None = None
) -> NDArray[np.bool_]:
    """Mask of one image from a score.

    Args:
        rgb: (H, W, 3) float32 in [0, 1].
        score: (H, W) float32 in [0, 1].
        cut: Score at which object and background are equally likely before colours are seen.
        settings: See :class:`ColourModel`.

    Returns:
        (H, W) boolean. Deterministic. With no pixel above ``cut`` (or none up to it) there is
        nothing to learn colours from, and the mask is empty (or full).
    """
    settings = settings or ColourModel()
    if score.max() <= cut or score.min() > cut:
        return score > cut
    height, width = score.shape
    factor = min(1.0, settings.work_px / max(height, width))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))  # OpenCV: (w, h)
    lab: NDArray[Any] = cv2.cvtColor(
        cv2.resize(rgb, small, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB
    )
    if settings.smoothing_px > 0:
        lab = cv2.GaussianBlur(lab, (0, 0), settings.smoothing_px)
    coarse: NDArray[Any] = cv2.resize(score, small, interpolation=cv2.INTER_AREA)

    most = settings.most_log_odds
    evidence = np.clip(settings.prior_slope * (coarse - cut), -most, most).astype(np.float32)
    foreground: Map = 1 / (1 + np.exp(-evidence))
    relaxed = foreground
    cluster = _cluster_colours(lab, settings.clusters)
    cost_right, cost_down = _edge_costs(lab, settings.smoothness)
    for _ in range(settings.rounds):
        colour = _colour_log_ratio(cluster, foreground, settings.clusters)
        relaxed = _minimise(evidence + colour, cost_right, cost_down, relaxed, settings.steps)
        previous, foreground = foreground, (relaxed > 0.5).astype(np.float32)
        if np.array_equal(previous, foreground):
            break
    full_size = cv2.resize(foreground, (width, height), interpolation=cv2.INTER_LINEAR)
    return full_size > 0.5


def _cluster_colours(lab: Map, clusters: int) -> NDArray[np.int32]:
    """(H, W) index of each pixel's colour cluster; the same for the same image."""
    colours = (lab * np.array([0.5, 1, 1], np.float32)).reshape(-1, 3)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 0.5)
    cv2.setRNGSeed(0)
    k = min(clusters, len(colours))
    _, label, _ = cv2.kmeans(colours, k, None, stop, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    return label.reshape(lab.shape[:2])


def _colour_log_ratio(cluster: NDArray[np.int32], foreground: Map, clusters: int) -> Map:
    """(H, W) log P(colour | fg) / P(colour | bg), the counts weighted by ``foreground``."""
    pixels = cluster.size
    total = np.bincount(cluster.ravel(), minlength=clusters).astype(np.float64)
    inside = np.bincount(cluster.ravel(), foreground.ravel(), minlength=clusters)
    area = inside.sum()
    if area < 1 or pixels - area < 1:
        return np.zeros(cluster.shape, np.float32)
    smooth = 0.1 / clusters  # a tenth of a mean cluster, shared out: no colour is impossible
    fg = inside / area + smooth
    bg = (total - inside) / (pixels - area) + smooth
    return np.log(fg / bg).astype(np.float32)[cluster]


def _edge_costs(lab: Map, smoothness: float) -> tuple[Map, Map]:
    """Cost of an outline between each pixel and its right (H, W-1) and lower (H-1, W) neighbour."""
    right = np.square(np.diff(lab, axis=1)).sum(axis=2)
    down = np.square(np.diff(lab, axis=0)).sum(axis=2)
    mean = np.concatenate([right.ravel(), down.ravel()]).mean()
    beta = 1 / (2 * mean + 1e-6)
    return smoothness * np.exp(-beta * right), smoothness * np.exp(-beta * down)


def _minimise(gain: Map, cost_right: Map, cost_down: Map, start: Map, steps: int) -> Map:
    """The x in [0, 1] with the smallest −Σ gain · x + Σ cost · |difference of neighbours|."""
    sigma = 1 / (8 * _TAU)
    dual_right, dual_down = np.zeros_like(cost_right), np.zeros_like(cost_down)
    x = start
    ahead = start
    for _ in range(steps):
        dual_right = np.clip(dual_right + sigma * np.diff(ahead, axis=1), -cost_right, cost_right)
        dual_down = np.clip(dual_down + sigma * np.diff(ahead, axis=0), -cost_down, cost_down)
        ascent = gain.copy()
        ascent[:, :-1] += dual_right
        ascent[:, 1:] -= dual_right
        ascent[:-1] += dual_down
        ascent[1:] -= dual_down
        x_next = np.clip(x + _TAU * ascent, 0, 1)
        ahead, x = 2 * x_next - x, x_next
    return x
