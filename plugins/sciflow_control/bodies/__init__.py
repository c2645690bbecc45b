"""Bodies that attract each other: integrators with a knob to be steered, and episodes of three stars."""
