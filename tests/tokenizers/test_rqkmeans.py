from __future__ import annotations

import pytest
import torch

import genrec_fast as gf
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.tokenizers import RQKMeans, RQKMeansConfig
from shared.catalogs import wide
from shared.tokenizer_suite import TokenizerSuite


class TestRQKMeans(TokenizerSuite):
    def config(self, folder):
        return RQKMeansConfig(codebook_sizes=(8, 4))

    def test_clusters_of_clusters_are_found_exactly(self):
        generator = torch.Generator().manual_seed(0)
        coarse = torch.eye(6)[:4] * 100
        fine = torch.randn(4, 6, generator=generator)
        fine -= fine.mean(0)  # so that the mean of a coarse cluster is its centre
        i, j = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
        vectors = (coarse[i] + fine[j]).repeat(3, 1)
        tokenizer = RQKMeansConfig(codebook_sizes=(4, 4), restarts=10, refinements=0, shrinkage=0).build(wide(6))
        tokenizer.fit(vectors)
        assert tokenizer.mse[1] < 1e-6 < tokenizer.mse[0]
        assert tokenizer.codebook_sizes == (4, 4, 3)  # three copies of each vector
        torch.testing.assert_close(tokenizer.decode(tokenizer.item_codes), vectors, atol=1e-4, rtol=0)
        assert len(set(zip(i.tolist(), tokenizer.item_codes[:16, 0].tolist(), strict=True))) == 4

    def test_encode_decode_and_mse_agree_with_a_plain_loop(self):
        tokenizer = self.config(None).build(wide(6))
        done = []
        tokenizer.fit(self.features(), progress=lambda *args: done.append(args))
        codes = tokenizer.encode(self.features())
        assert torch.equal(codes, tokenizer.item_codes[:, :2])
        residual = self.features()
        for level, codebook in enumerate(tokenizer.codebooks):
            nearest = torch.cdist(residual, codebook).argmin(1)
            assert torch.equal(nearest, codes[:, level].long())
            residual = residual - codebook[nearest]
            assert tokenizer.mse[level] == pytest.approx(float(residual.square().mean()))
        torch.testing.assert_close(tokenizer.decode(codes), self.features() - residual)
        assert tokenizer.mse[1] < tokenizer.mse[0] < float(self.features().var(0, correction=0).mean())
        assert done[-2:] == [
            ("rqkmeans", 1, 2, {"mse": tokenizer.mse[0]}),
            ("rqkmeans", 2, 2, {"mse": tokenizer.mse[1]}),
        ]
        assert {what for what, *_ in done} == {"rqkmeans level 0", "rqkmeans level 1", "rqkmeans together", "rqkmeans"}

    def test_a_loaded_one_encodes_alike(self, tmp_path):
        tokenizer = self.fitted(tmp_path)
        tokenizer.save(tmp_path / "tok.safetensors")
        again = RQKMeans.load(tmp_path / "tok.safetensors")
        new = torch.randn(20, 6, generator=torch.Generator().manual_seed(9))
        assert torch.equal(again.encode(new), tokenizer.encode(new))

    def test_items_chosen_together_share_codes_that_their_features_do_not(self, tmp_path):
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(40, 6, generator=generator)  # of which no item is like its companions
        histories = Jagged.from_rows([[5 * group + i for i in range(5)] for group in range(8)] * 3)
        config = RQKMeansConfig(codebook_sizes=(8, 4), collaborative_width=8, collaborative_weight=3.0)
        tokenizer = config.build(wide(6))
        tokenizer.fit(features, histories=histories)
        groups = tokenizer.item_codes[:, 0].view(8, 5)
        assert bool((groups == groups[:, :1]).all())
        assert len(groups[:, 0].unique()) == 8
        alone = RQKMeansConfig(codebook_sizes=(8, 4), normalize=True).build(wide(6))
        alone.fit(features)
        assert not bool((alone.item_codes[:, 0].view(8, 5) == alone.item_codes[:, 0].view(8, 5)[:, :1]).all())
        assert tokenizer.decode(tokenizer.item_codes[:, :2]).shape == (40, 6)
        new = torch.randn(7, 6, generator=generator)
        beside = torch.cat([torch.nn.functional.normalize(new, dim=1), torch.zeros(7, 8)], 1)
        assert torch.equal(tokenizer.encode(new), gf.ops.rq_encode(beside, tokenizer.codebooks))
        assert torch.equal(tokenizer.encode(3 * new), tokenizer.encode(new))
        tokenizer.save(tmp_path / "tok.safetensors")
        assert torch.equal(RQKMeans.load(tmp_path / "tok.safetensors").encode(new), tokenizer.encode(new))
        with pytest.raises(InvalidValueError, match="rqkmeans: histories must be given"):
            config.build(wide(6)).fit(features)

    def test_normalize_makes_length_irrelevant(self):
        tokenizer = RQKMeansConfig(codebook_sizes=(8,), normalize=True).build(wide(6))
        tokenizer.fit(self.features())
        assert torch.equal(tokenizer.encode(self.features() * 7), tokenizer.encode(self.features()))

    def test_messages_name_argument_rule_and_value(self):
        tokenizer = self.config(None).build(wide(6))
        with pytest.raises(InvalidValueError, match="rqkmeans: codebooks must come from fit or load, got neither"):
            tokenizer.encode(self.features())
        broken = self.features()
        broken[13, 2] = torch.nan
        with pytest.raises(InvalidValueError, match="rqkmeans: features must be finite, got NaN or infinity in row 13"):
            tokenizer.fit(broken)
        with pytest.raises(InvalidTypeError, match=r"rqkmeans: features must be a float tensor \[N, F\], got NoneType"):
            tokenizer.fit(None, num_items=50)
        with pytest.raises(InvalidValueError, match=r"rqkmeans: features must be \[N, 6\], got \[50, 5\]"):
            tokenizer.fit(self.features()[:, :5])
        with pytest.raises(InvalidValueError, match="rqkmeans: features must have at least 8 rows, one per code"):
            tokenizer.fit(self.features()[:7])
        tokenizer.fit(self.features())
        with pytest.raises(InvalidValueError, match=r"codes of level 1 must be in \[0, 4\), got 4 in row 0"):
            tokenizer.decode(torch.tensor([[0, 4]]))
        with pytest.raises(InvalidTypeError, match=r"rqkmeans: codes must be integers \[m, t\], got torch.float32"):
            tokenizer.decode(torch.zeros(1, 2))
        with pytest.raises(InvalidValueError, match=r"RQKMeansConfig: feature_dim must be at least 1 .*, got None"):
            RQKMeansConfig().build(wide(None))
        with pytest.raises(InvalidValueError, match="RQKMeansConfig: iterations must be at least 1, got 0"):
            RQKMeansConfig(iterations=0)

    def test_settings_are_checked(self):
        values = [
            ({"init": "best"}, r"init must be 'auto', 'kmeans\+\+', 'random' or 'progressive', got 'best'"),
            ({"balance": "even"}, "balance must be None, 'sinkhorn' or 'capacity', got 'even'"),
            ({"balance_levels": "first"}, "balance_levels must be 'all' or 'last', got 'first'"),
            ({"precision": "float64"}, "precision must be 'float32' or 'bfloat16', got 'float64'"),
            ({"shrinkage": 1.5}, r"shrinkage must be in \[0, 1\], got 1.5"),
            ({"shrinkage": float("nan")}, r"shrinkage must be in \[0, 1\], got nan"),
            ({"refinements": -1}, "refinements must be at least 0, got -1"),
            ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
            ({"batch_size": 9, "balance": "capacity"}, r"batch_size must be None with balance 'capacity', got 9"),
            (
                {"max_train_rows": 9, "balance": "capacity"},
                "max_train_rows must be None with balance 'capacity', got 9",
            ),
            ({"num_beams": 2, "normalize_residuals": True}, "num_beams must be 1 with balance or normalize_residuals"),
        ]
        for arguments, message in values:
            with pytest.raises(InvalidValueError, match=f"RQKMeansConfig: {message}"):
                RQKMeansConfig(**arguments)
        with pytest.raises(InvalidTypeError, match=r"RQKMeansConfig: iterations must be an int, got 2\.5"):
            RQKMeansConfig(iterations=2.5)
        with pytest.raises(InvalidValueError, match=r"rqkmeans: max_train_rows must leave at least 8 rows, .*, got 5"):
            RQKMeansConfig(codebook_sizes=(8,), max_train_rows=5).build(wide(6)).fit(self.features())


def draw(count, width=6, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def fitted(features, seed=0, **settings):
    tokenizer = RQKMeansConfig(**{"codebook_sizes": (8, 8), "iterations": 8, **settings}).build(wide(features.shape[1]))
    tokenizer.fit(features, seed=seed)
    return tokenizer


def error(tokenizer, features):
    return float((features - tokenizer.decode(tokenizer.encode(features))).square().mean())


class TestSettings:
    @pytest.mark.parametrize("init", ["auto", "kmeans++", "random", "progressive"])
    def test_every_start_uses_every_code_and_reaches_a_like_error(self, init):
        tokenizer = fitted(draw(600), init=init)
        assert [len(column.unique()) for column in tokenizer.item_codes.T[:2]] == [8, 8]
        assert error(tokenizer, draw(600)) < 1.08 * error(fitted(draw(600)), draw(600))

    def test_auto_starts_well_where_every_direction_is_alike_and_where_clusters_are(self):
        wide = draw(2000, 64)
        settings = {"codebook_sizes": (64, 64, 64), "refinements": 0, "shrinkage": 0, "iterations": 4}
        plain, auto = fitted(wide, init="kmeans++", **settings), fitted(wide, **settings)
        assert auto.mse[2] < 0.995 * plain.mse[2]
        line = torch.arange(64.0)[:, None].repeat(10, 3) + 0.01 * draw(640, 3)
        assert fitted(line, **settings).mse[0] < 0.1

    def test_rounds_over_all_levels_lower_the_error(self):
        figures = []
        x = draw(800, 16)
        tokenizer = RQKMeansConfig(codebook_sizes=(16, 16, 16), iterations=8, refinements=8, shrinkage=0).build(
            wide(16)
        )
        tokenizer.fit(x, progress=lambda what, *rest: figures.append((what, rest[2]["mse"])))
        plain = fitted(x, codebook_sizes=(16, 16, 16), refinements=0, shrinkage=0)
        assert tokenizer.mse[-1] < 0.99 * plain.mse[-1]
        rounds = [figure for what, figure in figures if what == "rqkmeans together"]
        assert len(rounds) == 8
        assert min(rounds) == pytest.approx(tokenizer.mse[-1], rel=1e-5)

    def test_shrinkage_is_for_new_vectors(self):
        x, new = draw(600, 32), draw(2000, 32, 1)
        settings = {"codebook_sizes": (64, 64)}
        plain, shrunk = fitted(x, shrinkage=0, **settings), fitted(x, shrinkage=1, **settings)
        assert error(shrunk, new) < error(plain, new)
        assert error(plain, x) < error(shrunk, x)

    def test_mini_batches_and_few_training_rows_come_near(self):
        x = draw(3000, 8)
        full = error(fitted(x, codebook_sizes=(16, 16)), x)
        assert error(fitted(x, codebook_sizes=(16, 16), batch_size=300), x) < 1.05 * full
        few = fitted(x, codebook_sizes=(16, 16), max_train_rows=1000)
        assert few.item_codes.shape[0] == 3000
        assert full < error(few, x) < 1.1 * full

    def test_beams_leave_less(self):
        x = draw(600, 16)
        greedy, beams = fitted(x, codebook_sizes=(16,) * 3), fitted(x, codebook_sizes=(16,) * 3, num_beams=4)
        assert beams.mse[-1] < greedy.mse[-1]
        assert torch.equal(beams.encode(x), beams.item_codes[:, :3])

    def test_precision_changes_no_code(self):
        x = draw(300, 16)
        assert torch.equal(fitted(x, precision="bfloat16").item_codes, fitted(x).item_codes)

    def test_residuals_of_length_one(self, tmp_path):
        x = draw(500) * torch.rand(500, 1, generator=torch.Generator().manual_seed(5)) * 9
        tokenizer = fitted(x, normalize_residuals=True, codebook_sizes=(8, 8, 8))
        left = torch.nn.functional.normalize(x, dim=1)
        for level, codebook in enumerate(tokenizer.codebooks):
            code = torch.cdist(left, codebook).argmin(1)
            assert torch.equal(code, tokenizer.item_codes[:, level].long())
            left = torch.nn.functional.normalize(left - codebook[code], dim=1)
        assert torch.equal(tokenizer.encode(x * 3), tokenizer.encode(x))
        assert tokenizer.mse[2] < tokenizer.mse[1] < tokenizer.mse[0] < float(x.square().mean())
        assert error(tokenizer, x) == pytest.approx(tokenizer.mse[2], rel=1e-5)
        tokenizer.save(tmp_path / "t")
        again = RQKMeans.load(tmp_path / "t")
        assert torch.equal(again.decode(again.item_codes), tokenizer.decode(tokenizer.item_codes))

    def test_zeros_with_residuals_of_length_one(self):
        x = torch.cat([torch.zeros(20, 6), draw(40)])
        tokenizer = fitted(x, normalize_residuals=True)
        assert len(tokenizer.item_codes[:20, :2].unique(dim=0)) == 1
        assert all(figure == figure for figure in tokenizer.mse)

    @pytest.mark.parametrize("which", ["all", "last"])
    def test_capacity_holds_on_its_levels(self, which):
        x = torch.cat([draw(200), draw(200) * 0.01])
        tokenizer = fitted(x, balance="capacity", balance_levels=which)
        used = [int(column.bincount(minlength=8).max()) for column in tokenizer.item_codes.T[:2]]
        assert used[1] <= 50
        assert (used[0] <= 50) == (which == "all")
        left = x - tokenizer.decode(tokenizer.item_codes)
        assert tokenizer.mse[1] == pytest.approx(float(left.square().mean()), rel=1e-5)

    def test_sinkhorn_evens_the_last_level(self):
        x = torch.cat([draw(200), draw(200) * 0.01])
        plain = fitted(x, refinements=0).item_codes[:, 1].bincount(minlength=8)
        even = fitted(x, balance="sinkhorn", balance_levels="last").item_codes[:, 1].bincount(minlength=8)
        assert int(even.max()) - int(even.min()) < 0.5 * (int(plain.max()) - int(plain.min()))

    def test_half_precision_features_are_read_as_they_are(self):
        x = draw(200).half()
        assert torch.equal(fitted(x).item_codes, fitted(x.float()).item_codes)

    def test_blocks_of_rows_change_nothing(self, monkeypatch):
        from genrec_fast.tokenizers import rqkmeans
        from genrec_fast.tokenizers.clustering import residual

        x = draw(300)
        whole = fitted(x)
        for module in (rqkmeans, residual):
            monkeypatch.setattr(module, "BLOCK", 64)
        parts = fitted(x)
        assert torch.equal(parts.item_codes, whole.item_codes)
        assert torch.equal(parts.encode(x), whole.encode(x))
        x[130, 1] = torch.inf
        with pytest.raises(InvalidValueError, match="features must be finite, got NaN or infinity in row 130"):
            fitted(x)


class TestBorders:
    @pytest.mark.parametrize("settings", [{}, {"balance": "capacity"}, {"balance": "sinkhorn"}, {"batch_size": 7}])
    def test_constant_vectors(self, settings):
        tokenizer = fitted(torch.full((40, 3), 1.5), **settings)
        assert tokenizer.mse[-1] == pytest.approx(0, abs=1e-12)
        assert len(tokenizer.item_codes.unique(dim=0)) == 40

    def test_fewer_distinct_vectors_than_codes(self):
        x = draw(3).repeat(10, 1)
        for settings in ({}, {"normalize_residuals": True, "normalize": True}, {"init": "progressive"}):
            tokenizer = fitted(x, **settings)
            assert len(tokenizer.item_codes[:, :2].unique(dim=0)) == 3
        assert fitted(x).mse[-1] == pytest.approx(0, abs=1e-10)

    def test_as_many_vectors_as_codes(self):
        x = draw(8)
        assert fitted(x).mse[-1] == pytest.approx(0, abs=1e-10)
        with pytest.raises(InvalidValueError, match="rqkmeans: features must have at least 8 rows, one per code"):
            fitted(x[:7])

    def test_one_code_one_row_one_column(self):
        tokenizer = fitted(torch.ones(1, 1), codebook_sizes=(1,))
        assert tokenizer.item_codes.tolist() == [[0, 0]]
        assert tokenizer.encode(torch.empty(0, 1)).shape == (0, 1)

    def test_a_file_without_scales_is_read(self, tmp_path):
        tokenizer = fitted(draw(60))
        kept = tokenizer._learned()
        del kept["scales"]
        again = RQKMeans(tokenizer.config, 6)
        again._item_codes, again._codebook_sizes = tokenizer.item_codes, tokenizer.codebook_sizes
        again._restore(kept)
        assert again.scales == (1.0, 1.0)
        assert torch.equal(again.decode(tokenizer.item_codes), tokenizer.decode(tokenizer.item_codes))
