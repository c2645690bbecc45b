"""An orbit that moves: SVG and CSS in the page itself, which a reader can stop."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import GREY, colour
from sciflow_control.trials.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 640, 480
SECONDS = 30.0
FRAMES = 400
"""Of the animation at most."""
_STYLE = """
.orbit{position:relative}.orbit svg{max-width:100%%;height:auto;display:block;margin:6px auto}
.orbit .body,.orbit .now{animation-duration:%gs;animation-timing-function:linear;
animation-iteration-count:infinite}
.orbit input:not(:checked)~svg .body,.orbit input:not(:checked)~svg .now{animation-play-state:paused}
@media (prefers-reduced-motion:reduce){.orbit .body,.orbit .now{animation:none}}
"""


def moving(run: Watched, knob: str, time_unit: str) -> str:
    """HTML of one orbit that moves as long as a box is ticked; of circles whose size tells what was chosen.

    A circle is the larger, the smaller the value was: where the solver is careful. Readers who asked their
    system for less motion see the paths alone.

    Parameters
    ----------
    run : Watched
        With positions; those of the plane of the first two axes are shown.
    knob : str
        Name of what was chosen.
    time_unit : str
        Of the run.
    """
    assert run.places is not None
    rows = run.together
    kept = np.unique(np.linspace(0, rows - 1, min(rows, FRAMES)).astype(int))
    at = _fitted(run.places[kept, :, :2])
    time = np.concatenate([[run.time[0]], run.ends])[kept]
    share = 100 * (time - time[0]) / (time[-1] - time[0])
    chosen = np.log(run.value[np.maximum(kept - 1, 0)])
    spread = max(float(np.ptp(chosen)), 1e-12)
    radius = 4 + 6 * (chosen.max() - chosen) / spread
    name = f"orbit{run.seed}"
    style, shapes = [_STYLE % SECONDS], []
    for body in range(at.shape[1]):
        paint = colour(body)
        steps = [
            f"{s:.2f}%{{transform:translate({x:.1f}px,{y:.1f}px) scale({r:.2f})}}"
            for s, (x, y), r in zip(share, at[:, body], radius, strict=True)
        ]
        style.append(f"@keyframes {name}b{body}{{{''.join(steps)}}}")
        shapes.append(_path(at[:, body], paint))
        x, y = at[0, body]
        shapes.append(
            f'<g class="body" style="animation-name:{name}b{body};'
            f'transform:translate({x:.1f}px,{y:.1f}px) scale({radius[0]:.2f})">'
            f'<circle r="1" fill="{paint}" fill-opacity=".85"/></g>'
        )
    style.append(f"@keyframes {name}t{{from{{transform:scaleX(0)}}to{{transform:scaleX(1)}}}}")
    shapes.append(
        f'<rect class="now" x="0" y="{HEIGHT - 5}" width="{WIDTH}" height="5" fill="{GREY}" '
        f'style="animation-name:{name}t;transform-origin:0 0"/>'
    )
    text = f"orbit of {at.shape[1]} bodies up to {time[-1]:.3g} {time_unit}"
    note = (
        f"{text[0].upper()}{text[1:]}; the bar below is the time. "
        f"Bodies are drawn the larger, the smaller the {knob} that was chosen: they swell where the solver "
        "is careful."
    )
    return _page(name, "".join(style), "".join(shapes), text, note)


def _page(name: str, style: str, shapes: str, text: str, note: str) -> str:
    """HTML with the box that is ticked."""
    return (
        f"<style>{style}</style>"
        f'<div class="orbit"><input type="checkbox" id="{name}" checked>'
        f'<label for="{name}"> move</label>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{html.escape(text)}">'
        f"{shapes}</svg><p>{html.escape(note)}</p></div>"
    )


def _fitted(places: np.ndarray) -> np.ndarray:
    """Positions in the picture, y upwards, with one scale for both axes and a margin; shape as given."""
    low, high = places.min(axis=(0, 1)), places.max(axis=(0, 1))
    scale = min((WIDTH - 40) / max(high[0] - low[0], 1e-12), (HEIGHT - 50) / max(high[1] - low[1], 1e-12))
    middle = (low + high) / 2
    moved = (places - middle) * scale * np.array([1.0, -1.0]) + np.array([WIDTH / 2, HEIGHT / 2 - 5])
    found: np.ndarray = moved
    return found


def _path(points: Sequence[Sequence[float]] | np.ndarray, paint: str) -> str:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{line}" fill="none" stroke="{paint}" stroke-width=".6" stroke-opacity=".5"/>'
