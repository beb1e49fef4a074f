"""Backbones: the networks. None knows the catalog; each speaks a protocol of ``genrec_fast.base.protocols``."""

from genrec_fast.backbones.bidirectional import Bidirectional, BidirectionalConfig
from genrec_fast.backbones.causal import Causal, CausalConfig
from genrec_fast.backbones.causal_t5 import CausalT5, CausalT5Config
from genrec_fast.backbones.cobra import Cobra, CobraConfig
from genrec_fast.backbones.code_fusion import CodeFusion, CodeFusionConfig
from genrec_fast.backbones.colarec import ColaRec, ColaRecConfig
from genrec_fast.backbones.discrec import DiscRec, DiscRecConfig
from genrec_fast.backbones.dual_flow import DualFlow, DualFlowConfig
from genrec_fast.backbones.eager import Eager, EagerConfig
from genrec_fast.backbones.earn import Earn, EarnConfig
from genrec_fast.backbones.flat_diffusion import FlatDiffusion, FlatDiffusionConfig
from genrec_fast.backbones.fused import Fused, FusedConfig
from genrec_fast.backbones.gru import GRU, GRUConfig
from genrec_fast.backbones.hstu import HSTU, HSTUConfig
from genrec_fast.backbones.kuaiformer import KuaiFormer, KuaiFormerConfig
from genrec_fast.backbones.liger import Liger, LigerConfig
from genrec_fast.backbones.mbgen import MBGen, MBGenConfig
from genrec_fast.backbones.mmgrec import MMGRec, MMGRecConfig
from genrec_fast.backbones.nci import NCI, NCIConfig
from genrec_fast.backbones.nezha import Nezha, NezhaConfig
from genrec_fast.backbones.parallel_heads import ParallelHeads, ParallelHeadsConfig
from genrec_fast.backbones.pinrec import PinRec, PinRecConfig
from genrec_fast.backbones.pooled_t5 import PooledT5, PooledT5Config
from genrec_fast.backbones.recgpt import RecGPT, RecGPTConfig
from genrec_fast.backbones.s2gr import S2GR, S2GRConfig
from genrec_fast.backbones.seater import Seater, SeaterConfig
from genrec_fast.backbones.sessions import Sessions, SessionsConfig
from genrec_fast.backbones.slot_diffusion import SlotDiffusion, SlotDiffusionConfig
from genrec_fast.backbones.t5 import T5, T5Config
from genrec_fast.backbones.timeline import Timeline, TimelineConfig
from genrec_fast.backbones.transitions import Transitions, TransitionsConfig
from genrec_fast.backbones.two_ids import TwoIds, TwoIdsConfig
from genrec_fast.base.config import register_configs
from genrec_fast.nn.item_inputs import ItemInputsConfig

__all__ = [
    "GRU",
    "HSTU",
    "NCI",
    "S2GR",
    "T5",
    "Bidirectional",
    "BidirectionalConfig",
    "Causal",
    "CausalConfig",
    "CausalT5",
    "CausalT5Config",
    "Cobra",
    "CobraConfig",
    "CodeFusion",
    "CodeFusionConfig",
    "ColaRec",
    "ColaRecConfig",
    "DiscRec",
    "DiscRecConfig",
    "DualFlow",
    "DualFlowConfig",
    "Eager",
    "EagerConfig",
    "Earn",
    "EarnConfig",
    "FlatDiffusion",
    "FlatDiffusionConfig",
    "Fused",
    "FusedConfig",
    "GRUConfig",
    "HSTUConfig",
    "ItemInputsConfig",
    "KuaiFormer",
    "KuaiFormerConfig",
    "Liger",
    "LigerConfig",
    "MBGen",
    "MBGenConfig",
    "MMGRec",
    "MMGRecConfig",
    "NCIConfig",
    "Nezha",
    "NezhaConfig",
    "ParallelHeads",
    "ParallelHeadsConfig",
    "PinRec",
    "PinRecConfig",
    "PooledT5",
    "PooledT5Config",
    "RecGPT",
    "RecGPTConfig",
    "S2GRConfig",
    "Seater",
    "SeaterConfig",
    "Sessions",
    "SessionsConfig",
    "SlotDiffusion",
    "SlotDiffusionConfig",
    "T5Config",
    "Timeline",
    "TimelineConfig",
    "Transitions",
    "TransitionsConfig",
    "TwoIds",
    "TwoIdsConfig",
]

register_configs(globals())
