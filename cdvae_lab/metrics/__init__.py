"""Measures of crystals, one a file: validity, coverage, reconstruction, optimization, uniqueness and novelty.

They follow the CDVAE paper; `evaluation.evaluate` makes a report card of them.
"""
