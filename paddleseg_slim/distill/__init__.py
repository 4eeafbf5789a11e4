"""Distillation: a student learns from a teacher's logits and features."""

from paddleseg_slim.distill import losses
from paddleseg_slim.distill.distiller import Distiller, Term
from paddleseg_slim.distill.taps import Taps, automatic_pairs, find_values

__all__ = ["Distiller", "Taps", "Term", "automatic_pairs", "find_values", "losses"]
