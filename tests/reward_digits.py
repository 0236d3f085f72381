"""A reward that any model earns in part, so that every iteration moves the weights."""

from es_llm.rewards import inline
from es_llm.rewards.text import completion_text


@inline
def digits(completions, **columns):
    """Share of digits in each answer, and a little for its first character."""
    texts = map(completion_text, completions)
    return [sum(c.isdigit() for c in text) / (1 + len(text)) + ord((text or " ")[0]) / 10_000 for text in texts]
