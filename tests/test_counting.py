"""Estimates are upper bounds, each message is read once, and only bills lower anything."""

# ruff: noqa: RUF001 - text of other scripts is what is tested
import gc
import random
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetguard.counting import Calibration, Conversation
from budgetguard.tally import SCRIPTS, Tally, tally

# Text, its tokens in o200k_base, its tokens in cl100k_base, the dearest class; counted 2026-11-20.
SAMPLES = [
    (
        (
            "All human beings are born free and equal in dignity and rights. They are endowed with "
            "reason and conscience and should act towards one another in a spirit of brotherhood."
        ),
        33,
        33,
        "plain",
    ),
    (
        (
            "def total(items: list[dict[str, int]]) -> int:\n"
            "    return sum(item['price'] * item.get('count', 1) for item in items if item)\n"
        ),
        37,
        37,
        "dense",
    ),
    (
        (
            "# Install\n\n* run `pip install x`\n* see [the docs](https://example.com/docs)\n\n"
            "| a | b |\n|---|---|\n| 1 | 2 |\n"
        ),
        39,
        39,
        "dense",
    ),
    (
        '{"id":184467,"tags":["new","sale"],"price":19.99,"sku":"X7-Q42","ok":true,"note":null}',
        34,
        33,
        "dense",
    ),
    (
        (
            '{\n    "id": 184467,\n    "tags": [\n        "new",\n        "sale"\n    ],\n'
            '    "price": 19.99,\n    "ok": true\n}'
        ),
        40,
        40,
        "dense",
    ),
    ("d41d8cd98f00b204e9800998ecf8427e5f4dcc3b5aa765d61d8327deb882cf99", 37, 37, "dense"),
    (
        "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsuAAECAwQFBgf+/fz7+vn49/b19PPy8fDv7g==",
        46,
        49,
        "dense",
    ),
    ("3141592653589793238462643383279502884197169399375105820974944592", 22, 22, "dense"),
    ("7 42 9 1024 3 65536 8 12 500 1 77 31 6 2048 19 4", 34, 34, "dense"),
    (
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
        35,
        50,
        "cjk",
    ),
    (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
        35,
        45,
        "cjk",
    ),
    ("모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.", 24, 41, "cjk"),
    ("Все люди рождаются свободными и равными в своем достоинстве и правах.", 17, 35, "other"),
    ("يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.", 18, 37, "other"),
    (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
        25,
        84,
        "other",
    ),
    ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", 32, 65, "other"),
    ("Tous les êtres humains naissent libres et égaux en dignité et en droits.", 17, 22, "plain"),
    ("👍🏽 🎉🚀 ❤️ 👨\u200d👩\u200d👧\u200d👦 🇩🇪 😀😂🤣", 26, 43, "other"),
    (
        "a\n\n\n        b\n\t\t\tc                                        d\n \n \n  e",
        13,
        13,
        "plain",
    ),
    ('结果 result: {"статус": "готово", "n": 12} ✅ fertig — naïve', 23, 27, "dense"),
]

PROSE = SAMPLES[0][0]
TOOLS = '[{"name":"search","parameters":{"type":"object","properties":{}}}]'


class Line(NamedTuple):
    parts: tuple[str | int, ...]
    answer: bool = False


class Reader:
    """Counts how often it was asked to read a message."""

    def __init__(self) -> None:
        self.read = 0

    def texts(self, line):
        self.read += 1
        return line.parts


def ask(*parts):
    return Line(parts)


def answer(*parts):
    return Line(parts, answer=True)


def conversation(calibration=None, reader=None):
    return Conversation(
        calibration or Calibration(),
        texts=(reader or Reader()).texts,
        is_answer=lambda line: line.answer,
    )


def known(messages, *, input_tokens=100, output_tokens=20, **rest):
    """A conversation whose last bill was for these messages."""
    talk = conversation(**rest)
    talk.billed(talk.count("m", messages), input_tokens=input_tokens, output_tokens=output_tokens)
    return talk


# ---- the upper estimate


@pytest.mark.parametrize(("text", "o200k", "cl100k", "script"), SAMPLES)
def test_the_estimate_is_an_upper_bound_and_not_absurd(text, o200k, cl100k, script):
    estimate = tally(text)
    assert max(o200k, cl100k) <= sum(estimate) <= 2 * max(o200k, cl100k)
    assert getattr(estimate, script) == max(estimate)


def test_nothing_is_nothing():
    assert tally("") == Tally(0, 0, 0, 0)


def test_lone_surrogates_and_control_characters_are_counted_not_refused():
    assert sum(tally("\ud83d\x00\x7f\udc00")) >= 4


texts = st.one_of(
    st.text(max_size=200),
    st.text("aAzZ09 .,{}\n\té中あ한яअ😀", max_size=200),
    st.builds("".join, st.lists(st.sampled_from([text for text, *_ in SAMPLES]), max_size=4)),
)


@given(texts, texts)
def test_a_longer_text_is_never_less_and_never_more_than_its_parts(one, two):
    both = sum(tally(one + two))
    assert max(sum(tally(one)), sum(tally(two))) <= both <= sum(tally(one)) + sum(tally(two))


@given(texts)
def test_every_class_is_a_whole_number_and_text_costs_something(text):
    estimate = tally(text)
    assert all(isinstance(n, int) and n >= 0 for n in estimate)
    assert (sum(estimate) > 0) == bool(text)


# ---- calibration


def test_a_class_that_was_not_billed_is_not_changed():
    calibration = Calibration()
    calibration.learn("m", Tally(plain=1_000), billed=600)
    assert [calibration.factor("m", script) for script in SCRIPTS] == [
        pytest.approx(0.63),
        1.0,
        1.0,
        1.0,
    ]
    assert calibration.factor("another", "plain") == 1.0


@given(
    st.lists(
        st.tuples(
            st.builds(Tally, *[st.integers(0, 500)] * 4),
            st.integers(0, 500),
            st.integers(-9, 9_999),
        )
    )
)
def test_no_class_is_lowered_before_a_bill_that_it_dominated(bills):
    calibration = Calibration()
    dominated = set()
    for fresh, extra, billed in bills:
        calibration.learn("m", fresh, extra=extra, billed=billed)
        dominated |= {s for s in SCRIPTS if getattr(fresh, s) >= 0.9 * (sum(fresh) + extra) > 0}
    for script in SCRIPTS:
        if script not in dominated:
            assert calibration.factor("m", script) == 1.0


def test_the_factor_is_an_upper_quantile_so_that_cheap_bills_do_not_hide_dear_ones():
    calibration = Calibration()
    for billed in [500] * 8 + [900] * 2:
        calibration.learn("m", Tally(dense=1_000), billed=billed)
    assert calibration.factor("m", "dense") == pytest.approx(0.945)


def test_a_provider_that_counts_more_raises_the_factor_above_one():
    calibration = Calibration()
    calibration.learn("m", Tally(cjk=100), billed=140)
    assert calibration.factor("m", "cjk") == pytest.approx(1.47)
    assert calibration.estimate("m", Tally(plain=10, cjk=100)) == 157


def test_old_bills_are_forgotten():
    calibration = Calibration()
    for billed in [2_000] * 32 + [500] * 32:
        calibration.learn("m", Tally(plain=1_000), billed=billed)
    assert calibration.factor("m", "plain") == pytest.approx(0.525)


@pytest.mark.parametrize(
    ("fresh", "extra", "billed"),
    [
        (Tally(plain=49), 0, 30),
        (Tally(plain=89, dense=11), 0, 60),
        (Tally(plain=100), 12, 60),
        (Tally(plain=100), 0, 0),
        (Tally(plain=100), 0, -5),
        (Tally(plain=100), 0, 2_001),
        (Tally(), 0, 0),
    ],
)
def test_small_mixed_and_absurd_bills_teach_nothing(fresh, extra, billed):
    calibration = Calibration()
    calibration.learn("m", fresh, extra=extra, billed=billed)
    assert {calibration.factor("m", script) for script in SCRIPTS} == {1.0}


def test_memory_is_bounded_to_the_models_billed_last():
    calibration = Calibration()
    for n in range(1_000):
        calibration.learn(f"m{n}", Tally(plain=100), billed=60)
        calibration.learn("busy", Tally(plain=100), billed=60)
    assert len(calibration._ratios) == len(calibration._factors) == 256
    assert calibration.factor("busy", "plain") < 1
    assert calibration.factor("m0", "plain") == 1.0


def test_threads_may_learn_at_once():
    calibration = Calibration()
    with ThreadPoolExecutor(8) as pool:
        for n in range(4_000):
            pool.submit(calibration.learn, f"m{n % 300}", Tally(plain=100), billed=60)
    assert len(calibration._ratios) == 256
    assert set(calibration._ratios) == set(calibration._factors)


# ---- a conversation


def test_the_first_count_reads_everything_and_the_tools():
    talk = conversation()
    prose = sum(tally(PROSE))
    assert talk.count("m", [ask(PROSE)]).tokens == prose + 8
    assert talk.count("m", [ask(PROSE), ask(PROSE, 85)]).tokens == 2 * (prose + 8) + 85
    offered = talk.count("m", [ask(PROSE)], tools=lambda: TOOLS, tool_count=1)
    assert offered.tokens == prose + 8 + sum(tally(TOOLS)) + 530
    assert offered.fresh.dense == sum(tally(TOOLS))


def test_an_empty_prompt_costs_nothing_and_is_never_continued():
    talk = conversation()
    empty = talk.count("m", [])
    assert (empty.tokens, empty.last) == (0, None)
    talk.billed(empty, input_tokens=50, output_tokens=5)
    assert talk.count("m", [ask(PROSE)]).base == 0


def test_the_bill_stands_for_what_it_was_for_and_the_output_for_the_answer():
    question = ask(PROSE)
    talk = known([question])
    counted = talk.count("m", [question, answer("x" * 9_999), ask(PROSE)])
    assert (counted.base, counted.tokens) == (120, 120 + 8 + sum(tally(PROSE)) + 8)


def test_without_the_answer_the_output_still_counts():
    question = ask(PROSE)
    counted = known([question]).count("m", [question, ask("Again?")])
    assert counted.tokens == 120 + sum(tally("Again?")) + 8


def test_the_same_prompt_once_more_costs_what_it_cost():
    question = ask(PROSE)
    assert known([question]).count("m", [question]).tokens == 100


def test_each_message_is_read_once_in_the_life_of_a_conversation():
    reader = Reader()
    talk = conversation(reader=reader)
    history = [ask(PROSE)]
    for turn in range(500):
        counted = talk.count("m", history)
        talk.billed(counted, input_tokens=40 * turn + 40, output_tokens=4)
        history = [*history, answer("Yes."), ask(PROSE)]
    assert reader.read == 500


@pytest.mark.parametrize(
    ("model", "tool_count", "change"),
    [
        ("another", 0, lambda history: history),
        ("m", 2, lambda history: history),
        ("m", 0, lambda history: [Line(history[0].parts), *history[1:]]),
        ("m", 0, lambda history: [ask("A summary."), *history[1:]]),
        ("m", 0, lambda history: history[1:]),
        ("m", 0, lambda _: []),
    ],
)
def test_anything_else_is_another_conversation_and_counted_anew(model, tool_count, change):
    question = ask(PROSE)
    talk = known([question])
    changed = change([question, answer("Yes."), ask(PROSE)])
    assert talk.count(model, changed, tools=lambda: TOOLS, tool_count=tool_count).base == 0


def test_equal_is_not_the_same():
    talk = known([ask(PROSE)])
    assert talk.count("m", [ask(PROSE)]).base == 0


def test_before_the_first_bill_a_parallel_call_is_counted_anew():
    talk, question = conversation(), ask(PROSE)
    first, second = talk.count("m", [question]), talk.count("m", [question, ask(PROSE)])
    assert (first.base, second.base) == (0, 0)


def test_of_parallel_answers_to_one_prompt_the_longest_is_expected():
    talk, question = conversation(), ask(PROSE)
    one, two = talk.count("m", [question]), talk.count("m", [question])
    talk.billed(one, input_tokens=40, output_tokens=300)
    talk.billed(two, input_tokens=40, output_tokens=5)
    assert talk.count("m", [question, answer("?"), ask("So?")]).base == 340


def test_a_late_bill_of_a_shorter_history_does_not_undo_a_longer_one():
    talk, history = conversation(), [ask(PROSE)]
    late = talk.count("m", history)
    talk.billed(talk.count("m", history), input_tokens=40, output_tokens=300)
    history += [answer("?"), ask(PROSE)]
    talk.billed(talk.count("m", history), input_tokens=390, output_tokens=7)
    talk.billed(late, input_tokens=40, output_tokens=5)
    assert talk.count("m", [*history, answer("!"), ask("So?")]).base == 397


def test_a_shorter_history_that_was_counted_after_the_last_bill_replaces_it():
    talk, summary = known([ask(PROSE), ask(PROSE), ask(PROSE)]), ask("A summary.")
    talk.billed(talk.count("m", [summary]), input_tokens=9, output_tokens=3)
    assert talk.count("m", [summary, answer("."), ask("So?")]).base == 12


def test_a_conversation_learns_from_what_was_added_since_the_last_bill():
    calibration, question, result = Calibration(), ask(PROSE), ask("word " * 400)
    talk = known([question], calibration=calibration)
    counted = talk.count("m", [question, answer("Yes."), result])
    talk.billed(counted, input_tokens=120 + sum(tally("word " * 400)) // 2, output_tokens=9)
    assert calibration.factor("m", "plain") == pytest.approx(0.525, abs=0.001)


def test_nothing_is_learned_where_thinking_may_have_left_the_prompt():
    calibration, question = Calibration(), ask(PROSE)
    talk = conversation(calibration=calibration)
    first = talk.count("m", [question, ask(900)])
    talk.billed(first, input_tokens=950, output_tokens=500, hidden_tokens=480)
    counted = talk.count("m", [question, ask(900), answer("Yes."), ask("word " * 400)])
    talk.billed(counted, input_tokens=1_400, output_tokens=9)
    assert calibration.factor("m", "plain") == 1.0


def test_a_calibrated_conversation_estimates_only_the_new_part_with_the_factor():
    calibration, question = Calibration(), ask(PROSE)
    calibration.learn("m", Tally(plain=1_000), billed=500)
    talk = known([question], calibration=calibration, output_tokens=0)
    counted = talk.count("m", [question, ask("word " * 400)])
    assert counted.tokens - 100 - 8 == pytest.approx(0.525 * sum(counted.fresh), abs=1)


def test_memory_is_the_first_and_the_last_message_whatever_the_length():
    class Note:
        answer = False
        parts = (PROSE,)

    talk, notes = conversation(), [Note() for _ in range(50)]
    talk.billed(talk.count("m", notes), input_tokens=9, output_tokens=9)
    seen = [weakref.ref(note) for note in notes]
    notes.clear()
    gc.collect()
    assert sum(ref() is not None for ref in seen) == 2


@given(
    st.lists(st.tuples(st.sampled_from(SAMPLES), st.integers(1, 60), st.booleans()), min_size=1),
    st.integers(0),
)
def test_the_estimate_of_a_whole_conversation_is_never_below_the_truth(turns, seed):
    """The provider counts by cl100k or o200k, plus 3 to 7 tokens around each message."""
    chance = random.Random(seed)
    talk, history, truth = conversation(), [], 3
    for (text, *tokens, _), output, answered in turns:
        history.append(ask(text))
        truth += max(tokens) + chance.randint(3, 7)
        counted = talk.count("m", history)
        assert counted.tokens >= truth - 3 * (counted.base == 0)
        talk.billed(counted, input_tokens=truth, output_tokens=output)
        if answered:
            history.append(answer("whatever"))
            truth += output + chance.randint(3, 7)
