"""Training of the refiner: pairs of warped and true mouths, and its stage."""
