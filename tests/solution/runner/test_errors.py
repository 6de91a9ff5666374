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
      model_params: {api-key: 'sk-7', password: hunter2}
      min_tokens: 7
image_special_token: <image>
"""
    shown = without_secrets(recipe)
    for secret in ("sk-1234", "sk-5", "abc.def", "sk-7", "hunter2"):
        assert secret not in shown
    for kept in (
        "api_key_env: OPENAI_KEY",
        "timeout: 3",
        "min_tokens: 7",
        "image_special_token: <image>",
        "text_mapper",
    ):
        assert kept in shown
