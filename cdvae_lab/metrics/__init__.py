"""How good are the crystals: validity, coverage, reconstruction and optimization as the CDVAE paper measures them, and
uniqueness and novelty beside; `evaluation.evaluate` makes a report card of them.
"""
