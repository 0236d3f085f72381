"""The rewards of `math` and `gsm8k` give the results of tables written by hand, also on hostile answers."""

from __future__ import annotations

import datetime
import math
import signal
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm.errors import ConfigError
from es_llm.rewards.batch import Batch
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.tasks import load_task
from es_llm.tasks.answer_limits import OverTimeError, TimeLimit, digits
from es_llm.tasks.base import Splits
from es_llm.tasks.conciseness import conciseness_reward, rescaled_conciseness
from es_llm.tasks.countdown.reward import countdown_accuracy
from es_llm.tasks.gsm8k import numeric_accuracy
from es_llm.tasks.math.reward import MAX_BOX, MAX_DIGITS, last_box, math_accuracy
from es_llm.tasks.reading import MAX_NUMBER, read_answer, read_number


def lines_of(name, columns):
    for line in Path(__file__).with_name("data").joinpath(name).read_text().splitlines():
        if line and not line.startswith("#"):
            *given, text = line.split("|", columns - 1)
            yield *map(str.strip, given), text.strip().replace("\\n", "\n")


def cases():
    for score, gold, text in lines_of("math_cases.txt", 3):
        yield None if score == "none" else float(score), gold, text


def test_the_table_is_large_enough():
    assert len(list(cases())) >= 60


@pytest.mark.parametrize(("score", "gold", "text"), list(cases()))
def test_math_case(score, gold, text):
    assert math_accuracy(completions=[text], answer=[gold]) == [score]


def test_messages_are_read_too():
    assert math_accuracy(completions=[[{"role": "assistant", "content": "\\boxed{2}"}]], answer=["2"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("\\boxed{a} \\boxed{b", None),
        ("\\boxed{" + "a" * MAX_BOX + "}", "a" * MAX_BOX),
        ("\\boxed{" + "a" * (MAX_BOX + 1) + "}", None),
        ("none", None),
    ],
)
def test_boxes(text, box):
    assert last_box(text) == box


HOSTILE = {
    "brackets": "\\boxed{" + "(" * 900 + "}",
    "boxes": "\\boxed{" * 100_000,
    "a long number": "\\boxed{" + "9" * 999 + "}",
    "a tower": "\\boxed{9^{9^{9^{9}}}}",
    "a tower below": "\\boxed{10^{-10^{10}}}",
    "a tower in Python": "\\boxed{9**9**9**9}",
    "powers of powers": "\\boxed{(9^{9999})^{9999}}",
    "a tower without braces": "\\boxed{9^9^9^9}",
    "a tower in another script": "\\boxed{\uff19^{\uff19^{\uff19^{\uff19}}}}",
    "a tower for a name": "\\boxed{x^{9^{9^{9}}}}",
    "a logarithm": "\\boxed{\\log_{2}(3^{99999999})}",
    "a factorial": "\\boxed{99999999!}",
    "factorials of factorials": "\\boxed{9!!!!}",
    "a binomial": "\\boxed{\\binom{1000000}{500000}}",
    "a sum": "\\boxed{\\sum_{n=1}^{1000000} \\frac{1}{n}}",
    "a product": "\\boxed{\\prod_{n=1}^{1000000} n}",
    "an expansion": "\\boxed{(x+y+z+1)^{100}}",
    "an integral": "\\boxed{\\int e^{x^2} \\sin(x^3) dx}",
    "a gamma": "\\boxed{\\Gamma(100000000)}",
    "no box": "{" * 1_000_000,
    "another digit": "\\boxed{\u0663}",
    "fractions": "\\boxed{" + "\\frac{1}{" * 80 + "1" + "}" * 80 + "}",
    "roots": "\\boxed{" + "\\sqrt{" * 100 + "2" + "}" * 100 + "}",
    "a mark": "#### " + "9" * 1_000_000,
    "digits": "1" * 1_000_000,
    "commas": "," * 1_000_000,
    "surrogates": "\\boxed{\ud800}",
    "zero bytes": "\\boxed{" + "\0" * 900 + "}",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_wrong_in_bounded_time(name):
    text = HOSTILE[name]
    assert last_box(text) is None or len(last_box(text)) <= MAX_BOX
    assert math_accuracy(completions=[text, "\\boxed{12}"], answer=["12", "12"]) == [0.0, 1.0]
    assert numeric_accuracy(completions=[text], answer=["12"]) == [0.0]


def test_in_workers_hostile_answers_are_wrong_and_kill_no_worker():
    """The function limits its own time, so no completion counts as failed."""
    names = ["a tower", "an expansion", "brackets", "a factorial"]
    batch = Batch.of(
        [{"prompt": "p", "answer": "12"}] * 5, [*(HOSTILE[name] for name in names), "\\boxed{12}"], [[]] * 5
    )
    rewards = RewardSet([math_accuracy], limits=WorkerLimits(workers=1, timeout_s=60))
    outcome = rewards.submit(batch).result()
    rewards.close()
    assert outcome.rewards == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert not outcome.results["math_accuracy"].failures


@pytest.mark.timeout(60)
@pytest.mark.parametrize("gold", ["9^{9^{9^{9}}}", "1" * (MAX_BOX + 1), "", "$", "\\boxed{}", "99999999!"])
@pytest.mark.parametrize("text", ["", "12", "\\boxed{12}", "\\boxed{", "\\boxed{9^{9^{9^{9}}}}"])
def test_a_right_answer_that_cannot_be_read_gives_no_score(gold, text):
    assert math_accuracy(completions=[text], answer=[gold]) == [None]


def test_a_right_answer_that_timed_out_on_a_stalled_machine_is_read_again(monkeypatch):
    calls = []

    def parse(text, **options):
        calls.append(text)
        while len(calls) == 1:
            pass
        return [text]

    monkeypatch.setattr("es_llm.tasks.math.reward.LIMIT_S", 0.05)
    monkeypatch.setattr(
        "es_llm.tasks.math.reward._library", lambda: (parse, lambda right, answer, **options: right == answer)
    )
    assert math_accuracy(completions=["\\boxed{87123}"] * 2, answer=["87123"] * 2) == [1.0, 1.0]
    assert len(calls) == 4  # the right answer twice, and each answer once


@st.composite
def towers(draw, depth=3):
    """The text of an expression of numbers, and its value."""
    kind = draw(st.sampled_from("nnpfm")) if depth else "n"
    if kind == "n":
        number = draw(st.integers(0, 40))
        return str(number), number
    text, value = draw(towers(depth=depth - 1))
    if kind == "f":
        return (f"({text})!", math.factorial(value)) if value < 300 else (text, value)
    other, exponent = draw(towers(depth=depth - 1))
    if kind == "m":
        return f"({text}) \\cdot ({other})", value * exponent
    if exponent > 10**6 or exponent * math.log10(max(value, 2)) > 5000:
        return text, value
    return f"{{({text})}}^{{{other}}}", value**exponent


@given(towers())
def test_the_digits_of_numbers_are_bounded(tower):
    text, value = tower
    assert digits(text) >= math.log10(max(value, 1)) - 1e-6


@pytest.mark.parametrize(
    "text", ["x^{100}+y^{99}+7x^{50}", "2^{2010}-1", "10^{100}", "\\binom{100}{50}", "100!", "1.23 \\times 10^{-31}",
             "90^\\circ 5000", "\\frac{3^{50}}{2^{60}}", "e^{x^{2}}", "(2^{100})^{20}", "a_{1000000}"]
)  # fmt: skip
def test_powers_of_usual_size_are_allowed(text):
    assert digits(text) < MAX_DIGITS
    assert math_accuracy(completions=[f"\\boxed{{{text}}}"], answer=[text]) == [1.0]


def test_a_time_limit_ends_a_loop_and_leaves_other_timers_alone():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *given: rung.append(1))
    old = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with pytest.raises(OverTimeError):
            _loop_within(0.05)
        with TimeLimit(100):
            pass
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not rung:
            time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *old)
        signal.signal(signal.SIGALRM, before)


def _loop_within(seconds, first=lambda: None):
    with TimeLimit(seconds):
        first()
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue


def test_an_alarm_in_a_destructor_is_not_reported_and_fires_again(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    start = time.monotonic()
    with pytest.raises(OverTimeError):
        _loop_within(0.05, first=lambda: _Slow(KeyError))
    assert time.monotonic() - start > 0.5  # the first alarm fired in the destructor
    _Slow(ValueError)
    assert reported == [ValueError]  # the hook is restored


def test_other_errors_in_destructors_are_reported_within_a_limit(monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(unraisable.exc_type))
    with TimeLimit(100):
        _Slow(KeyError)
    assert reported == [KeyError]


class _Slow:
    def __init__(self, error):
        self.error = error

    def __del__(self):
        time.sleep(0.1)
        raise self.error


@pytest.mark.timeout(60)
def test_an_alarm_at_the_end_of_a_block_leaves_no_timer():
    """Blocks end at about their time limit, so that alarms fire during every step of entering and leaving a block."""
    before = signal.getsignal(signal.SIGALRM)
    hook = sys.unraisablehook
    over = 0
    for turn in range(20_000):
        try:
            with TimeLimit(1e-6 * (1 + turn % 40)):
                sum(range(100))
        except OverTimeError:
            over += 1
        assert signal.getsignal(signal.SIGALRM) is before
        assert sys.unraisablehook is hook
    assert 0 < over < 20_000
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0  # a limit's own timer has an interval, the tests' doesn't


def test_a_thread_has_no_time_limit():
    reported = []

    def work():
        with TimeLimit(0.001):
            time.sleep(0.05)
        reported.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reported


def numeric_cases():
    for number, text in lines_of("numeric_cases.txt", 2):
        yield None if number == "none" else Fraction(number), text


@pytest.mark.parametrize(("number", "text"), list(numeric_cases()))
def test_numbers_in_texts(number, text):
    assert read_answer(text) == number


def test_an_answer_that_the_library_fails_on_is_wrong(monkeypatch):
    def parse(text, **options):
        return [text]

    def verify(gold, answer, **options):
        if answer != gold or gold == ["\\boxed{bad}"]:
            raise OSError("odd")
        return True

    monkeypatch.setattr("es_llm.tasks.math.reward._library", lambda: (parse, verify))
    texts = ["\\boxed{so good}", "\\boxed{x}"]
    assert math_accuracy(completions=texts, answer=["so good"] * 2) == [1.0, 0.0]
    with pytest.raises(OSError, match="odd"):
        math_accuracy(completions=["\\boxed{x}"], answer=["bad"])


ANSWERS = [
    (1e-5, "0.00001"), (1e-5, "1e-05"), (2.5e-7, "0.00000025"), (0.1, "0.1"), (0.1 + 0.2, "0.30000000000000004"),
    (1e22, "10,000,000,000,000,000,000,000"), (1e23, "1" + "0" * 23), (1e64, "1e+64"), (1e300, "1e+300"),
    (10**29 + 7, "100000000000000000000000000007"), (2**53 + 1, "9007199254740993"), (-0.5, "-.5"), (42.0, "42"),
    (Decimal("1E-5"), "0.00001"), (Decimal("0.10"), "0.1"), (Decimal("1E+3"), "1,000"), (Fraction(1, 3), "1/3"),
    (np.float64(1e-5), "0.00001"), (np.float32(0.1), "0.1"), (np.int64(7), "7"), ("1e-05", "0.00001"),
    ("1,000", "1000"), ("1.000.000", "1000000"), ("1000000", "1.000.000"), ("so it is.\n#### 1e-05", "#### 0.00001"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "text"), ANSWERS)
def test_right_answers_of_any_type_are_read_as_they_are_written(gold, text):
    data = Splits(train=[{"question": "?", "answer": gold}], eval=[])
    (row,) = load_task("gsm8k", data=data).train
    for answer in (gold, row["answer"]):
        texts = [text, f"it is {text}.", f"#### {text}", "5", "none"]
        assert numeric_accuracy(completions=texts, answer=[answer] * 5) == [1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "gold", [None, True, False, np.bool_(True), math.nan, math.inf, "", " ", "?", "nan", Decimal("NaN")]
)
def test_right_answers_that_are_no_numbers_give_no_score(gold):
    assert numeric_accuracy(completions=["1", "0", "5"], answer=[gold] * 3) == [None] * 3


@pytest.mark.timeout(20)
@pytest.mark.parametrize("gold", [Decimal("1E+999999999"), Decimal("1E-999999999"), "1e+999999999", "1e-" + "9" * 5000])
def test_numbers_without_end_are_no_numbers(gold):
    assert numeric_accuracy(completions=[str(gold), "1"], answer=[gold] * 2) == [None] * 2
    assert numeric_accuracy(completions=[str(gold)], answer=[1]) == [0.0]


@pytest.mark.parametrize(
    ("gold", "box"), [(1e-5, "0.00001"), (1e22, "10^{22}"), (0.1, "\\frac{1}{10}"), (5, "5"), (Decimal("1E+3"), "1000")]
)
def test_boxed_answers_of_any_type(gold, box):
    (row,) = load_task("math", data=Splits(train=[{"problem": "?", "answer": gold}], eval=[])).train
    for answer in (gold, row["answer"]):
        assert math_accuracy(completions=[f"\\boxed{{{box}}}", "\\boxed{17}"], answer=[answer] * 2) == [1.0, 0.0]


MATH_GOLDS = [
    ("1e-05", ["0.00001", "1e-05", "\\frac{1}{100000}"], ["0", "0.5", "e - 5"]),
    ("1e5", ["100000", "100,000", "10^5", "1e5", "1E+5"], ["5", "5e"]),
    ("3e8", ["300000000", "3 \\cdot 10^8", "3e8"], ["24", "3"]),
    ("-1.5E3", ["-1500"], ["1500"]),
    ("$2.5e-3$", ["0.0025"], ["2.5"]),
    ("100000", ["1e5"], ["1e6", "1e99999"]),
    ("1 1/2", ["\\frac{3}{2}", "1.5", "1\\frac{1}{2}", "1 1/2"], ["1", "\\frac{1}{2}"]),
    ("2024-01-01", ["2024-01-01", "\\text{2024-01-01}"], ["2022", "2023-05-01", "2024"]),
    ("2024-05", ["2024-05"], ["2019"]),
    ("1/2/2024", ["1/2/2024"], ["\\frac{1}{4048}"]),
    ("12.05.2024", ["12.05.2024"], ["12.06.2024", "12.05"]),
    ("2022", ["2022"], ["2024-01-01"]),
    ("10:30", ["10:30"], ["\\frac{1}{3}", "1:3", "20:60", "10:31"]),
    ("10:30 \\text{ a.m.}", ["10:30 \\text{ a.m.}", "10:30 am", "10:30\\ \\text{AM}"], ["10:30 pm", "10:30"]),
    ("2024-01-01T10:30:00Z", ["2024-01-01T10:30:00Z"], ["2024-01-01T10:31:00Z"]),
    ("Monday, 10:30", ["Monday, 10:30"], ["Monday, \\frac{1}{3}"]),
    ("1:2", ["1:2", "\\frac{1}{2}"], ["2:1"]),
    ("990", ["1000-10", "990"], ["1000"]),
    ("1e99999", [], []),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "right", "wrong"), MATH_GOLDS)
def test_powers_of_ten_dates_and_times_as_right_answers_of_mathematics(gold, right, wrong):
    (row,) = load_task("math", data=Splits(train=[{"problem": "?", "answer": gold}], eval=[])).train
    for answer in (gold, row["answer"], f"\\boxed{{{gold}}}"):
        scores = {text: math_accuracy(completions=[f"\\boxed{{{text}}}"], answer=[answer])[0] for text in right + wrong}
        assert scores == dict.fromkeys(right, 1.0) | dict.fromkeys(wrong, 0.0)
    if not right:
        assert math_accuracy(completions=["\\boxed{1}"], answer=[gold]) == [None]


def test_a_row_without_an_answer_is_named():
    for name, column in (("gsm8k", "question"), ("math", "problem"), ("conciseness", "question")):
        rows = [{column: "?", "answer": "1"}, {column: "?", "answer": None}]
        with pytest.raises(
            ConfigError, match="row 1 of `train` can't be used by this task: 'answer' must have a value, got"
        ):
            load_task(name, data=Splits(train=rows, eval=[]))
    assert math_accuracy(completions=["\\boxed{1}"], answer=[None]) == [None]


def test_numbers_of_countdown_are_exact():
    columns = {"numbers": [[2, 3], [2.5, 3]], "target": [6, 6]}
    assert countdown_accuracy(completions=["</think>\n<answer>2*3</answer>"] * 2, **columns) == [1.0, 0.0]


def test_the_table_of_numbers_is_large_enough():
    assert len(list(numeric_cases())) >= 60


@pytest.mark.parametrize("size", [63, 64, 71, MAX_NUMBER, MAX_NUMBER + 1, 4000])
def test_a_number_is_read_whole_or_not_at_all(size):
    for text in (f"#### {'9' * size}", f"\\boxed{{{'9' * size}}}", "9" * size):
        assert read_answer(text) == (int("9" * size) if size <= MAX_NUMBER else None)


@given(st.fractions(), st.booleans())
def test_a_number_is_read_as_it_was_written(number, spaced):
    text = f"{number.numerator}/{number.denominator}" if number.denominator != 1 else f"{number.numerator:,}"
    if len(text) <= 60:
        assert read_number(f" {text} " if spaced else text) == number


def test_numeric_scores():
    texts = ["#### 42", "42", "#### 41", "", "it is 42.0"]
    assert numeric_accuracy(completions=texts, answer=["so\n#### 42"] * 5) == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert numeric_accuracy(completions=["3"] * 3, answer=["?", 3, 3.5]) == [None, 1.0, 0.0]


GOLDS = [
    ("2024-01-01", ["2024-01-01", "it is 2024-01-01.", "#### 2024-01-01", "\\boxed{2024-01-01}", "so:\n**2024-01-01**",
                    "\\boxed{\\text{2024-01-01}}"],
     ["2023-05-01", "1", "2024-01-01 or 2023-05-01", "12024-01-01", "#### 2024-01-02\n2024-01-01", "", "2022"]),
    ("10:30", ["10:30", "at 10:30", "the answer is: 10:30.", "time=10:30"],
     ["30", "9:30", "110:30", "1/3", "10:30:10:30"]),
    ("10:30 PM", ["10:30 pm", "it ends at 10:30  PM."], ["10:30", "10:30 AM", "30"]),
    ("5 pm", ["5 pm", "at 5 PM"], ["5", "5 am"]),
    ("3.14 cm^2", ["3.14 cm^2", "#### 3.14 cm^2"], ["2", "3.15 cm^2"]),
    ("2^10", ["2^10", "it is 2^10"], ["10", "3 + 2^10"]),
    ("0x10", ["0x10", "0X10"], ["10", "16", "0"]),
    ("[1, 2]", ["[1, 2]", "the list is [1,  2]"], ["2", "2]", "[2, 2]"]),
    ("5, 6", ["5, 6", "they are 5, 6"], ["6", "4, 5, 6"]),
    ("12 dollars and 50 cents", ["12 dollars and 50 cents", "It costs 12 dollars and 50 cents."], ["50", "50 cents"]),
    ("18 (2 each)", ["18 (2 each)"], ["2", "18"]),
    ("3 million", ["3 million", "about 3 Million."], ["3"]),
    ("1,5", ["1,5"], ["15", "5", "1"]),
    ("1,00", ["1,00"], ["100", "0"]),
    ("yes", ["Yes.", "the answer is yes", "\\boxed{\\text{Yes}}"], ["no", "eyes", "yes and no", "5"]),
    ("3x + 2", ["3x + 2", "\\boxed{3x + 2}"], ["2", "4 - 3x + 2"]),
    ("the answer is 42", ["the answer is 42"], ["41"]),
    ("line one\nline two", ["so:\nline one\n\nline two"], ["line two"]),
    ("1 1/2", ["1 1/2", "1.5", "3/2", "\\boxed{1\\frac{1}{2}}", "it takes 1 1/2 hours", "#### 1 1/2"], ["1/2", "1"]),
    ("-1 1/2", ["-3/2", "-1.5"], ["-1/2", "1.5"]),
    ("\\frac{1}{2}", ["\\frac{1}{2}", "1/2", "0.5", "\\boxed{\\dfrac{1}{2}}", "$\\frac{2}{4}$"], ["2", "1"]),
    ("-\\frac{1}{2}", ["-0.5", "\\boxed{-\\frac{1}{2}}", "\\boxed{\\frac{-1}{2}}"], ["0.5", "-2"]),
    ("$12\\frac{1}{2}$", ["12.5"], ["2"]),
    ("\u22125", ["-5", "\u22125", "\\boxed{\u22125}", "#### \u22125", "it is \u22125."], ["5"]),
    ("-5", ["\u22125", "#### \u22125"], ["5"]),
    ("18 apples", ["18", "18 apples", "#### 18"], ["17"]),
    ("5cm", ["5", "5cm"], ["6"]),
    ("$1,234.50", ["1234.5", "$1,234.50"], ["1,234"]),
    ("-$3", ["-3", "$-3"], ["3"]),
    ("50%", ["50", "50%", "\\boxed{50\\%}"], ["0.5"]),
    ("9" * 71, ["9" * 71, "#### " + "9" * 71, "\\boxed{" + "9" * 71 + "}"], ["9" * 70 + "8", "9" * 70]),
    (10**999 + 1, [str(10**999 + 1)], [str(10**999)]),
    ("so\n#### 18 apples", ["18"], ["17"]),
    ("it is \\boxed{7}.", ["7"], ["6"]),
    (["a", "b"], ["['a', 'b']"], ["b"]),
    (datetime.date(2024, 1, 1), ["2024-01-01"], ["1", "2023-05-01"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "right", "wrong"), GOLDS, ids=[str(gold)[:20] for gold, _, _ in GOLDS])
def test_a_right_answer_is_one_whole_number_or_text(gold, right, wrong):
    (row,) = load_task("gsm8k", data=Splits(train=[{"question": "?", "answer": gold}], eval=[])).train
    for answer in (gold, row["answer"]):
        scores = {text: numeric_accuracy(completions=[text], answer=[answer])[0] for text in right + wrong}
        assert scores == dict.fromkeys(wrong, 0.0) | dict.fromkeys(right, 1.0)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("gold", ["2024-01-01", "yes", "1 1/2", "[1, 2]"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_to_text_are_wrong_in_bounded_time(gold, name):
    assert numeric_accuracy(completions=[HOSTILE[name]], answer=[gold]) == [0.0]


def test_conciseness():
    texts = ["Yellow", "It is yellow.", "", "x" * 2008]
    assert conciseness_reward(completions=texts, answer=["Yellow"] * 4) == [0.0, -7.0, -6.0, -2002.0]
    assert rescaled_conciseness(completions=texts, answer=["Yellow"] * 4) == [
        1.0,
        1 - 7 / 2000,
        1 - 6 / 2000,
        1 - 2002 / 2000,
    ]
