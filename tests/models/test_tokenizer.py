"""Text in, ids out, and back; the model bytes travel."""

import numpy as np
import pytest

from dexhil.models.tokenizer import Tokenizer, prompt, state_text, train_tokenizer

INSTRUCTIONS = ("Grab that yellow plushie", "Pull out a napkin")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_tokenizer(INSTRUCTIONS))


@pytest.mark.parametrize("text", [*INSTRUCTIONS, "Pull  out\nthe ñapkin 🧻 7", " ", ""])
def test_any_text_round_trips(tokenizer, text):
    ids, mask = tokenizer.encode(text, 64)
    assert tokenizer.decode(ids[mask]) == tokenizer.decode(ids) == text
    assert (ids[~mask] == 0).all()
    assert ids.dtype == np.int32
    assert ids.max() < tokenizer.vocab_size


def test_known_words_are_single_pieces(tokenizer):
    _, mask = tokenizer.encode(prompt(INSTRUCTIONS[0]), 16)
    assert mask.sum() == 6  # beginning, four words, newline
    assert not np.array_equal(*(tokenizer.encode(prompt(text), 16)[0] for text in INSTRUCTIONS))


def test_many_words_and_characters_leave_room_in_the_vocabulary():
    """Symbols are limited to what fits beside every character and byte; the rest is spelled in pieces."""
    texts = [
        f"{chr(0x3B1 + n % 24)}{chr(0x430 + n % 32)}word{chr(0x61 + n // 26)}{chr(0x61 + n % 26)}" for n in range(400)
    ]
    many = Tokenizer(train_tokenizer(texts))
    assert many.vocab_size <= 512
    for text in (texts[0], texts[399], "Grab"):
        assert many.decode(many.encode(text, 64)[0]) == text


def test_bytes_and_file_give_the_same_tokenizer(tokenizer, tmp_path):
    path = tmp_path / "small.model"
    path.write_bytes(tokenizer.model_bytes)
    for copy in (Tokenizer(path), Tokenizer(str(path)), Tokenizer(tokenizer.model_bytes)):
        np.testing.assert_array_equal(copy.encode("Pull out", 8)[0], tokenizer.encode("Pull out", 8)[0])


def test_training_does_not_depend_on_the_order():
    assert train_tokenizer(INSTRUCTIONS) == train_tokenizer([*INSTRUCTIONS[::-1], INSTRUCTIONS[0]])


def test_the_state_becomes_256_bins():
    assert state_text(np.array([-5.0, -1.0, -0.001, 0.0, 0.999, 1.0, 5.0])) == "-1 0 127 128 255 255 255"
    assert prompt("Pull_out\n a  napkin", np.zeros(2)) == "Task: Pull out a napkin, State: 128 128;\nAction: "
    assert prompt("Pull out a napkin") == "Pull out a napkin\n"


def test_bad_text_is_named(tokenizer):
    with pytest.raises(TypeError, match="instruction: expected a str, got bytes b'Pull'; decode bytes first"):
        tokenizer.encode(b"Pull", 8)
    with pytest.raises(TypeError, match="expected a str, got NoneType None"):
        train_tokenizer(["Pull", None])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="expected a str, got int 3"):
        prompt(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match="'12345': 7 tokens, this policy was trained to read 4; shorten it, or train on"
    ):
        tokenizer.encode("12345", 4)
    with pytest.raises(ValueError, match="no instruction with text"):
        train_tokenizer([" "])


def test_bad_models_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.model' does not exist; expected a SentencePiece"):
        Tokenizer(tmp_path / "absent.model")
    with pytest.raises(ValueError, match="5 bytes are no SentencePiece model"):
        Tokenizer(b"wrong")


def test_words_that_are_spelled_become_one_unknown_each_where_there_is_no_room():
    """And nothing else does: repeated words, numbers of the state and what fits stay as they are."""
    words = Tokenizer(train_tokenizer(["move the block"]))
    ids, mask = words.encode(prompt("move move 日本 Grab block"), 12)
    pieces = [words.decode([i]) for i in ids[mask]][1:]
    assert pieces[:2] == ["move", "move"]
    assert (ids[mask] == 3).sum() == 2
    state = prompt("move", np.array([0.0, 1.0, -2.0]))
    needed = len(words.ids(state))
    spoken, mask = words.encode(f"日本 {state}", needed + 1)
    assert words.decode(spoken[mask][2:]).strip() == state.strip()
