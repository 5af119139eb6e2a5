from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from robustcheck.policy import Quantity

BITS = st.sampled_from([8, 12, 16])


@given(st.data(), BITS)
def test_a_fraction_of_the_range_is_exact_in_levels(data, bits):
    most = 2**bits - 1
    levels = data.draw(st.integers(1, most))
    assert Quantity.parse(f"{levels}/{most}").in_levels(bits) == levels
    assert Quantity.parse(f" {levels} / {most}\n").text == f"{levels}/{most}"


@given(st.data(), BITS)
def test_levels_are_levels_at_every_depth(data, bits):
    levels = data.draw(st.integers(1, 2**bits - 1))
    assert Quantity.parse(f"{levels} levels").in_levels(bits) == levels


@given(st.data(), BITS)
def test_a_float_that_python_made_of_a_fraction_is_that_fraction(data, bits):
    most = 2**bits - 1
    levels = data.draw(st.integers(1, most))
    assert Quantity.parse(levels / most).in_levels(bits) == levels
    assert Quantity.parse(repr(levels / most)).in_levels(bits) == levels


def test_a_float_is_not_rounded_to_what_it_was_not_made_of():
    assert Quantity.parse("0.031").in_levels(8) == Fraction(31, 1000) * 255
    assert Quantity.parse("0.0313725").in_levels(8) < 8


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0.0313725", "7.99999 grey levels, of which 7 can be stored; did you mean 8/255? give '7 levels' if not"),
        ("0.00784", "1.999 grey levels, of which 1 can be stored; did you mean 2/255? give '1 level' if not"),
        (".031372549", "7.99999999 grey levels, of which 7 can be stored; did you mean 8/255? give '7 levels' if not"),
        ("3.137e-2", "7.999 grey levels, of which 7 can be stored; did you mean 8/255? give '7 levels' if not"),
        ("0.0313", "7.98 grey levels, of which 7 can be stored; did you mean 8/255? give '7 levels' if not"),
        (0.0078, "1.99 grey levels, of which 1 can be stored; did you mean 2/255? give '1 level' if not"),
        (8 / 255, None),
        ("0.031373", None),  # 8.0001
        ("0.031", None),
        ("0.01", None),
        ("0.03130", None),  # nobody cuts 8/255 to this
        ("7.999 levels", None),
        ("7.999/255", None),
        (1.0, None),
    ],
)
def test_a_fraction_that_was_cut_to_a_decimal_below_it_is_seen(written, meant):
    assert Quantity.parse(written).a_hair_less(8) == meant


@pytest.mark.parametrize(("written", "bits"), [("0.13", 10), ("0.021", 12), ("0.37", 7)])
def test_round_shares_of_deeper_images_are_meant_as_they_are(written, bits):
    assert Quantity.parse(written).a_hair_less(bits) is None


@given(st.integers(1, 255), st.integers(2, 12))
def test_what_is_left_of_a_fraction_by_rounding_is_no_level_less_unseen(levels, digits):
    quantity = Quantity.parse(f"{levels / 255:.{digits}f}") if round(levels / 255, digits) else None
    assume(quantity is not None)
    in_levels = quantity.in_levels(8)
    assert (
        in_levels >= levels or levels - in_levels >= Fraction(1, 50) or f"mean {levels}/255?" in quantity.a_hair_less(8)
    )


@given(st.fractions(0, 300), BITS)
def test_levels_in_words_are_never_rounded_up_to_a_whole_number(levels, bits):
    assume(levels > 0)
    quantity = Quantity(text="", levels=levels)
    told = quantity.levels_in_words(bits)
    assert told.startswith("just less than") or Fraction(told) == levels or Fraction(told) < -(-levels // 1)


@given(st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1))
def test_any_fraction_up_to_the_full_range_is_itself(numerator, divisor):
    assume(numerator <= divisor)
    assert Quantity.parse(f"{numerator}/{divisor}").share == Fraction(numerator, divisor)


@given(st.floats(1e-12, 1, exclude_max=True))
def test_any_share_is_read_to_the_last_digit(share):
    assert float(Quantity.parse(share).share) == share


@given(st.data(), BITS)
def test_the_text_reads_back_as_the_same(data, bits):
    number = data.draw(st.decimals(min_value="0.01", max_value="254", places=2))
    written = data.draw(
        st.sampled_from([f"{number}/255", f"{number} levels", f"{number}levels", f"{number / 255:.9f}"])
    )
    quantity = Quantity.parse(written)
    again = Quantity.parse(quantity.text)
    assert again == quantity
    assert 0 < again.in_levels(bits) <= 2**bits - 1


@pytest.mark.parametrize(
    ("written", "levels"),
    [
        ("2/255", 2),
        ("1.5/255", Fraction(3, 2)),
        ("3 levels", 3),
        ("1 level", 1),
        ("255/255", 255),
        (1.0, 255),
        (".5", 127.5),
        ("20 HU", 20),
        ("2.5hu", 2.5),
    ],
)
def test_what_is_a_quantity(written, levels):
    assert Quantity.parse(written).in_levels(8) == levels


# fmt: off
NOT_QUANTITIES = [
    "", "8", 8, 1, "1", 0, 0.0, "0/255", "0 levels", "256/255", 1.01, "70000 levels", "-1/255", -0.1, "1/0", "0/0",
    "3%", "0 HU", "-20 HU", "20 H", "2/255/2", "2//255", "2/-255", "1e999", "١/٢٥٥", "2∕255", "levels",
    "2 level s", "0x1", "1_0/255", "nan", "inf", float("nan"), float("inf"), float("-inf"), True, False,
    None, [], {}, [0.1], b"1/255",
]
# fmt: on


@pytest.mark.parametrize("written", NOT_QUANTITIES)
def test_what_is_none(written):
    with pytest.raises(ValueError, match=r"^found "):
        Quantity.parse(written)


@given(st.one_of(st.text(), st.text("0123456789./- eElvsHU%+", max_size=12), st.integers(), st.floats(), st.none()))
@example("9" * 100_000)
@example("1/" + "9" * 9)
@example("." + "1" * 40 + "e-99")
def test_whatever_is_typed_is_a_quantity_within_the_range_or_a_sentence(value):
    try:
        answer = Quantity.parse(value)
    except ValueError as error:
        answer = str(error)
    if isinstance(answer, Quantity):
        assert 0 < answer.in_levels(16) <= 2**16 - 1
        assert answer.text.isprintable()
    else:
        assert len(answer) < 400
        assert "\n" not in answer


def test_one_is_a_length_and_no_change_of_every_pixel():
    assert Quantity.parse(1, length=True).share == 1
    with pytest.raises(ValueError, match="is that one grey level or the full range"):
        Quantity.parse(1)
