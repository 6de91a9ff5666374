"""The small real images that scenes are made of: object sprites in two drawing styles, and letter glyphs.

The committed files under `assets/` are the source of every build. `extract_assets` extracts them from the
packages named in `assets/LICENSES.md`; only this function needs those packages.
"""

from __future__ import annotations

import functools
import string
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

ASSETS = Path(__file__).resolve().parent / "assets"
STYLES = ("noto", "fluent")
FONTS = {"sans": "DejaVuSans-Bold.ttf", "serif": "DejaVuSerif-Bold.ttf", "mono": "DejaVuSansMono-Bold.ttf"}
SPRITE_SIDE = 96  # px, longest side of a stored sprite
GLYPH_CELL = 60  # px, side of one letter's cell in an atlas
GLYPH_FONT_SIZE = 44  # px

# Object class -> Unicode code point of its emoji.
CODE_POINTS = {
    "dog": 0x1F436, "cat": 0x1F431, "bird": 0x1F426, "fish": 0x1F41F, "horse": 0x1F40E, "frog": 0x1F438,
    "elephant": 0x1F418, "car": 0x1F697, "bus": 0x1F68C, "boat": 0x26F5, "plane": 0x2708, "train": 0x1F682,
    "apple": 0x1F34E, "banana": 0x1F34C, "cake": 0x1F382, "pizza": 0x1F355, "tree": 0x1F333, "flower": 0x1F33B,
    "chair": 0x1FA91, "clock": 0x23F0, "ball": 0x26BD, "book": 0x1F4D5, "cup": 0x2615, "key": 0x1F511,
}  # fmt: skip
KINDS = tuple(CODE_POINTS)

# Colour word -> RGB of the darkest, middle and lightest tone of a tinted sprite.
TINTS = {
    "red": ((70, 0, 0), (215, 30, 30), (255, 190, 180)),
    "yellow": ((90, 70, 0), (245, 205, 20), (255, 250, 190)),
    "green": ((0, 50, 0), (40, 165, 50), (190, 245, 190)),
    "blue": ((0, 0, 80), (35, 85, 220), (180, 210, 255)),
    "purple": ((45, 0, 70), (150, 50, 190), (230, 190, 250)),
    "black": ((0, 0, 0), (45, 45, 45), (130, 130, 130)),
}
COLOURS = tuple(TINTS)


@functools.cache
def sprite(kind: str, style: str, colour: str | None) -> Image.Image:
    """One object as an RGBA image, at most `SPRITE_SIDE` px long; `colour` None keeps its natural colours."""
    image = Image.open(ASSETS / "sprites" / f"{style}_{kind}.png").convert("RGBA")
    if colour is None:
        return image
    grey = ImageOps.autocontrast(image.convert("RGB").convert("L"), mask=image.getchannel("A"))
    dark, middle, light = TINTS[colour]
    tinted = ImageOps.colorize(grey, black=dark, mid=middle, white=light)
    tinted.putalpha(image.getchannel("A"))
    return tinted


@functools.cache
def glyphs(font: str) -> dict[str, Image.Image]:
    """Capital letters of one font as grey masks, cropped in width, `GLYPH_CELL` px high."""
    atlas = Image.open(ASSETS / "glyphs" / f"{font}.png").convert("L")
    masks = {}
    for i, letter in enumerate(string.ascii_uppercase):
        cell = atlas.crop((i * GLYPH_CELL, 0, (i + 1) * GLYPH_CELL, GLYPH_CELL))
        if not (box := cell.getbbox()):
            raise ValueError(f"assets/glyphs/{font}.png has no {letter}; restore the file")
        left, _, right, _ = box
        masks[letter] = cell.crop((left, 0, right, GLYPH_CELL))
    return masks


def extract_assets(noto_font: Path, fluent_folder: Path, dejavu_folder: Path) -> None:
    """Extract the sprite and glyph files from their packages.

    Args:
        noto_font: NotoColorEmoji.ttf of Debian's fonts-noto-color-emoji.
        fluent_folder: the `assets` folder of the npm package @lobehub/fluent-emoji-3d.
        dejavu_folder: the truetype folder of Debian's fonts-dejavu-core.
    """
    (ASSETS / "sprites").mkdir(parents=True, exist_ok=True)
    (ASSETS / "glyphs").mkdir(parents=True, exist_ok=True)
    emoji = ImageFont.truetype(str(noto_font), 109)  # the font's only bitmap size
    for kind, code_point in CODE_POINTS.items():
        noto = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(noto).text((8, 8), chr(code_point), font=emoji, embedded_color=True)
        _save_sprite(noto, ASSETS / "sprites" / f"noto_{kind}.png")
        names = [f"{code_point:04x}.webp", f"{code_point:04x}-fe0f.webp"]
        source = next(fluent_folder / name for name in names if (fluent_folder / name).is_file())
        _save_sprite(Image.open(source).convert("RGBA"), ASSETS / "sprites" / f"fluent_{kind}.png")
    for font, file_name in FONTS.items():
        face = ImageFont.truetype(str(dejavu_folder / file_name), GLYPH_FONT_SIZE)
        atlas = Image.new("L", (GLYPH_CELL * 26, GLYPH_CELL))
        for i, letter in enumerate(string.ascii_uppercase):
            centre = (i * GLYPH_CELL + GLYPH_CELL // 2, 46)
            ImageDraw.Draw(atlas).text(centre, letter, fill=255, font=face, anchor="ms")
        atlas.save(ASSETS / "glyphs" / f"{font}.png", optimize=True)


def _save_sprite(image: Image.Image, path: Path) -> None:
    image = image.crop(image.getchannel("A").point(lambda a: 255 if a > 16 else 0).getbbox())
    image.thumbnail((SPRITE_SIDE, SPRITE_SIDE), Image.Resampling.LANCZOS)
    image.quantize(128, method=Image.Quantize.FASTOCTREE).save(path, optimize=True)
