"""Notes as document vectors (Doc2Vec, gensim) and as word numbers over the same vocabulary.

A text's vector depends on that text, the training texts and the seed alone: gensim's own inference
starts from Python's `hash`, which differs between processes, and goes on from wherever the last
text left the model's random numbers; here both start from the text and from the seed.
Source: Le, Mikolov, ICML 2014 (PV-DM); tokens, width and epochs as in MultimodalPred (Wang, Yin,
Zhang, Heliyon 2024).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError

ALPHA, MIN_ALPHA = 0.025, 0.0001  # learning rate, first and last epoch; gensim's
STATE = ("words", "epochs", "seed")  # keys of `to_arrays`' state


class DocumentVectors:
    """A trained Doc2Vec model; made by `fit` or `from_arrays`.

    Attributes:
        width: of a document vector.
        vocabulary: number of words + 1; word numbers are 1 … vocabulary − 1, 0 is padding.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.width: int = model.vector_size
        self.vocabulary: int = len(model.wv) + 1

    @staticmethod
    def fit(
        texts: Sequence[str],
        *,
        width: int = 512,
        epochs: int = 20,
        seed: int = 0,
        min_count: int = 2,
    ) -> DocumentVectors:
        """Train on texts, in one thread: the same arguments give the same bits in any process.

        Args:
            texts: of training patients only; an empty text is passed over.
            width: of a document vector.
            epochs: over the texts here, and over a text when its vector is inferred.
            seed: of all random numbers.
            min_count: a rarer word is left out; where every word is rarer, none is left out.
        Raises:
            InputError: no text holds a word, or gensim is not installed.
        """
        words = _tokenise(texts)
        counts = Counter(word for document in words for word in document)
        if not counts:
            raise InputError(
                f"document vectors need words to learn from, and none of the {len(words)} texts "
                f"holds one (letters, 2 to 15 of them)"
            )
        least = min_count if max(counts.values()) >= min_count else 1
        model = _untrained(width, epochs, seed, min_count=least)
        from gensim.models.doc2vec import TaggedDocument

        documents = [TaggedDocument(w, [i]) for i, w in enumerate(filter(None, words))]
        model.build_vocab(documents)
        model.train(documents, total_examples=len(documents), epochs=epochs)
        return DocumentVectors(model)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector per text, (n, width); zeros for a text without any known word.

        A text's value does not depend on the other texts. Words after the 10,000th are not read.
        """
        known = self._known(texts)
        rows = np.zeros((len(known), self.width), np.float32)
        for row, words in zip(rows, known, strict=True):
            if words:
                row[:] = self._infer(words)
        return rows

    def tokens(self, texts: Sequence[str], length: int) -> NDArray[np.int64]:
        """Numbers of each text's first `length` known words, (n, length), then zeros.

        Unknown words are left out and take no place.
        """
        number = self._model.wv.key_to_index
        known = self._known(texts)
        rows = np.zeros((len(known), length), np.int64)
        for row, words in zip(rows, known, strict=True):
            first = words[:length]
            row[: len(first)] = [1 + number[word] for word in first]
        return rows

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What `from_arrays` needs: arrays for safetensors, and a state for JSON."""
        wv = self._model.wv
        counts = [wv.get_vecattr(word, "count") for word in wv.index_to_key]
        arrays = {
            "input": wv.vectors.copy(),  # (V, width)
            "output": self._model.syn1neg.copy(),  # (V, width)
            "count": np.array(counts, np.int64),  # (V,)
        }
        state = {
            "words": list(wv.index_to_key),
            "epochs": int(self._model.epochs),
            "seed": int(self._model.seed),
        }
        return arrays, state

    @staticmethod
    def from_arrays(
        arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]
    ) -> DocumentVectors:
        """The model that `to_arrays` was called on; its vectors have the same bits.

        Raises:
            InputError: not what `to_arrays` gives, or gensim is not installed.
        """
        _check(arrays, state)
        words, width = state["words"], arrays["input"].shape[1]
        model = _untrained(width, state["epochs"], state["seed"], min_count=1)
        # the vocabulary's order and counts give the tables that words are drawn from
        model.build_vocab_from_freq(dict(zip(words, arrays["count"].tolist(), strict=True)))
        model.wv.vectors = np.array(arrays["input"], np.float32, order="C")
        model.syn1neg = np.array(arrays["output"], np.float32, order="C")
        return DocumentVectors(model)

    def _known(self, texts: Sequence[str]) -> list[list[str]]:
        number = self._model.wv.key_to_index
        return [[word for word in words if word in number] for words in _tokenise(texts)]

    def _infer(self, words: list[str]) -> NDArray[np.float32]:
        """Train a new document's vector, (width,), with everything else fixed."""
        from gensim.models.doc2vec import train_document_dm

        model = self._model
        model.random = np.random.RandomState(model.seed)
        start = np.random.RandomState(_hash(" ".join(words))).random_sample((1, self.width))
        vector = ((start - 0.5) / self.width).astype(np.float32)
        # gensim would free buffers of its own while it writes to them: these outlive the call
        work, hidden = np.zeros(self.width, np.float32), np.zeros(self.width, np.float32)
        for alpha in np.linspace(ALPHA, MIN_ALPHA, model.epochs):
            train_document_dm(
                model,
                words,
                [0],
                alpha,
                work,
                hidden,
                learn_words=False,
                learn_hidden=False,
                doctag_vectors=vector,
                doctags_lockf=np.ones(1, np.float32),
            )
        row: NDArray[np.float32] = vector[0]
        return row


def _untrained(width: int, epochs: int, seed: int, *, min_count: int) -> Any:
    try:
        from gensim.models.doc2vec import Doc2Vec
    except ImportError:
        raise InputError("Doc2Vec needs gensim: pip install 'adacomed[paper]'") from None
    return Doc2Vec(
        vector_size=width,
        epochs=epochs,
        seed=seed,
        min_count=min_count,
        alpha=ALPHA,
        min_alpha=MIN_ALPHA,
        workers=1,
        hashfxn=_hash,
        sorted_vocab=0,  # the order of first appearance; saved, and taken as it is when loaded
    )


def _tokenise(texts: Sequence[str]) -> list[list[str]]:
    """Lower-case words of 2 to 15 letters, as gensim's simple_preprocess cuts them."""
    try:
        from gensim.utils import simple_preprocess
    except ImportError:
        raise InputError("Doc2Vec needs gensim: pip install 'adacomed[paper]'") from None
    return [simple_preprocess(text) for text in texts]


def _hash(text: str) -> int:
    """The same number in every process, unlike Python's own hash."""
    return zlib.crc32(text.encode())


def _check(arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
    """Gensim's compiled code checks no bounds, so what is loaded is checked here."""
    missing = [k for k in ("input", "output", "count") if k not in arrays]
    missing += [k for k in STATE if k not in state]
    if missing:
        raise InputError(f"not saved document vectors: {missing[0]!r} is missing")
    words, count, shape = state["words"], arrays["count"], arrays["input"].shape
    fits = len(shape) == 2 and arrays["output"].shape == shape and count.shape == shape[:1]
    if not fits or len(words) != shape[0] or len(set(words)) != len(words) or not len(words):
        raise InputError(
            f"not saved document vectors: arrays of shapes {shape}, {arrays['output'].shape}, "
            f"{count.shape} for {len(words)} words"
        )
    if count.min() < 1 or state["epochs"] < 1:
        raise InputError("not saved document vectors: a count or the epochs are below 1")
