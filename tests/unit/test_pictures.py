"""The pictures of the measured page: drawn from data alone, and told when they are stale."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from leaderexec.model import SECOND_NS, Timing
from tests.measured import DIRECTORY
from tests.support import pictures
from tests.support.pictures import PICTURES, Picture

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

HANDOVER = {"told": 1.4, "dead": 43.1, "freed": 45.0, "taken": 49.2, "runs": 58.3, "ended": 61.0}
DRAWN = [(pictures.draw_timing, pictures.timing_data()), (pictures.draw_handover, HANDOVER)]
SVG = "{http://www.w3.org/2000/svg}"


def words_of(svg: bytes) -> list[str]:
    """Return what stands in a picture."""
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize(("draw", "data"), DRAWN)
def test_the_same_data_make_the_same_bytes(
    draw: Callable[[Mapping[str, float]], bytes], data: dict[str, float]
) -> None:
    """A picture that is drawn twice is the same to the byte, and says nothing of when."""
    first = draw(data)
    assert draw(dict(reversed(data.items()))) == first
    assert b"<dc:date>" not in first


@pytest.mark.parametrize(("draw", "data"), DRAWN)
def test_a_picture_says_what_it_shows(
    draw: Callable[[Mapping[str, float]], bytes], data: dict[str, float]
) -> None:
    """It has a title and a description with the figures, and its own white ground."""
    root = ET.fromstring(draw(data))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title")
    label = root.get("aria-label") or ""
    assert all(f"{value:g}" in label for value in data.values())
    assert root.find(f".//{SVG}path[@style='fill: #ffffff']") is not None


def test_the_timing_is_the_code_s() -> None:
    """The instants at which the guardian acts are in the picture, and move with the timing."""
    assert {"0", "10 s", "12.85 s", "15 s"} <= set(words_of(pictures.draw_timing(DRAWN[0][1])))
    other = pictures.timing_data(Timing(8, 4 * SECOND_NS, SECOND_NS))
    assert {"0", "4 s", "5.92 s", "8 s"} <= set(words_of(pictures.draw_timing(other)))


def test_a_picture_of_other_data_is_told_stale(tmp_path: Path) -> None:
    """Missing, of changed data, without a record or edited: told; drawn from what is known: not."""
    known: dict[str, dict[str, float] | None] = {"now": None}
    picture = Picture(tmp_path / "p.svg", lambda: known["now"], pictures.draw_handover)
    assert pictures.stale([picture]) == []
    known["now"] = HANDOVER
    assert pictures.stale([picture]) == ["p.svg is stale; `make format` draws it"]
    pictures.write([picture])
    assert pictures.stale([picture]) == []
    drawn = picture.path.read_bytes()
    known["now"] = {**HANDOVER, "runs": 58.4}
    assert pictures.stale([picture])
    pictures.write([picture])
    assert pictures.stale([picture]) == []
    assert picture.path.read_bytes() != drawn
    picture.path.write_bytes(re.sub(rb"sha256:\w+", b"", drawn))
    assert pictures.stale([picture])
    known["now"] = None
    assert pictures.stale([picture])
    pictures.write([picture])
    assert not picture.path.exists()


def test_a_picture_that_is_current_is_left_alone(tmp_path: Path) -> None:
    """Another matplotlib may draw other bytes: what is not stale is not written again."""
    picture = replace(PICTURES[0], path=tmp_path / "timing.svg")
    pictures.write([picture])
    picture.path.write_bytes(picture.path.read_bytes() + b"\n")
    pictures.write([picture])
    assert picture.path.read_bytes().endswith(b"\n\n")


def test_the_pictures_are_current() -> None:
    """Those in the tree are drawn from the code's timing and the record's stamps."""
    assert pictures.stale() == []


def test_checking_needs_no_matplotlib() -> None:
    """To tell what is stale nothing is imported that draws."""
    code = (
        "import sys; from tests.support import pictures; pictures.stale(); "
        "sys.exit('matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DIRECTORY.parents[1])
