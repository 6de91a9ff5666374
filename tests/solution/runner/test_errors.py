"""Texts that a terminal or a page can show."""

from solution.runner.errors import without_secrets


def test_a_recipe_is_shown_without_its_keys():
    recipe = """
process:
  - text_mapper:  # api_key: is no key here
      api_key: sk-1234
      "openai_api_key": "sk-5 6"
      api_key_env: OPENAI_KEY
      headers: {Authorization: Bearer abc.def, timeout: 3}
      model_params: {api-key: 'sk-7', password: hunter2, base_url: https://me:pass8@host/v1?key=sk-9}
      endpoint: "https://gateway.host/v1/AbC-10/compatible-mode"  # as in https://arxiv.org/abs/2304.08485
      min_tokens: 7
image_special_token: <image>
"""
    shown = without_secrets(recipe)
    for secret in ("sk-1234", "sk-5", "abc.def", "sk-7", "hunter2", "pass8", "sk-9", "AbC-10"):
        assert secret not in shown
    for kept in (
        "api_key_env: OPENAI_KEY",
        "timeout: 3",
        "min_tokens: 7",
        "image_special_token: <image>",
        "text_mapper",
        "base_url: https://host/v1}",
        '"https://gateway.host/v1/(not shown)/compatible-mode"  # as in https://arxiv.org/abs/2304.08485',
    ):
        assert kept in shown
