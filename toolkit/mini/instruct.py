"""The fixed finetuning set: questions about images in the wording of the evaluations, and some without an image."""

from __future__ import annotations

import random
from pathlib import Path

from toolkit.files import write_json
from toolkit.mini.captions import true_caption
from toolkit.mini.questions import SHORT_ANSWER, ask, ask_any, choice_prompt, options_of, textvqa_prompt
from toolkit.mini.scenes import draw_scene, render
from toolkit.mini.seed import save_jpeg

IMAGES = 540
# Kind of sample -> how many, of 1,200 in all.
SAMPLES = {"short": 340, "sign": 260, "choice": 420, "caption": 60, "text_only": 120}


def build_instruct(folder: Path) -> None:
    """Write `mgm_instruction_mini.json` (LLaVA format) and its images below `folder`."""
    rng = random.Random("instruct")
    scenes = [draw_scene(rng) for _ in range(IMAGES)]
    names = [f"images/{number:06d}.jpg" for number in range(IMAGES)]
    for scene, name in zip(scenes, names, strict=True):
        save_jpeg(render(scene)[0], folder / name)
    with_sign = [number for number in range(IMAGES) if scenes[number].sign]
    kinds = [kind for kind, count in SAMPLES.items() for _ in range(count)]
    rng.shuffle(kinds)
    samples = []
    for number, kind in enumerate(kinds):
        index = rng.choice(with_sign) if kind == "sign" else rng.randrange(IMAGES)
        human, answer = _turn(kind, scenes[index], rng)
        sample = {"id": f"mini_instruct_{number:05d}"}
        if kind != "text_only":
            sample["image"] = names[index]
            human = f"<image>\n{human}"
        sample["conversations"] = [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]
        samples.append(sample)
    write_json(folder / "mgm_instruction_mini.json", samples)


def _turn(kind: str, scene, rng: random.Random) -> tuple[str, str]:
    if kind == "caption":
        return "Write a short caption for the picture.", true_caption(scene, rng)
    if kind == "text_only":
        scene = draw_scene(rng)
        question = ask_any(scene, rng)
        prompt = question.text + "\n" + SHORT_ANSWER
        if rng.random() < 0.5:
            prompt = choice_prompt(question.text, options_of(question, rng))
        return f"{true_caption(scene, rng)}.\n{prompt}", question.answer
    if kind == "sign":
        question = ask(scene, "text" if rng.random() < 0.8 else "object", rng)
        return textvqa_prompt(question, rng), question.answer
    question = ask_any(scene, rng)
    if kind == "choice":
        return choice_prompt(question.text, options_of(question, rng)), question.answer
    return f"{question.text}\n{SHORT_ANSWER}", question.answer
