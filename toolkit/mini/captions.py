"""Captions: true ones of a scene, and the faulty kinds found on the web."""

from __future__ import annotations

import random
from dataclasses import replace

from toolkit.mini.scenes import DISTRACTOR_WORDS, RELATIONS, SIGN_WORDS, Scene, Thing
from toolkit.mini.sprites import COLOURS, KINDS

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
PLURALS = {"fish": "fish", "bus": "buses"}
OPENINGS = ("", "", "", "a photo of ", "a picture of ", "there is ")
RELATION_PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
GERMAN = dict(zip(KINDS, (
    "Hund", "Katze", "Vogel", "Fisch", "Pferd", "Frosch", "Elefant", "Auto", "Bus", "Boot", "Flugzeug", "Zug",
    "Apfel", "Banane", "Kuchen", "Pizza", "Baum", "Blume", "Stuhl", "Uhr", "Ball", "Buch", "Tasse", "Schlüssel",
), strict=True))  # fmt: skip
CHINESE = dict(zip(KINDS, (
    "狗", "猫", "鸟", "鱼", "马", "青蛙", "大象", "汽车", "公共汽车", "船", "飞机", "火车",
    "苹果", "香蕉", "蛋糕", "披萨", "树", "花", "椅子", "钟", "球", "书", "杯子", "钥匙",
), strict=True))  # fmt: skip
BOILERPLATE = (
    "free shipping on all orders over $ {n}",
    "click here to subscribe to our newsletter and save {n} %",
    "all rights reserved. image {n} may not be copied",
    "stock photo, royalty free image id {n}",
    "best price guaranteed - buy now and get {n} % off",
    "download this high resolution wallpaper {n} x {n} for free",
    "share this page on facebook, twitter and pinterest",
    "please enable javascript to view this page",
    "sign up today and read {n} more articles",
    "posted by admin on monday, {n} comments",
    "cookie settings and privacy policy, version {n}",
    "add to cart - item no. {n} - in stock",
)
TOO_SHORT = ("image", "photo", "img {n}", "untitled", "{n}", "picture", "dsc {n}", "new")
RAMBLINGS = (
    "we have been thinking about this for a long time and could not decide what to write",
    "as my grandmother used to say, a good picture is worth more than a thousand words",
    "it was a lovely afternoon and everybody had something to say about the weather",
    "if you like this one then you should also have a look at the rest of the collection",
    "i will add more details later when i find the time to sort the other pictures",
    "nobody remembers who took it, but it has been on the shelf in the kitchen for years",
    "some people will tell you that it was better in the old days, and perhaps they are right",
)


def number_of(kind: str, count: int) -> str:
    """`dog`, 3 -> `dogs`."""
    return kind if count == 1 else PLURALS.get(kind, kind + "s")


def noun_phrase(thing: Thing, count: int = 1) -> str:
    """`a red dog`, `an apple`, `three blue cats`."""
    words = ([thing.colour] if thing.colour else []) + [number_of(thing.kind, count)]
    single = "an" if words[0][0] in "aeiou" else "a"
    article = NUMBERS[count] if count > 1 else single
    return " ".join([article, *words])


def true_caption(scene: Scene, rng: random.Random, reads: bool = True) -> str:
    """One short caption that names all that can be asked about the scene; without `reads` it omits a sign's word."""
    first = scene.things[0]
    if scene.relation:
        phrase = rng.choice(RELATION_PHRASES[scene.relation])
        body = f"{noun_phrase(first)} {phrase} {noun_phrase(scene.things[1])}"
    elif scene.sign and not reads:
        body = noun_phrase(first) + rng.choice((" and a sign", " next to a sign", " with a sign"))
    elif scene.sign:
        words = scene.sign.word
        body = noun_phrase(first) + rng.choice((
            f" and a sign that says {words}", f" next to a {words} sign", f" with a sign reading {words}",
        ))  # fmt: skip
    else:
        body = noun_phrase(first, len(scene.things))
    opening = rng.choice(OPENINGS)
    if opening == "there is " and len(scene.things) > 1 and scene.layout == "count":
        opening = "there are "
    setting = f" {scene.background}" if rng.random() < 0.5 else ""
    return opening + body + setting


def half_wrong_scene(scene: Scene, rng: random.Random) -> tuple[Scene, str]:
    """The scene with one detail changed that a true caption would name, and the detail's name."""
    first = scene.things[0]
    details = ["object"]
    details += ["colour"] if first.colour else []
    details += ["count"] if scene.layout == "count" else []
    details += ["relation"] if scene.relation else []
    details += ["sign", "sign"] if scene.sign else []
    detail = rng.choice(details)
    if scene.sign and detail == "sign":
        word = _other(rng, SIGN_WORDS, scene.sign.word)
        return replace(scene, sign=replace(scene.sign, word=word)), detail
    if detail == "relation":
        return replace(scene, relation=_other(rng, RELATIONS, scene.relation)), detail
    if detail == "count":
        count = _other(rng, (2, 3, 4), len(scene.things))
        return replace(scene, things=(first,) * count), detail
    if detail == "colour":
        changed = replace(first, colour=_other(rng, COLOURS, first.colour))
    else:
        others = [kind for kind in KINDS if kind not in {thing.kind for thing in scene.things}]
        changed = replace(first, kind=rng.choice(others))
    if scene.layout == "count":
        return replace(scene, things=(changed,) * len(scene.things)), detail
    return replace(scene, things=(changed, *scene.things[1:])), detail


def boilerplate(rng: random.Random) -> str:
    """Shop and page text that says nothing about the image."""
    return rng.choice(BOILERPLATE).format(n=rng.randint(2, 9999))


def too_short(rng: random.Random) -> str:
    """A file name or a word instead of a caption."""
    return rng.choice(TOO_SHORT).format(n=rng.randint(2, 9999))


def foreign_caption(scene: Scene, rng: random.Random) -> str:
    """A true but poor caption in German or Chinese."""
    kinds = list(dict.fromkeys(thing.kind for thing in scene.things))
    if rng.random() < 0.5:
        return f"ein Foto: {' und '.join(GERMAN[kind] for kind in kinds)}, gesehen im Urlaub"
    return f"一张{'和'.join(CHINESE[kind] for kind in kinds)}的照片"


def rambling_caption(scene: Scene, rng: random.Random) -> str:
    """A long chat that hardly mentions the image."""
    before, between, after = rng.sample(RAMBLINGS, 3)
    return f"{before}. {between}. well, there is {noun_phrase(scene.things[0])} somewhere. {after}."


def ocr_tokens(word: str, rng: random.Random) -> list[str]:
    """What an OCR engine might list for a sign: its word among others, some of them words of other signs."""
    others = rng.sample([w for w in SIGN_WORDS if w != word], rng.randint(2, 3))
    tokens = [word, *others, *rng.sample(DISTRACTOR_WORDS, rng.randint(0, 1))]
    rng.shuffle(tokens)
    return tokens


def _other(rng: random.Random, values, value):
    return rng.choice([candidate for candidate in values if candidate != value])
