"""Relevance sent back through a network: layers, the rules of LRP, and the recording of a forward pass they work on."""

from __future__ import annotations

from xai_lib.relevance.layers import Convolution, Dense, Layer, Pooling, Scaling, Weighted
from xai_lib.relevance.operations import Ledger, Operation, UnsupportedNetwork
from xai_lib.relevance.recording import Recording
from xai_lib.relevance.rules import AlphaBeta, Bias, Epsilon, Flat, Gamma, Norm, RelevanceError, Rule, State, Value, ZBox

__all__ = [
    "AlphaBeta", "Bias", "Convolution", "Dense", "Epsilon", "Flat", "Gamma", "Layer", "Ledger", "Norm", "Operation", "Pooling",
    "Recording", "RelevanceError", "Rule", "Scaling", "State", "UnsupportedNetwork", "Value", "Weighted", "ZBox",
]  # fmt: skip
