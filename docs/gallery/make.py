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
        Which sections of the report, by the beginning of their headings; "" is the head of the page.
    """

    name: str
    command: tuple[str, ...]
    sections: tuple[str, ...]


def settings(flow: str, *values: str) -> tuple[str, ...]:
    """A command line of a flow with these settings."""
    return (f"flows/{flow}.py", *(word for value in values for word in ("--set", value)))


SHOTS = (Shot("heat_fno", settings("heat_fno", "members=100", "surrogate.epochs=20"), ("", "Evaluation")),)


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

    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as page:
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
        whole.quantize(colours).save(file, optimize=True)
        if file.stat().st_size <= LARGEST:
            break


def box(heading: str) -> str:
    """A script that gives place and size of a section, or of what stands before the first one."""
    if not heading:
        return (
            "(() => { const s = document.querySelector('section').getBoundingClientRect();"
            "return [0, 0, document.documentElement.clientWidth, s.top + scrollY - 8] })()"
        )
    return (
        "(() => { const h = [...document.querySelectorAll('section > h2')]"
        f".find(e => e.innerText.startsWith({heading!r}));"
        "if (!h) return null; const s = h.parentElement.getBoundingClientRect();"
        "return [0, s.top + scrollY - 8, document.documentElement.clientWidth, s.height + 16] })()"
    )


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
