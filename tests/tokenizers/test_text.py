from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.tokenizers import from_text, to_text


def test_the_two_forms():
    codes = torch.tensor([[183, 70, 0]])
    assert to_text(codes) == ["<a_183><b_70><c_0>"]
    assert to_text(codes, "openonerec") == ["<|sid_begin|><s_a_183><s_b_70><s_c_0><|sid_end|>"]
    assert from_text(["<|sid_begin|><s_a_1><s_b_2>"], "openonerec").tolist() == [[1, 2]]


@given(
    st.integers(1, 26).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 65535), min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    st.sampled_from(["lcrec", "openonerec"]),
)
def test_what_is_written_is_read(rows, style):
    assert from_text(to_text(torch.tensor(rows), style), style).tolist() == rows


@pytest.mark.parametrize("text", ["<b_1>", "<a_1><a_2>", "<a_1>x", "<a_-1>", "a_1", "<a_1><c_2>"])
def test_another_text_is_refused(text):
    with pytest.raises(InvalidValueError, match=r"from_text: text 1 must be codes of levels a, b, ... in order, got"):
        from_text(["<a_1>", text])


def test_messages_name_argument_rule_and_value():
    with pytest.raises(InvalidValueError, match="from_text: text 1 must have 1 codes like the first, got '<a_1><b_2>'"):
        from_text(["<a_1>", "<a_1><b_2>"])
    with pytest.raises(InvalidValueError, match="from_text: text 0 must have at least one code, got ''"):
        from_text([""])
    with pytest.raises(InvalidValueError, match=r"from_text: text 0 must begin with <\|sid_begin\|>, got '<s_a_1>'"):
        from_text(["<s_a_1>"], "openonerec")
    with pytest.raises(InvalidValueError, match="to_text: style must be 'lcrec' or 'openonerec', got 'x'"):
        to_text(torch.zeros(1, 1, dtype=torch.int64), "x")
    with pytest.raises(InvalidValueError, match="to_text: codes must be at least 0, got -1"):
        to_text(torch.tensor([[-1]]))
    with pytest.raises(InvalidTypeError, match=r"to_text: codes must be integers \[m, L\], got torch.float32"):
        to_text(torch.zeros(1, 1))
    assert from_text([]).shape == (0, 0)


def test_digits_of_other_scripts_are_no_codes() -> None:
    with pytest.raises(InvalidValueError, match="from_text: text 0 must be codes of levels a, b"):
        from_text(["<a_\u0663>"])
