"""What a search needs of a language model, and the form of it that runs any model of transformers by torch."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, SlowPathWarning, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.joined import read_on
from genrec_fast.hf.places import Places
from genrec_fast.hf.prepared import check_prepared
from genrec_fast.hf.session import TransformersSession
from genrec_fast.hf.several import Several
from genrec_fast.hf.stepped import Stepped
from genrec_fast.hf.trial import Way, can_be_continued, can_be_joined, way_to_search
from genrec_fast.hf.tried import Tried
from genrec_fast.hf.whole import WholeTexts
from genrec_fast.nn.engine.card import CardEngine
from genrec_fast.nn.engine.native import NativeEngine


class Engine(Protocol):
    """A model that reads prompts; what it begins is extended by tokens."""

    vocab_size: int

    def prefill(self, prompts: Jagged, decoder_prompts: Jagged | None = None, *, encoded: bool = False) -> Session:
        """Reads prompts: int64 token ids per user, or an encoder's float rows (``encoded``).

        ``decoder_prompts`` holds the decoder's first tokens of an encoder-decoder.
        """
        ...


def places_of(engine: Engine) -> Places:
    """How long a text an engine reads."""
    if isinstance(engine, TorchEngine):
        return engine.model.places
    table = engine.tensors.get("positions") if isinstance(engine, NativeEngine | CardEngine) else None
    return Places(None, None if table is None else table.shape[0])


_ways: Tried[Way] = Tried()  # how a model is searched
_resumes: Tried[bool] = Tried()  # whether its prompts can be read on
_joins: Tried[bool] = Tried()  # and those of several users in one call
_said: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # of which it was said that it is slow


class TorchEngine:
    """Any causal or encoder-decoder model of transformers, by its own modules.

    Each prompt is read once and its cache shared out to beams, if that gives what the model itself says of whole texts:
    a trial with a few tokens shows it, once per model. A state that beams cannot take over, or that depends on padding,
    is not used: such a model reads prompt and beam whole at every token, which is slow and said once.

    Args:
        model: a ``PreTrainedModel`` with a language model head.

    Raises:
        InvalidTypeError: not such a model; the text says what to give for a wrapper.
        UnsupportedError: a model that does not continue texts from left to right.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = CalledModel(model)
        self.vocab_size = self.model.vocab_size

    def prefill(
        self,
        prompts: Jagged,
        decoder_prompts: Jagged | None = None,
        *,
        encoded: bool = False,
        kept: Jagged | None = None,
    ) -> TransformersSession:
        """See ``Engine``; ``kept`` bool like prompts: False where a prompt of a decoder holds a masked token inside."""
        if not isinstance(prompts, Jagged):
            raise InvalidTypeError(f"prefill: prompts must be Jagged, got {type(prompts).__name__}")
        if len(prompts) and int(prompts.lengths.min()) < 1:
            raise InvalidValueError("prefill: prompts must have a token each, got an empty one")
        if self.model.encoder_decoder and decoder_prompts is None:
            raise InvalidValueError("prefill: this model needs decoder_prompts, got None")
        for given, decoder in ((None if encoded else prompts, False), (decoder_prompts, True)):
            if given is not None:
                self.model.check_tokens(given, decoder=decoder)
        if decoder_prompts is not None and int(decoder_prompts.lengths.min()) != int(decoder_prompts.lengths.max()):
            raise InvalidValueError("prefill: decoder_prompts must be of one length for the torch engine")
        if len(prompts):
            check_prepared(self.model, prompts, decoder_prompts, encoded)
        way = self._way(prompts, decoder_prompts, encoded)
        if way == WholeTexts.begin and self.model.owner not in _said:
            _said.add(self.model.owner)
            warnings.warn(
                f"TorchEngine: {type(self.model.module).__name__} keeps no state that beams can take over and that "
                "gives the scores of whole texts; so every beam's text is read whole at every token (by such a cache, "
                "or with padding, generate itself may answer otherwise)",
                SlowPathWarning,
                stacklevel=3,
            )
        return way(self.model, prompts, decoder_prompts, encoded, kept)

    def resume(self, prompts: Jagged, known: Sequence[tuple[TransformersSession, int] | None]) -> Several:
        """Reads a decoder's prompts behind what is known of them, in one call where the model can.

        Args:
            prompts: int64 token ids per user, whole, none empty.
            known: for each user a session of this user alone that ``resume`` made, and how many of its first tokens
                the prompt begins with, fewer than all of the prompt's.

        Raises:
            UnsupportedError: a model that cannot go on behind a part of a prompt.
        """
        self.check_resumes(prompts.values)
        self.model.check_tokens(prompts)
        rows = prompts.rows()
        before: list[tuple[Stepped, int] | None] = [None] * len(rows)
        for user, old in enumerate(known):
            if old is not None:
                assert isinstance(old[0], Several)
                before[user] = old[0].users[0], old[1]
        together = len(rows) > 1 and _joins.of(self.model.owner, lambda: can_be_joined(self.model, prompts.values))
        if together:
            return Several(self.model, read_on(self.model, rows, before), True)
        each = [Stepped.alone(self.model, row, old) for row, old in zip(rows, before, strict=True)]
        return Several(self.model, each, False)

    def check_resumes(self, tokens: Tensor) -> None:
        """Raises ``UnsupportedError`` for a model that ``resume`` would misread; tried once per model."""
        model = self.model
        if not model.encoder_decoder:
            check_prepared(model, Jagged.from_rows([tokens]), None, False)
        if not _resumes.of(model.owner, lambda: not model.encoder_decoder and can_be_continued(model, tokens)):
            raise UnsupportedError(
                f"TorchEngine: {model.name} keeps no keys and values that can be rolled back to "
                "a part of a prompt and read on with the logits of the whole prompt"
            )

    def _way(self, prompts: Jagged, decoder_prompts: Jagged | None, encoded: bool) -> Way:
        if not len(prompts):
            return Stepped.begin
        if self.model.turns_between(int(prompts.lengths.max())):
            return WholeTexts.begin
        return _ways.of(self.model.owner, lambda: way_to_search(self.model, prompts, decoder_prompts, encoded))
