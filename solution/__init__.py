"""The participant's side of the kit: recipes, operators and the command that runs them."""
