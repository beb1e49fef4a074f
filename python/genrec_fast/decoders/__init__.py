"""Search procedures: how the k best items of the catalog are found; never a network.

``beam`` and ``greedy`` write semantic IDs over a trie, ``stochastic`` draws them and ``diverse`` spreads them;
``retrieve`` compares embeddings, ``interests`` several of them per user; ``rank`` asks what the user would do with each
candidate; ``scan`` looks at scores of every item. ``rerank`` and ``beam_fusion`` write semantic IDs and then compare
vectors, and ``blend`` joins the lists of several systems. ``scan_codes`` looks at scores of every item's codes, and
``graph`` walks among items whose codes are alike. ``best_first`` proves its answer, and ``speculative`` is ``beam``
with a draft ahead of it; ``speculative_sampling`` draws. ``drafted_items`` verifies what an embedding drafts.
``unmask`` writes the codes of an item in any order. ``proposals`` compares what beams, counts and texts propose.
"""

from genrec_fast.base.config import register_configs
from genrec_fast.decoders.beam import Beam, BeamConfig
from genrec_fast.decoders.best_first import BestFirst, BestFirstConfig
from genrec_fast.decoders.blend import Blend, BlendConfig, MemberConfig
from genrec_fast.decoders.candidates import score_candidates
from genrec_fast.decoders.diverse import DiverseBeam, DiverseBeamConfig
from genrec_fast.decoders.drafted_items import DraftedItems, DraftedItemsConfig
from genrec_fast.decoders.fusion import BeamFusion, BeamFusionConfig
from genrec_fast.decoders.graph import Graph, GraphConfig
from genrec_fast.decoders.greedy import Greedy, GreedyConfig
from genrec_fast.decoders.interests import RetrieveInterests, RetrieveInterestsConfig
from genrec_fast.decoders.neighbours import code_neighbours
from genrec_fast.decoders.proposals import Proposals, ProposalsConfig
from genrec_fast.decoders.rank import Rank, RankConfig
from genrec_fast.decoders.rerank import Rerank, RerankConfig
from genrec_fast.decoders.retrieve import Retrieve, RetrieveConfig
from genrec_fast.decoders.scan import Scan, ScanConfig
from genrec_fast.decoders.scan_codes import ScanCodes, ScanCodesConfig
from genrec_fast.decoders.speculative import Speculative, SpeculativeConfig
from genrec_fast.decoders.speculative_sampling import SpeculativeSampling, SpeculativeSamplingConfig
from genrec_fast.decoders.stochastic import StochasticBeam, StochasticBeamConfig
from genrec_fast.decoders.unmask import Unmask, UnmaskConfig

__all__ = [
    "Beam",
    "BeamConfig",
    "BeamFusion",
    "BeamFusionConfig",
    "BestFirst",
    "BestFirstConfig",
    "Blend",
    "BlendConfig",
    "DiverseBeam",
    "DiverseBeamConfig",
    "DraftedItems",
    "DraftedItemsConfig",
    "Graph",
    "GraphConfig",
    "Greedy",
    "GreedyConfig",
    "MemberConfig",
    "Proposals",
    "ProposalsConfig",
    "Rank",
    "RankConfig",
    "Rerank",
    "RerankConfig",
    "Retrieve",
    "RetrieveConfig",
    "RetrieveInterests",
    "RetrieveInterestsConfig",
    "Scan",
    "ScanCodes",
    "ScanCodesConfig",
    "ScanConfig",
    "Speculative",
    "SpeculativeConfig",
    "SpeculativeSampling",
    "SpeculativeSamplingConfig",
    "StochasticBeam",
    "StochasticBeamConfig",
    "Unmask",
    "UnmaskConfig",
    "code_neighbours",
    "score_candidates",
]

register_configs(globals())
