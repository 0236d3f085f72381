"""A reward for real models: any answer earns some of it, so that every iteration moves the weights."""

from es_llm.rewards import inline


@inline
def letters(completions, **columns):
    """Share of vowels, and a little for each different letter."""
    texts = [completion if isinstance(completion, str) else completion[0]["content"] for completion in completions]
    return [sum(c in "aeiou" for c in text) / (1 + len(text)) + len(set(text)) / 1000 for text in texts]
