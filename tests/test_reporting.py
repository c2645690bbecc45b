"""The look of reports, measured: colours for all eyes, a page that stands alone, no hidden data."""

import asyncio
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

import sciflow.reporting as look
from sciflow import report, run
from sciflow.flow import Session, within
from sciflow.reporting import Markup, Section, colours, course, figures, table
from sciflow.reporting.page import _anchors, _told_apart
from sciflow.stages.design import Design
from sciflow.stages.evaluate import Evaluate
from sciflow.stages.simulate import Simulate
from sciflow.stages.train import Train
from sciflow.store import Store
from sciflow.work import Record
from tests.toys import Least, Wave

ROOT = Path(__file__).parent.parent
EYES = {
    "all cones": np.eye(3),
    "protanopia": (
        0.152286,
        1.052583,
        -0.204868,
        0.114503,
        0.786281,
        0.099216,
        -0.003882,
        -0.048116,
        1.051998,
    ),
    "deuteranopia": (
        0.367322,
        0.860646,
        -0.227968,
        0.280085,
        0.672501,
        0.047413,
        -0.01182,
        0.04294,
        0.968881,
    ),
    "tritanopia": (1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039),
}
"""Linear RGB as it is seen; Machado, Oliveira, Fernandes, IEEE TVCG 15(6), 2009, table 1, severity 1."""
APART = {"all cones": 20, "protanopia": 20, "deuteranopia": 20, "tritanopia": 15}


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear RGB, D65."""
    xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.072175],
            [0.0193339, 0.119192, 0.9503041],
        ]
    ) @ np.clip(rgb, 0, 1)
    f = xyz / [0.95047, 1, 1.08883]
    f = np.where(f > 216 / 24389, np.cbrt(f), (24389 / 27 * f + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(a, b, eyes):
    seen = np.reshape(EYES[eyes], (3, 3))
    return float(np.linalg.norm(lab(seen @ linear(a)) - lab(seen @ linear(b))))


def contrast(a, b):
    bright = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (bright[1] + 0.05) / (bright[0] + 0.05)


@pytest.mark.parametrize("eyes", EYES)
def test_all_eyes_tell_the_colours_apart(eyes):
    palette = (*colours.CYCLE, colours.INK, colours.GREY)
    nearest = min((distance(a, b, eyes), a, b) for a, b in itertools.combinations(palette, 2))
    assert nearest[0] >= APART[eyes], nearest


def test_the_measure_knows_colours_that_are_confused():
    """Among matplotlib's own colours many see two greens, and two blues, as one."""
    assert distance("#1f77b4", "#9467bd", "deuteranopia") < APART["deuteranopia"]
    assert distance("#ff7f0e", "#2ca02c", "protanopia") < APART["protanopia"]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_text_and_lines_are_seen_on_their_ground():
    """WCAG 2.2: 4.5 to 1 for text, 3 to 1 for what carries meaning in a picture."""
    for text in (colours.INK, colours.MUTED, colours.BLUE):
        assert min(contrast(text, colours.PAPER), contrast(text, colours.PAGE)) >= 4.5
    assert contrast(colours.RED, colours.PAPER) >= 4.5
    for line in (*colours.CYCLE, colours.GREY):
        assert contrast(line, colours.PAPER) >= 3


def test_series_differ_without_their_colours():
    """A print in grey: neighbours differ in marker and in dash, and of 42 no two are the same."""
    looks = [tuple(map(str, look.style(i).values())) for i in range(42)]
    assert len(set(looks)) == 42
    for one, other in itertools.pairwise(looks):
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_maps_of_fields_tell_the_order_by_their_lightness():
    def lightness(name):
        steps = mpl.colormaps[name](np.linspace(0, 1, 64))[:, :3]
        return np.array([lab(linear(mpl.colors.to_hex(c)))[0] for c in steps])

    steps = np.diff(lightness(colours.FIELD))
    assert steps.min() > 0
    assert steps.max() < 2.5 * steps.mean(), "no step is seen where the field has none"
    both = lightness(colours.SIGNED)
    assert np.all(np.diff(both[:32]) > 0)
    assert np.all(np.diff(both[32:]) < 0)


def test_signed_fields_have_their_zero_in_the_middle():
    wave = np.array([-3.0, 0.0, 2.0])
    assert look.shades(wave) == {"cmap": colours.SIGNED, "vmin": -3.0, "vmax": 3.0}
    assert look.shades(np.array([-0.01, 5.0]))["cmap"] == colours.FIELD, "an undershoot makes no signed field"
    assert look.shades(wave + 4)["vmin"] == 1.0
    assert look.shades(np.array([1.0, np.nan]), np.array([4.0]), signed=True)["vmin"] == -4.0
    one = look.shades(np.full(3, 2.0))
    assert one["vmin"] < 2.0 < one["vmax"]
    assert look.shades()["vmin"] < look.shades()["vmax"]


OWN = r"#[0-9a-fA-F]{6}\b|cmap=\"\w+\"|fontsize=|<img |[\"']tab:\w+|color=\"(?!none)\w{2,}\""


def drawers():
    """Files that draw or write parts of reports, the palette itself left out."""
    own = {"sciflow/reporting/colours.py", "sciflow/reporting/figures.py"}
    for folder in ("sciflow", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            if str(path.relative_to(ROOT)) not in own and re.search(r"sciflow\.(reporting|sections)\b", text):
                yield path, text


def test_nobody_has_colours_or_pictures_of_their_own():
    files = dict(drawers())
    assert len(files) > 25
    for path, text in files.items():
        found = re.findall(OWN, text)
        # A legend that names other things than what is drawn says where it stands.
        calls = [text[m.start() : m.start() + 250] for m in re.finditer(r"\.legend\(", text)]
        found += [c for c in calls if "outside" not in c and "bbox_to_anchor" not in c]
        assert not found, (path, found)


class Page(HTMLParser):
    """Notes what is open, images, links and names; the tags that end by themselves are not opened."""

    VOID = ("meta", "img", "br", "input", "hr", "link")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a small chain of stages, as text."""

    async def flow():
        data = await run(Simulate(Wave()), design=await run(Design(problem=Wave(), count=16)))
        model = await run(Train(Least(2, 0), ("a", "b", "q"), ("u",), valid=0.1), ensemble=data)
        score = await run(Evaluate(), model=model, ensemble=data, training=data)
        await run(Design(problem=Wave(), count=16))
        return await report("A <test>", score, model, data, data)

    with within(Session(Store(tmp_path_factory.mktemp("store")), parameters={"text": "</pre><b>"})):
        return asyncio.run(flow()).read_text()


def test_the_page_is_well_formed_and_stands_alone(page):
    tags = Page(page).tags
    images = [attrs for tag, attrs in tags if tag == "img"]
    assert len(images) >= 4
    for image in images:
        assert image["alt"].strip()
        assert image["src"].startswith("data:image/")
    names = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(names) == len(set(names))
    links = [attrs["href"] for tag, attrs in tags if tag == "a"]
    assert links, "many sections have a table of contents"
    assert {link.removeprefix("#") for link in links} <= set(names)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    outside = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", outside)


def test_the_page_has_what_a_reader_looks_for(page):
    for part in (
        "A &lt;test&gt;",
        "sciflow ",
        "python ",
        "Settings and provenance",
        "Figure ",
        "Simulations, 2 of 2",
    ):
        assert part in page
    assert page.count("<figcaption>") == page.count("<img ")
    assert "@media print" in page
    assert "break-inside:avoid" in page
    assert "&lt;/pre&gt;&lt;b&gt;" in page


def test_the_timeline_shows_when_and_what_was_there(page):
    lanes = re.findall(r'<div class="lane"><i class="(\w+)" style="left:([\d.]+)%;width:([\d.]+)%">', page)
    assert [state for state, *_ in lanes] == ["computed"] * 4 + ["cached"]
    begins = [float(left) for _, left, _ in lanes]
    assert begins == sorted(begins)
    assert all(float(left) + float(width) <= 100.01 for _, left, width in lanes)


def test_a_stage_that_failed_says_why():
    record = Record(Design(problem=Wave()), {}, "failed", 2.0, reason="Failed: <why>", start=10.0, end=12.0)
    body = course.stages(Session(Store(Path("nowhere")), records=[record])).body
    assert 'class="failed"' in body
    assert "&lt;why&gt;" in body


def test_sections_of_one_heading_are_told_apart():
    made = _told_apart([Section("A", ""), Section("B", ""), Section("A", "")])
    assert [s.title for s in made] == ["A, 1 of 2", "B", "A, 2 of 2"]
    assert _anchors(["Ab <c>", "ab c", "?"]) == ["ab-c", "ab-c-2", "section"]


def test_legends_cover_no_data():
    made, axes = look.figure(2)
    for place in range(6):
        axes[0, 0].plot([0, 1], [place, place], label=f"series {place}", **look.style(place))
        axes[0, 1].plot([0, 1], [place, place], label=f"series {place}", **look.style(place))
    axes[0, 0].set_title("above")
    look.legend(axes[0, 0], 3)
    look.legend(made)
    figures._finish(made)
    panel = axes[0, 0].get_window_extent()
    own, shared = axes[0, 0].get_legend().get_window_extent(), made.legends[0].get_window_extent()
    assert own.y0 >= panel.y1 - 1
    assert shared.y1 <= min(ax.get_tightbbox().y0 for ax in axes.flat) + 1
    left = axes[0, 0]._left_title.get_window_extent()
    assert left.y0 >= own.y1 - 2, "the title stands above the names"
    assert axes[0, 0].get_title() == "", "there is no second one in the middle"
    assert [t.get_text() for t in made.legends[0].get_texts()] == [f"series {i}" for i in range(6)]


@pytest.mark.parametrize(("values", "labels"), [((2.1, 9.0), {"5"}), ((0.013, 0.3), {"0.02", "0.1", "0.2"})])
def test_logarithmic_axes_have_labels_that_can_be_read(values, labels):
    made, axes = look.figure()
    axes[0, 0].plot(values, values)
    axes[0, 0].set_yscale("log")
    figures._finish(made)
    shown = [t.get_text() for t in axes[0, 0].get_yticklabels()]
    assert labels <= set(shown)
    assert not any(t.get_text() for t in axes[0, 0].get_yticklabels(minor=True))


def test_pictures_are_small_and_the_same_again():
    """Forty of them, a quarter with fields, stay below 3 MB."""
    rng = np.random.default_rng(0)

    def lines():
        made, axes = look.figure(2)
        for place in range(4):
            axes[0, place % 2].plot(np.arange(20), np.arange(20.0) * (1 + place), **look.style(place))
        return look.picture(made, "lines").html

    made, axes = look.figure(3, 3, width=9.8, height=8.2)
    smooth = np.sin(np.linspace(0, 3, 64))[:, None] * np.cos(np.linspace(0, 5, 64) + rng.random())[None]
    for ax in axes.flat:
        shown = ax.imshow(smooth, **look.shades(smooth))
        made.colorbar(shown, ax=ax)
    fields = look.picture(made, "fields")
    assert lines() == lines()
    assert "svg+xml" in lines()
    assert "image/png" in fields.markdown
    assert 30 * len(lines()) + 10 * len(fields.html) < 3e6


def test_columns_of_numbers_stand_at_the_right():
    long = "3 members failed in the first hour of it"
    rows = [["a", "1.2 s", long, "never"], ["b", "\u2013", "x", "more than 20"]]
    page = table(["", "time", "what", "even"], rows)
    assert '<table class="n2 n4">' in page
    assert "<thead>" not in table(["", ""], [["a", "1"]])


def test_what_a_solver_says_is_text_and_not_html():
    """The reason of a failed member comes from foreign code."""
    page = table(["member", "<why>"], [["3", "<script>alert(1)</script>"], ["4", Markup("<b>kept</b>")]])
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;why&gt;" in page
    assert "<b>kept</b>" in page


def test_numbers_have_three_digits_and_no_needless_power_of_ten():
    assert [look.percent(v) for v in (0.0123, 10.5, np.nan)] == ["1.23 %", "1\u2009050 %", "\u2013"]
    assert [look.three(v, " N") for v in (1234.5, 2.5e7)] == ["1\u2009230 N", "2.5e+07 N"]
    assert look.with_unit("time", "s") == "time, s"
    assert look.with_unit("error", "1") == "error"


def test_a_model_fitted_in_one_step_has_numbers_instead_of_a_curve():
    from sciflow.sections.model import section

    about = {"weights": 7, "surrogate": {"component": "toy_least"}}
    fields = {"history_train_error": np.array([0.0123]), "train_members": [0, 1], "valid_members": [2]}
    fields["test_members"] = [3]
    model = SimpleNamespace(schema=SimpleNamespace(fields=fields), read=fields.get, attributes=about)
    once = section(model)
    assert once.title == "Model: toy least"
    assert "<img" not in once.body
    assert "0.0123" in once.body
    fields["history_train_error"] = np.array([0.1, 0.0123])
    assert section(model).title == "Learning curves of toy least"
