"""RQ-VAE: its settings, the network, how it learns, and the tokenizer that these make."""

from genrec_fast.tokenizers.rqvae.tokenizer import RQVAE, RQVAEConfig

__all__ = ["RQVAE", "RQVAEConfig"]
