"""How good are the crystals: validity and reconstruction, as the CDVAE paper measures them."""
