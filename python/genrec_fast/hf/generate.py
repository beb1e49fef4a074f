"""``model.generate(..., custom_generate=trie_beam_search(trie))``: the same beams, many times faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from genrec_fast.base.checks import INT64, whole_number
from genrec_fast.base.errors import InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.trie import Trie
from genrec_fast.decoders.trie_search import TrieSearch
from genrec_fast.hf.codes import CodeTokens
from genrec_fast.hf.engine import Engine, TorchEngine, places_of
from genrec_fast.hf.given import check_ends, check_given, check_settings
from genrec_fast.hf.places import check_room
from genrec_fast.hf.processed import Processed
from genrec_fast.hf.prompts import Prompts, prompts_of
from genrec_fast.hf.rules import RuleSettings
from genrec_fast.hf.session import searched_on
from genrec_fast.hf.writing import Writing, WritingOptions
from genrec_fast.nn.engine.card import CardEngine
from genrec_fast.nn.engine.native import NativeEngine
from genrec_fast.nn.engine.plan import Plan


def trie_beam_search(
    trie: Trie,
    token_offset: int = 0,
    code_to_token: Sequence[Any] | Tensor | CodeTokens | None = None,
    *,
    items_per_sequence: int = 1,
    seed: int | None = None,
    num_groups: int = 1,
    diversity_penalty: float = 0.0,
    **options: Unpack[WritingOptions],
) -> Callable[..., Any]:
    """What ``generate`` is to call in the place of its own loop: beam search over the items of a trie.

    ::

        out = model.generate(**inputs, num_beams=50, num_return_sequences=10, custom_generate=trie_beam_search(trie))

    Args:
        trie: the catalog.
        token_offset: token of the first code, where the levels follow each other in the vocabulary.
        code_to_token: instead, a table of tokens per level, or ``tokens_from_tokenizer(...)``.
        items_per_sequence: items that a sequence holds, none of them twice.
        seed: draws the sequences without replacement from the model's distribution over what the trie allows, in the
            order of the draw (stochastic beam search; needs ``normalize="valid"``). A prompt's draw depends on the
            seed and itself alone; an encoder-decoder's on its row of the batch.
        num_groups: groups of beams, searched one after the other (diverse beam search); divides ``num_beams``.
        diversity_penalty: log-probability that a candidate loses for every beam of an earlier group at its prefix;
            scores are without it.
        options: ``engine``, ``dtype``, ``normalize``, ``prefix_tokens``; see ``hf.writing.WritingOptions``.

    Returns:
        A function for ``custom_generate``. It returns what ``generate`` returns with beams: sequences int64
        ``[B * k, T]``, or with ``return_dict_in_generate`` a ``GenerateBeam...Output`` with ``sequences`` and, with
        ``output_scores``, ``sequences_scores``. It honours ``num_beams``, ``num_return_sequences``,
        ``length_penalty``, ``eos_token_id`` (written behind the item if ``max_new_tokens`` leaves room),
        ``attention_mask``, decoder start tokens and logits processors (then over the whole vocabulary, by torch).

    Raises:
        InvalidTypeError: not a trie, an option that there is not.
        InvalidValueError: an argument out of range; at the call: tokens outside the vocabulary, ``max_new_tokens``
            too small for an item, a mode other than beams, or a processor or setting (``min_length``, say) that leaves
            a user without any item.
        UnsupportedError: engine="native", and it does not run the model; at the call: stopping criteria, positions, a
            filled cache, outputs or arguments of the model that the search would leave out.

    Notes:
        Each prompt is read once, not once per beam. Sequences and scores are those of Hugging Face's beam search with
        a prefix function. Where a user has fewer items than ``num_return_sequences`` (more beams than the catalog has
        items, say) the rows behind them have score -inf and hold, behind the start tokens, only the padding token (the
        end token or -1 where that stands for a code): never an invalid item, and no item twice. ``scores``,
        ``beam_indices`` and ``past_key_values`` of the output are ``None``.

    Source: ours; the scores are those of transformers' beam search. Draws: ``decoders.StochasticBeam``; groups:
    ``decoders.DiverseBeam``.
    """
    op = "trie_beam_search"
    writing = Writing.of(op, trie, token_offset, code_to_token, options)
    items_per_sequence = whole_number(op, "items_per_sequence", items_per_sequence, *INT64)
    if items_per_sequence < 1:
        raise InvalidValueError(f"{op}: items_per_sequence must be at least 1, got {items_per_sequence}")
    normalize, tokens, prefix = writing.normalize, writing.tokens, writing.prefix
    rule = RuleSettings(
        op=op, seed=seed, num_groups=num_groups, diversity_penalty=diversity_penalty, normalize=normalize
    )
    if items_per_sequence > 1 and not rule.plain:
        raise InvalidValueError(
            f"{op}: items_per_sequence must be 1 with a seed or groups of beams, got {items_per_sequence}"
        )
    tries = {torch.device("cpu"): trie.to("cpu")}  # and wherever a search has run
    length = items_per_sequence * (len(prefix) + trie.num_levels)

    # Arguments named here would be taken out of what the encoder gets: only those of generate's own loops may be.
    def generate(
        model: nn.Module,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        settings: Any = generation_config
        num_beams, wanted = settings.num_beams or 1, settings.num_return_sequences or 1
        check_settings(settings, stopping_criteria, encoder=bool(getattr(model.config, "is_encoder_decoder", False)))
        check_given(model, model_kwargs)
        start = input_ids[::num_beams]  # generate repeats every row num_beams times
        prompts = prompts_of(model, start, num_beams, model_kwargs)
        chosen, prompts = _engine_for(model, prompts, writing)
        there = searched_on(model)
        if there not in tries:
            tries[there] = trie.to(there)
        tokens.require(op, tries[there], chosen.vocab_size)
        check_ends(settings.eos_token_id, tokens, tries[there], prefix)
        processed = Processed(logits_processor, start, num_beams) if logits_processor else None
        end = _end_token(settings, start.shape[1], length)
        plan = Plan(
            (num_beams,) * trie.num_levels,
            normalize,
            tokens=tokens.to(there),
            prefix=prefix,
            end_token=end,
            num_items=items_per_sequence,
            processor=processed,
        )
        answer = length + (end is not None)
        read = prompts.rows if prompts.kept is None else prompts.rows.kept(prompts.kept.values)
        check_room(op, places_of(chosen), read, prompts.decoder, answer, prompts.encoded)
        session = begin(chosen, prompts)
        chooses = rule.begin(num_beams, prompts.rows.to(there))
        found = TrieSearch(session, tries[there], plan, len(prompts.rows), chooses).run().found()
        assert found.tokens is not None
        written, scores = found.tokens.cpu(), found.scores.cpu()
        if processed is not None:
            processed.require_items(scores)
        if settings.length_penalty is not None:
            scores = scores / (length + (end is not None)) ** settings.length_penalty
        sequences, scores = _sequences(start, written, scores, wanted, end, _filler(settings, end, tokens))
        if not settings.return_dict_in_generate:
            return sequences
        return _output(model, sequences, scores if settings.output_scores else None)

    return generate


def begin(engine: Engine, prompts: Prompts) -> Session:
    """Reads prompts."""
    kept: dict[str, Any] = {} if prompts.kept is None else {"kept": prompts.kept}
    return engine.prefill(prompts.rows, prompts.decoder, encoded=prompts.encoded, **kept)


def _engine_for(model: nn.Module, prompts: Prompts, writing: Writing) -> tuple[Engine, Prompts]:
    """The engine, and prompts as it counts their tokens where some inside them are masked.

    Raises:
        UnsupportedError: engine="native", and it would see through a window what the model does not.
    """
    chosen = writing.engine_of(model)
    if prompts.kept is None or not isinstance(chosen, NativeEngine | CardEngine):
        return chosen, prompts
    if not (
        chosen.spec if isinstance(chosen, CardEngine) else chosen.decoder.spec
    ).window:  # positions count the tokens that are kept, and nothing else depends on them
        kept = prompts.kept.values
        lengths = torch.stack([row.sum() for row in prompts.kept.rows()])
        return chosen, prompts._replace(rows=Jagged.from_lengths(prompts.rows.values[kept], lengths), kept=None)
    if writing.engine == "native":
        raise UnsupportedError(
            "trie_beam_search: attention_mask must have no 0 inside a prompt for the native engine: "
            f"the window of {type(model).__name__} counts it"
        )
    return TorchEngine(model), prompts


def _end_token(settings: Any, begin: int, length: int) -> int | None:
    """The end token, where there is one and room for it."""
    room = settings.max_new_tokens if settings.max_new_tokens is not None else settings.max_length - begin
    if room < length:
        raise InvalidValueError(
            f"trie_beam_search: max_new_tokens must be at least {length} (the tokens of an item), got {room}"
        )
    ends = settings.eos_token_id
    if ends is None or room == length:
        return None
    first = ends if isinstance(ends, int) else torch.as_tensor(ends).flatten()[0]
    return int(first)


def _filler(settings: Any, end: int | None, tokens: CodeTokens) -> int:
    """What stands where a user has no more items: no token of a code, or it would read as an item."""
    for token in (settings.pad_token_id, end):
        if token is not None and not any(bool((table == int(token)).any()) for table in tokens.of):
            return int(token)
    return -1


def _sequences(
    start: Tensor, written: Tensor, scores: Tensor, wanted: int, end: int | None, pad: int
) -> tuple[Tensor, Tensor]:
    """int64 ``[B * k, T]`` and float32 ``[B * k]``; users with fewer sequences have padding behind them."""
    users, beams, length = written.shape
    tail = torch.full((users, wanted, length + (end is not None)), pad)
    ranked = torch.full((users, wanted), -torch.inf, dtype=torch.float32)
    kept = min(wanted, beams)
    alive = scores[:, :kept] > -torch.inf
    ranked[:, :kept] = scores[:, :kept]
    tail[:, :kept, :length] = torch.where(alive.unsqueeze(2), written[:, :kept], pad)
    if end is not None:
        tail[:, :kept, length] = torch.where(alive, end, pad)
    before = start.repeat_interleave(wanted, 0)
    return torch.cat([before, tail.flatten(0, 1).to(before.device)], 1), ranked.flatten().to(before.device)


def _output(model: Any, sequences: Tensor, scores: Tensor | None) -> Any:
    from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput

    kind = GenerateBeamEncoderDecoderOutput if model.config.is_encoder_decoder else GenerateBeamDecoderOnlyOutput
    return kind(sequences=sequences, sequences_scores=scores)
