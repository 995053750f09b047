"""How good are the crystals: validity, coverage, reconstruction and optimisation as the CDVAE paper measures them, and
uniqueness and novelty beside; `evaluation.evaluate` makes a report card of them.
"""
