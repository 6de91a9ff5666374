"""Scenes: what an image shows, at which position, and the rendered image (192 x 192 px, RGB)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter

from toolkit.mini.sprites import COLOURS, FONTS, KINDS, STYLES, glyphs, sprite

SIDE = 192  # px, every scene is square
SIGN_WORDS = (
    "STOP", "CAFE", "EXIT", "BANK", "TAXI", "SALE", "OPEN", "HOTEL",
    "PARK", "SLOW", "ZOO", "GYM", "MENU", "PUSH", "FARM", "WIFI",
)  # fmt: skip
# Words that OCR might report but no sign in the world shows.
DISTRACTOR_WORDS = (
    "AREA", "BAKER", "BEACH", "BIKE", "BLOCK", "BRIDGE", "CITY", "CLUB", "COAST", "DANGER", "DOOR", "EAST", "ENTRY",
    "FERRY", "FIRE", "FREE", "GATE", "GOLD", "GRILL", "HARBOR", "HILL", "HOUSE", "ICE", "INN", "KIOSK", "LAKE",
    "LANE", "LEFT", "LIFT", "MAIN", "MALL", "MARKET", "METRO", "MILK", "MOTEL", "NEWS", "NORTH", "OFFICE", "PIER",
    "POLICE", "POOL", "PORT", "POST", "PULL", "QUIET", "RADIO", "RENT", "RIVER", "ROAD", "ROOM", "SCHOOL", "SHOP",
    "SOUTH", "SPORT", "SQUARE", "STATION", "STORE", "STREET", "TICKET", "TOWER", "TOYS", "WEST", "YIELD", "ZONE",
)  # fmt: skip
# Background -> (colour at the top, colour at the bottom); its name is the phrase captions use.
BACKGROUNDS = {
    "on the grass": ((214, 238, 200), (150, 205, 120)),
    "on the sand": ((252, 240, 208), (228, 200, 140)),
    "in the snow": ((250, 252, 255), (214, 226, 240)),
    "in the sky": ((150, 205, 250), (214, 236, 255)),
    "at night": ((26, 30, 66), (70, 70, 110)),
}
BOARDS = (((255, 255, 255), (20, 20, 20)), ((250, 215, 60), (20, 20, 20)), ((25, 70, 160), (255, 255, 255)),
          ((190, 25, 30), (255, 255, 255)), ((20, 110, 60), (255, 255, 255)))  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
LAYOUTS = {"one": 0.2, "count": 0.2, "pair": 0.28, "sign": 0.32}  # share of each kind of scene


@dataclass(frozen=True)
class Thing:
    """One object: class, tint (None: natural colours), drawing style, centre and longest side in px."""

    kind: str
    colour: str | None
    style: str
    x: int
    y: int
    size: int


@dataclass(frozen=True)
class Sign:
    """A board with one word: font, (board, letter) colours, centre in px, height of capitals in px."""

    word: str
    font: str
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    x: int
    y: int
    capital: int


@dataclass(frozen=True)
class Scene:
    """The content of one image. `layout` is one of LAYOUTS; `relation` is that of things[0] to things[1]."""

    layout: str
    background: str
    things: tuple[Thing, ...]
    sign: Sign | None = None
    relation: str | None = None

    @property
    def count(self) -> int:
        """How many things of the first one's kind there are."""
        return len(self.things) if self.layout == "count" else 1


@dataclass(frozen=True)
class Label:
    """Bounding box of a part of an image: left, top, right, bottom in px. The towers are trained on it.

    `name` is an object class, the word of a sign (box of its board) or one of its capitals.
    """

    name: str
    colour: str | None
    box: tuple[int, int, int, int]


def draw_scene(rng: random.Random, layout: str | None = None) -> Scene:
    """Choose a scene at random; `layout` fixes its kind."""
    layout = layout or rng.choices(list(LAYOUTS), weights=list(LAYOUTS.values()))[0]
    background = rng.choice(list(BACKGROUNDS))
    if layout == "one":
        size = rng.randint(64, 100)
        x, y = (rng.randint(size // 2, SIDE - size // 2) for _ in range(2))
        return Scene(layout, background, (draw_thing(rng, x, y, size),))
    if layout == "count":
        cells = rng.sample([(x, y) for x in (36, 96, 156) for y in (36, 96, 156)], rng.randint(2, 4))
        first = draw_thing(rng, 0, 0, rng.randint(46, 58))
        things = [
            Thing(first.kind, first.colour, first.style, x + rng.randint(-4, 4), y + rng.randint(-4, 4), first.size)
            for x, y in cells
        ]
        return Scene(layout, background, tuple(things))
    if layout == "pair":
        relation = rng.choice(RELATIONS)
        near, far = rng.randint(38, 52), rng.randint(140, 154)
        across = rng.randint(70, 122)
        positions = {
            "left of": ((near, across), (far, across + rng.randint(-12, 12))),
            "right of": ((far, across), (near, across + rng.randint(-12, 12))),
            "above": ((across, near), (across + rng.randint(-12, 12), far)),
            "below": ((across, far), (across + rng.randint(-12, 12), near)),
        }[relation]
        first = draw_thing(rng, *positions[0], rng.randint(54, 76))
        second = draw_thing(rng, *positions[1], rng.randint(54, 76), other_than=first.kind)
        return Scene(layout, background, (first, second), relation=relation)
    sign_low = rng.random() < 0.5
    size = rng.randint(56, 84)
    thing = draw_thing(rng, rng.randint(44, 148), rng.randint(48, 60) if sign_low else rng.randint(132, 144), size)
    sign = draw_sign(rng, SIGN_WORDS, (68, 124), (138, 168) if sign_low else (24, 54))
    return Scene(layout, background, (thing,), sign=sign)


def draw_sign(rng: random.Random, words: Sequence[str], xs: tuple[int, int], ys: tuple[int, int]) -> Sign:
    """A sign with one of `words`, its centre between the given bounds; font, colours and size at random."""
    capital = rng.randint(15, 19)
    return Sign(
        rng.choice(words), rng.choice(list(FONTS)), rng.choice(BOARDS), rng.randint(*xs), rng.randint(*ys), capital
    )


def draw_thing(rng: random.Random, x: int, y: int, size: int, other_than: str | None = None) -> Thing:
    """An object at a given position; class (but for one), tint and style at random."""
    kind = rng.choice([name for name in KINDS if name != other_than])
    colour = rng.choice(COLOURS) if rng.random() < 0.6 else None
    return Thing(kind, colour, rng.choice(STYLES), x, y, size)


def render(scene: Scene) -> tuple[Image.Image, list[Label]]:
    """Paint a scene: the RGB image and the boxes of its parts."""
    image = paint_background(scene.background)
    labels = [paint_thing(image, thing) for thing in scene.things]
    if scene.sign:
        labels += paint_sign(image, scene.sign)
    return image, labels


def paint_background(name: str) -> Image.Image:
    """An empty image with a colour gradient from top to bottom."""
    column = Image.new("RGB", (1, 2))
    column.putdata(BACKGROUNDS[name])
    return column.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def paint_thing(image: Image.Image, thing: Thing) -> Label:
    """Paint an object into an image."""
    source = sprite(thing.kind, thing.style, thing.colour)
    scale = thing.size / max(source.size)
    scaled = source.resize([max(1, round(side * scale)) for side in source.size], Image.Resampling.BILINEAR)
    left, upper = thing.x - scaled.width // 2, thing.y - scaled.height // 2
    image.paste(scaled, (left, upper), scaled)
    return Label(thing.kind, thing.colour, (left, upper, left + scaled.width, upper + scaled.height))


def paint_sign(image: Image.Image, sign: Sign) -> list[Label]:
    """Paint a sign into an image."""
    board, ink = sign.colours
    scale = sign.capital / 32  # a stored capital is 32 px high
    masks = [glyphs(sign.font)[letter] for letter in sign.word]
    sizes = [(max(2, round(mask.width * scale)), round(mask.height * scale)) for mask in masks]
    gap = 2
    width = sum(w for w, _ in sizes) + gap * (len(sizes) - 1)
    left, upper = sign.x - width // 2, sign.y - sign.capital // 2
    frame = (left - 8, upper - 7, left + width + 8, upper + sign.capital + 7)
    draw = ImageDraw.Draw(image)
    draw.rectangle([sign.x - 2, frame[3], sign.x + 2, frame[3] + 14], fill=(110, 100, 90))
    draw.rounded_rectangle(frame, radius=4, fill=board, outline=ink)
    labels = [Label(sign.word, None, frame)]
    for letter, mask, (w, h) in zip(sign.word, masks, sizes, strict=True):
        # The baseline of a stored letter lies at row 46 of its cell.
        image.paste(ink, (left, upper + sign.capital - round(46 * scale)), mask.resize((w, h)))
        labels.append(Label(letter, None, (left, upper, left + w, upper + sign.capital)))
        left += w + gap
    return labels


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """The image blurred; radius in px."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def watermarked(image: Image.Image, rng: random.Random) -> Image.Image:
    """The image under repeated half-transparent stock-photo lettering."""
    word, capital = rng.choice(("STOCK", "SAMPLE", "PREVIEW", "PHOTO")), 22
    layer = Image.new("L", image.size)
    for row in range(-10, SIDE, 44):
        x = -rng.randint(0, 40)
        while x < SIDE:
            for letter in word:
                mask = glyphs("sans")[letter]
                mask = mask.resize((round(mask.width * capital / 32), round(mask.height * capital / 32)))
                layer.paste(150, (x, row), mask)
                x += mask.width + 3
            x += 24
    return Image.composite(Image.new("RGB", image.size, (245, 245, 245)), image, layer)
