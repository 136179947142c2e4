# mypy: untyped-calls-exclude=skimage
"""What is found in the sample and in pictures whose content is known."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from aicp.demo.colors import COLORS_MAX, find_colors, name_color
from aicp.demo.faces import find_faces
from aicp.demo.findings import Box, TextLine
from aicp.demo.picture import decode_picture
from aicp.demo.regions import AREA_SHARE_MIN, OUTLINE_POINTS_MAX, REGIONS_MAX, find_regions
from aicp.demo.sample import make_sample
from aicp.demo.text import read_lines

PAGE = [
    "Region-based segmentation",
    "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label",
    "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the",
    "histogram of grey values:",
    "markers = np.zeros_like(coins)",
]
# Anything that would leave the machine ends the child; an audit hook cannot be taken off again.
OFFLINE = """
import json, sys
def cut(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"the network was used: {event} {args}")
sys.addaudithook(cut)
from aicp.demo.faces import find_faces
from aicp.demo.picture import decode_picture
from aicp.demo.sample import make_sample
from aicp.demo.text import read_lines
image = decode_picture(make_sample(), "sample")
print(json.dumps({"faces": len(find_faces(image)), "lines": [line.text for line in read_lines(image)]}))
"""


@cache
def sample() -> Image.Image:
    return decode_picture(make_sample(), "sample")


@cache
def lines_of_sample() -> list[TextLine]:
    return read_lines(sample())


def written(*rows: tuple[int, int, str]) -> Image.Image:
    image = Image.new("RGB", (900, 300), "white")
    pen = ImageDraw.Draw(image)
    for x, y, text in rows:
        pen.text((x, y), text, fill="black", font=ImageFont.load_default(size=32))
    return image


def squares(*colors: str) -> Image.Image:
    image = Image.new("RGB", (100 * len(colors), 100))
    for place, color in enumerate(colors):
        image.paste(color, (100 * place, 0, 100 * place + 100, 100))
    return image


def test_the_sample_is_the_same_every_time() -> None:
    assert make_sample() == make_sample()
    assert sample().size == (1376, 576)


def test_sample_faces_and_text_need_no_network() -> None:
    child = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=100, check=False)
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found == {"faces": 1, "lines": PAGE}
    assert child.stderr == ""


def test_the_sample_has_one_face_and_it_is_the_astronauts() -> None:
    (face,) = find_faces(sample())
    nose = Box(255, 145, 12, 12)
    assert face.box.shared_area(nose) == nose.area
    assert 80 <= face.box.width <= 130


@pytest.mark.parametrize("size", [360, 520])
def test_the_astronaut_has_one_face_at_any_size(size: int) -> None:
    # At 520 the lens of the helmet convinces the detector, and its mirror image does not.
    portrait = Image.fromarray(data.astronaut()).resize((size, size), Image.Resampling.LANCZOS)
    assert len(find_faces(portrait)) == 1


def test_two_astronauts_have_two_faces_told_from_left_to_right() -> None:
    one = Image.fromarray(data.astronaut()).crop((100, 0, 400, 300))
    both = Image.new("RGB", (600, 300))
    both.paste(one, (0, 0))
    both.paste(one, (300, 0))
    left, right = find_faces(both)
    assert left.box.right < 300 < right.box.x


@pytest.mark.parametrize("name", ["coffee", "cat", "rocket", "camera", "page", "coins", "cell", "immunohistochemistry"])
def test_what_shows_no_face_from_the_front_has_none(name: str) -> None:
    assert find_faces(Image.fromarray(getattr(data, name)()).convert("RGB")) == []


@pytest.mark.parametrize("size", [(1, 1), (23, 200), (2000, 3)])
def test_a_picture_smaller_than_a_face_has_none(size: tuple[int, int]) -> None:
    assert find_faces(Image.new("RGB", size)) == []


def test_the_page_of_the_sample_is_read_line_by_line() -> None:
    assert [line.text for line in lines_of_sample()] == PAGE


def test_no_line_of_a_tilted_page_is_taken_for_one_upside_down() -> None:
    found = read_lines(Image.fromarray(data.page()))
    assert [line.text for line in found][:6] == PAGE[:6]


def test_every_line_lies_where_the_page_is() -> None:
    page = Box(560, 90, 800, 400)
    for line in lines_of_sample():
        assert line.box.shared_area(page) == line.box.area
        assert 0.6 <= line.confidence <= 1
        assert all(line.box.x <= x <= line.box.right and line.box.y <= y <= line.box.bottom for x, y in line.corners)


def test_words_of_one_row_are_read_from_left_to_right_before_the_next_row() -> None:
    image = written((500, 40, "second words"), (40, 44, "first words"), (40, 180, "third words"))
    assert [line.text for line in read_lines(image)] == ["first words", "second words", "third words"]


def test_nothing_is_read_where_nothing_is_written() -> None:
    assert read_lines(Image.new("RGB", (300, 200), "white")) == []


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_a_strip_does_not_cost_more_than_a_page(size: tuple[int, int]) -> None:
    # Unpadded, the detector asks for 18 GB here and several minutes; the test's own time limit would end it.
    assert read_lines(Image.new("RGB", size, "white")) == []


def test_regions_are_the_largest_first_and_cover_what_they_say() -> None:
    regions = find_regions(sample())
    shares = [region.area_share for region in regions]
    assert 3 <= len(regions) <= REGIONS_MAX
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] >= AREA_SHARE_MIN
    assert sum(shares) <= 1
    for region in regions:
        assert region.area_share * sample().width * sample().height <= region.box.area * 1.05
        assert 4 <= len(region.outline) <= OUTLINE_POINTS_MAX


def test_three_squares_are_three_regions_in_their_colors() -> None:
    regions = find_regions(squares("#ff0000", "#00ff00", "#0000ff"))
    found = sorted((region.box.x, region.area_share) for region in regions)
    assert [x for x, _ in found] == pytest.approx([0, 100, 200], abs=6)
    assert [share for _, share in found] == pytest.approx([1 / 3] * 3, abs=0.03)
    reddest = min(regions, key=lambda region: region.box.x)
    assert int(reddest.hex[1:3], 16) > 200


def test_places_are_told_in_the_pixels_of_the_picture_that_was_given() -> None:
    (region, *_) = find_regions(squares("#ffffff").resize((1600, 1200)))
    assert region.box == Box(0, 0, 1600, 1200)


def test_three_squares_have_three_colors_of_equal_share() -> None:
    colors = find_colors(squares("#ff0000", "#00aa00", "#0000ff"))
    assert {color.hex for color in colors} == {"#ff0000", "#00aa00", "#0000ff"}
    assert [color.share for color in colors] == pytest.approx([1 / 3] * 3, abs=0.02)


def test_the_colors_of_the_sample_are_few_named_and_whole() -> None:
    colors = find_colors(sample())
    assert 3 <= len(colors) <= COLORS_MAX
    assert sum(color.share for color in colors) == pytest.approx(1, abs=0.001)
    assert colors[0].name == "dark slate"
    assert "burnt orange" in {color.name for color in colors}
    assert all(color.hex == "#{:02x}{:02x}{:02x}".format(*color.rgb) for color in colors)


def test_shades_the_eye_cannot_tell_apart_are_one_color() -> None:
    (only,) = find_colors(squares("#808080", "#828282", "#7e7e80"))
    assert only.share == 1


def test_many_colors_are_not_more_than_the_palette_holds() -> None:
    rng = np.random.default_rng(3)
    colors = find_colors(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    assert len(colors) <= COLORS_MAX


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 255, 255), "white"),
        ((0, 0, 0), "black"),
        ((128, 128, 128), "gray"),
        ((255, 0, 0), "red"),
        ((200, 20, 30), "red"),
        ((0, 0, 255), "blue"),
        ((0, 128, 0), "green"),
        ((255, 230, 0), "yellow"),
        ((255, 140, 0), "orange"),
        ((139, 69, 19), "brown"),
        ((75, 0, 130), "purple"),
    ],
)
def test_a_color_is_called_what_people_call_it(rgb: tuple[int, int, int], name: str) -> None:
    assert name_color(rgb) == name
