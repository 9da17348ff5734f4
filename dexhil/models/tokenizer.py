"""Text of the policy: SentencePiece, the prompt, and the small tokenizer trained from a project's instructions."""

import collections
import functools
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

_PAD, _END, _BEGIN, _UNKNOWN = 0, 1, 2, 3  # as in Gemma
_FRAME = ("Task:", "State:", "Action:")  # of a prompt with the state in it
_FIXED = 4 + 256 + 2  # those above, a piece per byte, the space and the newline
_REPEATS = 20  # with every word on its own: a handful of instructions alone would end up as characters


class Tokenizer:
    """A SentencePiece model, from a path or from its bytes. `model_bytes` travels in checkpoints."""

    def __init__(self, model: str | Path | bytes) -> None:
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise FileNotFoundError(
                f"tokenizer model {str(model)!r} does not exist; expected a SentencePiece .model file"
            )
        self.model_bytes = model if isinstance(model, bytes) else Path(model).read_bytes()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.model_bytes)
        except RuntimeError as error:
            size = len(self.model_bytes)
            raise ValueError(f"tokenizer: {size} bytes are no SentencePiece model; expected a .model") from error
        self._ids = functools.lru_cache(maxsize=65536)(self._encode_ids)

    @property
    def vocab_size(self) -> int:
        return self._processor.GetPieceSize()

    def encode(self, text: str, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Padded ids int32 [max_tokens] and their mask. Raises TypeError on no str, ValueError on a longer text."""
        ids = self.ids(text)
        if len(ids) > max_tokens:
            ids = self._unspelled(ids)
        if len(ids) > max_tokens:
            raise ValueError(
                f"instruction {text!r}: {len(ids)} tokens, this policy was trained to read {max_tokens}; shorten it, "
                f"or train on with --config.model.max_tokens={len(ids)}"
            )
        padded = np.zeros(max_tokens, np.int32)
        padded[: len(ids)] = ids
        return padded, np.arange(max_tokens) < len(ids)

    def ids(self, text: str) -> list[int]:
        """The ids of any text, as many as it takes."""
        return self._ids(_require_str(text))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text, without padding and beginning."""
        return self._processor.DecodeIds([int(i) for i in ids if i != _PAD])

    def _encode_ids(self, text: str) -> list[int]:
        return [self._processor.bos_id(), *self._processor.EncodeAsIds(text.encode(errors="replace").decode())]

    def _unspelled(self, ids: list[int]) -> list[int]:
        words: list[list[int]] = []
        for piece in ids:
            if not words or piece < _UNKNOWN or self._processor.IdToPiece(piece)[0] in "▁\n":
                words.append([])
            words[-1].append(piece)
        return [i for word in words for i in ([_UNKNOWN] if self._is_spelled(word) else word)]

    def _is_spelled(self, word: list[int]) -> bool:
        text = "".join(self._processor.IdToPiece(i) for i in word if not self._processor.IsByte(i))
        if any(map(str.isdigit, text)) or text.strip("▁\n") in _FRAME:
            return False
        return len(word) > 2 or any(map(self._processor.IsByte, word))


def _require_str(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"instruction: expected a str, got {type(text).__name__} {text!r}; decode bytes first")
    return text


def train_tokenizer(instructions: Iterable[str], vocab_size: int = 512) -> bytes:
    """A SentencePiece unigram model with byte fallback (any text encodes), whatever the order of `instructions`.

    Raises:
        TypeError: an instruction is no str.
        ValueError: there is no text.
    """
    texts = sorted({_require_str(text).strip() for text in instructions} - {""})
    if not texts:
        raise ValueError("train_tokenizer: no instruction with text; expected at least one")
    count = collections.Counter(word for text in [*texts, prompt("", np.linspace(-1, 1, 64))] for word in text.split())
    words = sorted(count)
    # Words as symbols of their own: which of them training keeps whole differs between releases of SentencePiece.
    free = vocab_size - _FIXED - len(set("".join(texts + words)))
    whole = sorted(filter(str.isalpha, words), key=lambda word: -count[word])[: max(free // 2, 0)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter((texts + words) * _REPEATS),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["\n", *(f"\u2581{word}" for word in whole)],
        num_threads=1,
        minloglevel=2,
        pad_id=_PAD,
        eos_id=_END,
        bos_id=_BEGIN,
        unk_id=_UNKNOWN,
    )
    return model.getvalue()


def prompt(instruction: str, state: np.ndarray | None = None) -> str:
    """What the language model reads, with a newline as PaliGemma's; with a normalised `state` [Q], as pi0.5's."""
    text = " ".join(_require_str(instruction).replace("_", " ").split())
    return f"{text}\n" if state is None else f"Task: {text}, State: {state_text(state)};\nAction: "


def state_text(state: np.ndarray, bins: int = 256) -> str:
    """The state [Q] as bin numbers, 0 .. bins - 1 over [-1, 1] and above, -1 below: as pi0.5 was trained to read it."""
    edges = np.linspace(-1, 1, bins + 1)[:-1]
    return " ".join(str(bin_) for bin_ in np.digitize(state, edges) - 1)
