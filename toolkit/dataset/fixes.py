"""What to do about each fault, odd image and overlap with the evaluation sets that `check` lists."""

from __future__ import annotations

FIXES = {
    # the line itself
    "not_json": "write one JSON object per line, in UTF-8; json.dumps does",
    "missing_id": "give the row the id of the seed row it came from",
    "bad_id": "write the id as text, as the seed does; a whole number is taken as its text",
    "bad_text": "write the caption as text under 'text', the image token in front",
    "bad_images": "write a list with one relative path under 'images'",
    "two_images": "write one row per image",
    "bad_image_path": "start the path at the seed's folder, or at synthetic_images/ beside the file",
    "link_leaves_root": "put the file in the link's place, or name its folder as --images; if it is gone, drop the row",
    # tokens and caption
    "mixed_image_tokens": "use one of <image> and <__dj__image> throughout the row",
    "image_without_token": "put <image> and a newline in front of the caption",
    "token_without_image": "name the image under 'images', or take the image token out",
    "token_in_caption": "take the special token out of the caption",
    "empty_caption": "write a caption (a recaptioning operator does), or drop the row",
    "dialogue_in_caption": "keep one caption: training puts its own question in front",
    # the question that training puts in front
    "no_question": "give the row the id of a seed row, or an image; else drop it",
    "question_without_image_place": "drop the row: its original question has no <image>",
    "question_without_image": "give the row its image back, or drop it",
    # trainability
    "special_token_in_text": "take the language model's own token out of the caption",
    "nothing_supervised": "drop the row: its question fills the whole sample",
    "image_in_two_turns": "correct the original in stage_1.json: one question asks about the image",
    "empty_question": "correct the original in stage_1.json: each answer needs a question",
    "image_in_answer": "take <image> out of the caption",
    "empty_answer": "write a caption, or drop the row",
    "unknown_role": "correct the original in stage_1.json: turns are from human and gpt",
    "roles_not_alternating": "correct the original in stage_1.json: human and gpt take turns",
    "question_without_answer": "correct the original in stage_1.json: the last turn is gpt's",
    # the file as a whole
    "two_images_of_one_id": "give the rows of each image an id of their own",
    "synthetic_image_of_unknown_id": "give the row the id of the seed row its image was made from",
    # images
    "missing_image": "put the file there, in place of a link to nothing too, or drop the row",
    "unreadable_image": "write the image again, whole and of at most 178 million pixels, or drop the row",
    "canvas_too_large": "crop or scale a synthetic copy, or drop the row: training makes a square of the image",
    "not_a_regular_file": "put the image's file there, or drop the row",
}

NOTE_FIXES = {
    "oriented": "turn the pixels (PIL.ImageOps.exif_transpose) in a synthetic copy, or leave it",
    "tiny": "drop the row: there is nothing to see",
    "long": "drop the row, or crop a synthetic copy: training cuts the long sides off",
    "huge": "scale a synthetic copy down: training scales it anyway, at the cost of memory",
    "greyscale": "leave it; training repeats the one channel",
    "deep": "scale the values to 8 bits in a synthetic copy, or drop the row",
    "cmyk": "convert a synthetic copy to RGB with its profile (PIL.ImageCms), or leave it",
    "transparent": "put a background under a synthetic copy, or leave it",
    "animated": "save the frame the caption speaks of as a synthetic copy, or leave it",
}

OVERLAP_FIXES = {
    "evaluation_image": "drop the row: evaluation_overlap_filter in a recipe does; overlaps.html shows the pair",
    "evaluation_caption": "drop the row: evaluation_overlap_filter in a recipe does",
}
