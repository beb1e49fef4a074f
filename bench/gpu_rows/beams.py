"""What a beam search does between its products."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch

from gpu_rows.measure import Line, graphed, microseconds, row


@row("beam_attention")
def beam_attention() -> Iterator[Line]:
    """Levels in bfloat16, the first user held against the twin, the rest against torch over a copied prompt."""
    from beam_levels import SHAPES, repeated
    from genrec_fast.ops import beam_attention as attention

    for name, shape in SHAPES.items():
        level = shape.level(torch.bfloat16)
        there = {key: value.cuda() for key, value in level.items()}
        first = {key: value[:1] for key, value in level.items() if key in ("q", "keys", "values", "parents")}
        first |= {key: level[key][: shape.prompt] for key in ("prompt_keys", "prompt_values")}
        expected = attention(**first, offsets=level["offsets"][:2])

        def ours(there=there) -> torch.Tensor:
            return attention(**there)

        def torchs(there=there) -> torch.Tensor:
            return repeated(**there)

        found = ours()
        bound = 2e-2 * expected.abs().max().item()
        torch.testing.assert_close(found[:1].cpu(), expected, rtol=2e-2, atol=bound)
        torch.testing.assert_close(found, torchs(), rtol=2e-2, atol=bound)
        assert found.equal(ours()), "other bits the second time"
        took = microseconds(graphed(ours))
        line = (
            f"{name}: {shape.said}, {shape.flops / took / 1e6:.0f} TFLOP/s, {shape.bytes_of_keys / took / 1e6:.2f} TB/s"
        )
        yield Line("beam_attention", line, took, microseconds(graphed(torchs)), "torch, prompt repeated")


@row("beam_attention")
def searches() -> Iterator[Line]:
    """Whole searches of TIGER's network, level by level: beams equal the CPU's; the rival gathers keys."""
    from genrec_fast.backbones import T5Config
    from genrec_fast.base.batch import Batch
    from genrec_fast.base.jagged import Jagged
    from genrec_fast.catalog.catalog import Catalog
    from genrec_fast.catalog.trie import build_trie
    from genrec_fast.decoders import BeamConfig
    from genrec_fast.layouts import PlainConfig
    from genrec_fast.nn.engine import modules

    torch.manual_seed(0)
    codes, sizes = torch.randint(0, 256, (12_101, 4)), (256,) * 4
    catalog, trie = Catalog(item_codes=codes, codebook_sizes=sizes), build_trie(codes, codebook_sizes=sizes)
    backbone, layout = T5Config(num_user_tokens=0).build(catalog).eval(), PlainConfig().build(catalog)
    on_card, there = copy.deepcopy(backbone).cuda(), trie.to("cuda")
    for users in (1, 16):
        batch = layout(Batch(Jagged.from_rows(torch.randint(0, len(codes), (users, 20)).unbind())))
        moved, decoder = batch.to("cuda"), BeamConfig(num_beams=50).build()

        def ours(moved=moved, decoder=decoder) -> Any:
            return decoder.search(on_card, moved, there, 10)

        found, expected = ours(), decoder.search(backbone, batch, trie, 10)
        torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=0, atol=1e-3)
        same = (found.items.cpu() == expected.items).float().mean().item()
        assert same > 0.95, f"{same:.1%} of the items are the CPU's"
        chosen, took = modules.runs_on_card, microseconds(ours)
        try:
            modules.runs_on_card = lambda x: False
            rival = microseconds(ours)
        finally:
            modules.runs_on_card = chosen
        yield Line("searches", f"T5, {users} x 50 beams, float32, {same:.0%} of items", took, rival, "keys gathered")


@row("beam_attention")
def language_models() -> Iterator[Line]:
    """Decoders of transformers in the shapes of Qwen3-1.7B and Llama-3.2-1B, random: torch's modules are the rival.

    First in float32, two layers: items and scores of the CPU's native engine.
    """
    import genrec_fast as gf
    from genrec_fast.nn.engine.card import CardEngine

    if importlib.util.find_spec("transformers") is None:
        yield Line("language_models", "", verdict="not run: transformers not installed")
        return
    sizes, items, offset = (1024,) * 3, 100_000, 1000
    generator = torch.Generator().manual_seed(0)
    trie = gf.build_trie(torch.randint(0, 1024, (items, 3), generator=generator), codebook_sizes=sizes)
    prompts = torch.randint(0, offset, (1, 1000), generator=generator)
    for name in ("Qwen3", "Llama"):
        small = _language_model(name, "cpu", num_hidden_layers=2)
        expected = gf.hf.compile(small, trie, offset, engine="native").recommend(prompts[:, :100], 10)
        compiled = gf.hf.compile(small.cuda(), trie, offset, engine="native")
        assert isinstance(compiled.engine, CardEngine)
        found = compiled.recommend(prompts[:, :100], 10).to("cpu")
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-3)
        same = (found.items == expected.items).float().mean().item()
        assert same > 0.9, f"{same:.1%} of the items are the CPU's"
        model, times = _language_model(name, "cuda").bfloat16(), []
        for engine in ("native", "torch"):
            ours = gf.hf.compile(model, trie, offset, engine=engine, frozen=True)
            times.append(microseconds(lambda ours=ours: ours.recommend(prompts, 10, num_beams=256), calls=5))
        yield Line("language_models", f"{name}, 1 x 256 beams, prompt of 1,000, bfloat16", *times, "torch's modules")


def _language_model(name: str, device: str, **changed: int) -> Any:
    import transformers

    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim", "num_attention_heads", "vocab_size")
    numbers = {"Qwen3": (2048, 6144, 28, 128, 16, 151_936), "Llama": (2048, 8192, 16, 64, 32, 128_256)}[name]
    shape = dict(zip(fields, numbers, strict=True)) | {"num_key_value_heads": 8, "tie_word_embeddings": True} | changed
    torch.manual_seed(0)
    with torch.device(device):
        return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**shape)).eval()


@row("residual_norm")
def residual_norm() -> Iterator[Line]:
    """A branch added and the sum normed in bfloat16; torch adds, then norms."""
    from genrec_fast.ops import residual_norm as normed

    for rows, width in ((256, 2048), (12_800, 384)):
        generator = torch.Generator().manual_seed(0)
        x, added = (torch.randn(rows, width, generator=generator).bfloat16() for _ in range(2))
        weight = torch.rand(width, generator=generator).bfloat16()
        stream, branch, scale = x.cuda(), added.cuda(), weight.cuda()
        for kind in ("rms", "layer"):
            norm = torch.nn.functional.rms_norm if kind == "rms" else torch.nn.functional.layer_norm

            def ours(stream=stream, branch=branch, scale=scale, kind=kind) -> torch.Tensor:
                return normed(stream, scale, added=branch, kind=kind)[0]

            def torchs(stream=stream, branch=branch, scale=scale, norm=norm) -> torch.Tensor:
                return norm(stream + branch, (stream.shape[1],), scale, eps=1e-6)

            found = normed(stream, scale, added=branch, kind=kind)
            expected = normed(x, weight, added=added, kind=kind)
            torch.testing.assert_close(found[0].cpu(), expected[0], rtol=1e-2, atol=1e-2)
            assert found[1].cpu().equal(expected[1]), "other sums than the CPU's"
            times = microseconds(graphed(ours)), microseconds(graphed(torchs))
            yield Line("residual_norm", f"{kind}, {rows} x {width}, bfloat16", *times, f"torch add and {kind} norm")


@row("rotary")
def rotary() -> Iterator[Line]:
    """Heads in bfloat16, read in place, normed and turned; torch norms, splits, multiplies and joins."""
    from genrec_fast.ops import rotary as turned

    rows, heads, width = 256, 24, 128
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(rows, heads + 8, width, generator=generator).bfloat16()
    angles = torch.arange(4096.0)[:, None] * 1e6 ** -(torch.arange(0.0, width, 2) / width)
    table = torch.cat([angles.cos(), angles.sin()], 1)
    positions, weight = torch.randint(4096, (rows,), generator=generator), torch.rand(width).bfloat16()
    there = [part.cuda() for part in (product, positions, table, weight)]

    def ours() -> torch.Tensor:
        return turned(there[0][:, :heads], there[1], there[2], weight=there[3])

    def torchs() -> torch.Tensor:
        y = torch.nn.functional.rms_norm(there[0][:, :heads], (width,), there[3], eps=1e-6)
        cosine, sine = there[2][there[1]].bfloat16().unsqueeze(1).chunk(2, 2)
        left, right = y.chunk(2, 2)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], 2)

    expected = turned(product[:, :heads], positions, table, weight=weight)
    torch.testing.assert_close(ours().cpu(), expected, rtol=1e-2, atol=1e-2)
    times = microseconds(graphed(ours)), microseconds(graphed(torchs))
    yield Line("rotary", f"{rows} x {heads} heads of {width}, normed, bfloat16", *times, "torch norm and turn")
