"""Neural ordinary differential equations: a network is a derivative, an integrator gives the states."""
