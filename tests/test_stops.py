"""Stop strings: the bytes of tokens, and the token that completes a stop string."""

import random
import re

import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.generation import StopStringCriteria

from es_llm.model.loading import load_tokenizer
from es_llm.rollout.stops import StopStrings, token_bytes
from tests.commands import SMALL, es_llm
from tests.tiny_models import tiny_tokenizer

CPU = torch.device("cpu")


def wrapped(model, decoder, splitter):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoder
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    made.add_special_tokens({"eos_token": "<é end>"})
    return made


def sentencepiece():
    """Pieces with a mark for a space, and tokens for single bytes."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "é", "▁stop", "日本"]
    decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model = models.BPE({piece: number for number, piece in enumerate(pieces)}, [("a", "b")], byte_fallback=True)
    return wrapped(model, decoder, pre_tokenizers.Metaspace())


def wordpiece():
    pieces = ["[UNK]", "a", "stop", "##s", "##é", "b"]
    model = models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]")
    return wrapped(model, decoders.WordPiece(cleanup=False), pre_tokenizers.Whitespace())


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def bytes_of(tokenizer, size=None):
    return token_bytes(tokenizer, size or len(tokenizer), lambda rows: [decoded(tokenizer, ids) for ids in rows])


@pytest.mark.parametrize("build", [tiny_tokenizer, lambda: load_tokenizer(None), sentencepiece, wordpiece])
def test_the_bytes_of_tokens_are_those_of_the_decoded_text(build):
    tokenizer, generator = build(), random.Random(3)
    tokens = bytes_of(tokenizer)
    first = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = [[number] for number, text in enumerate(tokens) if "\ufffd" not in text.decode(errors="replace")]
    parts = [[tokens.index(bytes([byte])) for byte in "é".encode()]] if b"\xc3" in tokens else []
    for _ in range(50):
        ids = [number for part in generator.choices([*whole, *parts * 10], k=12) for number in part]
        text = b"".join(tokens[number] for number in ids).decode()
        assert decoded(tokenizer, [*first, *ids]) == decoded(tokenizer, first) + text


def test_ids_without_a_token_add_nothing_and_tokens_without_an_embedding_are_left_out():
    tokens = bytes_of(tiny_tokenizer(), 200)
    assert len(tokens) == 200
    assert set(tokens[len(tiny_tokenizer()) :]) == {b""}
    assert bytes_of(tiny_tokenizer(), 10) == tokens[:10]


@pytest.mark.parametrize("seed", range(40))
def test_the_first_token_that_completes_a_stop_string_is_found(seed):
    """Against a search in the text, with few letters, so that stop strings begin often and contain each other."""
    generator = random.Random(seed)

    def text(longest):
        return "".join(generator.choices("abé", k=generator.randint(1, longest)))

    stops, tokens = [text(4) for _ in range(generator.randint(1, 4))], [text(3).encode() for _ in range(12)]
    tokens += [bytes([byte]) for byte in "é".encode()] + [b""]
    own = StopStrings(stops, tokens, CPU)
    prompts = [generator.choices(range(len(tokens)), k=generator.randint(1, 5)) for _ in range(20)]
    answers = [generator.choices(range(len(tokens)), k=8) for _ in prompts]

    def wanted(prompt, answer):
        before = b"".join(tokens[number] for number in prompt)
        for count in range(1, len(answer) + 1):
            whole = before + b"".join(tokens[number] for number in answer[:count])
            found = [match.end() for stop in stops for match in re.finditer(b"(?=%b)" % stop.encode(), whole)]
            sizes = [len(stop.encode()) for stop in stops for _ in re.finditer(b"(?=%b)" % stop.encode(), whole)]
            if any(start + size > len(before) for start, size in zip(found, sizes, strict=True)):
                return count
        return None

    lengths = [wanted(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    assert [own.length(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)] == lengths
    have_ended, rows, seen = own.watch(prompts), torch.arange(len(prompts)), [None] * len(prompts)
    for count, tokens_B in enumerate(torch.tensor(answers).T, 1):
        ended = have_ended(rows, tokens_B).tolist()
        seen = [count if now and was is None else was for now, was in zip(ended, seen, strict=True)]
    assert seen == lengths


@pytest.mark.smollm2
def test_stop_strings_of_a_real_vocabulary_are_those_of_transformers(smollm2):
    tokenizer, generator = load_tokenizer(smollm2), random.Random(1)
    stops = ["</answer>", "\n\n", "The end", "é!", "stop", "<|im_end|>"]
    tokens = bytes_of(tokenizer)
    own, theirs = StopStrings(stops, tokens, CPU), StopStringCriteria(tokenizer, stops)
    parts = [number for number, text in enumerate(tokens) if any(text in stop.encode() for stop in stops)]
    overlapping = [number for number, text in enumerate(tokens) if text.endswith((b"st", b"\n", b"<")) or b"op" in text]
    ended = 0
    for _ in range(150):
        ids = generator.choices([*parts, *overlapping], k=30)
        ids[15:15] = tokenizer(generator.choice(stops), add_special_tokens=False)["input_ids"]
        prompt, answer = ids[:5], ids[5:]
        counts = range(1, len(answer) + 1)
        wanted = next((count for count in counts if theirs(torch.tensor([prompt + answer[:count]]), None)), None)
        assert own.length(prompt, answer) == wanted
        ended += wanted is not None and wanted < 15
    assert ended > 20, "stop strings should be found where none was put"


def test_completions_of_a_run_end_with_stop_strings(tmp_path):
    """In training, in evaluation, and in its samples."""
    words = ["--max_steps", "1", "--log_completions", "--eval_num_samples", "2", "--stop_strings", "+", "-1"]
    process = es_llm("train", *SMALL, *words, "--output_dir", str(tmp_path / "run"))
    assert process.returncode == 0, process.stderr
    files = sorted((tmp_path / "run" / "completions").iterdir())
    assert {file.name.partition("-")[0] for file in files} == {"train", "eval"}
    for file in files:
        texts = pyarrow.parquet.read_table(file)["completion"].to_pylist()
        assert not any("+" in text[:-1] or "-1" in text[:-1] for text in texts)
        assert any(text.endswith(("+", "-1")) for text in texts)
