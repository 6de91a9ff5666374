"""Tiny models of the real classes with random weights, each saved to a folder as a hub has it."""

import json
import string
from pathlib import Path

import torch

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIZES | {"image_size": 32, "patch_size": 16}


def widen(model: torch.nn.Module, std: float = 0.3) -> None:
    """Wide random weights: outputs of different inputs lie apart."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)


def bert_tokenizer(folder: Path):
    """Words of the tests' captions and single letters."""
    from transformers import BertTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        "[ENC]",
        "a",
        "red",
        "dog",
        "cat",
        "on",
        "the",
        "blue",
    ]
    letters = [*string.ascii_lowercase[1:], *(f"##{letter}" for letter in string.ascii_lowercase)]
    (folder / "vocab.txt").write_text("\n".join([*words, *letters]) + "\n")
    return BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))


def clip_tokenizer(folder: Path):
    """CLIP's tokenizer on bytes, without merges."""
    from transformers import CLIPTokenizer
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"), model_max_length=16
    )


def save_blip_matcher(folder: Path) -> Path:
    """A BlipForImageTextRetrieval at 32 px."""
    from transformers import BlipConfig, BlipForImageTextRetrieval, BlipImageProcessor, BlipProcessor

    tokenizer = bert_tokenizer(folder)
    text = SIZES | {"vocab_size": len(tokenizer), "encoder_hidden_size": 32, "max_position_embeddings": 64}
    special = {"pad_token_id": 0, "bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3}
    torch.manual_seed(2)
    model = BlipForImageTextRetrieval(BlipConfig(text_config=text | special, vision_config=VISION, projection_dim=16))
    widen(model)
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def save_owlvit(folder: Path) -> Path:
    """An OwlViTForObjectDetection at 32 px in patches of 8."""
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor

    tokenizer = clip_tokenizer(folder)
    text = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    special = {"pad_token_id": 0, "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    torch.manual_seed(3)
    model = OwlViTForObjectDetection(
        OwlViTConfig(text_config=text | special, vision_config=VISION | {"patch_size": 8}, projection_dim=32)
    )
    widen(model)
    model.save_pretrained(folder)
    image_processor = OwlViTImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    OwlViTProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def save_classifier(folder: Path) -> Path:
    """A ViTForImageClassification at 32 px with two labels."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(4)
    model = ViTForImageClassification(ViTConfig(**VISION, num_labels=2))
    widen(model)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_aesthetics_predictor(folder: Path, head: torch.nn.Sequential | torch.nn.Linear) -> Path:
    """A CLIPVisionModelWithProjection (32 px, 16 features) with a predictor's head, named as the published ones."""
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    class Predictor(CLIPVisionModelWithProjection):
        """The published classes' layout of weights."""

        def __init__(self, config: CLIPVisionConfig) -> None:
            super().__init__(config)
            if isinstance(head, torch.nn.Linear):
                self.predictor = head
            else:
                self.layers = head

    torch.manual_seed(5)
    model = Predictor(CLIPVisionConfig(**VISION, projection_dim=16))
    widen(model)
    model.save_pretrained(folder)
    image_processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor, clip_tokenizer(folder)).save_pretrained(folder)
    return folder


def save_tagger(folder: Path) -> Path:
    """NLTK data with a tagger trained on a few captions, and a sentence splitter that knows no abbreviations."""
    from nltk.tag import PerceptronTagger

    kinds = {
        "a": "DT", "the": "DT", "two": "CD", "red": "JJ", "blue": "JJ", "small": "JJ", "on": "IN", "in": "IN",
        "and": "CC", "next": "JJ", "to": "TO", "dog": "NN", "cat": "NN", "car": "NN", "cars": "NNS", "grass": "NN",
        "book": "NN", "ball": "NN", "tree": "NN", "mat": "NN", "runs": "VBZ", "is": "VBZ", ".": ".", ",": ",",
    }  # fmt: skip
    captions = [
        "a red dog on the grass .", "two blue cars", "the cat is on the mat", "a ball and a book next to a tree",
        "a small red car , the dog runs", "a cat in a tree", "the small blue book on the red mat",
    ]  # fmt: skip
    tagger = PerceptronTagger(load=False)
    tagger.train([[(word, kinds[word]) for word in caption.split()] for caption in captions], nr_iter=8)
    tagger_folder = folder / "taggers" / "averaged_perceptron_tagger_eng"
    tagger_folder.mkdir(parents=True)
    tagger.save_to_json(lang="eng", loc=str(tagger_folder))
    punkt = folder / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (punkt / name).write_text("")
    return folder


def save_blip2(folder: Path) -> Path:
    """A Blip2ForConditionalGeneration at 32 px: a Q-Former with 4 queries before an OPT."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
        GPT2TokenizerFast,
    )
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    special = ["<pad>", "</s>", "<image>"]
    words = [*special, *bytes_to_unicode().values()]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = GPT2TokenizerFast(
        vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"),
        pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="</s>", additional_special_tokens=["<image>"],
        padding_side="left",
    )  # fmt: skip
    language = {"model_type": "opt", "vocab_size": len(words), "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    language |= {"num_attention_heads": 2, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
    language |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    queries = SIZES | {"encoder_hidden_size": 32, "cross_attention_frequency": 1, "vocab_size": len(words)}
    torch.manual_seed(7)
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=VISION, qformer_config=queries, text_config=language, num_query_tokens=4, image_token_index=2
        )
    )
    widen(model, 0.5)
    model.save_pretrained(folder)
    image_processor = BlipImageProcessor(size={"height": 32, "width": 32})
    Blip2Processor(image_processor, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def save_chat_model(folder: Path) -> Path:
    """A LlavaForConditionalGeneration at 32 px in patches of 16 that spells letters, with a chat template."""
    from transformers import (
        CLIPImageProcessor,
        GPT2TokenizerFast,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    words = ["<pad>", "</s>", "<image>", *bytes_to_unicode().values()]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = GPT2TokenizerFast(
        vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"),
        pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="</s>", additional_special_tokens=["<image>"],
    )  # fmt: skip
    language = SIZES | {"model_type": "llama", "vocab_size": len(words), "max_position_embeddings": 128}
    language |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    torch.manual_seed(8)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=VISION | {"model_type": "clip_vision_model"}, text_config=language, image_token_index=2,
            vision_feature_layer=-1,
        )
    )  # fmt: skip
    widen(model, 0.5)
    model.save_pretrained(folder)
    template = (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer,
        patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_pipeline(folder: Path) -> Path:
    """A StableDiffusionPipeline that generates 32 x 32 px from 16 x 16 latents."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    words = folder / "words"
    words.mkdir()
    tokenizer = clip_tokenizer(words)
    special = {"pad_token_id": 0, "bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    torch.manual_seed(9)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
        ),
        unet=UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, sample_size=16, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32, attention_head_dim=4,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(**SIZES, **special, vocab_size=len(tokenizer), max_position_embeddings=16)
        ),
        tokenizer=tokenizer, scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    widen(pipeline.text_encoder)
    pipeline.save_pretrained(folder)
    return folder


def save_qwen2_vl(folder: Path) -> Path:
    """A Qwen2VLForConditionalGeneration in patches of 14 px that spells letters, with a chat template."""
    from transformers import Qwen2TokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    special += ["<|video_pad|>"]
    words = [*bytes_to_unicode().values(), *special]
    ids = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Qwen2TokenizerFast(
        vocab_file=str(folder / "vocab.json"), merges_file=str(folder / "merges.txt"), eos_token="<|im_end|>",
        pad_token="<|endoftext|>", additional_special_tokens=special[1:],
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokens = {
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"],
    }  # fmt: skip
    text = SIZES | {"vocab_size": len(words), "num_key_value_heads": 2, "max_position_embeddings": 256}
    text |= {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "eos_token_id": ids["<|im_end|>"]}
    torch.manual_seed(10)
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=text | {"pad_token_id": ids["<|endoftext|>"], "bos_token_id": None},
            vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}, **tokens,
        )
    )  # fmt: skip
    widen(model, 0.5)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=28 * 28 * 9).save_pretrained(folder)
    return folder
