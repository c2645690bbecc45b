"""The pictures of the gallery: runs the flows and takes a picture of each report.

    python docs/gallery/make.py [NAME ...] [--store DIR]

A flow that ran before is not computed again. It takes some twenty minutes on two cores, and a chromium.
"""

import argparse
import base64
import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
WIDTH = 1000
LARGEST = 150_000


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes
    ----------
    name : str
        Of the picture and of the store.
    command : tuple of str
        The flow and its settings.
    sections : tuple of str
        Which parts of the report, as `box` takes them.
    """

    name: str
    command: tuple[str, ...]
    sections: tuple[str, ...]


def settings(flow: str, *values: str) -> tuple[str, ...]:
    """A command line of a flow with these settings."""
    return (f"flows/{flow}.py", *(word for value in values for word in ("--set", value)))


SHOTS = (
    Shot("campaign", settings("campaign"), ("", "Side by side")),
    Shot(
        "heat_fno",
        settings("heat_fno", "members=100", "surrogate.epochs=20"),
        ("Errors on/figure:nth-of-type(2)", "Errors on/figure"),
    ),
    Shot(
        "rom_net",
        settings("rom_net", "members=160", "clusters=8", "fno.epochs=15"),
        ("Side by side", "Is a reduced/figure"),
    ),
    Shot("operators_table", settings("operators_table"), ("All models",)),
    Shot(
        "online_heat",
        settings(
            "online_heat", "members=20", "tests=30", "mlp.epochs=60", "fno.epochs=15", "mp_pde.epochs=15"
        ),
        ("Offline and online",),
    ),
    Shot(
        "tuned_sor", settings("tuned_sor"), ("Tuners side by side/figure", "What the solver learned/figure")
    ),
    Shot(
        "three_body",
        settings("three_body", "count=12", "steps=10000"),
        ("Error against work/figure", "Steps chosen by guarded, 1"),
    ),
    Shot("adaptive_heat", settings("adaptive_heat"), ("Step controllers",)),
    Shot("two_scale", settings("two_scale", "size=ci"), ("Two scales: a model",)),
    Shot("propagate", settings("propagate"), ("A quantity",)),
    Shot(
        "cyclic_rom",
        settings("cyclic_rom", "problem.cells=12", "members=16", "unseen=2", "modes=20"),
        ("More steps",),
    ),
)


def run(shot: Shot, store: Path) -> Path:
    """Run a flow; gives its report.

    Raises
    ------
    RuntimeError
        With the end of what it said, if it failed.
    """
    command = [sys.executable, "-m", "sciflow.cli", "run", *shot.command]
    command += ["--engine", "plain", "--store", str(store / shot.name)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shot.name}: {(done.stdout + done.stderr)[-2000:]}")
    return Path(done.stdout.strip().splitlines()[-1].removeprefix("report: "))


def picture(report: Path, shot: Shot) -> None:
    """Take the picture: the sections one below the other, in as few colours as needed."""
    from PIL import Image

    from tests.browser import Browser

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Browser(Path(folder)) as page:
        page(
            "Emulation.setDeviceMetricsOverride", width=WIDTH, height=1400, deviceScaleFactor=1, mobile=False
        )
        page("Emulation.setScrollbarsHidden", hidden=True)
        page.open(report.resolve().as_uri())
        page.wait("document.readyState === 'complete'")
        parts = []
        for heading in shot.sections:
            x, y, width, height = page.wait(box(heading))
            clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
            data = page("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
            parts.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    whole = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    file = FOLDER / f"{shot.name}.png"
    for colours in (256, 128, 64, 32):
        whole.quantize(colours, kmeans=3).save(file, optimize=True)
        if file.stat().st_size <= LARGEST:
            break


def box(part: str) -> str:
    """A script that gives the place and size of a part of a report.

    Parameters
    ----------
    part : str
        The beginning of a section's heading, with a selector behind a slash for something in it, as
        in ``Errors/figure``; "" for what stands before the first section.
    """
    heading, _, inner = part.partition("/")
    return f"""(() => {{
        const sections = [...document.querySelectorAll('section')];
        const found = sections.find(e => e.querySelector('h2').innerText.startsWith({heading!r}));
        if (!found) return null;
        const place = (found.querySelector({inner or "nothing"!r}) || found).getBoundingClientRect();
        const top = {"0" if not heading else "place.top + scrollY - 8"};
        const bottom = {
        "sections[0].getBoundingClientRect().top + scrollY - 8"
        if not heading
        else "place.bottom + scrollY + 8"
    };
        return [0, top, document.documentElement.clientWidth, bottom - top];
    }})()"""


def main() -> None:
    """Run what was asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="pictures to make; all without one")
    parser.add_argument("--store", default="build/gallery", metavar="DIR", help="where the runs go")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    for shot in SHOTS:
        if not options.names or shot.name in options.names:
            picture(run(shot, Path(options.store)), shot)
            sys.stdout.write(f"{FOLDER / shot.name}.png\n")


if __name__ == "__main__":
    main()
