"""The parts of a report about clusters and about the verdict whether reduced models are worth building."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from sciflow.reporting import (
    BLUE,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    Markup,
    figure,
    legend,
    percent,
    picture,
    seconds,
    shades,
    table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sciflow.artifact import Artifact


def sections(artifact: Artifact) -> list[tuple[str, str]]:
    """Sections for a ``criterion`` or a ``clustering``; none for anything else."""
    if artifact.schema.kind == "criterion":
        return [("Is a reduced model worth building?", _criterion(artifact))]
    if artifact.schema.kind == "clustering":
        return [("Clusters", _clustering(artifact))]
    return []


# -- criterion -------------------------------------------------------------------------------------


def _criterion(artifact: Artifact) -> str:
    about = artifact.attributes
    words = f"<p><b>{html.escape(about['verdict'])}</b></p>"
    curves = picture(_curves(artifact), "predicted error and width against modes, one line for each K")
    groups = table(
        [
            "K",
            "members of a cluster: largest, median, smallest",
            "mean dissimilarity to the medoid",
            "silhouette",
        ],
        _groups(artifact),
    )
    note = (
        "<p>Errors are relative, predicted by cross-validation from training members alone. The width is the "
        "largest error of a member that took part. A gain compares with the smallest global basis of equal "
        f"error, for {about['queries']:g} queries.</p>"
    )
    head = ["K", "n", "error", "width", "global basis of equal error", "a query", "gain", "pays from"]
    return words + curves.html + note + table(head, _rows(artifact)) + groups + _costs(artifact)


def _curves(artifact: Artifact) -> Figure:
    import matplotlib as mpl

    made, axes = figure(2, width=10, height=3.6)
    clusters, last = artifact.read("clusters"), int(artifact.read("modes").max())
    lightness = mpl.colormaps[shades()["cmap"]](np.linspace(0.62, 0.0, len(clusters)))
    for ax, name, title in (
        (axes[0, 0], "error", "predicted mean error"),
        (axes[0, 1], "width", "width of the clusters, from above"),
    ):
        curves = artifact.read(name)
        for row, k in enumerate(clusters.tolist()):
            steps = np.arange(1, last + 1)
            colour = GREY if k == 1 else tuple(lightness[row])
            label = "one basis" if k == 1 else f"K = {k}"
            mark = MARKERS[row % len(MARKERS)]
            values = np.where(curves[row, 1 : last + 1] > 0, curves[row, 1 : last + 1], np.nan)
            ax.plot(steps, values, color=colour, marker=mark, ms=3.5, lw=1.4, label=label)
        ax.axhline(artifact.attributes["tolerance"], color=ORANGE, lw=1.2, ls="--", label="wanted")
        if artifact.attributes["choice"] != "none" and name == "error":
            _mark(ax, artifact, curves, clusters)
        ax.set_yscale("log")
        ax.set_ylim(
            bottom=max(ax.get_ylim()[0], 1e-6)
        )  # rounding, where a cluster has as many modes as members
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_title(title)
        ax.set_xlabel("modes n")
    legend(made, 6)
    return made


def _mark(ax: object, artifact: Artifact, curves: np.ndarray, clusters: np.ndarray) -> None:
    """A ring around what the verdict proposes, where it is in the picture."""
    k, n = artifact.attributes["chosen_clusters"], artifact.attributes["chosen_modes"]
    row = int(np.flatnonzero(clusters == k)[0])
    if 1 <= n < curves.shape[1]:
        ax.plot([n], [curves[row, n]], "o", ms=12, mfc="none", mec=INK, mew=1.5)  # type: ignore[attr-defined]


def _rows(artifact: Artifact) -> list[list[str]]:
    names = ("clusters", "modes", "error", "width", "equal_modes", "query_seconds", "gain", "break_even")
    clusters, modes, error, width, equal, query, gain, even = (artifact.read(n) for n in names)
    last = len(artifact.read("global_error")) - 1
    rows: list[list[str]] = []
    for i, k in enumerate(clusters.tolist()):
        for j, n in enumerate(modes.tolist()):
            one = k == 1
            beyond = equal[i, j] < 0
            cells = [
                str(k),
                str(n),
                percent(float(error[i, n])),
                percent(float(width[i, n])),
                f"more than {last}" if beyond else str(equal[i, j]),
                seconds(float(query[i, j])),
                "–" if one else f"{'more than ' if beyond else ''}{gain[i, j]:.3g}",
                "–" if one else _queries(float(even[i, j])),
            ]
            chosen = (k, n) == (artifact.attributes["chosen_clusters"], artifact.attributes["chosen_modes"])
            bold: list[str] = [Markup(f"<b>{html.escape(c)}</b>") for c in cells]
            rows.append(bold if chosen else cells)
    return rows


def _queries(value: float) -> str:
    if np.isnan(value):
        return "never"
    return "the first query on" if value == 0 else f"{np.ceil(value):.0f} queries on"


def _groups(artifact: Artifact) -> list[list[str]]:
    rows = []
    read = (artifact.read(name) for name in ("clusters", "sizes", "loss", "silhouette"))
    for k, sizes, loss, silhouette in zip(*read, strict=True):
        some = sizes[sizes > 0]
        spread = f"{some.max()}, {np.median(some):g}, {some.min()}"
        rows.append([str(k), spread, f"{loss:.3g}", "–" if np.isnan(silhouette) else f"{silhouette:.2f}"])
    return rows


def _costs(artifact: Artifact) -> str:
    rates, sources = artifact.attributes["rates"], artifact.attributes["sources"]
    a0, a1, a2 = rates["online"]
    full = "–" if rates["full"] is None else f"{rates['full']:.3g} s"
    rows = [
        ["a solution of the full model", full, sources["full"]],
        [
            f"a query with n modes and q = {rates['points_per_mode']:g} n points",
            f"{1e6 * a0:.3g} + {1e6 * a1:.2g} q n + {1e6 * a2:.2g} n³ µs",
            sources["online"],
        ],
        ["asking the selector", f"{1e6 * rates['selector']:.3g} µs", sources["selector"]],
        [
            "building, for each snapshot and squared number of modes",
            f"{1e6 * rates['offline']:.3g} µs",
            sources["offline"],
        ],
        ["training a selector", f"{rates['training']:.3g} s", sources["training"]],
    ]
    return table(["cost", "", "from"], rows)


# -- clusters --------------------------------------------------------------------------------------


def _clustering(artifact: Artifact) -> str:
    from sciflow_rom.assess.efficiency import silhouette

    about = artifact.attributes
    labels, near = artifact.read("labels"), artifact.read("to_medoids")
    value = silhouette(near)
    sizes = np.bincount(labels, minlength=near.shape[1])
    rows = [
        ["method", f"{about['clusterer']['component']}, by {about['dissimilarity_of']['component']}"],
        ["clusters", f"{near.shape[1]}, of {len(labels)} members"],
        [
            "members of a cluster: largest, median, smallest",
            f"{sizes.max()}, {np.median(sizes):g}, {sizes.min()}",
        ],
        ["mean dissimilarity to the medoid", f"{about['loss']:.3g}"],
        ["silhouette", "–" if np.isnan(value) else f"{value:.2f}"],
        ["neighbours that also make a basis", f"{100 * about['overlap']:g} % of a cluster"],
    ]
    drawn = picture(_sizes(artifact, sizes), "members and radius of each cluster").html
    text = "dissimilarities of all pairs, members in the order of their clusters"
    return table(["", ""], rows) + drawn + picture(_matrix(artifact), text).html


def _sizes(artifact: Artifact, sizes: np.ndarray) -> Figure:
    """Members of each cluster, and how far they are from the one in the middle."""
    labels, near = artifact.read("labels"), artifact.read("to_medoids")
    order = np.argsort(-sizes, kind="stable")
    made, axes = figure(2, width=10, height=2.6)
    axes[0, 0].bar(np.arange(len(sizes)), sizes[order], color=BLUE, alpha=0.85)
    axes[0, 0].set_ylabel("members")
    spread = [near[labels == k, k] for k in order.tolist()]
    axes[0, 1].boxplot(
        spread,
        positions=np.arange(len(sizes)),
        widths=0.6,
        medianprops={"color": ORANGE},
        flierprops={"ms": 2},
    )
    axes[0, 1].set_ylabel("dissimilarity to the medoid")
    for ax in axes[0]:
        ax.set_xlabel("cluster")
        ax.set_xticks(np.arange(len(sizes)), [str(k) for k in order.tolist()])
    return made


def _matrix(artifact: Artifact, most: int = 400) -> Figure:
    """The dissimilarities, members in the order of their clusters."""
    labels, matrix = artifact.read("labels"), artifact.read("dissimilarity")
    order = np.argsort(labels, kind="stable")
    order = order[:: max(1, -(-len(order) // most))]
    part = matrix[np.ix_(order, order)]
    made, axes = figure(width=5, height=4)
    shown = axes[0, 0].imshow(part, interpolation="nearest", **shades(part))
    made.colorbar(shown, ax=axes[0, 0], shrink=0.8, label="dissimilarity")
    for axis in (axes[0, 0].xaxis, axes[0, 0].yaxis):
        axis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_xlabel("member, in the order of clusters")
    axes[0, 0].set_ylabel("member, in the order of clusters")
    return made
