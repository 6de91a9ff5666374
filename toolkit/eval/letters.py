"""Which option of a multiple-choice question an answer in free text means, for the tolerant accuracy.

A letter counts where it is written as one: alone, in front, in brackets or a box, or after a word such as "answer" or
"选". Without a letter the text of exactly one option counts. Letters that are negated ("not A", "排除A") do not count,
and an answer that leaves two letters standing means none. `tests/toolkit/eval/answer_forms.tsv` lists the forms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

MAX_LENGTH = 20_000  # characters; no answer to a choice is longer, and a search of megabytes would take minutes
# What chat templates leave around an answer.
_MODEL_TOKEN = re.compile(r"</?s>|<eos>|<bos>|<pad>|<(?:start|end)_of_turn>|<\|[a-z_]+\|>|\[/?INST\]", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_LATEX_FONT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathit)\s*\{([^{}]*)\}")
_MARKUP = re.compile(r"</?[a-z]{1,10}>|\*\*|__|`|\$|\\[()\[\]]", re.IGNORECASE)

_WRAP = r"[(\[{<\"'“‘*]*\s*"
# "A dog", "I see": words, but for what may follow a letter.
_NO_WORD = r"(?![AI]\s+(?!(?:because|since|as|is|and|or|but|rather|in|for|from|due|with)\b)[a-z])"
# A letter in capitals that is no part of a word; of small letters only those that a bracket, a mark or the end follows.
_LETTER = _NO_WORD + r"(?P<letter>[A-Z](?![A-Za-z0-9'’])|[a-z](?=\s*(?:[.,;:!)\]}\"'”’]|$)))"
_MORE = r"(?P<more>(?:\s*(?:,|/|&|、|or|and|或者?|和|及)\s*" + _WRAP + r"[A-Z](?![A-Za-z0-9'’])[)\]]?)*)"
_EXTRA = re.compile(r"[A-Z](?![A-Za-z])")

_ENGLISH = (
    r"(?:\b(?:answers?|choices?|options?|responses?|letter|conclusion)(?:\s+(?:is|was|are|would\s+be|should\s+be|must\s+be"
    r"|will\s+be))?|\b(?:choose|chose|select|selected|pick|picked|go\s+with|going\s+with)|\b(?:guess|think|say|believe)"
    r"(?:\s+(?:it\s+is|it's|is))?|\b(?:it\s+is|it's|must\s+be|should\s+be|so|therefore|thus|hence|definitely|probably|but))"
)
_CHINESE = (
    r"(?:答案(?:应该|应当|应)?(?:是|为|选)?|正确(?:的)?(?:答案|选项)?(?:应该|应)?(?:是|为)|选择?(?:项)?(?:是|为)?"
    r"|结论(?:是|为)?|而是|(?:应该|应当|应)(?:是|为|选))"
)
_LINK = r"[\s:=,]*(?:->|→|=>)?\s*(?:(?:the\s+)?(?:option|choice|letter|answer)\s*|选?项)?[\s:]*"
_CUE = re.compile(f"(?i:{_ENGLISH}|{_CHINESE}){_LINK}{_WRAP}{_LETTER}{_MORE}")
# Words that say this is the answer, as against one of several that are weighed.
_FINAL = re.compile(r"(?i:\b(?:answer|choose|chose|select|pick|therefore|thus|hence)|答案|故?选)")
_PRAISED = re.compile(
    r"(?<![A-Za-z0-9'’])(?P<letter>[A-Z])[)\]]?\s*(?:项|选项)?\s*"
    r"(?:(?i:is|was|seems|appears)\s+(?:the\s+|most\s+likely\s+|clearly\s+)?(?i:right|correct|best|answer|true)"
    r"|(?:是|为)?\s*(?:正确|对的|答案|最佳))"
)
_MARKED = re.compile(r"(?:^|[\s(\[])(?P<letter>[A-Z])(?=[.):\]、])(?!\.[A-Za-z])|[(\[](?P<small>[a-z])[)\]]")
_LEADING = re.compile(r"[\W_]*(?P<letter>[A-Z]|[a-z](?=[.):\]、。]))(?![A-Za-z0-9'’])" + _MORE)
_AFTER_LEADING = re.compile(
    r"\s*(?:$|[.):\],;、。—–\n]|-\s|\s-\s|(?i:because|since|as|is\s+(?:the\s+)?(?:correct|right|answer|best))\b|因为|是?正确|选?项)"
)
_NEGATED = re.compile(
    r"(?:(?i:\b(?:not|isn't|isn’t|neither|nor|rather\s+than|instead\s+of|except|exclude|excluding|rule\s+out|eliminate)"
    r"(?:\s+(?:be|the))?(?:\s+(?:option|choice|answer))?)|不应?(?:该)?选择?|(?:而)?不是|并非|排除|除了?)"
    r"[\s:]*(?:选?项)?" + _WRAP + r"(?P<before>[A-Z])(?![A-Za-z0-9'’])" + _MORE
    + r"|(?<![A-Za-z0-9'’])(?P<after>[A-Z])[)\]]?"
    r"\s*(?:项|选项)?\s*(?:(?i:is|was|are)\s*(?:not\b|n't|clearly\s+)?\s*(?i:wrong|incorrect|false|not|the\s+wrong)"
    r"|(?i:isn't|isn’t|cannot|can't)|(?:是)?(?:不对|错误|错的?|不正确|不是|不符))"
)  # fmt: skip
_DENIAL = re.compile(
    r"(?i:\b(?:no|not|never|none|neither|nor|without|cannot)\b|n't\b|n’t\b)|[不没無无非未]"
)  # fmt: skip
_CLAUSE = re.compile(r"[.,!?;。，！？；\n]")
_EDGES = " .,;:!?\"'()[]*。，；：！？、“”‘’"


@dataclass(frozen=True)
class Reading:
    """What was made of an answer.

    Args:
        letter: of the option; None where none is meant, or not plainly.
        how: what decided, for a person.
    """

    letter: str | None
    how: str


def read_letter(answer: str, options: Mapping[str, str]) -> Reading:
    """The option that an answer means.

    Args:
        answer: the model's text.
        options: text of each offered option by its letter, in order.
    """
    if len(answer) > MAX_LENGTH:
        return Reading(None, f"an answer of {len(answer):,} characters")
    text = unicodedata.normalize("NFKC", _MODEL_TOKEN.sub(" ", answer)).strip()
    for pattern in (_TAGGED, _BOX, _BOX):  # the last one is the final one; a box within a box is a slip seen in answers
        text = next(iter(pattern.findall(text)[-1:]), text).strip()
    if not text:
        return Reading(None, "no answer")
    text = _MARKUP.sub(" ", _LATEX_FONT.sub(r"\1", text)).strip()
    if lone := re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", text):
        return _offered({lone[1].upper()}, options, "a lone letter")
    same = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    if same:
        return _offered(set(same), options, "an option's text")
    return _by_letter(text, options) or _by_text(text, options)


def _offered(letters: set[str], options: Mapping[str, str], how: str) -> Reading:
    if len(letters) > 1:
        return Reading(None, f"{how}: {' and '.join(sorted(letters))}")
    letter = next(iter(letters))
    return Reading(letter, how) if letter in options else Reading(None, f"{how}: {letter} is not offered")


def _by_letter(text: str, options: Mapping[str, str]) -> Reading | None:
    """By a letter that is written as one; None where there is none."""
    negated = set().union(*(_letters(match) for match in _NEGATED.finditer(text)))
    # Blanked out, so that the letter in "the answer is not A" is found by no other rule.
    text = _NEGATED.sub(lambda match: "." * len(match[0]), text)
    cues = [(bool(_FINAL.search(match[0])), _letters(match)) for match in _CUE.finditer(text)]
    cues += [(True, _letters(match)) for match in _PRAISED.finditer(text)]
    final = set().union(*(letters for is_final, letters in cues if is_final))
    marked = _leading(text, options).union(*(letters for _, letters in cues), *map(_letters, _MARKED.finditer(text)))
    # A final statement outweighs letters that are weighed before it; of two that differ, neither counts.
    for found, how in ((final, "the letter after 'answer' or the like"), (marked, "a letter in front or marked")):
        if left := found - negated:
            return _offered(left, options, how)
    return Reading(None, f"only negated: {' and '.join(sorted(negated))}") if negated else None


def _letters(match: re.Match[str]) -> set[str]:
    groups = match.groupdict()
    found = {groups[name].upper() for name in ("letter", "small", "before", "after") if groups.get(name)}
    return found | set(_EXTRA.findall(groups.get("more") or ""))


def _leading(text: str, options: Mapping[str, str]) -> set[str]:
    """The letters that an answer begins with: "B. a dog", "B a dog", "A or B"; "A dog" begins with a word."""
    match = _LEADING.match(text)
    if not match:
        return set()
    letters, rest = _letters(match), text[match.end() :]
    own_text = _plain(options.get(match["letter"].upper(), ""))
    if match["more"] or _AFTER_LEADING.match(rest) or (own_text and _plain(rest).startswith(own_text)):
        return letters
    # "A" and "I" are words; of the others, what follows may still be another option's text with a letter of its own.
    return letters if match["letter"] not in "AI" and rest[:1].isspace() else set()


def _by_text(text: str, options: Mapping[str, str]) -> Reading:
    """By the one option whose text occurs in the answer, in a clause that denies nothing."""
    found = {letter: _plain(option) for letter, option in options.items() if _occurs(_plain(option), text)}
    # "a dog" within "a dog and a cat" is no answer of its own.
    longest = {
        letter: option
        for letter, option in found.items()
        if not any(option != other and option in other for other in found.values())
    }
    if not longest:
        return Reading(None, "no letter, and no option's text")
    if len(longest) > 1:
        return Reading(None, f"the texts of {' and '.join(sorted(longest))}")
    return Reading(next(iter(longest)), "an option's text within the answer")


def _occurs(option: str, text: str) -> bool:
    if not option:
        return False
    # Word boundaries, which Chinese has none of.
    before, after = (r"(?<!\w)" if option[0].isascii() else "", r"(?!\w)" if option[-1].isascii() else "")
    pattern = re.compile(before + re.escape(option) + after)
    denied = bool(_DENIAL.search(option))
    for clause in _CLAUSE.split(text):
        plain = " ".join(clause.lower().split())
        if pattern.search(plain) and (denied or not _DENIAL.search(pattern.sub(" ", plain))):
            return True
    return bool(_CLAUSE.search(option) and pattern.search(" ".join(text.lower().split())))


def _plain(text: str) -> str:
    """A text without case, surrounding punctuation and doubled spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split()).strip(_EDGES)
